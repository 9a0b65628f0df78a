"""Boxes compared with true boxes, whatever files either come from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, reading
from lemevit_cli.progress import Progress
from lemevit_cli.tasks.detection.files import BoxFile, BoxReading, is_box_text, read_boxes
from lemevit_cli.tasks.detection.picture_files import (
    bring_to_pixels,
    holds_pictures,
    in_pixels,
    is_box_file,
    read_pictures,
)
from lemevit_cli.tasks.detection.polygon_scoring import is_polygon_pair, score_polygons
from lemevit_cli.tasks.detection.tally import BoxTally, match_box_classes
from lemevit_cli.tasks.scoring import (
    OF_BOXES,
    OF_LAYERS,
    OF_NAMES,
    POLYGONS,
    ScoreOptions,
    Scoring,
    refuse_unheeded,
)
from lemevit_cli.training.datasets.objects import Objects

_BOXES = "boxes"  # as a kind of file
Pair = tuple[BoxFile, BoxFile]  # prediction and truth of one picture or map


def score_boxes(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> dict[str, Any]:
    """Compare boxes with true ones: of a map or a picture, or of many pictures.

    Two layers of polygons that are no boxes are compared as polygons: :func:`score_polygons`. Files
    on maps are compared on the prediction's, where overlaps are the same as on the truth's
    but for what a map bends within a box. Classes are matched by name.

    Returns:
        As :meth:`BoxTally.average_precision`; its precision and recall are those of boxes with at
        least ``options.min_score``, which stands beside them as ``score``; ``pictures`` compared.
    """
    if holds_pictures(prediction) or holds_pictures(truth):
        pairs, num_pictures = _pairs_of_pictures(prediction, truth, options, progress)
    else:
        refuse_unheeded(options, "boxes are", OF_BOXES)
        readings = _readings(options)
        if is_polygon_pair(prediction, truth, *readings):
            refuse_unheeded(options, "polygons are", (*OF_NAMES, *OF_LAYERS))
            return score_polygons(prediction, truth, *readings, progress)
        pairs, num_pictures = [_pair_of_files(prediction, truth, readings, progress)], 1
    pairs = _join_words(pairs)
    for note in dict.fromkeys(note for pair in pairs for file in pair for note in file.notes):
        progress.note(note)
    names = _classes_of(prediction, truth, pairs, progress)
    tally = BoxTally(names, scores=[options.min_score] * len(names))
    match = match_box_classes(names, names)
    for found, true in pairs:
        objects = Objects(true.corners, _ids_of(true.classes, names), true.difficult)
        scores = np.ones(len(found.corners)) if found.scores is None else found.scores
        ids = _ids_of(found.classes, names)
        tally.add(found.corners, scores, ids, objects, match, _areas_of(true, names))
    return {**tally.average_precision(), "score": options.min_score, "pictures": num_pictures}


def _areas_of(true: BoxFile, names: Sequence[str]) -> Objects:
    ids = _ids_of(true.area_classes, names)
    return Objects(true.areas, ids, np.ones(len(ids), dtype=bool))


def _join_words(pairs: Sequence[Pair]) -> list[Pair]:
    """Write the words of names alike: a DOTA text cannot hold spaces, and joins them by hyphens."""
    is_text = any(is_box_text(f.path) or Path(f.path).is_dir() for pair in pairs for f in pair)
    join = "-" if is_text else " "

    def rename(file: BoxFile) -> BoxFile:
        both = [
            np.array([join.join(name.split()) for name in names], dtype=object)
            for names in (file.classes, file.area_classes)
        ]
        return replace(file, classes=both[0], area_classes=both[1])

    return [(rename(found), rename(true)) for found, true in pairs]


def _readings(options: ScoreOptions) -> tuple[BoxReading, BoxReading]:
    """Return how the prediction and the truth are read."""
    labels = options.labels
    own_field = () if labels.label_field is None else (labels.label_field,)
    found = BoxReading(
        fields=("class", *own_field),
        class_name=labels.class_name,
        skip_bad_labels=options.skip_bad_labels,
    )
    true = BoxReading(
        fields=own_field or ("class",),
        class_name=None if own_field else labels.class_name,
        layer=labels.layer,
        where=labels.where,
        skip_bad_labels=options.skip_bad_labels,
    )
    return found, true


def _pair_of_files(
    prediction: str, truth: str, readings: tuple[BoxReading, BoxReading], progress: Progress
) -> Pair:
    found, true = (read_boxes(*each) for each in zip((prediction, truth), readings, strict=True))
    true = _bring_to_map_of(found, true, progress)
    if not _touch(found, true):
        progress.warn(
            f"{prediction} and {truth}: their boxes lie in different places, around "
            f"{_middle(found)} and {_middle(true)}"
        )
    return found, true


def _pairs_of_pictures(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> tuple[list[Pair], int]:
    """Pair boxes of pictures by the pictures' names, and count the pictures."""
    is_single = not (holds_pictures(prediction) and holds_pictures(truth))
    heeded = OF_BOXES if is_single else ("--score", "--skip-bad-labels")
    refuse_unheeded(options, "boxes are", ("--classes", *heeded))
    for path, other in ((prediction, truth), (truth, prediction)):
        if not holds_pictures(path):
            return [_pair_of_single(path, other, options, is_truth=path == truth)], 1
    true = read_pictures(truth, skip_bad_labels=options.skip_bad_labels, classes=options.classes)
    found = read_pictures(
        prediction,
        skip_bad_labels=options.skip_bad_labels,
        classes=options.classes,
        pictures_of=true.coco,
    )
    if len(found.outlines) == len(true.outlines) == 1 and not Path(prediction).is_dir():
        found = found.renamed(next(iter(true.outlines)))
    found, true = bring_to_pixels(found, true)
    shared = [name for name in true.outlines if name in found.outlines]
    if not shared:
        raise DataError(
            f"{prediction} and {truth}: no picture of one has the name of a picture of the other "
            f"({_first_of(found.outlines)}; {_first_of(true.outlines)})"
        )
    unknown = [name for name in found.outlines if name not in true.outlines]
    if unknown:
        progress.warn(f"{prediction}: without truth, and left out, are {_first_of(unknown)}")
    missing = [name for name in true.outlines if name not in found.outlines]
    if missing:
        progress.warn(f"{prediction}: has no file, so no box, for {_first_of(missing)}")
    pairs = [(found.boxes_of(name), true.boxes_of(name)) for name in true.outlines]
    return pairs, len(pairs)


