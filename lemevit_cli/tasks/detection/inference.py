"""``lemevit detect``: oriented boxes of the objects in a scene."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from lemevit_cli.errors import LemevitError
from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds, canonical, map_boxes
from lemevit_cli.geometry.rotated_nms import rotated_nms
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import (
    Part,
    Piece,
    Plan,
    block_size_of,
    blocks_of,
    large_block_size,
)
from lemevit_cli.inference.predictor import open_weights_for
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.inference.scene_input import SceneInput, open_input
from lemevit_cli.inference.scenes import (
    Record,
    Report,
    infer_scenes,
    prepare_weights,
    read_beside,
    targets_of,
)
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.targets import check_target, find_writer
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import DetectionOptions, InferenceSettings
from lemevit_cli.tasks import TASKS
from lemevit_cli.tasks.detection.merge import SURE, RawBoxes, concatenate_boxes, merge_boxes
from lemevit_cli.tasks.detection.network import NETWORK, network_for
from lemevit_cli.tasks.detection.results import WRITERS, BoxesOfScene, sizes_of, write_boxes

# Pixels of the model: what ends as near to an edge of its window may go on behind it.
_CUT_MARGIN = 2.0
_IOU_BETWEEN_WINDOWS = 0.3


def detect(
    scenes: list[str],
    target: str | None,
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
    report: Report | None = None,
) -> Report:
    """Detect in one scene, or in several with weights loaded once.

    Args:
        scenes: paths, or ``-`` for a raster on stdin.
        target: a file, ``-`` for stdout, a folder ending in a slash, or None for
            ``<scene>_boxes.shp`` in the current folder.
        report: filled as results come; a new one unless given.

    Raises:
        LemevitError: before any scene is opened; else as :func:`infer_scenes`.
    """
    ending = f"_boxes{find_writer('boxes.shp', settings.output, WRITERS).suffix}"
    chosen = weights or TASKS[NETWORK.task].starter
    settings = _with_weights(settings, open_weights_for(NETWORK.task, chosen).card)
    card, load = prepare_weights(network_for(settings.detection), chosen, settings, progress)
    check_detection(settings.detection)
    reads = read_beside(chosen, settings)
    targets = targets_of(scenes, target, ending, reads=reads)
    return infer_scenes(Detection(card, settings, progress), scenes, targets, load, report)


def _with_weights(settings: InferenceSettings, card: Card) -> InferenceSettings:
    """Add what windows are decoded by: no box that is not asked for takes the room of another."""
    options = replace(
        settings.detection,
        class_ids=tuple(ids_of(settings.output.classes, card)),
        scores=card.class_scores or (),
        proposals=card.head_args.get("proposals"),
    )
    return replace(settings, detection=options)


def check_detection(options: DetectionOptions) -> None:
    """Refuse a score or an overlap that is no share.

    Raises:
        LemevitError: naming the value.
    """
    for name, value in (("--score", options.least_score), ("--nms-iou", options.nms_iou)):
        if value is not None and not 0 <= value <= 1:
            raise LemevitError(f"{name} {value:g}: use a number from 0 to 1")


@dataclass(frozen=True)
class Detection:
    """Finds the objects of a scene: a part is what the windows of a block saw, unmerged.

    Boxes of a class that is not asked for are dropped before the merge; after it, those of less
    than the score of their class (a higher one filters the result, and changes nothing else), and
    those whose centre lies outside of the area or on a nodata pixel, so that no part of them that
    another window saw is left. Windows lie on one grid of the whole scene and each belongs to one
    block: blocks change nothing.

    Args:
        card: of the weights.
    """

    card: Card
    settings: InferenceSettings
    progress: Progress

    def check_target(self, target: str) -> None:
        """Refuse a target that could not be written at the end."""
        check_target(target, self.settings.output, WRITERS, self.progress)

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return the one file."""
        return (target,)

    def open(self, scene: str) -> AbstractContextManager[SceneInput]:
        """Open a scene, and decide how it is read."""
        return open_input(scene, self.card, self.settings, self.progress)

    def plan(self, run: BlockInference) -> Plan:
        """Choose blocks of the asked size; of each no more than its boxes is kept."""
        area = run.source.area
        block_size = block_size_of(self.settings) or large_block_size(area)
        blocks = tuple(blocks_of(area, block_size))
        return Plan(blocks, run.grid.count_over(run.source.on_view(area)))

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield the fields of :class:`RawBoxes`, in pixels of the scene."""
        wanted = ids_of(self.settings.output.classes, self.card)
        area, part = (run.source.on_view(each) for each in (run.source.area, block))
        windows = run.grid.windows_from(part, area=area)
        seen = boxes_in_windows(run, windows, wanted, self.settings.detection)
        yield Piece(block, vars(in_scene_pixels(seen, run.view)))

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Merge all boxes, and write them."""
        scene = run.source.scene
        if scene.georeference.transform is not None and scene.georeference.crs_wkt is None:
            self.progress.warn(
                f"{scene.name}: no CRS, so boxes are in pixels; state it by --src-crs"
            )
        seen = concatenate_boxes([RawBoxes(**piece.arrays) for part in parts for piece in part])
        self.progress.finish()
        if run.account.windows_capped:
            capped = describe_capped(run.account.windows_capped, self.settings.detection)
            self.progress.warn(f"{scene.name}: {capped}; a larger --max-per-window keeps them")
        if run.account.windows_full:
            full = describe_full(run.account.windows_full)
            self.progress.warn(f"{scene.name}: {full}; a smaller --window shows fewer at once")
        found = self.merge(run, seen)
        scores = asked_scores(self.settings.detection, self.card)
        self.progress.start(f"{scene.name}: writing", total=1, unit="files")
        with run.account.time("write"):
            write_boxes(target, found, self.settings.output)
        return {
            "path": target,
            "scene": scene.name,
            "weights": run.predictor.name,
            **run.predictor.figures(),
            "width": run.source.area.width,
            "height": run.source.area.height,
            "gsd_m": scene.gsd_m,
            "scores": dict(zip(self.card.class_names, scores.tolist(), strict=True)),
            "objects": len(found.boxes),
            "windows_capped": run.account.windows_capped,
            "windows_full": run.account.windows_full,
            "classes": census(found),
            **run.account.figures(),
        }

    def merge(self, run: BlockInference, seen: RawBoxes) -> BoxesOfScene:
        """Make one set of boxes of what all windows saw, best score first."""
        options = self.settings.detection
        with run.account.time("merge"):
            nms_iou = _IOU_BETWEEN_WINDOWS if options.nms_iou is None else options.nms_iou
            kept = merge_boxes(seen, nms_iou=nms_iou)
            kept = kept[seen.scores[kept] >= asked_scores(options, self.card)[seen.class_ids[kept]]]
            if options.agnostic_nms:
                one_class = np.zeros(len(kept), np.int64)
                boxes, scores = seen.boxes[kept], seen.scores[kept]
                kept = kept[rotated_nms(boxes, scores, one_class, nms_iou)]
        kept = kept[seen.on_valid[kept] & centred_in(run.source.area, seen.boxes[kept])]
        return BoxesOfScene(
            boxes=seen.boxes[kept],
            scores=seen.scores[kept],
            class_ids=seen.class_ids[kept],
            classes=self.card.classes,
            georeference=run.source.scene.georeference,
        )


