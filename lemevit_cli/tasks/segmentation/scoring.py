"""Class rasters compared with the truth, whatever grid either lies on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.atomic import replacing
from lemevit_cli.errors import DataError
from lemevit_cli.geometry.ground import pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS, ClassInfo, classes_from_names
from lemevit_cli.metrics.boundary import Disc, disc_of
from lemevit_cli.metrics.confusion import match_classes
from lemevit_cli.pictures.score_picture import write_score_picture
from lemevit_cli.progress import Progress
from lemevit_cli.raster.class_raster import (
    NO_WHITE,
    ClassRaster,
    check_class_raster,
    read_legend,
    white_note,
    white_of,
)
from lemevit_cli.raster.overlap import open_classes_on_grid_of
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.tasks.scoring import (
    OF_LAYERS,
    OF_NAMES,
    OF_RASTERS,
    POLYGONS,
    RASTER,
    ScoreOptions,
    Scoring,
    refuse_unheeded,
)
from lemevit_cli.tasks.segmentation.tally import MapTally
from lemevit_cli.training.datasets.labels import open_polygons
from lemevit_cli.vector.scene_polygons import is_vector

_TOLERANCE_PX = 2.0  # where no metres are given
_MOST_TOLERANCE_PX = 512  # as wide is what surrounds each block in memory
_NUMBERED = tuple(f"class_{i}" for i in range(MAX_CLASSES))  # ids that nobody names


class Classes(Protocol):
    """Class ids on the prediction's grid."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read ids ``(H, W)``, ``NODATA_CLASS`` where there is none."""
        ...


@dataclass(frozen=True)
class Truth:
    """Truth that a prediction is compared with.

    Args:
        ids: on the prediction's grid.
        area: the part of the prediction where there may be some.
        names: of the ids; None where the file names none.
        may_have: whether a window can have some, answered without reading.
    """

    ids: Classes
    area: Window
    names: tuple[str, ...] | None
    may_have: Callable[[Window], bool] = lambda window: True


