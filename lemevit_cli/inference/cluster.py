"""The blocks of a scene on the workers of a Dask cluster; the client joins what they give.

A worker opens scene and weights once, and writes parts to the folder of the journal where it sees
it (it lies on a disk that they share), else sends them. The result is that of a single process
with as many threads.
"""

from __future__ import annotations

import json
import logging
import pickle
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask.config
from distributed import Client, KilledWorker, LocalCluster, WorkerPlugin, get_worker, wait

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import LemevitError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.journal import RUN, Fingerprint, Journal, write_part
from lemevit_cli.inference.parts import Order
from lemevit_cli.inference.run import Account, BlockInference, inference_over
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import ClusterOptions

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import SceneTask

_IN_FLIGHT = 2  # blocks for each worker: one in work, one that waits for it
_LOST_WORKERS = 2  # a block that has ended as many is not tried on more than one further
_PATIENCE_S = 5.0


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to know of a run.

    Args:
        fingerprint: of the run; what a folder must hold to be the journal's.
        folder: of the journal, as the client sees it.
    """

    order: Order
    fingerprint: Fingerprint
    folder: str


class Work(WorkerPlugin):
    """Keeps scene and weights open on a worker; one that joins late gets it too."""

    def __init__(self, recipe: Recipe) -> None:
        self.name = f"lemevit-{uuid.uuid4().hex}"  # others may share the cluster
        self._recipe = pickle.dumps(recipe)

    def setup(self, worker: Any) -> None:
        """Begin with nothing open."""
        self._opened = ExitStack()
        self._run: BlockInference | None = None

    def teardown(self, worker: Any) -> None:
        """Close what was opened."""
        self._opened.close()

    def infer(self, number: int, block: Window) -> bytes | None:
        """Make the part of a block; return its bytes unless it could be put into the folder."""
        recipe: Recipe = pickle.loads(self._recipe)
        if self._run is None:
            self._run = self._opened.enter_context(_run_of(recipe))
        run = replace(self._run, account=Account())
        part, folder = recipe.order.task.infer(run, block), Path(recipe.folder)
        if _is_journal(folder, recipe.fingerprint):
            with written_whole(folder / f"{number:06}.part") as path:
                write_part(path, run, part)
            return None
        with tempfile.TemporaryDirectory(prefix="lemevit-") as own:
            path = Path(own) / "part"
            write_part(path, run, part)
            return path.read_bytes()


@contextmanager
def _run_of(recipe: Recipe) -> Iterator[BlockInference]:
    order, settings = recipe.order, recipe.order.task.settings
    skips = settings.recovery.on_error == "nodata"
    with (
        order.task.open(order.scene) as source,
        inference_over(
            source, order.load(), settings.tiling, Silent(), skips_unreadable=skips
        ) as run,
    ):
        yield run


def _is_journal(folder: Path, fingerprint: Fingerprint) -> bool:
    try:
        return bool(json.loads((folder / RUN).read_text()) == fingerprint)
    except (OSError, ValueError):
        return False


def _infer_block(name: str, number: int, block: Window) -> bytes | None:
    work: Any = get_worker().plugins[name]  # a Work
    content: bytes | None = work.infer(number, block)
    return content


@contextmanager
def connect(options: ClusterOptions, progress: Progress) -> Iterator[Client]:
    """Connect to a cluster that runs, or start one of processes of this machine.

    Raises:
        LemevitError: if nobody answers at the address.
    """
    with ExitStack() as opened:
        opened.enter_context(
            dask.config.set({"distributed.scheduler.allowed-failures": _LOST_WORKERS})
        )
        address: Any = options.scheduler
        if address is None:
            address = opened.enter_context(
                LocalCluster(
                    n_workers=options.workers,
                    threads_per_worker=1,
                    dashboard_address=":0",  # any that is free
                    silence_logs=logging.ERROR,
                    memory_limit=0,
                )
            )
        try:
            client = opened.enter_context(Client(address, timeout=_PATIENCE_S * 2))
        except (OSError, ValueError) as error:
            raise LemevitError(
                f"--scheduler {options.scheduler}: nobody answers there; start one by "
                "`dask scheduler`, and name its address, such as tcp://host:8786"
            ) from error
        progress.note(f"blocks go to the workers of {client.scheduler.address}")
        yield client


def finish_blocks(
    client: Client,
    recipe: Recipe,
    blocks: Sequence[tuple[int, Window]],
    journal: Journal,
    run: BlockInference,
) -> Iterator[int]:
    """Have blocks done by workers; yield the number of each as soon as its part is kept.

    Dask blames all blocks that a worker had when it ended: those that were blamed too often have
    another turn, each alone, and only one that ends its workers then is at fault.

    Args:
        run: of this process, for blocks that no worker can do.

    Raises:
        LemevitError: what a block failed of on its worker; ``SceneError`` for one that ends every
            worker, unless unreadable pixels are to be nodata.
    """
    work, blamed = Work(recipe), []
    client.register_plugin(work)
    for number, block, future in _in_flight(client, work.name, blocks, run.progress):
        if isinstance(future.exception(), KilledWorker):
            blamed.append((number, block))
            continue
        _keep(future.result(), number, journal)
        yield number
    for suspect in blamed:
        for number, block, future in _in_flight(client, work.name, [suspect], run.progress):
            if isinstance(error := future.exception(), KilledWorker):
                journal.keep(number, run, _unread_part(run, recipe.order.task, block, error))
            else:
                _keep(future.result(), number, journal)
            yield number
    client.unregister_worker_plugin(work.name)


def _in_flight(
    client: Client, name: str, blocks: Sequence[tuple[int, Window]], progress: Progress
) -> Iterator[tuple[int, Window, Any]]:
    """Submit blocks, a few for each worker at a time; yield those that are done, with futures."""
    waiting = iter(blocks)
    flying: dict[Any, tuple[int, Window]] = {}
    while True:
        room = _IN_FLIGHT * max(1, _count_workers(client)) - len(flying)
        for number, block in _take(waiting, room):
            future = client.submit(_infer_block, name, number, block, pure=False, retries=0)
            flying[future] = number, block
        if not flying:
            return
        for future in _next_done(client, list(flying), progress):
            yield *flying.pop(future), future


def _keep(content: bytes | None, number: int, journal: Journal) -> None:
    if content is not None:
        journal.put(number, content)


def _take(waiting: Iterator[Any], count: int) -> Iterator[Any]:
    for _, item in zip(range(count), waiting, strict=False):
        yield item


def _count_workers(client: Client) -> int:
    return len(client.scheduler_info(n_workers=-1)["workers"])


def _next_done(client: Client, flying: list[Any], progress: Progress) -> set[Any]:
    """Wait for a block, for however long; say so if there is nobody who could do it."""
    is_told = False
    while True:
        try:
            return set(wait(flying, timeout=_PATIENCE_S, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            progress.advance(0)
            if not is_told and _count_workers(client) == 0:
                progress.warn(
                    f"no worker is left at {client.scheduler.address}; waiting for one "
                    "(finished blocks are kept, Ctrl-C ends)"
                )
                is_told = True


class _Unreadable:
    """A view whose windows cannot be read: of a block that ends whoever works on it."""

    def __init__(self, view: Any, reason: str) -> None:
        self._view, self._reason = view, reason

    def __getattr__(self, name: str) -> Any:
        return getattr(self._view, name)

    def read_with_masks(self, window: Window) -> Any:
        raise SceneError(self._reason)


def _unread_part(run: BlockInference, task: SceneTask, block: Window, error: KilledWorker) -> Any:
    reason = (
        f"{run.source.name}: the block of {block.width} x {block.height} pixels from column "
        f"{block.col_off}, row {block.row_off} has ended {_LOST_WORKERS + 1} workers; their logs "
        "may tell why (memory?), --on-error nodata leaves it out"
    )
    if not run.skips_unreadable:
        raise SceneError(reason) from error
    view: Any = _Unreadable(run.view, reason)
    return task.infer(replace(run, source=replace(run.source, view=view)), block)
