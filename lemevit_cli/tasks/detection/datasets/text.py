"""Labels of oriented boxes as text, a file a picture: DOTA's, and YOLO's with four corners.

DOTA: ``x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]`` in pixels, after header lines ``imagesource:``
and ``gsd:`` that may be missing. YOLO-OBB: ``class x1 y1 ... x4 y4`` with the class as a number and
corners as parts of the picture's width and height. Corners may lie a little outside the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import isfinite
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.labels import Outline

_CORNERS = 8  # numbers
_HEADERS = ("imagesource:", "gsd:", "acquisition")
_LIKELY_GSD_M = (0.005, 100.0)  # other numbers in a gsd line are mistakes
_FAR_OUTSIDE = 2.0  # in parts of a picture: pixels where parts of it are asked for
_DOTA = "x1 y1 x2 y2 x3 y3 x4 y4 class [difficult]"
_YOLO = "class x1 y1 x2 y2 x3 y3 x4 y4"


def read_dota(path: Path) -> tuple[list[Outline], float | None]:
    """Read the objects of a DOTA label file, and the metres a pixel that its header may state.

    Raises:
        DataError: with the line that cannot be understood.
    """
    outlines, gsd_m = [], None
    for place, line in _lines(path):
        if line.lower().startswith(_HEADERS):
            gsd_m = _gsd(line) or gsd_m
        else:
            outlines.append(_dota_object(line, place))
    return outlines, gsd_m


def dota_rows(path: Path) -> Iterator[tuple[NDArray[np.float64], str, str, str]]:
    """Yield the objects of a DOTA text: corners ``(4, 2)``, class, what follows it, and the place.

    Raises:
        DataError: with the line that cannot be understood.
    """
    for place, line in _lines(path):
        if not line.lower().startswith(_HEADERS):
            yield (*_dota_fields(line, place), place)


def read_yolo(path: Path, classes: Sequence[str], *, width: int, height: int) -> list[Outline]:
    """Read the objects of a YOLO-OBB label file.

    Args:
        classes: names, by the numbers in the file.
        width, height: of the picture.

    Raises:
        DataError: with the line that cannot be understood, or whose class has no name.
    """
    outlines = []
    for place, line in _lines(path):
        fields = line.split()
        if len(fields) != 1 + _CORNERS:
            raise DataError(
                f"{place}: has {len(fields) - 1} coordinates after the class, it takes {_CORNERS}: "
                f"{_YOLO}"
            )
        parts = _corners(fields[1:], place)
        if np.abs(parts).max() > _FAR_OUTSIDE:
            raise DataError(
                f"{place}: the coordinate {np.abs(parts).max():g} is no part of the picture's "
                "width or height, which run from 0 to 1"
            )
        name = _class_of_number(fields[0], classes, place)
        outlines.append(Outline(parts * (width, height), name, False, place))
    return outlines


def has_class_numbers(path: Path) -> bool | None:
    """Say whether the first object of a label file begins with the number of a class.

    None where the file holds no object.
    """
    for _, line in _lines(path):
        if not line.lower().startswith(_HEADERS):
            fields = line.split()
            return fields[0].isdecimal() and all(_number(f) is not None for f in fields[1:])
    return None


def _lines(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines that are not empty, each with its place for messages."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as text ({error})") from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield f"{path}, line {number}", line.strip()


def _dota_object(line: str, place: str) -> Outline:
    corners, name, flag = _dota_fields(line, place)
    if not (flag or "0").isdecimal():
        raise DataError(f"{place}: difficult is {flag!r}, it takes 0 or 1")
    return Outline(corners, name, int(flag or "0") > 0, place)


def _dota_fields(line: str, place: str) -> tuple[NDArray[np.float64], str, str]:
    """Return corners, class, and what follows it."""
    fields = line.split()
    numbers = next((i for i, field in enumerate(fields) if _number(field) is None), len(fields))
    # A name follows the coordinates, so the first text tells how many there are, unless that is
    # itself a mistyped coordinate: then more than a name and a flag follow.
    if numbers < _CORNERS and len(fields) - numbers <= 2:
        raise DataError(f"{place}: has {numbers} coordinates, it takes {_CORNERS}: {_DOTA}")
    if len(fields) not in (_CORNERS + 1, _CORNERS + 2):
        raise DataError(f"{place}: has {len(fields)} fields, it takes {_DOTA}")
    return _corners(fields[:_CORNERS], place), fields[_CORNERS], "".join(fields[_CORNERS + 1 :])


def _corners(fields: Sequence[str], place: str) -> NDArray[np.float64]:
    numbers = []
    for position, field in enumerate(fields, 1):
        number = _number(field)
        if number is None:
            raise DataError(f"{place}: coordinate {position} is {field!r}, which is no number")
        numbers.append(number)
    return np.array(numbers).reshape(4, 2)


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if isfinite(number) else None


def _class_of_number(text: str, classes: Sequence[str], place: str) -> str:
    number = int(text) if text.isdecimal() else -1
    if not 0 <= number < len(classes):
        raise DataError(
            f"{place}: class {text} has no name; known are 0 to {len(classes) - 1} "
            f"({', '.join(classes)})"
        )
    return classes[number]


def _gsd(line: str) -> float | None:
    gsd_m = _number(line.partition(":")[2].strip())
    low, high = _LIKELY_GSD_M
    return gsd_m if gsd_m is not None and low <= gsd_m <= high else None
