"""Where the parts of a scene come from: from this process, from an earlier run, from workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lemevit_cli.atomic import temporary_folder
from lemevit_cli.errors import LemevitError
from lemevit_cli.inference.blocks import Part, Plan
from lemevit_cli.inference.journal import (
    Fingerprint,
    Journal,
    fingerprint_of,
    folder_of,
    open_journal,
)
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.raster.source import STDIN
from lemevit_cli.raster.targets import STDOUT

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import SceneTask


@dataclass(frozen=True)
class Order:
    """One scene and its result, and all that a process needs to begin with it.

    Args:
        load: loads the weights. Another process names the options that this one has decided.
    """

    task: SceneTask
    scene: str
    target: str
    load: Callable[..., Predictor]


@contextmanager
def open_parts(order: Order, run: BlockInference, plan: Plan) -> Iterator[Iterable[Part]]:
    """Yield the parts of all blocks, in their order.

    Where there are several blocks, other processes share in them if they are to, and what is
    finished outlives a kill.

    Raises:
        LemevitError: if another run's parts lie there, or no cluster is to be had.
    """
    task = order.task
    files = [output for output in task.outputs(order.target) if output != STDOUT]
    has_several = len(plan.blocks) > 1 and bool(task.outputs(order.target))
    is_spread = has_several and task.settings.cluster.is_used
    is_kept = bool(files) and (has_several or folder_of(files[0]).exists())
    if not (is_spread or is_kept):
        yield (task.infer(run, block) for block in plan.blocks)
        return
    prints, count = fingerprint_of(run, task.settings, plan), len(plan.blocks)
    opening = _lasting(order, files[0], prints, count) if files else _passing(prints, count)
    with opening as journal:
        if is_spread:
            with _spread_parts(order, run, plan, journal, prints) as parts:
                yield parts
        else:
            yield (
                journal.part(number, run, partial(task.infer, run, block))
                for number, block in enumerate(plan.blocks)
            )


@contextmanager
def _lasting(order: Order, target: str, prints: Fingerprint, count: int) -> Iterator[Journal]:
    """Open the journal of a run; note what it holds at the beginning, and if the run fails."""
    note, restart = order.task.progress.note, order.task.settings.recovery.restart
    with open_journal(target, prints, num_blocks=count, restart=restart) as journal:
        if done := journal.count_done():
            note(f"{target}: {done} of {count} blocks were done already")
        try:
            yield journal
        except BaseException:
            if done := journal.count_done():
                note(
                    f"{target}: {done} of {count} blocks are kept; "
                    "the same command goes on behind them"
                )
            raise


@contextmanager
def _passing(prints: Fingerprint, count: int) -> Iterator[Journal]:
    """Open a journal for a result on stdout, which nobody can continue."""
    with temporary_folder() as folder:
        target = str(folder / "stdout")
        with open_journal(target, prints, num_blocks=count, restart=False) as journal:
            yield journal


@contextmanager
def _spread_parts(
    order: Order, run: BlockInference, plan: Plan, journal: Journal, prints: Fingerprint
) -> Iterator[Iterable[Part]]:
    if STDIN in run.source.scene.files:
        raise LemevitError("--workers, --scheduler: a scene on stdin is this process's alone")
    cluster = _import_cluster()
    with cluster.connect(order.task.settings.cluster, journal, order.task.progress) as connected:
        recipe = cluster.recipe_of(order, prints, journal)  # which may make a folder in the relay
        with closing(cluster.Spread(connected, recipe, plan, run).parts()) as parts:
            yield parts


def _import_cluster() -> Any:
    try:
        return import_module("lemevit_cli.inference.cluster")
    except ModuleNotFoundError as error:
        raise LemevitError(
            "--workers, --scheduler: need dask.distributed; pip install 'lemevit[dask]'"
        ) from error
