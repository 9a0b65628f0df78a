"""Boxes compared with true boxes, whatever files either come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyproj
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError

from lemevit_cli.errors import DataError
from lemevit_cli.progress import Progress
from lemevit_cli.tasks.detection.datasets.source import Objects
from lemevit_cli.tasks.detection.files import (
    BoxFile,
    BoxReading,
    is_box_file,
    is_box_text,
    read_boxes,
    texts_in,
)
from lemevit_cli.tasks.detection.tally import BoxTally, match_box_classes
from lemevit_cli.tasks.scoring import POLYGONS, ScoreOptions, Scoring, refuse_options_of_rasters

_BOXES = "boxes"  # as a kind of file
Pair = tuple[BoxFile, BoxFile]  # prediction and truth of one picture or map


def score_boxes(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> dict[str, Any]:
    """Compare boxes with true ones: two files, or two folders of DOTA texts.

    Files on maps are compared on the prediction's, where overlaps are the same as on the truth's
    but for what a map bends within a box. Classes are matched by name.

    Returns:
        As :meth:`BoxTally.average_precision`; its precision and recall are those of boxes with at
        least ``options.min_score``, which stands beside them as ``score``; ``pictures`` compared.
    """
    refuse_options_of_rasters(options, "boxes are")
    pairs = _join_words(_pairs_of(prediction, truth, options, progress))
    for note in dict.fromkeys(note for pair in pairs for file in pair for note in file.notes):
        progress.note(note)
    names = _classes_of(prediction, truth, pairs, progress)
    tally, match = BoxTally(names, score=options.min_score), match_box_classes(names, names)
    for found, true in pairs:
        objects = Objects(true.corners, _ids_of(true, names), true.difficult)
        scores = np.ones(len(found.corners)) if found.scores is None else found.scores
        tally.add(found.corners, scores, _ids_of(found, names), objects, match)
    return {**tally.average_precision(), "score": options.min_score, "pictures": len(pairs)}


def _join_words(pairs: Sequence[Pair]) -> list[Pair]:
    """Write the words of names alike: a DOTA text cannot hold spaces, and joins them by hyphens."""
    join = "-" if any(is_box_text(file.path) for pair in pairs for file in pair) else " "

    def rename(file: BoxFile) -> BoxFile:
        names = [join.join(name.split()) for name in file.classes]
        return replace(file, classes=np.array(names, dtype=object))

    return [(rename(found), rename(true)) for found, true in pairs]


def _pairs_of(prediction: str, truth: str, options: ScoreOptions, progress: Progress) -> list[Pair]:
    is_folder = [Path(path).is_dir() for path in (prediction, truth)]
    if all(is_folder):
        return _pairs_of_folders(prediction, truth, progress)
    if any(is_folder):
        raise DataError(
            f"{prediction} and {truth}: one is a folder and one a file; give two files of boxes, "
            "or two folders of DOTA texts with the same names"
        )
    labels = options.labels
    own_field = () if labels.label_field is None else (labels.label_field,)
    found = read_boxes(
        prediction, BoxReading(fields=("class", *own_field), class_name=labels.class_name)
    )
    true = read_boxes(
        truth,
        BoxReading(
            fields=own_field or ("class",),
            class_name=None if own_field else labels.class_name,
            layer=labels.layer,
            where=labels.where,
        ),
    )
    true = _bring_to_map_of(found, true, progress)
    if not _touch(found, true):
        progress.warn(
            f"{prediction} and {truth}: their boxes lie in different places, around "
            f"{_middle(found)} and {_middle(true)}"
        )
    return [(found, true)]


def _pairs_of_folders(prediction: str, truth: str, progress: Progress) -> list[Pair]:
    found, true = texts_in(prediction), texts_in(truth)
    shared = [name for name in true if name in found]
    if not shared:
        raise DataError(
            f"{prediction} and {truth}: no text of one has the name of a text of the other "
            f"({_first_of(found)}; {_first_of(true)})"
        )
    unknown = [name for name in found if name not in true]
    if unknown:
        progress.warn(f"{prediction}: without truth, and left out, are {_first_of(unknown)}")
    missing = [name for name in true if name not in found]
    if missing:
        progress.warn(f"{prediction}: has no text, so no box, for {_first_of(missing)}")
    return [
        (
            read_boxes(str(found[name])) if name in found else _no_boxes(name),
            read_boxes(str(path)),
        )
        for name, path in true.items()
    ]


def _first_of(names: Sequence[str] | dict[str, Any]) -> str:
    """List the first names of many."""
    first = ", ".join(list(names)[:3])
    return f"{first} and {len(names) - 3} more" if len(names) > 3 else first or "none"


def _no_boxes(name: str) -> BoxFile:
    return BoxFile(
        path=name,
        corners=np.empty((0, 4, 2)),
        classes=np.empty(0, dtype=object),
        scores=np.empty(0),
        difficult=np.empty(0, dtype=bool),
        in_pixels=True,
    )


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
    try:
        way = pyproj.Transformer.from_crs(true.crs_wkt, found.crs_wkt, always_xy=True)
        x, y = way.transform(true.corners[..., 0], true.corners[..., 1], errcheck=True)
    except (ProjError, CRSError) as error:
        raise DataError(
            f"{true.path}: cannot be brought to the CRS of {found.path} "
            f"({' '.join(str(error).split())})"
        ) from error
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
    if not known:
        raise DataError(f"{truth}: holds no box, so there is nothing to be right or wrong about")
    if predicted and not known & predicted:
        raise DataError(
            f"{prediction} holds {', '.join(sorted(predicted))}, {truth} "
            f"{', '.join(sorted(known))}: no class is in both; --label-field names the field of "
            "the classes, --class the one class of a layer without"
        )
    if predicted - known:
        progress.warn(
            f"{truth}: has no {', '.join(sorted(predicted - known))}; boxes of that are not judged"
        )
    if any(file.scores is None and len(file.corners) for file in found):
        progress.warn(f"{prediction}: has no scores, so its boxes all count alike")
    return tuple(sorted(known | predicted))


def _ids_of(file: BoxFile, names: Sequence[str]) -> NDArray[np.int64]:
    return np.array([names.index(name) for name in file.classes], dtype=np.int64)


SCORING = Scoring(
    compare=score_boxes,
    # A layer of polygons as the prediction can only be one of boxes.
    pairs=frozenset((one, other) for one in (_BOXES, POLYGONS) for other in (_BOXES, POLYGONS)),
    kind=_BOXES,
    is_kind=is_box_file,
)
