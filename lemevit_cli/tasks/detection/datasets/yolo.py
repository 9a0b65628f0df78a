"""Labels in YOLO's texts, a file a picture: boxes, boxes with four corners, and outlines.

Each line begins with the number of a class, in any notation of a whole number; what follows are
parts of the picture's width and height:

=========  ======================================  ========================================
box        ``class cx cy w h``                     then maybe a confidence, and a track
corners    ``class x1 y1 x2 y2 x3 y3 x4 y4``       then maybe a confidence
outline    ``class x1 y1 ... xn yn``, n >= 3       then maybe a confidence
pose       ``class cx cy w h x1 y1 [v1] ...``      keypoints, which are not read
=========  ======================================  ========================================

A file is of one kind: what a line holds is told by the file as a whole. Keypoints are known by
``kpt_shape`` of the YAML, or by their flags ``v``: 0, 1 and 2, of which no other number can be 2.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.dota import corners_of_fields, header_of
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    Picture,
    bring_to_stored,
    corners_of_edges,
    finite_number,
)
from lemevit_cli.tasks.detection.datasets.lines import Line, read_lines

Kind = Literal["boxes", "corners", "outlines"]
_BOX, _CORNERS = 4, 8  # numbers after the class
_VISIBLE = 2  # of a keypoint's flag
_FAR_OUTSIDE = 2.0  # in parts of a picture: pixels where parts of it are asked for
_ROUNDING = 0.01  # of a picture's width
_WHOLE = 1.01  # of a picture's width: no box is wider
_NEEDS = {
    "boxes": "4: class cx cy w h",
    "corners": "8: class x1 y1 x2 y2 x3 y3 x4 y4",
    "outlines": "6 or more, in pairs: class x1 y1 ... xn yn",
}


@dataclass(frozen=True)
class YoloFile:
    """A label file, not yet brought to a picture.

    Args:
        kind: of its labels, None of an empty file.
        has_track: whether the last of seven numbers counts objects of a film.
        has_keypoints: whether what follows a box are keypoints.
    """

    path: Path
    kind: Kind | None
    has_track: bool = False
    has_keypoints: bool = False


def vote_for_yolo(path: Path) -> int:
    """Weigh whether a text is YOLO's: lines of numbers alone, less those with a name after eight.

    Headers, as DOTA's have them, count as a line with a name.
    """
    votes = 0
    for line in read_lines(path):
        texts = [i for i, field in enumerate(line.fields) if finite_number(field) is None]
        if header_of(line) is not None or texts[:1] == [_CORNERS]:
            votes -= 1
        elif not texts and whole_number(line.fields[0]) is not None:
            votes += 1
    return votes


def recognise_yolo(path: Path, *, has_keypoints: bool = False) -> YoloFile:
    """Find out what a file's lines hold, by how many numbers they have.

    Args:
        has_keypoints: whether the data set states keypoints.
    """
    rows = [line.fields[1:] for line in read_lines(path)]
    counts = Counter(map(len, rows))
    if not counts:
        return YoloFile(path, None)
    if has_keypoints or _are_flagged_points(rows):
        return YoloFile(path, "boxes", has_keypoints=True)
    tracks = [whole_number(row[-1]) for row in rows if len(row) == _BOX + 2]
    has_track = bool(tracks) and all(track is not None and track >= 1 for track in tracks)
    num_boxes = counts[_BOX] + counts[_BOX + 1] + counts[_BOX + 2] * has_track
    if 2 * num_boxes >= len(rows):
        return YoloFile(path, "boxes", has_track)
    pairs = [count for count in counts if count % 2 == 0] or [count - 1 for count in counts]
    is_outline = any(count not in (_BOX, _CORNERS) for count in pairs)
    return YoloFile(path, "outlines" if is_outline else "corners")


def _are_flagged_points(rows: Sequence[Sequence[str]]) -> bool:
    """Say whether boxes are followed by triples whose last number is 0, 1 or 2, some of them 2."""
    flags = [finite_number(flag) for row in rows for flag in row[_BOX + 2 :: 3]]
    is_triples = all(len(row) > _BOX and (len(row) - _BOX) % 3 == 0 for row in rows)
    return is_triples and set(flags) <= {0, 1, _VISIBLE} and _VISIBLE in flags


def read_yolo(
    file: YoloFile, classes: Sequence[str], picture: Picture, report: LabelReport
) -> list[Outline]:
    """Read the objects of a label file, in pixels of its picture as it is stored.

    Args:
        classes: names, by the numbers in the file.

    Raises:
        DataError: with the line that cannot be understood, or whose class has no name.
    """
    outlines = []
    for line in read_lines(file.path):
        with report.over_label():
            points, confidence = _points(line, file)
            if points.min() < -_ROUNDING or points.max() > 1 + _ROUNDING:
                report.remark("labels reach over the edge of their picture", line.place)
            if file.has_keypoints and len(line.fields) > 1 + _BOX:
                report.remark("boxes with keypoints, which are not read", line.place)
            name = _class_of_number(line.fields[0], classes, line.place)
            points = points * picture.size_shown
            outlines.append(Outline(points, name, False, line.place, confidence))
    return bring_to_stored(outlines, picture, report)


def whole_number(text: str) -> int | None:
    """Return the whole number that a text states in any notation: ``7``, ``7.0``, ``7e+00``."""
    number = finite_number(text)
    return int(number) if number is not None and number.is_integer() and number >= 0 else None


def _points(line: Line, file: YoloFile) -> tuple[NDArray[np.float64], float | None]:
    """Return points ``(K, 2)`` as parts of the picture, and the confidence if there is one."""
    values, place = line.fields[1:], line.place
    kind = file.kind or "corners"
    if file.has_keypoints:
        values = values[:_BOX]
    sizes = _sizes_of(kind, len(values), has_track=file.has_track)
    if sizes is None:
        unit = "numbers" if kind == "boxes" else "coordinates"
        raise DataError(
            f"{place}: has {len(values)} {unit} after the class, it takes {_NEEDS[kind]}"
        )
    numbers = corners_of_fields(values[:sizes], place)
    if np.abs(numbers).max() > _FAR_OUTSIDE:
        raise DataError(
            f"{place}: the coordinate {np.abs(numbers).max():g} is no part of the picture's "
            "width or height, which run from 0 to 1"
        )
    confidence = _confidence(values[sizes:], place)
    if kind != "boxes":
        return numbers, confidence
    (cx, cy), (width, height) = numbers.tolist()
    if not (0 <= width <= _WHOLE and 0 <= height <= _WHOLE):
        raise DataError(f"{place}: a box of {width:g} x {height:g} parts of its picture is none")
    edges = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    return corners_of_edges(*edges), confidence


def _sizes_of(kind: Kind, count: int, *, has_track: bool) -> int | None:
    """Return how many of the numbers after a class are coordinates; None if these are too few."""
    if kind == "boxes":
        return _BOX if count in (_BOX, _BOX + 1) or (has_track and count == _BOX + 2) else None
    if kind == "corners":
        return _CORNERS if count in (_CORNERS, _CORNERS + 1) else None
    return count // 2 * 2 if count >= 6 else None


def _confidence(rest: Sequence[str], place: str) -> float | None:
    if not rest:
        return None
    number = finite_number(rest[0])
    if number is None or not 0 <= number <= 1:
        raise DataError(
            f"{place}: the number {rest[0]} after the box is no confidence from 0 to 1; a turned "
            "box takes its four corners"
        )
    return number


def _class_of_number(text: str, classes: Sequence[str], place: str) -> str:
    number = whole_number(text)
    if number is None:
        raise DataError(f"{place}: the class is {text!r}, it takes a whole number")
    if number >= len(classes):
        raise DataError(
            f"{place}: class {number} has no name; known are 0 to {len(classes) - 1} "
            f"({', '.join(classes)})"
        )
    return classes[number]
