"""``lemevit detect``: oriented boxes of the objects in a scene."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from lemevit_cli.errors import LemevitError
from lemevit_cli.geometry.oriented_boxes import canonical, circumscribed, mapped
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import Predictor, check_weights, load_predictor
from lemevit_cli.inference.run import Account, BlockInference, inference_over
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.inference.scenes import (
    Report,
    check_settings,
    check_targets,
    run_over_scenes,
    target_of,
)
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.targets import BOX_WRITERS, check_target, find_writer
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import DetectionOptions, InferenceSettings
from lemevit_cli.tasks import STARTERS
from lemevit_cli.tasks.detection.merge import SURE, RawBoxes, merge_boxes
from lemevit_cli.tasks.detection.network import NETWORK
from lemevit_cli.tasks.detection.results import BoxesOfScene, sizes_of, write_boxes

_TASK = NETWORK.task
# Pixels of the model: what ends as near to an edge of its window may go on behind it.
_CUT_MARGIN = 2.0


@dataclass(frozen=True)
class Detections:
    """The objects of a scene, best score first.

    Args:
        boxes: ``(N, 5)`` in pixels of the scene, see ``geometry/oriented_boxes.py``.
        scores: ``(N,)`` in [0, 1].
        class_ids: ``(N,)``, places in the card's classes.
        account: windows and seconds that they took.
    """

    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    account: Account


@dataclass(frozen=True)
class SeenBoxes:
    """What windows saw, before the merge.

    Args:
        raw: N boxes with what the merge asks of them.
        on_valid: ``(N,)`` bool: the centre lies on a valid pixel.
    """

    raw: RawBoxes
    on_valid: NDArray[np.bool_]


def detect(
    scenes: list[str],
    target: str | None,
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
) -> Report:
    """Detect in one scene, or in several with weights loaded once.

    Args:
        scenes: paths, or ``-`` for a raster on stdin.
        target: a file, ``-`` for stdout, a folder ending in a slash, or None for
            ``<scene>_boxes.shp`` in the current folder.

    Raises:
        LemevitError: before any scene is opened; else as :func:`run_over_scenes`.
    """
    ending = f"_boxes{find_writer('boxes.shp', settings.output, BOX_WRITERS).suffix}"
    targets = [target_of(scene, target, ending) for scene in scenes]
    name, _, card = check_weights(weights, _TASK, starter=STARTERS[_TASK])
    check_settings(card, settings)
    check_detection(settings.detection)
    check_targets(scenes, targets)
    return run_over_scenes(
        scenes,
        targets,
        card=card,
        settings=settings,
        progress=progress,
        check=lambda where: check_target(where, settings.output, BOX_WRITERS),
        load=lambda: load_predictor(name, NETWORK, settings.runtime, settings.detection),
        run=partial(detect_scene, settings=settings, progress=progress),
    )


def check_detection(options: DetectionOptions) -> None:
    """Refuse a score or an overlap that is no share.

    Raises:
        LemevitError: naming the value.
    """
    for name, value in (("--score", options.score), ("--nms-iou", options.nms_iou)):
        if not 0 <= value <= 1:
            raise LemevitError(f"{name} {value:g}: use a number from 0 to 1")


def detect_scene(
    scene: Scene,
    source: SceneInput,
    target: str,
    predictor: Predictor,
    settings: InferenceSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Detect, and write the boxes.

    Returns:
        The record that ``--json`` prints.
    """
    started = time.perf_counter()
    if scene.georeference.transform is not None and scene.georeference.crs_wkt is None:
        progress.warn(f"{scene.name}: no CRS, so boxes are in pixels; state it by --src-crs")
    detections = detect_boxes(source, predictor, settings, progress)
    found = BoxesOfScene(
        boxes=detections.boxes,
        scores=detections.scores,
        class_ids=detections.class_ids,
        classes=predictor.card.classes,
        georeference=scene.georeference,
    )
    account = detections.account
    progress.start(f"{scene.name}: writing", total=1, unit="files")
    try:
        with account.timed("write"):
            write_boxes(target, found, settings.output)
    finally:
        progress.finish()
    seconds = {**account.seconds, "total": time.perf_counter() - started}
    return {
        "path": target,
        "scene": scene.name,
        "weights": predictor.name,
        "device": predictor.device,
        "width": source.area.width,
        "height": source.area.height,
        "gsd_m": scene.gsd_m,
        "windows": account.windows,
        "windows_skipped": account.windows_skipped,
        "objects": len(detections.boxes),
        "classes": census(found),
        "seconds": {phase: round(value, 3) for phase, value in seconds.items()},
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def detect_boxes(
    source: SceneInput, predictor: Predictor, settings: InferenceSettings, progress: Progress
) -> Detections:
    """Find the objects of one area of a scene; see :func:`detect_in_area`."""
    with inference_over(source, predictor, settings.tiling, progress) as inference:
        return detect_in_area(inference, source, predictor.card, settings)


def detect_in_area(
    inference: BlockInference, source: SceneInput, card: Card, settings: InferenceSettings
) -> Detections:
    """Find the objects of an area: blocks, windows, the boxes of each, one merge over the area.

    Boxes of a class that is not asked for are dropped before the merge; after it, those of less
    than the score (a higher one filters the result, and changes nothing else), and those whose
    centre lies outside of the area or on a nodata pixel, so that no part of them that another
    window saw is left. Windows lie on one grid of the whole scene and each
    belongs to one block: blocks change nothing.
    """
    area = area_on_view(source)
    wanted, min_score = ids_of(settings.output.classes, card), settings.detection.score
    blocks, progress = [], inference.progress
    progress.start(source.name, total=inference.grid.count_over(area), unit="windows")
    try:
        for block in blocks_of(area, settings.tiling.block_size):
            windows = inference.grid.windows_from(block, area=area)
            seen = seen_in(inference, windows, wanted, min_score=min(min_score, SURE))
            blocks.append(in_scene_pixels(seen, source.view))
    finally:
        progress.finish()
    seen = joined(blocks)
    raw = seen.raw
    with inference.account.timed("merge"):
        kept = merge_boxes(raw, nms_iou=settings.detection.nms_iou)
    kept = kept[raw.scores[kept] >= min_score]
    kept = kept[seen.on_valid[kept] & centred_in(source.area, raw.boxes[kept])]
    return Detections(raw.boxes[kept], raw.scores[kept], raw.class_ids[kept], inference.account)


def ids_of(names: Sequence[str] | None, card: Card) -> list[int]:
    """The classes of these names, all of the card's for None."""
    return [i for i, name in enumerate(card.class_names) if names is None or name in names]


def area_on_view(source: SceneInput) -> Window:
    """The pixels of the model's grid that share a place with the area, on the scene's grid."""
    view, area = source.view, source.area
    cols, rows = view.width / view.scene.width, view.height / view.scene.height
    left, top = math.floor(area.col_off * cols), math.floor(area.row_off * rows)
    return Window(
        col_off=left,
        row_off=top,
        width=min(math.ceil(area.right * cols), view.width) - left,
        height=min(math.ceil(area.bottom * rows), view.height) - top,
    )


def seen_in(
    inference: BlockInference, windows: Iterable[Window], wanted: Sequence[int], *, min_score: float
) -> SeenBoxes:
    """What a detector sees in windows of the model's grid, in pixels of that grid."""
    parts = []
    for batch, answers in inference.batches(windows):
        with inference.account.timed("boxes"):
            found = answers.double().numpy()
            for window, rows, valid in zip(batch.windows, found, batch.valid, strict=False):
                asked = (rows[:, 5] >= min_score) & np.isin(rows[:, 6], wanted)
                parts.append(seen_in_window(rows[asked], window, valid, inference.grid))
    return joined(parts)


def seen_in_window(
    rows: NDArray[np.float64], window: Window, valid: NDArray[np.bool_], grid: WindowGrid
) -> SeenBoxes:
    """The boxes that are centred in a window, in the frame of the grid.

    Others lie in the mirror that fills the window of a small scene, or are seen better elsewhere.

    Args:
        rows: ``(K, 7)``: box in pixels of the window, score, class id.
        valid: ``(H, W)``.
    """
    whole = Window(col_off=0, row_off=0, width=window.width, height=window.height)
    rows = rows[centred_in(whole, rows)]
    left, top, right, bottom = circumscribed(rows[:, :5]).T
    cut = (left < _CUT_MARGIN) & (window.col_off > 0)
    cut |= (top < _CUT_MARGIN) & (window.row_off > 0)
    cut |= (right > window.width - _CUT_MARGIN) & (window.right < grid.width)
    cut |= (bottom > window.height - _CUT_MARGIN) & (window.bottom < grid.height)
    col, row = rows[:, :2].astype(np.intp).T
    boxes = canonical(rows[:, :5])
    boxes[:, :2] += window.col_off, window.row_off
    raw = RawBoxes(boxes, rows[:, 5], rows[:, 6].astype(np.int64), cut)
    return SeenBoxes(raw, valid[row, col])


def centred_in(area: Window, boxes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which boxes ``(N, 5 or more)`` have their centre in an area of their frame."""
    cx, cy = boxes[:, 0], boxes[:, 1]
    in_cols = (cx >= area.col_off) & (cx < area.right)
    return in_cols & (cy >= area.row_off) & (cy < area.bottom)


def in_scene_pixels(seen: SeenBoxes, view: SceneView) -> SeenBoxes:
    """Boxes of the model's grid on the grid of the scene."""
    if not view.is_resampled:
        return seen
    scale = Affine.scale(view.scene.width / view.width, view.scene.height / view.height)
    return replace(seen, raw=replace(seen.raw, boxes=mapped(seen.raw.boxes, scale)))


def joined(parts: Sequence[SeenBoxes]) -> SeenBoxes:
    """Boxes of several windows or blocks, one after the other; of none if there are none."""
    raws = [_NOTHING, *(part.raw for part in parts)]
    raw = RawBoxes(
        np.concatenate([part.boxes for part in raws]),
        np.concatenate([part.scores for part in raws]),
        np.concatenate([part.class_ids for part in raws]),
        np.concatenate([part.cut for part in raws]),
    )
    valid = [part.on_valid for part in parts]
    return SeenBoxes(raw, np.concatenate([np.empty(0, bool), *valid]))


_NOTHING = RawBoxes(np.empty((0, 5)), np.empty(0), np.empty(0, np.int64), np.empty(0, bool))


def census(found: BoxesOfScene) -> dict[str, Any]:
    """How many objects of each class there are, and their median sizes; None where unknown."""
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