def describe_capped(windows: int, options: DetectionOptions) -> str:
    """Say in how many windows boxes had no room."""
    return (
        f"in {windows} {'window' if windows == 1 else 'windows'} boxes of a score of "
        f"{options.least_score:g} or more are left out, the least sure ones: more than "
        f"{options.max_per_window} were seen there"
    )


def describe_full(windows: int) -> str:
    """Say in how many windows the detector's own proposals did not suffice."""
    return (
        f"in {windows} {'window' if windows == 1 else 'windows'} even the last of the places that "
        "the detector proposes hold objects: more may be there than it can propose"
    )


def detect_in_area(run: BlockInference, area: Window, settings: InferenceSettings) -> BoxesOfScene:
    """Find the objects of a part of a scene, without a file."""
    task = Detection(run.predictor.card, settings, run.progress)
    within = replace(run, source=replace(run.source, area=area))
    pieces = (piece for block in task.plan(within).blocks for piece in task.infer(within, block))
    return task.merge(within, concatenate_boxes([RawBoxes(**piece.arrays) for piece in pieces]))


def asked_scores(options: DetectionOptions, card: Card) -> NDArray[np.float64]:
    """Return the score from which on a box of each class counts, ``(classes,)``."""
    return np.broadcast_to(np.asarray(options.asked_score, dtype=np.float64), len(card.classes))


