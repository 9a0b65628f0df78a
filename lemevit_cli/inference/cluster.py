"""The blocks of a scene on the workers of a Dask cluster; this process joins what they make.

Which block is where is decided here, not by Dask: each block is sent to a certain worker, which has
at most two. Where a worker ends, it is known what it was at, and nothing waits for it. No wait
lasts longer than a moment before scheduler and workers are looked at.
"""

from __future__ import annotations

import logging
import pickle
import time
import uuid
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import dask.config
import fsspec
from distributed import CancelledError, Client, KilledWorker, LocalCluster, fire_and_forget
from distributed.scheduler import NoValidWorkerError

from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.inference.blocks import Part, Plan
from lemevit_cli.inference.journal import Fingerprint, Journal
from lemevit_cli.inference.local_workers import LocalWorkers, local_workers
from lemevit_cli.inference.parts import Order
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import Account, BlockInference
from lemevit_cli.inference.worker import (
    RELAYED,
    UNKNOWN,
    Recipe,
    forget,
    infer_block,
    relaying,
)
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import ClusterOptions

_IN_FLIGHT = 2  # blocks of a worker: one in work, one that waits for it
_LOSSES = 3  # workers that a block may end
_TICK_S = 0.05
_LOOK_S = 1.0  # between two looks at the workers
_ANSWER_S = 5.0  # for the answer to a question
_PATIENCE_S = 60.0  # with a scheduler that is silent, a worker that pauses, a disk that is late
_TRANSFER_S = 1000.0  # for a part that is sent
_START_S = 300.0  # for processes of this machine to begin
_WITHOUT_WORKER = (KilledWorker, NoValidWorkerError)  # Dask has given a block up


def _silenced(load: Callable[[], Predictor]) -> Callable[[], Predictor]:
    """Let what loads weights tell nobody: a console has locks, which cannot be sent."""
    if not isinstance(load, partial) or "progress" not in load.keywords:
        return load
    return partial(load.func, *load.args, **load.keywords | {"progress": Silent()})


def recipe_of(order: Order, fingerprint: Fingerprint, journal: Journal) -> Recipe:
    """Return what workers need to know of a run."""
    task = cast("Any", order.task)  # a frozen dataclass, as all are
    return Recipe(
        order=replace(order, task=replace(task, progress=Silent()), load=_silenced(order.load)),
        fingerprint=fingerprint,
        journal=replace(journal, folder=journal.folder.resolve()),
        folder=str(Path.cwd()),
        relay=_relay_of(order),
    )


def _relay_of(order: Order) -> str | None:
    """Make a folder of this run alone in the relay, which removes it when it ends.

    Raises:
        LemevitError: if fsspec cannot write there.
    """
    relay = order.task.settings.cluster.relay
    if relay is None:
        return None
    own = f"{relay.rstrip('/')}/lemevit-{uuid.uuid4().hex}"
    with relaying(relay), fsspec.open(f"{own}/run", "wb") as file:
        file.write(b"lemevit")
    return own


@contextmanager
def connect(options: ClusterOptions, journal: Journal, progress: Progress) -> Iterator[Cluster]:
    """Connect to a cluster that runs, or start one of processes of this machine.

    Raises:
        LemevitError: if nobody answers at the address.
    """
    quiet = {"distributed.admin.large-graph-warning-threshold": "1TB"}  # weights go along
    with ExitStack() as opened:
        opened.enter_context(dask.config.set(quiet))
        opened.enter_context(_silence())
        address: Any = options.scheduler
        if address is None:
            scheduler = LocalCluster(
                n_workers=0,
                protocol="tcp://",
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs=False,
            )
            opened.callback(_close, scheduler)
            address = scheduler.scheduler_address
        try:
            client = Client(address, timeout=2 * _ANSWER_S, set_as_default=False)
            opened.callback(_close, client)
        except (OSError, ValueError) as error:
            raise LemevitError(
                f"--scheduler {options.scheduler}: nobody answers there; start one by "
                "`dask scheduler`, and name its address, such as tcp://host:8786"
            ) from error
        own = None
        if options.workers is not None:
            count = min(options.workers, journal.num_blocks)
            own = opened.enter_context(local_workers(address, count))
        yield Cluster(client, own, journal, progress)


