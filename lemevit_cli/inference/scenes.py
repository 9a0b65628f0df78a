"""The heart of the commands over scenes: scenes -> blocks -> parts -> results."""

from __future__ import annotations

import gc
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from lemevit_cli.errors import LemevitError, OutputError, WeightsError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Part, Plan
from lemevit_cli.inference.journal import locked
from lemevit_cli.inference.network import Network
from lemevit_cli.inference.parts import Order, open_parts
from lemevit_cli.inference.pixel_size import check_gsd
from lemevit_cli.inference.predictor import (
    Predictor,
    check_runtime,
    load_predictor,
    open_weights_for,
)
from lemevit_cli.inference.run import Account, BlockInference, inference_over, tiling_of
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.models.variants import check_fusion
from lemevit_cli.models.weights import Card, find_weights
from lemevit_cli.progress import Progress
from lemevit_cli.raster.radiometry import check_stretch
from lemevit_cli.raster.source import stem_of
from lemevit_cli.raster.targets import check_classes
from lemevit_cli.settings import InferenceSettings

_DRY_RUN = "lemevit_cli.inference.dry_run"  # imported when it is asked for
Record = dict[str, Any]  # what ``--json`` prints of a result


class SceneTask(Protocol):
    """What a task does with a scene. Who makes the parts, and when, is not its concern."""

    @property
    def settings(self) -> InferenceSettings:
        """Return what the user can choose."""
        ...

    @property
    def progress(self) -> Progress:
        """Return what is told how far the work is."""
        ...

    def check_target(self, target: str) -> None:
        """Refuse a target that could not be written at the end.

        Raises:
            OutputError: naming it.
        """
        ...

    def open(self, scene: str) -> AbstractContextManager[SceneInput]:
        """Open a scene, and decide how it is read.

        Raises:
            SceneError: if it cannot be read, or does not suit the weights.
        """
        ...

    def plan(self, run: BlockInference) -> Plan:
        """Choose the blocks."""
        ...

    def infer(self, run: BlockInference, block: Window) -> Part:
        """Answer a block; its windows are read as its pieces are asked for."""
        ...

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return the files that a result consists of, ``-`` for stdout; none where it has none."""
        ...

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Make the result of a scene of its parts, in any order of them, in bounded memory."""
        ...


def prepare_weights(
    network: Network, weights: str, settings: InferenceSettings, progress: Progress
) -> tuple[Card, Callable[[], Predictor]]:
    """Open weights and refuse settings that do not suit them; return how to load them, too.

    Raises:
        LemevitError: before any scene is opened and any tensor loaded.
    """
    opened = open_weights_for(network.task, weights)
    check_settings(opened.card, settings)
    check_runtime(opened, settings.runtime)
    window, _ = tiling_of(opened.card, settings.tiling)
    if settings.dry_run:
        plan: Callable[..., Predictor] = import_module(_DRY_RUN).planning_predictor
        return opened.card, partial(plan, opened, settings.runtime.device)
    load = partial(
        load_predictor, opened, network, settings.runtime, window=window, progress=progress
    )
    return opened.card, load


def infer_scenes(
    task: SceneTask,
    scenes: Sequence[str],
    targets: Sequence[str],
    load: Callable[[], Predictor],
    report: Report | None = None,
) -> Report:
    """Work on every scene; weights are loaded once, when the first one is ready.

    A dry run adds, in place of results, what ``inference/dry_run.py`` says of them.

    Args:
        report: filled as results come; a new one unless given.

    Raises:
        Exception: from a single scene; of several, each failure is kept in the report.
        BrokenPipeError: if nobody reads what the program says.
        WeightsError: if tensors and card do not fit each other.
    """
    orders = [
        Order(task, scene, target, load) for scene, target in zip(scenes, targets, strict=True)
    ]
    return infer_all(orders, report)


def infer_all(orders: Sequence[Order], report: Report | None = None) -> Report:
    """Work on every order, as :func:`infer_scenes`; the first one's weights serve all."""
    report, predictor = report or Report(), cache(orders[0].load)
    for order in orders:
        with report.turn_of(order.scene, is_single=len(orders) == 1):
            order.task.check_target(order.target)
            report.add(order.scene, _carry_out(order, predictor))
        if order.scene in report.failures:
            # The error of a reading thread and its frames refer to each other, and to the scene's
            # arrays: the next scene may need their memory.
            gc.collect()
    return report


def _carry_out(order: Order, predictor: Callable[[], Predictor]) -> Record:
    """Make the result of an order, or say what would be made."""
    task, target = order.task, order.target
    if task.settings.dry_run:
        describe = import_module(_DRY_RUN).describe_run
        with task.open(order.scene) as source:
            record: Record = describe(task, source, predictor(), target)
            return record
    with locked(task.outputs(target)), task.open(order.scene) as source:
        return infer_scene(order, source, predictor())