def ids_of(names: Sequence[str] | None, card: Card) -> list[int]:
    """Return the classes of these names, all of the card's for None."""
    return [i for i, name in enumerate(card.class_names) if names is None or name in names]


def boxes_in_windows(
    run: BlockInference,
    windows: Iterable[Window],
    wanted: Sequence[int],
    options: DetectionOptions,
) -> RawBoxes:
    """Return what a detector sees in windows of the model's grid, in pixels of that grid.

    The account gets the windows where a box of the asked score had no room, and those where even
    the last proposals hold one.
    """
    parts, most, least = [], options.max_per_window, options.least_score
    for batch, answers in run.batches(windows):
        with run.account.time("boxes"):
            found = answers.astype(np.float64)
            for window, rows, valid in zip(batch.windows, found, batch.valid, strict=False):
                without_room, rows = rows[most:], rows[:most]
                run.account.windows_capped += has_box_of(without_room, least)
                is_full = without_room[:, 5].max(initial=0.0) >= max(least, SURE)
                run.account.windows_full += bool(is_full and (without_room[:, 6] < 0).all())
                asked = (rows[:, 5] >= min(least, SURE)) & np.isin(rows[:, 6], wanted)
                parts.append(boxes_in_window(rows[asked], window, valid, run.grid))
    return concatenate_boxes(parts)


def has_box_of(rows: NDArray[np.float64], score: float) -> bool:
    """Tell whether one of the rows ``(K, 7)`` is a box with at least a score."""
    return bool(((rows[:, 6] >= 0) & (rows[:, 5] >= score)).any())


def boxes_in_window(
    rows: NDArray[np.float64], window: Window, valid: NDArray[np.bool_], grid: WindowGrid
) -> RawBoxes:
    """Return the boxes that are centred in a window, in the frame of the grid.

    Others lie in the mirror that fills the window of a small scene, or are seen better elsewhere.

    Args:
        rows: ``(K, 7)``: box in pixels of the window, score, class id.
        valid: ``(H, W)``.
    """
    whole = Window(col_off=0, row_off=0, width=window.width, height=window.height)
    rows = rows[centred_in(whole, rows)]
    left, top, right, bottom = axis_aligned_bounds(rows[:, :5]).T
    cut = (left < _CUT_MARGIN) & (window.col_off > 0)
    cut |= (top < _CUT_MARGIN) & (window.row_off > 0)
    cut |= (right > window.width - _CUT_MARGIN) & (window.right < grid.width)
    cut |= (bottom > window.height - _CUT_MARGIN) & (window.bottom < grid.height)
    col, row = rows[:, :2].astype(np.intp).T
    boxes = canonical(rows[:, :5])
    boxes[:, :2] += window.col_off, window.row_off
    return RawBoxes(boxes, rows[:, 5], rows[:, 6].astype(np.int64), cut, valid[row, col])


def centred_in(area: Window, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark the boxes ``(N, 5 or more)`` that have their centre in an area of their frame."""
    cx, cy = boxes[:, 0], boxes[:, 1]
    in_cols = (cx >= area.col_off) & (cx < area.right)
    return in_cols & (cy >= area.row_off) & (cy < area.bottom)


def in_scene_pixels(seen: RawBoxes, view: SceneView) -> RawBoxes:
    """Bring boxes of the model's grid to the grid of the scene."""
    if not view.is_resampled:
        return seen
    scale = Affine.scale(view.scene.width / view.width, view.scene.height / view.height)
    return replace(seen, boxes=map_boxes(seen.boxes, scale))


def census(found: BoxesOfScene) -> dict[str, Any]:
    """Count the objects of each class, with their median sizes; None where unknown."""
    sizes = sizes_of(found)
    classes = {}
    for class_id, info in enumerate(found.classes):
        of_class = found.class_ids == class_id
        classes[info.name] = {
            "objects": int(of_class.sum()),
            f"length_{sizes.unit}": _median(sizes.length_m[of_class]),
            f"width_{sizes.unit}": _median(sizes.width_m[of_class]),
        }
    return classes


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(np.median(known)) if len(known) else None