def _close(connection: Client | LocalCluster) -> None:
    """Close a connection; one that does not answer is left to the end of the process."""
    with suppress(OSError):
        connection.close(timeout=_ANSWER_S)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep from stderr what Dask says of lost connections: it is told in words of ours."""
    loggers = [logging.getLogger(name) for name in ("distributed", "distributed.client")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Cluster:
    """A scheduler and its workers, as this process sees them.

    Args:
        own: the workers, where this process has started them.
        journal: counts what is done, for messages.
    """

    def __init__(
        self, client: Client, own: LocalWorkers | None, journal: Journal, progress: Progress
    ) -> None:
        self.client, self.own = client, own
        self._journal, self._progress = journal, progress
        self._workers: set[str] = set()
        self._heard = self._seen = time.monotonic()
        self._paused: dict[str, float] = {}  # since when
        self._minutes_told = -1

    @property
    def name(self) -> str:
        """Return the scheduler's address, or how many workers were asked for."""
        return "--workers" if self.own else f"--scheduler {self.client.scheduler.address}"

    def workers(self) -> set[str]:
        """Return the addresses of the workers that can do something.

        Raises:
            LemevitError: if the scheduler is gone, or processes of this machine are for good.
        """
        now = time.monotonic()
        found = self._ask()
        if found is not None:
            self._heard = now
            paused = {address for address, it in found.items() if it["status"] == "paused"}
            self._paused = {address: self._paused.get(address, now) for address in paused}
            stuck = {a for a, since in self._paused.items() if now - since > _PATIENCE_S}
            self._workers = set(found) - stuck
        elif now - self._heard > _PATIENCE_S:
            raise self._failure("the scheduler does not answer any more")
        if self._workers:
            self._seen, self._minutes_told = now, -1
        self._check_own(now)
        if not (self._workers or self.own):
            self._tell_of_waiting(now)
        return self._workers

    def _ask(self) -> dict[str, Any] | None:
        """Ask the scheduler for its workers; None if it does not answer in time."""
        client = self.client
        if client.status != "running":
            raise self._failure("the connection to the scheduler is lost")
        try:
            answer = client.sync(
                client.scheduler.identity, n_workers=-1, callback_timeout=_ANSWER_S
            )
        except OSError:  # among them: closed connections, and no answer in time
            return None
        workers: dict[str, Any] = answer["workers"]
        return workers

    def _check_own(self, now: float) -> None:
        if self.own is None:
            return
        if not self.own.revive():
            raise self._failure(f"no worker is left, {self.own.describe()}")
        if not self._workers and now - self._seen > _START_S:
            raise self._failure(f"no worker has come within {_START_S:.0f} s")

    def _tell_of_waiting(self, now: float) -> None:
        minutes = int((now - self._seen) // 60)
        if minutes > self._minutes_told:
            self._minutes_told = minutes
            since = f" for {minutes} min" if minutes else ""
            self._progress.warn(
                f"{self.name}: no worker{since}; waiting for one ({self._journal.count_done()} of "
                f"{self._journal.num_blocks} blocks are kept, Ctrl-C ends)"
            )

    def _failure(self, reason: str) -> LemevitError:
        journal = self._journal
        return LemevitError(
            f"{self.name}: {reason}; {journal.count_done()} of {journal.num_blocks} blocks of "
            f"{journal.target} are kept, and the same command continues behind them"
        )


@dataclass(frozen=True)
class Flight:
    """A block on a worker.

    Args:
        worker: its address.
        is_alone: nothing else is sent there meanwhile: what ends the worker is this block.
    """

    number: int
    worker: str
    is_alone: bool


class Spread:
    """The blocks of a scene: those that wait, are with a worker, or are done.

    A block whose worker ends has its next turn alone on a worker; one that has ended three of them
    is at fault.

    Args:
        run: of this process, for blocks that no worker can do.
    """

    def __init__(self, cluster: Cluster, recipe: Recipe, plan: Plan, run: BlockInference) -> None:
        self._cluster, self._recipe, self._run = cluster, recipe, run
        self._journal, self._blocks = recipe.journal, plan.blocks
        self._key, self._content = uuid.uuid4().hex, pickle.dumps(recipe)
        self._numbers = iter(range(len(plan.blocks)))
        self._returned: deque[int] = deque()
        self._suspects: deque[int] = deque()
        self._losses: Counter[int] = Counter()
        self._flying: dict[Any, Flight] = {}  # by Dask's future
        self._done: set[int] = set()
        self._workers: set[str] = set()
        self._informed: set[str] = set()  # workers that have the recipe
        self._looked = -_LOOK_S

    def parts(self) -> Iterator[Part]:
        """Yield the parts in the order of their blocks: sums do not depend on who came first."""
        try:
            for number in range(len(self._blocks)):
                with self._run.account.time("workers"):
                    self._wait_for(number)
                self._journal.retell(number, self._run)
                yield self._journal.pieces(number)
        finally:
            self._release_workers()

    def _wait_for(self, number: int) -> None:
        self._step()  # whoever is free gets work before this process joins a part
        while number not in self._done:
            time.sleep(_TICK_S)
            self._run.progress.advance(0)
            self._step()

    def _step(self) -> None:
        for future in [future for future in self._flying if future.done()]:
            self._settle(future, self._flying.pop(future))
        if time.monotonic() - self._looked > _LOOK_S:
            self._workers = self._cluster.workers()
            self._looked = time.monotonic()
            self._informed &= self._workers
            for future, flight in list(self._flying.items()):
                if flight.worker not in self._workers:
                    del self._flying[future]
                    self._lose(flight.number)
        for worker in self._workers:
            self._employ(worker)

    def _employ(self, worker: str) -> None:
        """Send blocks to a worker until it has enough."""
        has = [flight for flight in self._flying.values() if flight.worker == worker]
        if not has and self._suspects:
            self._send(Flight(self._suspects.popleft(), worker, is_alone=True))
            return
        # While suspects wait, workers run empty, so that one of them takes the next.
        room = 1 if self._suspects else _IN_FLIGHT
        if any(flight.is_alone for flight in has):
            return
        for _ in range(room - len(has)):
            number = self._next()
            if number is None:
                return
            self._send(Flight(number, worker, is_alone=False))

    def _next(self) -> int | None:
        """Return a block that is to be done; take note of those that an earlier run has done."""
        if self._returned:
            return self._returned.popleft()
        for number in self._numbers:
            if not self._journal.has(number):
                self._journal.drop(number)  # what is there from now on is whole
                return number
            self._run.account.blocks_kept += 1
            self._done.add(number)
        return None

    def _send(self, flight: Flight) -> None:
        content = None if flight.worker in self._informed else self._content
        self._informed.add(flight.worker)
        future = self._cluster.client.submit(
            infer_block,
            self._key,
            content,
            flight.number,
            self._blocks[flight.number],
            key=f"lemevit-{uuid.uuid4().hex}",
            workers=[flight.worker],
            pure=False,
        )
        self._flying[future] = flight

    def _settle(self, future: Any, flight: Flight) -> None:
        """Take what came of a block.

        Raises:
            Exception: what it failed of on its worker.
        """
        if future.status == "error":
            error = future.exception(timeout=_ANSWER_S)
            if not isinstance(error, _WITHOUT_WORKER):
                raise error
            self._lose(flight.number)
            return
        if future.status != "finished":
            self._cluster.workers()  # raises if the scheduler is gone; else Dask has let go of it
            self._lose(flight.number)
            return
        if self._journal.has_come(flight.number):
            self._finish(flight.number)
            return
        has_come, content = self._fetch(future, flight)
        if content == UNKNOWN:
            self._informed.discard(flight.worker)
            (self._suspects if flight.is_alone else self._returned).append(flight.number)
        elif has_come:
            if content == RELAYED:
                content = self._from_relay(flight.number)
            if content is not None:
                self._journal.put(flight.number, content)
            self._finish(flight.number)
        else:
            self._lose(flight.number)

    def _fetch(self, future: Any, flight: Flight) -> tuple[bool, Any]:
        """Return whether the part has come, and its bytes if it was sent."""
        patience = _ANSWER_S
        while patience < _TRANSFER_S:
            try:
                content = future.result(timeout=patience)
            except (OSError, CancelledError, *_WITHOUT_WORKER):  # among them: not in time
                self._run.progress.advance(0)
                if flight.worker not in self._cluster.workers():
                    break
                patience *= 2  # a large part on a slow line
            else:
                return content is not None or self._has_come(flight.number), content
        return False, None

    def _from_relay(self, number: int) -> bytes:
        with relaying(self._recipe.relay or ""):
            files, place = fsspec.core.url_to_fs(self._recipe.relayed(number))
            content: bytes = files.cat_file(place)
            files.rm_file(place)
        return content

    def _has_come(self, number: int) -> bool:
        """Wait until a part that a worker has written is seen; return False if it is not."""
        begun = time.monotonic()
        while not self._journal.has_come(number):
            if time.monotonic() - begun > _PATIENCE_S:
                return False
            time.sleep(_TICK_S)
            self._run.progress.advance(0)
        return True

    def _finish(self, number: int) -> None:
        self._done.add(number)
        if self._cluster.own:
            self._cluster.own.succeed()

    def _lose(self, number: int) -> None:
        """Have a block done again whose worker has ended, unless it has ended too many."""
        if self._journal.has_come(number):  # it had written it
            self._finish(number)
            return
        self._losses[number] += 1
        if self._losses[number] < _LOSSES:
            self._suspects.append(number)
            return
        block = self._blocks[number]
        reason = (
            f"{self._run.source.name}: the block of {block.width} x {block.height} from column "
            f"{block.col_off}, row {block.row_off} has ended {_LOSSES} workers (of memory?)"
        )
        if not self._run.skips_unreadable:
            raise SceneError(f"{reason}; --on-error nodata leaves it out")
        self._run.progress.warn(f"{reason}; it is nodata")
        self._journal.keep(number, *self._unread(number, reason))
        self._finish(number)

    def _unread(self, number: int, reason: str) -> tuple[BlockInference, Part]:
        """Return the part of a block no window of which can be read, and the run that makes it."""
        source = self._run.source
        view: Any = _Unreadable(source.view, reason)
        run = replace(
            self._run,
            source=replace(source, view=view),
            account=Account(),
            progress=Silent(),
        )
        return run, self._recipe.order.task.infer(run, self._blocks[number])

    def _release_workers(self) -> None:
        """End processes of this machine; have those of others close what is open."""
        self._flying.clear()
        if self._recipe.relay is not None:  # what nobody has taken up
            with suppress(Exception):
                files, place = fsspec.core.url_to_fs(self._recipe.relay)
                files.rm(place, recursive=True)
        if self._cluster.own:
            self._cluster.own.stop()
        elif self._cluster.client.status == "running":
            for worker in self._informed & self._workers:
                fire_and_forget(
                    self._cluster.client.submit(forget, self._key, workers=[worker], pure=False)
                )


class _Unreadable:
    """A view whose windows cannot be read."""

    def __init__(self, view: Any, reason: str) -> None:
        self._view, self._reason = view, reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def read_with_masks(self, window: Any) -> Any:
        raise SceneError(self._reason)