def infer_scene(order: Order, source: SceneInput, predictor: Predictor) -> Record:
    """Work on one scene: its blocks give parts, and these the result."""
    task, settings, progress = order.task, order.task.settings, order.task.progress
    with inference_over(
        source,
        predictor,
        settings.tiling,
        progress,
        skips_unreadable=settings.recovery.on_error == "nodata",
    ) as run:
        plan = task.plan(run)
        with open_parts(order, run, plan) as parts:
            progress.start(source.name, total=plan.windows, unit="windows")
            try:
                record = task.assemble(run, _while_unchanged(parts, source), order.target)
            finally:
                progress.finish()
    if run.account.unreadable:
        progress.warn(f"{source.name}: {describe_unreadable(run.account)}")
    return record


def _while_unchanged(parts: Iterable[Part], source: SceneInput) -> Iterator[Part]:
    """Yield parts, and after the last one, before anything is put in place, look at the scene."""
    yield from parts
    source.scene.check_unchanged()


def describe_unreadable(account: Account) -> str:
    """Say in one line which windows could not be read."""
    places = sorted(set(account.unreadable))
    col, row, width, height = places[0]
    return (
        f"{len(places)} windows could not be read and count as nodata, the first {width} x "
        f"{height} pixels from column {col}, row {row}; --json lists all"
    )


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
    """Results of several scenes, one record each, and failures by scene.

    Args:
        tell: hears of each scene and what came of it, as soon as it is known.
    """

    results: list[Record] = field(default_factory=list)
    failures: dict[str, Failure] = field(default_factory=dict)
    tell: Callable[[str, Record | Failure], None] = lambda scene, outcome: None

    def add(self, scene: str, outcome: Record | Failure) -> None:
        """Keep what came of a scene."""
        if isinstance(outcome, Failure):
            self.failures[scene] = outcome
        else:
            self.results.append(outcome)
        self.tell(scene, outcome)

    @contextmanager
    def turn_of(self, scene: str, *, is_single: bool) -> Iterator[None]:
        """Keep what a scene fails of, so that the others have their turn; a single one raises."""
        try:
            yield
        except (BrokenPipeError, WeightsError):
            raise  # no other scene would fare better
        except Exception as error:
            if is_single:
                raise
            self.add(scene, describe_failure(error))


def describe_failure(error: Exception) -> Failure:
    """Return what a report says of an error."""
    message = " ".join(str(error).split())
    is_bug = False
    if is_out_of_memory(error):
        message = f"out of memory ({message})" if message else "out of memory"
    elif not isinstance(error, LemevitError | OSError):
        message, is_bug = f"{type(error).__name__}: {message}", True
    return Failure(message, "".join(traceback.format_exception(error)), is_bug)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether numpy or torch, on any device, asked for more memory than there is."""
    torch = sys.modules.get("torch")  # where it was not imported it has raised nothing
    if isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)
    ):
        return True
    # torch has no class of its own for the memory of the machine.
    return isinstance(error, RuntimeError) and "can't allocate memory" in str(error)


def target_of(scene: str, target: str | None, ending: str) -> str:
    """Return where a scene's result goes: ``<scene><ending>`` here or in a folder, unless named."""
    if target is not None and not is_folder(target):
        return target
    name = stem_of(scene) + ending
    return name if target is None else str(Path(target) / name)


def targets_of(
    scenes: Sequence[str], target: str | None, ending: str, *, reads: Sequence[str | None] = ()
) -> list[str]:
    """Return where the result of each scene goes, see :func:`target_of`; make the folder of them.

    Args:
        reads: what else is read, see :func:`read_beside`.

    Raises:
        OutputError: for a target that would replace what is read, or another's result, or a folder
            that cannot be made.
    """
    if target is not None and target.endswith("/"):
        try:
            Path(target).mkdir(exist_ok=True)
        except OSError as error:
            raise OutputError(f"{target}: cannot be made ({error.strerror})") from error
    targets = [target_of(scene, target, ending) for scene in scenes]
    check_targets(scenes, targets, reads=reads)
    return targets


def read_beside(weights: str | None, settings: InferenceSettings) -> tuple[str | None, ...]:
    """Return what a run reads beside its scenes: weights and mask."""
    return None if weights is None else str(find_weights(weights)), settings.reading.mask


def is_folder(target: str) -> bool:
    """Tell whether a target names a folder: it ends in a slash, or is one."""
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
    check_fusion(card.backbone, card.backbone_args, settings.runtime.fuse_tokens)


def check_targets(
    scenes: Sequence[str], targets: Sequence[str], *, reads: Sequence[str | None] = ()
) -> None:
    """Refuse targets that would replace what is read, or each other.

    Raises:
        OutputError: naming both.
    """
    check_inputs_kept(targets, [*scenes, *reads])
    taken: dict[str, str] = {}
    for scene, target in zip(scenes, targets, strict=True):
        if target in taken:
            raise OutputError(
                f"{taken[target]} and {scene} would both be written to {target}; "
                "write them into different folders"
            )
        taken[target] = scene
