"""Where the parts of a scene come from: from this process, from an earlier run, from workers."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

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
from lemevit_cli.progress import Silent
from lemevit_cli.raster.source import STDIN
from lemevit_cli.raster.targets import STDOUT

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import SceneTask


@dataclass(frozen=True)
class Order:
    """What is to be made of a scene, as any process could be told.

    Args:
        scene, target: as the user named them.
        load: gives the predictor.
    """

    task: SceneTask
    scene: str
    target: str
    load: Callable[[], Predictor]


@contextmanager
def open_parts(order: Order, run: BlockInference, plan: Plan) -> Iterator[Iterable[Part]]:
    """Yield the parts of all blocks; where they are several, what is finished outlives a kill.

    Raises:
        LemevitError: if another run's parts lie there, or there is no cluster.
    """
    task = order.task
    outputs = task.outputs(order.target)
    files = [output for output in outputs if output != STDOUT]
    is_spread = bool(outputs) and task.settings.cluster.is_used
    is_kept = bool(files) and (len(plan.blocks) > 1 or folder_of(files[0]).exists())
    if not (is_spread or is_kept):
        yield (task.infer(run, block) for block in plan.blocks)
        return
    with ExitStack() as opened:
        if not files:
            folder = opened.enter_context(tempfile.TemporaryDirectory(prefix="lemevit-"))
            files = [str(Path(folder) / "stdout")]
        prints, restart = fingerprint_of(run, task.settings, plan), task.settings.recovery.restart
        journal = opened.enter_context(
            open_journal(files[0], prints, num_blocks=len(plan.blocks), restart=restart)
        )
        if done := journal.count_done():
            task.progress.note(f"{files[0]}: {done} of {len(plan.blocks)} blocks were done already")
        try:
            if is_spread:
                yield opened.enter_context(_spread_parts(order, run, plan, journal, prints))
            else:
                yield (
                    journal.part(number, run, partial(task.infer, run, block))
                    for number, block in enumerate(plan.blocks)
                )
        except BaseException:
            task.progress.note(
                f"{files[0]}: {journal.count_done()} of {len(plan.blocks)} blocks are kept; "
                "the same command goes on behind them"
            )
            raise


@contextmanager
def _spread_parts(
    order: Order, run: BlockInference, plan: Plan, journal: Journal, fingerprint: Fingerprint
) -> Iterator[Iterable[Part]]:
    """Yield the parts that are kept, then those of workers as they come."""
    if STDIN in run.source.scene.files:
        raise LemevitError("--workers, --scheduler: a scene on stdin is this process's alone")
    cluster, task = _import_cluster(), order.task
    silent: Any = replace(cast("Any", task), progress=Silent())  # a frozen dataclass, as all are
    recipe = cluster.Recipe(replace(order, task=silent), fingerprint, str(journal.folder.resolve()))
    with cluster.connect(task.settings.cluster, task.progress) as client:
        yield _parts_of_workers(cluster, client, recipe, plan, journal, run)


def _parts_of_workers(
    cluster: Any, client: Any, recipe: Any, plan: Plan, journal: Journal, run: BlockInference
) -> Iterator[Part]:
    left = []
    for number, block in enumerate(plan.blocks):
        if journal.has(number):
            yield journal.part(number, run, lambda: ())
        else:
            left.append((number, block))
    for number in cluster.finish_blocks(client, recipe, left, journal, run):
        journal.retell(number, run)
        yield journal.pieces(number)


def _import_cluster() -> Any:
    try:
        return import_module("lemevit_cli.inference.cluster")
    except ModuleNotFoundError as error:
        raise LemevitError(
            "--workers, --scheduler: need dask.distributed; pip install 'lemevit[dask]'"
        ) from error
