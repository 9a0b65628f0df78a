"""``lemevit score``: a result compared with the truth, whatever grid either lies on."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import DataError
from lemevit_cli.geometry.ground import pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS, ClassInfo, classes_from_names
from lemevit_cli.metrics.boundary import BoundaryTally, Disc, disc_of
from lemevit_cli.metrics.confusion import Confusion, match_classes, mean_known
from lemevit_cli.pictures.score_picture import write_score_picture
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.class_raster import ClassRaster, check_class_raster, read_legend
from lemevit_cli.raster.overlap import classes_on_grid_of, is_placed, part_over, same_grid
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.source import STDIN
from lemevit_cli.tasks.change.scoring import is_change, score_change
from lemevit_cli.tasks.detection.files import is_box_file
from lemevit_cli.tasks.detection.scoring import score_boxes
from lemevit_cli.tasks.score_options import ScoreOptions
from lemevit_cli.training.datasets.labels import open_polygons
from lemevit_cli.vector.scene_polygons import is_vector

_TOLERANCE_PX = 2.0  # unless told in metres
_MOST_TOLERANCE_PX = 512  # as wide is what surrounds each block in memory
_NUMBERED = tuple(f"class_{i}" for i in range(MAX_CLASSES))  # ids that nobody names
_PICTURE_SIDE = 900  # pixels of a map at most


def score(
    prediction: str,
    truth: str,
    options: ScoreOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare two results; what is compared, and how, follows from what the files hold.

    Raises:
        LemevitError: if they cannot be read or compared; before any counting.
    """
    options, progress = options or ScoreOptions(), progress or Silent()
    if options.picture is not None:
        check_replaceable(options.picture, overwrite=options.overwrite)
    for path in (prediction, truth):
        _check_exists(path)
    kinds = (_kind_of(prediction), _kind_of(truth))
    scorer = SCORERS.get(kinds)
    if scorer is None:
        raise DataError(
            f"{prediction} holds {kinds[0]} and {truth} {kinds[1]}; score takes a raster of "
            "classes or change, and as the truth a raster or polygons; or boxes, and as the truth "
            "boxes"
        )
    return scorer(prediction, truth, options, progress)


def _check_exists(path: str) -> None:
    file = path.partition("|")[0]
    if path != STDIN and ":" not in file and not Path(file).exists():
        raise DataError(f"{path}: no such file")


def _kind_of(path: str) -> str:
    if path == STDIN:
        return "a raster"
    if is_box_file(path):
        return "boxes"
    if is_change(path):
        return "change"
    return "polygons" if is_vector(path) else "a raster"


class Classes(Protocol):
    """Class ids on the prediction's grid."""

    def read(self, window: Window) -> NDArray[np.uint8]:
        """Read ids ``(H, W)``, ``NODATA_CLASS`` where there is none."""
        ...


@dataclass(frozen=True)
class Truth:
    """What a prediction is compared with.

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
    ``tasks/boundary.py``.

    Returns:
        ``miou``, ``f1``, ``accuracy``, ``boundary_f1`` (means over the classes but for accuracy),
        ``classes.<name>.{iou,f1,precision,recall,boundary_f1}`` in [0, 1] (None for a class
        without a pixel in either), ``confusion`` (pixels, truth in rows, in the order of
        ``classes``), ``unmatched`` (pixels by true class whose predicted class the truth does not
        know), ``pixels`` compared, ``tolerance_m``.
    """
    started = time.perf_counter()
    opener = _truth_of_polygons if is_vector(truth) else _truth_of_raster
    with open_scene(prediction) as scene, opener(scene, truth, options, progress) as true:
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
        tally = _Tally(match.classes, disc, true.area, keep_unseen=names is not _NUMBERED)
        found = ClassRaster(scene)
        blocks = [b for b in blocks_of(true.area, options.block_size) if true.may_have(b)]
        progress.start("scoring", total=len(blocks), unit="blocks")
        try:
            for block in blocks:
                around = _grown(block, tally.halo).intersection(true.area) or block
                ids, answers = true.ids.read(around), found.read(around)
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
    return {
        "prediction": prediction,
        "truth": truth,
        **figures,
        "tolerance_m": tolerance_m,
        "seconds": round(time.perf_counter() - started, 2),
    }


Scorer = Callable[[str, str, ScoreOptions, Progress], dict[str, Any]]
SCORERS: dict[tuple[str, str], Scorer] = {
    ("a raster", "a raster"): score_classes,
    ("a raster", "polygons"): score_classes,
    # A layer of polygons as the prediction can only be one of boxes.
    ("polygons", "polygons"): score_boxes,
    ("polygons", "boxes"): score_boxes,
    ("boxes", "polygons"): score_boxes,
    ("boxes", "boxes"): score_boxes,
    ("change", "change"): score_change,
    ("change", "a raster"): score_change,
    ("change", "polygons"): score_change,
    ("a raster", "change"): score_change,
    ("polygons", "change"): score_change,
}


