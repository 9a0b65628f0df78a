"""A block of a scene on a worker of a cluster: scene and weights stay open from one to the next."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, chdir, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import fsspec

from lemevit_cli.atomic import temporary_folder
from lemevit_cli.errors import LemevitError, reading
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.journal import Fingerprint, Journal, fingerprint_of
from lemevit_cli.inference.parts import Order
from lemevit_cli.inference.run import Account, BlockInference, inference_over
from lemevit_cli.progress import Silent
from lemevit_cli.settings import RUNTIMES

UNKNOWN = "unknown run"
RELAYED = "in the relay"
_PRECISIONS = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_RUNS = 2  # that are open in a process: several commands may share a cluster


@dataclass(frozen=True)
class Recipe:
    """What a worker needs to know of a run.

    Args:
        order: its task listens to nobody.
        fingerprint: of the run; a worker that would answer otherwise is refused.
        journal: where parts go, if the worker sees it.
        folder: that paths are relative to.
        relay: folder of fsspec for parts of workers that do not see the journal; None sends them.
    """

    order: Order
    fingerprint: Fingerprint
    journal: Journal
    folder: str
    relay: str | None = None

    def relayed(self, number: int) -> str:
        """Return the place of a part in the relay."""
        return f"{self.relay}/{number:06}.part"


# All work of a process is done in one thread: a block at a time, for cores and memory are shared
# out by processes, and where the runtime has set how many threads it computes with.
_thread = ThreadPoolExecutor(1, thread_name_prefix="lemevit")
_open: dict[str, tuple[ExitStack, Recipe, BlockInference]] = {}


def infer_block(key: str, content: bytes | None, number: int, block: Window) -> bytes | str | None:
    """Make the part of a block.

    Args:
        key: of the run.
        content: its :class:`Recipe`, pickled; None if this process should have it.

    Returns:
        The part, None if it could be put into the journal, ``RELAYED`` if it was left in the relay,
        or ``UNKNOWN`` without a recipe.

    Raises:
        LemevitError: if the block cannot be done, or would be done otherwise than by the client.
    """
    return _thread.submit(_infer_block, key, content, number, block).result()


def forget(key: str) -> None:
    """Close the scene and the weights of a run that has ended."""
    _thread.submit(_close, key).result()


def _infer_block(key: str, content: bytes | None, number: int, block: Window) -> bytes | str | None:
    if key not in _open:
        if content is None:
            return UNKNOWN
        while len(_open) >= _RUNS:
            _close(next(iter(_open)))
        _open[key] = _prepare(pickle.loads(content))
    _, recipe, run = _open[key]
    with _within(recipe.folder):
        return _part_of(recipe, replace(run, account=Account()), number, block)


def _close(key: str) -> None:
    if key in _open:
        _open.pop(key)[0].close()


def _prepare(recipe: Recipe) -> tuple[ExitStack, Recipe, BlockInference]:
    """Open scene and weights.

    Raises:
        LemevitError: if versions, arithmetic or pixels are not those of the client.
    """
    with ExitStack() as opened, _within(recipe.folder):
        decided = _decided_by(recipe.fingerprint)
        run = opened.enter_context(_opened_run(recipe.order, decided))
        settings, plan = recipe.order.task.settings, recipe.order.task.plan(run)
        _check_same(fingerprint_of(run, settings, plan), recipe.fingerprint)
        return opened.pop_all(), recipe, run


@contextmanager
def _opened_run(order: Order, decided: Mapping[str, Any]) -> Iterator[BlockInference]:
    settings = order.task.settings
    skips = settings.recovery.on_error == "nodata"
    with (
        order.task.open(order.scene) as source,
        inference_over(
            source,
            order.load(**decided),
            settings.tiling,
            Silent(),
            skips_unreadable=skips,
        ) as run,
    ):
        yield run


def _decided_by(fingerprint: Fingerprint) -> dict[str, Any]:
    """Return the options of a runtime that the client has chosen by its own machine."""
    runtime = fingerprint.get("runtime", "auto").partition(" ")[0]
    return {
        "threads": int(fingerprint["threads"]),
        "device": fingerprint["device"],
        "precision": _PRECISIONS.get(fingerprint["arithmetic"].rpartition(" ")[2], "auto"),
        "runtime": runtime if runtime in RUNTIMES else "auto",
    }


def _check_same(found: Fingerprint, expected: Fingerprint) -> None:
    for name, value in expected.items():
        # Copies of a scene differ in their place and time; their pixels count.
        if not name.startswith("scene ") and found.get(name) != value:
            raise LemevitError(
                f"the worker on {platform.node()} would answer otherwise: {name} is "
                f"{found.get(name, 'none')} there, {value} here; use the same environment and "
                "machines, or name by --device what all of them have"
            )


def _part_of(recipe: Recipe, run: BlockInference, number: int, block: Window) -> bytes | str | None:
    part = recipe.order.task.infer(run, block)
    if recipe.journal.is_of(recipe.fingerprint):
        recipe.journal.keep(number, run, part)
        return None
    with temporary_folder() as folder:
        own = replace(recipe.journal, folder=folder)
        own.keep(number, run, part)
        content = own.content(number)
    if recipe.relay is None:
        return content
    with relaying(recipe.relay), fsspec.open(recipe.relayed(number), "wb") as file:
        file.write(content)
    return RELAYED


@contextmanager
def relaying(relay: str) -> Iterator[None]:
    """Turn what fsspec and the libraries behind it raise into one line."""
    with reading(f"--relay {relay}", "parts cannot be left there", raises=LemevitError):
        yield


def _within(folder: str) -> chdir[str] | nullcontext[None]:
    """Make a folder the current one where there is such a one."""
    return chdir(folder) if Path(folder).is_dir() else nullcontext()