def _pair_of_single(single: str, many: str, options: ScoreOptions, *, is_truth: bool) -> Pair:
    """Pair a file of one picture with the picture of its name, or the only one, of many.

    Raises:
        DataError: if there is no such picture, or the single file lies on a map.
    """
    reading = _readings(options)[is_truth]
    boxes = read_boxes(single, reading)
    pictures = read_pictures(many, skip_bad_labels=options.skip_bad_labels, classes=options.classes)
    names = list(pictures.outlines)
    stem = Path(single).stem.removesuffix("_boxes")
    name = names[0] if len(names) == 1 else stem
    if name not in names:
        raise DataError(
            f"{single} and {many}: one is of one picture, the other of {len(names)} "
            f"({_first_of(names)}), none of which is called {stem}"
        )
    if boxes.crs_wkt is not None:
        raise DataError(
            f"{single} lies on a map and {many} holds pixels of pictures; score takes both in "
            "pixels or both with a CRS"
        )
    pair = boxes, in_pixels(pictures, pictures.sizes).boxes_of(name)
    return pair[::-1] if is_truth else pair


def _first_of(names: Iterable[str]) -> str:
    """List the first names of many."""
    listed = list(names)
    first = ", ".join(listed[:3])
    return f"{first} and {len(listed) - 3} more" if len(listed) > 3 else first or "none"