@contextlib.contextmanager
def _truth_of_raster(
    scene: Scene, truth: str, options: ScoreOptions, progress: Progress
) -> Iterator[Truth]:
    with open_scene(truth) as raster:
        check_class_raster(raster)
        names = read_legend(raster).class_names
        if same_grid(scene, raster):
            if not (is_placed(scene) and is_placed(raster)):
                progress.warn(
                    f"{scene.name} and {truth} are compared pixel by pixel: not both say where "
                    "on the earth they lie"
                )
            yield Truth(ClassRaster(raster), scene.window, names)
            return
        area = part_over(scene, raster)
        with classes_on_grid_of(scene, raster) as warped:
            yield Truth(warped, area, names)


@contextlib.contextmanager
def _truth_of_polygons(
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

    Raises:
        DataError: if one of them has names and the other has none.
    """
    (path, names), (true_path, true_names) = prediction, truth
    if given is not None:
        return names or given, true_names or given
    if (names is None) != (true_names is None):
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


def _grown(window: Window, by: int) -> Window:
    return Window(
        col_off=window.col_off - by,
        row_off=window.row_off - by,
        width=window.width + 2 * by,
        height=window.height + 2 * by,
    )


class _Tally:
    """What a scene's blocks add up to: confusion, boundaries, and pixels for a picture."""

    def __init__(
        self, classes: tuple[str, ...], disc: Disc, area: Window, *, keep_unseen: bool
    ) -> None:
        self._keep_unseen = keep_unseen
        self._confusion = Confusion(classes)
        self._boundaries = BoundaryTally(len(classes), disc)
        self.halo = self._boundaries.halo
        self._area = area
        self._every = -(-max(area.width, area.height) // _PICTURE_SIDE)
        shape = (-(-area.height // self._every), -(-area.width // self._every))
        self.truth, self.found = np.full((2, *shape), NODATA_CLASS, dtype=np.uint8)

    @property
    def pixels(self) -> int:
        return int(self._confusion.counts.sum())

    def add(
        self,
        truth: NDArray[np.uint8],
        found: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        block: Window,
        around: Window,
    ) -> None:
        """Count a block, given ids among the classes with what surrounds it."""
        # A predicted class that the truth does not know is wrong, but it is not nodata.
        valid = valid & (truth != NODATA_CLASS)
        core = block.relative_to(around)
        self._boundaries.add(truth, found, valid, core)
        truth, found = np.where(valid, truth, NODATA_CLASS)[core.slices], found[core.slices]
        self._confusion.add(truth, found)
        inside = block.relative_to(self._area)
        rows, cols = (-inside.row_off % self._every, -inside.col_off % self._every)
        picked = (slice(rows, None, self._every), slice(cols, None, self._every))
        row, col = -(-inside.row_off // self._every), -(-inside.col_off // self._every)
        part = truth[picked]
        place = (slice(row, row + part.shape[0]), slice(col, col + part.shape[1]))
        self.truth[place] = part
        self.found[place] = np.where(part == NODATA_CLASS, NODATA_CLASS, found[picked])

    @property
    def classes(self) -> list[int]:
        """List the ids of the classes that are told: those that occur, or all."""
        counts = self._confusion.counts
        if self._keep_unseen:
            return list(range(len(counts)))
        return np.flatnonzero(counts.sum(axis=1) + counts[:, :-1].sum(axis=0)).tolist()

    def figures(self) -> dict[str, Any]:
        """Return figures as :func:`score_classes` does."""
        figures = self._confusion.figures()
        boundary_f1 = self._boundaries.f1()
        names, counts = self._confusion.classes, self._confusion.counts
        told = self.classes
        return {
            "miou": figures["miou"],
            "f1": figures["f1"],
            "accuracy": figures["accuracy"],
            "boundary_f1": mean_known(boundary_f1),
            "classes": {
                names[i]: {**figures["classes"][names[i]], "boundary_f1": boundary_f1[i]}
                for i in told
            },
            "confusion": counts[np.ix_(told, told)].tolist(),
            "unmatched": counts[told, -1].tolist(),
            "pixels": self.pixels,
        }


def _draw(
    target: str,
    tally: _Tally,
    figures: dict[str, Any],
    legend: tuple[ClassInfo, ...],
    *,
    overwrite: bool,
) -> None:
    """Draw both maps and the matrix, classes in the prediction's colours where it has some."""
    own = {info.name: info for info in legend}
    classes = [own.get(info.name, info) for info in classes_from_names(tuple(figures["classes"]))]
    place = np.full(256, NODATA_CLASS, dtype=np.uint8)
    place[tally.classes] = range(len(classes))
    matrix = np.column_stack([figures["confusion"], figures["unmatched"]])
    caption = f"mean IoU {figures['miou']:.3f}, accuracy {figures['accuracy']:.3f}"
    with replacing(target, overwrite=overwrite) as path:
        write_score_picture(
            path, place[tally.truth], place[tally.found], matrix, classes, caption=caption
        )