def score_classes(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> dict[str, Any]:
    """Compare a raster of classes with another, or with polygons, where both are valid.

    The truth is brought to the prediction's grid: the pixel, or the polygon, under a pixel's
    centre counts. Classes are matched by name; see :func:`match_classes` for those that one side
    does not know. Figures are pooled over all pixels; those of the boundaries are defined in
    ``metrics/boundary.py``.

    Returns:
        ``miou``, ``f1``, ``accuracy``, ``boundary_f1`` (means over the classes but for accuracy),
        ``classes.<name>.{iou,f1,precision,recall,boundary_f1}`` in [0, 1] (None for a class
        without a pixel in either), ``confusion`` (pixels, truth in rows, in the order of
        ``classes``), ``unmatched`` (pixels by true class whose predicted class the truth does not
        know), ``pixels`` compared, ``tolerance_m``.
    """
    is_layer = is_vector(truth)
    open_truth = _open_polygons if is_layer else _open_raster
    of_layer = (*OF_NAMES, *OF_LAYERS, "--background", "--all-touched") if is_layer else ()
    refuse_unheeded(options, "these are", (*OF_RASTERS, *of_layer))
    with open_scene(prediction) as scene, open_truth(scene, truth, options, progress) as true:
        check_class_raster(scene)
        tolerance_m = options.tolerance_m
        if tolerance_m is None and scene.gsd_m is not None:
            tolerance_m = _TOLERANCE_PX * scene.gsd_m
        disc = tolerance_disc(scene, tolerance_m)
        legend = read_legend(scene)
        names, true_names = _names(
            (prediction, legend.class_names), (truth, true.names), options.classes
        )
        match = match_classes(names, true_names)
        tally = MapTally(
            match.classes, disc, true.area, keep_unseen=_NUMBERED not in (names, true_names)
        )
        raster = ClassRaster(scene, white_of(scene))
        if raster.white != NO_WHITE:
            progress.note(white_note(prediction, raster.white))
        blocks = [b for b in blocks_of(true.area, options.block_size) if true.may_have(b)]
        progress.start("scoring", total=len(blocks), unit="blocks")
        try:
            for block in blocks:
                around = _grow(block, tally.halo).intersection(true.area) or block
                ids, answers = true.ids.read(around), raster.read(around)
                _check_ids(ids, true_names, truth)
                _check_ids(answers, names, prediction)
                valid = (ids != NODATA_CLASS) & (answers != NODATA_CLASS)
                tally.add(match.truth(ids), match.prediction(answers), valid, block, around)
                progress.advance()
        finally:
            progress.finish()
    if not tally.pixels:
        raise DataError(f"{prediction} and {truth}: no pixel is valid in both")
    figures = tally.figures()
    if options.picture is not None:
        _draw(options.picture, tally, figures, legend.classes(), overwrite=options.overwrite)
    return {**figures, "tolerance_m": tolerance_m}


@contextmanager
def _open_raster(
    scene: Scene, truth: str, options: ScoreOptions, progress: Progress
) -> Iterator[Truth]:
    with open_classes_on_grid_of(scene, truth, progress) as (raster, ids, part):
        yield Truth(ids, part, read_legend(raster).class_names)


@contextmanager
def _open_polygons(
    scene: Scene, truth: str, options: ScoreOptions, progress: Progress
) -> Iterator[Truth]:
    labels = open_polygons(scene, replace(options.labels, scene=scene.path, labels=truth))
    for note in labels.notes:
        progress.note(note)
    yield Truth(labels, scene.window, labels.classes, labels.may_have)


def _names(
    prediction: tuple[str, tuple[str, ...] | None],
    truth: tuple[str, tuple[str, ...] | None],
    given: tuple[str, ...] | None,
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return names of the prediction's ids and of the truth's, from each path with its own names.

    Ids without names are ``class_<id>``, as training calls them.

    Raises:
        DataError: if one of them has other names and the other has none.
    """
    (path, names), (true_path, true_names) = prediction, truth
    if given is not None:
        return names or given, true_names or given
    if (names is None) != (true_names is None) and not set(names or true_names or ()) <= set(
        _NUMBERED
    ):
        nameless, known = (path, true_names) if names is None else (true_path, names)
        raise DataError(
            f"{nameless}: its class ids have no names, those of the other are "
            f"{', '.join(known or ())}; name the ids 0, 1, ... by --classes NAME,NAME"
        )
    return names or _NUMBERED, true_names or _NUMBERED


def _check_ids(ids: NDArray[np.uint8], names: tuple[str, ...], path: str) -> None:
    unknown = ids[(ids >= len(names)) & (ids != NODATA_CLASS)]
    if len(unknown):
        raise DataError(
            f"{path}: holds the class id {unknown[0]}, and names only 0 to {len(names) - 1} "
            f"({', '.join(names)})"
        )


def tolerance_disc(scene: Scene, tolerance_m: float | None) -> Disc:
    """Find steps in pixels within the tolerance on the ground, as at the scene's centre.

    Raises:
        DataError: if metres are asked of pixels without a size, or are too many pixels.
    """
    if tolerance_m is None:
        return disc_of(np.eye(2), _TOLERANCE_PX)
    metric = pixel_metric_m2(scene.georeference, col=scene.width / 2, row=scene.height / 2)
    if metric is None:
        raise DataError(
            f"{scene.name}: its pixels have no size on the ground, so --tolerance {tolerance_m:g} "
            "means nothing; leave it out for two pixels"
        )
    most = _MOST_TOLERANCE_PX * float(np.sqrt(np.diag(metric).min()))
    if tolerance_m > most:
        raise DataError(
            f"--tolerance {tolerance_m:g}: at most {most:.4g}, which are {_MOST_TOLERANCE_PX} "
            f"pixels of {scene.name}"
        )
    return disc_of(metric, tolerance_m)


def _grow(window: Window, by: int) -> Window:
    return Window(
        col_off=window.col_off - by,
        row_off=window.row_off - by,
        width=window.width + 2 * by,
        height=window.height + 2 * by,
    )


def _draw(
    target: str,
    tally: MapTally,
    figures: dict[str, Any],
    legend: tuple[ClassInfo, ...],
    *,
    overwrite: bool,
) -> None:
    """Draw both maps and the matrix, classes in the prediction's colours where it has some."""
    own = {info.name: info for info in legend}
    classes = [own.get(info.name, info) for info in classes_from_names(tuple(figures["classes"]))]
    place = np.full(256, NODATA_CLASS, dtype=np.uint8)
    place[tally.class_ids] = range(len(classes))
    matrix = np.column_stack([figures["confusion"], figures["unmatched"]])
    caption = f"mean IoU {figures['miou']:.3f}, accuracy {figures['accuracy']:.3f}"
    with replacing(target, overwrite=overwrite) as path:
        write_score_picture(
            path, place[tally.truth], place[tally.prediction], matrix, classes, caption=caption
        )


SCORING = Scoring(compare=score_classes, pairs=frozenset({(RASTER, RASTER), (RASTER, POLYGONS)}))
