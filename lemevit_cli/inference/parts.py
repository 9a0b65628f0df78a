"""Where the parts of a scene come from: from this process, or from an earlier run."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from lemevit_cli.inference.blocks import Part, Plan
from lemevit_cli.inference.journal import fingerprint_of, folder_of, open_journal
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.raster.targets import STDOUT

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import SceneTask


@contextmanager
def open_parts(
    task: SceneTask, run: BlockInference, plan: Plan, target: str
) -> Iterator[Iterable[Part]]:
    """Yield the parts of all blocks; where they are several, what is finished outlives a kill.

    Raises:
        OutputError: if another run's parts lie there.
    """
    files = [output for output in task.outputs(target) if output != STDOUT]
    is_kept = bool(files) and (len(plan.blocks) > 1 or folder_of(files[0]).exists())
    if not is_kept:
        yield (task.infer(run, block) for block in plan.blocks)
        return
    prints, restart = fingerprint_of(run, task.settings, plan), task.settings.recovery.restart
    with open_journal(files[0], prints, num_blocks=len(plan.blocks), restart=restart) as journal:
        if done := journal.count_done():
            task.progress.note(f"{files[0]}: {done} of {len(plan.blocks)} blocks were done already")
        try:
            yield (
                journal.part(number, run, partial(task.infer, run, block))
                for number, block in enumerate(plan.blocks)
            )
        except BaseException:
            if done := journal.count_done():
                task.progress.note(
                    f"{files[0]}: {done} of {len(plan.blocks)} blocks are kept; "
                    "the same command goes on behind them"
                )
            raise
