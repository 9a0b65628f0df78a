"""The tasks by name: a package each, whose parts load when they are asked for.

A package has ``network.py`` (``NETWORK``: what inference asks), ``training.py`` (``TRAINING``: what
training asks) and ``evaluation.py`` (``EVALUATION``: how weights are scored on labelled data). It
may have ``inference.py`` with ``INFERENCE`` (what ``predict`` runs, of a task without a command of
its own), ``simulation.py`` (``SIMULATION``: how a data set of simulated towns is laid out),
``scoring.py`` (``SCORING``: how its results are compared as files), ``labels.py`` (``LABELS``: what
is read of labelled data, without a training), ``tables.py`` (``TABLES``: how
figures of its own kind are printed) and ``recipes.py`` (``RECIPES``: trainings by name).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lemevit_cli.errors import LemevitError

if TYPE_CHECKING:
    from lemevit_cli.inference.network import Network
    from lemevit_cli.inference.scenes import Report
    from lemevit_cli.simulation.scenes import Layout
    from lemevit_cli.tasks.evaluation import Evaluation
    from lemevit_cli.tasks.figure_table import FigureTable
    from lemevit_cli.tasks.labels import Labels
    from lemevit_cli.tasks.scoring import Scoring
    from lemevit_cli.training.task import Recipe, Training


@dataclass(frozen=True)
class Room:
    """Where a task lives, and what is known of it before anything is loaded.

    Args:
        package: of its parts.
        command: that runs it over scenes.
        starter: weights that are taken when none are named.
        dates: of a place that it sees.
        joint: suffixes of results that hold what is found in several scenes.
        divides_folders: whether a part of its folders can be held back (``--val-fraction``).
    """

    package: str
    command: str
    starter: str
    dates: int = 1
    joint: tuple[str, ...] = ()
    divides_folders: bool = False


TASKS = {
    "seg": Room("lemevit_cli.tasks.segmentation", command="predict", starter="landcover"),
    "det": Room("lemevit_cli.tasks.detection", command="detect", starter="objects"),
    "change": Room(
        "lemevit_cli.tasks.change", command="change", starter="buildings-change", dates=2
    ),
    "cls": Room(
        "lemevit_cli.tasks.classification",
        command="predict",
        starter="scenes",
        joint=(".csv",),
        divides_folders=True,
    ),
}


def load_network(task: str) -> Network:
    """Import what inference asks of a task; see :func:`_part`."""
    network: Network = _part(task, "network")
    return network


def load_inference(task: str) -> Callable[..., Report]:
    """Import what ``predict`` runs for a task; see :func:`_part`."""
    run: Callable[..., Report] = _part(task, "inference")
    return run


def load_training(task: str) -> Training:
    """Import what training asks of a task; see :func:`_part`."""
    training: Training = _part(task, "training")
    return training


def load_evaluation(task: str) -> Evaluation:
    """Import how weights of a task are scored on labelled data; see :func:`_part`."""
    evaluation: Evaluation = _part(task, "evaluation")
    return evaluation


def load_simulation(task: str) -> Layout:
    """Import how simulated towns are laid out for a task to train from.

    Raises:
        LemevitError: if there is none of that name.
    """
    layout: Layout = _part(task, "simulation")
    return layout


def load_scorings() -> tuple[Scoring, ...]:
    """Import how results are compared, of all tasks whose results can be."""
    return tuple(_part(task, "scoring") for task in tasks_with("scoring"))


def load_labels(task: str) -> Labels:
    """Import how labelled data of a task are read and described; see :func:`_part`."""
    labels: Labels = _part(task, "labels")
    return labels


def load_tables() -> tuple[FigureTable, ...]:
    """Import how the figures of all tasks are printed."""
    return tuple(table for task in tasks_with("tables") for table in _part(task, "tables"))


def load_recipes(task: str) -> Mapping[str, Recipe]:
    """Import the trainings of a task that have a name; see :func:`_part`."""
    recipes: Mapping[str, Recipe] = _part(task, "recipes") if task in tasks_with("recipes") else {}
    return recipes


def tasks_with(name: str) -> list[str]:
    """List the tasks that have an optional part."""
    return [task for task, room in TASKS.items() if find_spec(f"{room.package}.{name}")]


def _part(task: str, name: str) -> Any:
    """Import a part of a task.

    Raises:
        LemevitError: if there is no such task, or it has no such part.
    """
    if task not in TASKS:
        raise LemevitError(f"no task {task!r}; tasks are {', '.join(TASKS)}")
    if task not in tasks_with(name):
        raise LemevitError(f"task {task} has no {name}; those of {', '.join(tasks_with(name))} do")
    return getattr(import_module(f"{TASKS[task].package}.{name}"), name.upper())
