"""The tasks by name; each is loaded when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from lemevit_cli.errors import LemevitError

if TYPE_CHECKING:
    from lemevit_cli.tasks.task import Task

TASKS = {
    "seg": "lemevit_cli.tasks.segmentation:SEGMENTATION",
    "det": "lemevit_cli.tasks.detection:DETECTION",
    "change": "lemevit_cli.tasks.change_detection:CHANGE_DETECTION",
}
# The weights that are taken when none are named.
STARTERS = {"seg": "landcover", "det": "objects", "change": "buildings-change"}


def load_task(name: str) -> Task:
    """Import a task.

    Raises:
        LemevitError: if there is none of that name.
    """
    if name not in TASKS:
        raise LemevitError(f"no task {name!r}; tasks are {', '.join(TASKS)}")
    module, attribute = TASKS[name].split(":")
    task: Task = getattr(import_module(module), attribute)
    return task