def _bring_to_map_of(found: BoxFile, true: BoxFile, progress: Progress) -> BoxFile:
    """Bring the true boxes to the map, or the pixels, of the found ones.

    Raises:
        DataError: if one lies on a map and the other does not, or there is no way between them.
    """
    if found.crs_wkt is not None and true.crs_wkt is not None:
        return replace(true, corners=_to_crs(true, found))
    crs_wkt = found.crs_wkt or true.crs_wkt
    if crs_wkt is None:
        return true
    nowhere, placed = (found, true) if found.crs_wkt is None else (true, found)
    name = pyproj.CRS.from_wkt(crs_wkt).name
    if nowhere.in_pixels or not _touch(found, true):
        raise DataError(
            f"{nowhere.path} holds pixels or names no CRS, {placed.path} lies on a map ({name}); "
            "score takes both in pixels or both with a CRS: write the boxes of detect as .gpkg, "
            "or give a layer its CRS (ogr2ogr -a_srs)"
        )
    progress.warn(
        f"{nowhere.path} names no CRS and is taken to be in that of {placed.path}, {name}"
    )
    return true


def _to_crs(true: BoxFile, found: BoxFile) -> NDArray[np.float64]:
    if true.crs_wkt == found.crs_wkt or len(true.corners) == 0:
        return true.corners
    with reading(true.path, f"cannot be brought to the CRS of {found.path}", raises=DataError):
        way = pyproj.Transformer.from_crs(true.crs_wkt, found.crs_wkt, always_xy=True)
        x, y = way.transform(true.corners[..., 0], true.corners[..., 1], errcheck=True)
    return np.stack([x, y], axis=-1)


def _touch(found: BoxFile, true: BoxFile) -> bool:
    """Say whether the rectangles around all boxes of either share a point; empty ones do."""
    if len(found.corners) == 0 or len(true.corners) == 0:
        return True
    low = np.maximum(found.corners.min(axis=(0, 1)), true.corners.min(axis=(0, 1)))
    high = np.minimum(found.corners.max(axis=(0, 1)), true.corners.max(axis=(0, 1)))
    return bool((low <= high).all())


def _middle(file: BoxFile) -> str:
    x, y = file.corners.mean(axis=(0, 1))
    return f"{x:.10g} {y:.10g}"


def _classes_of(
    prediction: str, truth: str, pairs: Sequence[Pair], progress: Progress
) -> tuple[str, ...]:
    """Return the names of all classes, with a word on those that are not judged.

    Raises:
        DataError: if there is no true box, or no class that both name.
    """
    found, true = ([pair[i] for pair in pairs] for i in (0, 1))
    known, predicted = ({n for file in files for n in file.classes} for files in (true, found))
    areas = {name for file in true for name in file.area_classes}
    if not known:
        raise DataError(f"{truth}: holds no box, so there is nothing to be right or wrong about")
    if predicted and not known & predicted:
        raise DataError(
            f"{prediction} holds {', '.join(sorted(predicted))}, {truth} "
            f"{', '.join(sorted(known))}: no class is in both; --label-field names the field of "
            "the classes, --class the one class of a layer without"
        )
    lacking = sorted(predicted - known - areas)
    if lacking:
        progress.warn(f"{truth}: has no {', '.join(lacking)}; boxes of that are not judged")
    if any(file.scores is None and len(file.corners) for file in found):
        progress.warn(f"{prediction}: has no scores, so its boxes all count alike")
    return tuple(sorted(known | predicted | areas))


def _ids_of(classes: Iterable[str], names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([names.index(name) for name in classes], dtype=np.int64)


SCORING = Scoring(
    compare=score_boxes,
    # A layer of polygons as the prediction can only be one of boxes.
    pairs=frozenset((one, other) for one in (_BOXES, POLYGONS) for other in (_BOXES, POLYGONS)),
    kind=_BOXES,
    is_kind=is_box_file,
)
