"""One command over one scene or several: targets, checks, weights loaded once, what failed."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from lemevit_cli.errors import LemevitError, OutputError
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import tiling_of
from lemevit_cli.inference.scene_input import SceneInput, check_gsd, scene_input
from lemevit_cli.models.device import choose_device, choose_dtype
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.radiometry import check_stretch
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.source import stem_of
from lemevit_cli.raster.targets import check_classes
from lemevit_cli.settings import InferenceSettings


@dataclass(frozen=True)
class Failure:
    """Why a scene gave no result. Words alone: an exception keeps all that its frames hold.

    Args:
        message: one line.
        traceback: where it happened.
        is_bug: neither the user nor the machine is the cause.
    """

    message: str
    traceback: str
    is_bug: bool


@dataclass
class Report:
    """What came of several scenes: one record each, and what failed, by scene."""

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)


class SceneRun(Protocol):
    """Works on one scene and gives the record that ``--json`` prints."""

    def __call__(
        self, scene: Scene, source: SceneInput, target: str, predictor: Predictor
    ) -> dict[str, Any]: ...


def run_over_scenes(
    scenes: Sequence[str],
    targets: Sequence[str],
    *,
    card: Card,
    settings: InferenceSettings,
    progress: Progress,
    check: Callable[[str], None],
    load: Callable[[], Predictor],
    run: SceneRun,
) -> Report:
    """Open, check and work on every scene; weights are loaded when the first one is ready.

    Args:
        check: refuses a target that could not be written at the end.

    Raises:
        Exception: from a single scene; of several, each failure is kept in the report.
        BrokenPipeError: if nobody reads what the program says; other scenes would fare no better.
    """
    report = Report()
    predictor: Predictor | None = None
    for path, target in zip(scenes, targets, strict=True):
        try:
            check(target)
            with open_scene(path, settings.scene) as scene:
                source = scene_input(scene, card, settings.reading, progress)
                if predictor is None:
                    predictor = load()
                report.results.append(run(scene, source, target, predictor))
        except BrokenPipeError:
            raise
        except Exception as error:  # of any kind: the other scenes are to have their turn
            if len(scenes) == 1:
                raise
            report.failures[path] = failure_of(error)
        if path in report.failures:
            # The error of a reading thread and its frames refer to each other, and to the scene's
            # arrays: the next scene may need their memory.
            gc.collect()
    return report


def failure_of(error: Exception) -> Failure:
    """What a report says of an error."""
    message = " ".join(str(error).split())
    is_bug = False
    if is_out_of_memory(error):
        message = f"out of memory ({message})" if message else "out of memory"
    elif not isinstance(error, LemevitError | OSError):
        message, is_bug = f"{type(error).__name__}: {message}", True
    return Failure(message, "".join(traceback.format_exception(error)), is_bug)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether numpy or torch, on any device, asked for more memory than there is."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # torch has no class of its own for the memory of the machine.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def target_of(scene: str, target: str | None, ending: str) -> str:
    """Where the result of a scene goes: ``<scene><ending>`` here or in a folder, unless named."""
    if target is not None and not is_folder(target):
        return target
    name = stem_of(scene) + ending
    return name if target is None else str(Path(target) / name)


def is_folder(target: str) -> bool:
    """Whether a target names a folder: it ends in a slash, or is one."""
    return target.endswith(("/", "\\")) or Path(target).is_dir()


def check_settings(card: Card, settings: InferenceSettings) -> None:
    """Refuse, before any scene is opened, what no scene could be worked on with.

    Raises:
        LemevitError: for options that are malformed, or do not suit weights or machine.
    """
    check_classes(card.classes, settings.output)
    check_stretch(settings.reading.stretch)
    check_gsd(settings.reading.gsd)
    tiling_of(card, settings.tiling)
    choose_dtype(settings.runtime.precision, choose_device(settings.runtime.device))


def check_targets(scenes: Sequence[str], targets: Sequence[str]) -> None:
    """Refuse targets that would replace a scene, or each other.

    Raises:
        OutputError: naming both.
    """
    taken: dict[str, str] = {}
    for scene, target in zip(scenes, targets, strict=True):
        if Path(target).exists() and Path(scene).exists() and Path(target).samefile(scene):
            raise OutputError(f"{target} is the scene itself; name another file by -o")
        if target in taken:
            raise OutputError(
                f"{taken[target]} and {scene} would both be written to {target}; "
                "write them into different folders"
            )
        taken[target] = scene
