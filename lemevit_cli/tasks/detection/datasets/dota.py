"""DOTA's texts: labels, a file a picture, and results, a ``Task1_<class>.txt`` a class.

Labels: ``x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]`` in pixels, after header lines ``imagesource:``
and ``gsd:`` that may be missing; corners may lie a little outside the picture. ``detect`` writes
the same with a score in the place of the mark for difficult objects (0, 1, or 2). Results:
``picture score x1 y1 ... x4 y4``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.labels import LabelReport, Outline, finite_number
from lemevit_cli.tasks.detection.datasets.lines import Line, read_lines

_CORNERS = 8  # numbers
_HEADER = re.compile(r"(imagesource|gsd|acquisition[^:]*)\s*:\s*(.*)", re.IGNORECASE)
_LIKELY_GSD_M = (0.005, 100.0)  # other numbers in a gsd line are mistakes
_DOTA = "x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]"
_TASK1 = re.compile(r"Task1_(?P<name>.+)\.txt", re.IGNORECASE)
_DIFFICULT = (0.0, 1.0, 2.0)


def read_dota(path: Path, report: LabelReport) -> tuple[list[Outline], float | None]:
    """Read the objects of a label file, and the metres a pixel that its header may state.

    Raises:
        DataError: with the line that cannot be understood.
    """
    outlines, gsd_m = [], None
    for line in read_lines(path):
        if (header := header_of(line)) is not None:
            gsd_m = _gsd(*header) or gsd_m
            continue
        with report.over_label():
            corners, name, flag = dota_fields(line)
            if finite_number(flag or "0") not in _DIFFICULT:
                raise DataError(f"{line.place}: difficult is {flag!r}, it takes 0, 1 or 2")
            outlines.append(Outline(corners, name, float(flag or "0") > 0, line.place))
    if outlines and all(
        0 <= outline.points.min() <= outline.points.max() <= 1 for outline in outlines
    ):
        raise DataError(
            f"{path}: all its coordinates lie between 0 and 1, but DOTA's are pixels; parts of a "
            "picture are YOLO's, whose lines begin with the number of a class"
        )
    return outlines, gsd_m


def read_dota_results(path: Path, report: LabelReport) -> list[Outline]:
    """Read a text whose lines end in a score, or in the mark for difficult objects.

    Numbers that are not whole are scores; where a file has one, all of its numbers are.

    Raises:
        DataError: with the line that cannot be understood.
    """
    rows = []
    for line in read_lines(path):
        if header_of(line) is None:
            with report.over_label():
                rows.append((*_fields_with_number(line), line.place))
    has_scores = any(flag and not flag.isdecimal() for _, _, flag, _ in rows)
    return [
        Outline(
            corners,
            name,
            not has_scores and float(flag or 0) > 0,
            place,
            float(flag or 0) if has_scores else None,
        )
        for corners, name, flag, place in rows
    ]


def class_of_task1(path: Path) -> str | None:
    """Return the class that a ``Task1_<class>.txt`` is of, None of any other file."""
    match = _TASK1.fullmatch(path.name)
    return match["name"] if match else None


def read_task1(path: Path, report: LabelReport) -> dict[str, list[Outline]]:
    """Read what was found of one class, by the picture's name.

    Raises:
        DataError: with the line that cannot be understood.
    """
    found: dict[str, list[Outline]] = {}
    for line in read_lines(path):
        with report.over_label():
            picture, *fields = line.fields
            if len(fields) != 1 + _CORNERS:
                raise DataError(
                    f"{line.place}: has {len(line.fields)} fields, it takes picture score x1 y1 "
                    "x2 y2 x3 y3 x4 y4"
                )
            score = finite_number(fields[0])
            if score is None:
                raise DataError(f"{line.place}: the score is {fields[0]!r}, which is no number")
            corners = corners_of_fields(fields[1:], line.place)
            outline = Outline(corners, class_of_task1(path), False, line.place, score)
            found.setdefault(picture, []).append(outline)
    return found


def header_of(line: Line) -> tuple[str, str] | None:
    """Return what a header line states, and as what; None of any other line."""
    match = _HEADER.match(" ".join(line.fields))
    return (match[1].lower(), match[2]) if match else None


def dota_fields(line: Line) -> tuple[NDArray[np.float64], str, str]:
    """Return corners ``(4, 2)``, class, and what follows it.

    Raises:
        DataError: if there are not eight numbers and a name.
    """
    fields, place = line.fields, line.place
    numbers = [finite_number(field) is not None for field in fields]
    num_leading = numbers.index(False) if False in numbers else len(fields)
    # A name follows the coordinates, so the first text tells how many there are, unless that is
    # itself a mistyped coordinate: then more than a name and a flag follow.
    if num_leading < _CORNERS and len(fields) - num_leading <= 2:
        raise DataError(f"{place}: has {num_leading} coordinates, it takes {_CORNERS}: {_DOTA}")
    if len(fields) <= _CORNERS:
        raise DataError(f"{place}: has {len(fields)} fields, it takes {_DOTA}")
    corners, rest = corners_of_fields(fields[:_CORNERS], place), fields[_CORNERS:]
    if is_number(rest[0]):
        raise DataError(
            f"{place}: field {_CORNERS + 1} is {rest[0]!r}, a number and no class name; it takes "
            f"{_DOTA}"
        )
    # Some names have several words; a flag is what stands last, and alone is no name.
    words = rest[:-1] if len(rest) > 1 and (numbers[-1] or len(rest) == 2) else rest
    if any(is_number(word) for word in words):
        raise DataError(f"{place}: has {len(fields)} fields, it takes {_DOTA}")
    return corners, " ".join(words), "" if words is rest else rest[-1]


def corners_of_fields(fields: Sequence[str], place: str) -> NDArray[np.float64]:
    """Return the points ``(K, 2)`` that fields state.

    Raises:
        DataError: with the first field that is no number.
    """
    numbers = []
    for position, field in enumerate(fields, 1):
        number = finite_number(field)
        if number is None:
            raise DataError(f"{place}: coordinate {position} is {field!r}, which is no number")
        numbers.append(number)
    return np.array(numbers, dtype=np.float64).reshape(-1, 2)


def is_number(text: str) -> bool:
    """Say whether a text is a number, NaN and infinity too: no class is called so."""
    try:
        float(text)
    except ValueError:
        return False
    return True


def _fields_with_number(line: Line) -> tuple[NDArray[np.float64], str, str]:
    corners, name, flag = dota_fields(line)
    if finite_number(flag or "0") is None:
        raise DataError(
            f"{line.place}: ends in {flag!r}, after the class it takes a score or difficult "
            "(0 or 1)"
        )
    return corners, name, flag


def _gsd(kind: str, value: str) -> float | None:
    gsd_m = finite_number(value) if kind == "gsd" else None
    low, high = _LIKELY_GSD_M
    return gsd_m if gsd_m is not None and low <= gsd_m <= high else None
