"""Labels and results in tables (CSV), a row a box, as DeepForest, Roboflow and others write them.

Columns, in any case and order, separated by ``,``, ``;`` or tabs: ``xmin, ymin, xmax, ymax`` or
corners ``x1, y1 ... x4, y4``; a class (``label``, ``class``, ``name``); maybe the picture
(``image_path``, ``filename``), its ``width`` and ``height``, ``score`` and ``difficult``. A row
with a picture and nothing else says that nothing is there.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, reading
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    check_edges,
    corners_of_edges,
    finite_number,
)
from lemevit_cli.tasks.detection.datasets.lines import read_text

EDGES = ("xmin", "ymin", "xmax", "ymax")
CORNERS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
_PICTURES = ("image_path", "filename", "file_name", "image_name", "image", "image_id", "path")
CLASS_FIELDS = ("label", "class", "name", "class_name", "classname", "category")
_TRUTH_VALUES = {"true": 1.0, "false": 0.0, "": 0.0}

Row = Mapping[str, str]


@dataclass(frozen=True, eq=False)
class TableFile:
    """Content of a table.

    Args:
        outlines: objects of each picture, by its name; by "" where the table names none.
        sizes: width and height of the pictures that state them.
        has_classes: whether there is a column of classes; else all names are "".
    """

    path: Path
    outlines: Mapping[str, list[Outline]]
    sizes: Mapping[str, tuple[int, int]]
    has_classes: bool


def is_box_table(path: Path) -> bool:
    """Say whether a file is a table with edges or corners of boxes."""
    return (
        path.suffix.lower() in (".csv", ".tsv") and path.is_file() and bool(_shape(_header(path)))
    )


def names_pictures(path: Path) -> bool:
    """Say whether a table of boxes has a column of pictures."""
    return any(name in _header(path) for name in _PICTURES)


def read_table(
    path: Path, report: LabelReport, class_fields: Sequence[str] = CLASS_FIELDS
) -> TableFile:
    """Read the boxes of a table.

    Args:
        class_fields: columns that may hold the class; the first that there is.

    Raises:
        DataError: with the line that cannot be understood.
    """
    header = _header(path)
    shape = _shape(header)
    if not shape:
        raise DataError(f"{path}: its header has neither {', '.join(EDGES)} nor x1, y1 ... x4, y4")
    picture_field = next((name for name in _PICTURES if name in header), None)
    wanted = [name.lower() for name in class_fields]
    class_field = next((name for name in wanted if name in header), None)
    outlines: dict[str, list[Outline]] = {}
    sizes: dict[str, tuple[int, int]] = {}
    for place, fields in _rows(path):
        with report.over_label():
            row = _row(header, fields, place)
            picture = row[picture_field] if picture_field else ""
            of_picture = outlines.setdefault(picture, [])
            if (size := _size(row)) is not None:
                sizes[picture] = size
            if any(row[name] for name in shape):
                of_picture.append(_object(row, shape, class_field, place))
    return TableFile(path, outlines, sizes, class_field is not None)


def _rows(path: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows below the header that are not empty, each with its place for messages.

    Raises:
        DataError: for a quote that nothing closes, which would take the rows behind it for its own.
    """
    lines = read_text(path).splitlines()
    with reading(path, "cannot be read as a table", raises=DataError):
        reader = csv.reader(lines, delimiter=_delimiter(path), strict=True)
        next(reader, None)
        rows = [(reader.line_num, fields) for fields in reader]
    for number, fields in rows:
        if any(field.strip() for field in fields):
            yield f"{path}, line {number}", [field.strip() for field in fields]


def _row(header: Sequence[str], fields: Sequence[str], place: str) -> Row:
    if len(fields) < len(header):
        raise DataError(f"{place}: has {len(fields)} fields, the header has {len(header)}")
    return dict(zip(header, fields, strict=False))


def _delimiter(path: Path) -> str:
    first = _first_line(path)
    return max(",;\t", key=first.count)


def _first_line(path: Path) -> str:
    with path.open("rb") as file:
        return file.readline(1 << 16).decode("utf-8-sig", errors="replace")


def _header(path: Path) -> list[str]:
    fields = next(csv.reader([_first_line(path)], delimiter=_delimiter(path)), [])
    return [field.strip().lower() for field in fields]


def _shape(header: Sequence[str]) -> tuple[str, ...]:
    """Return the columns of corners or edges, none of which may be missing."""
    return next((names for names in (CORNERS, EDGES) if set(names) <= set(header)), ())


def _size(row: Row) -> tuple[int, int] | None:
    width, height = (finite_number(row.get(side, "")) for side in ("width", "height"))
    return (int(width), int(height)) if width and height else None


def _object(row: Row, shape: Sequence[str], class_field: str | None, place: str) -> Outline:
    name = row[class_field] if class_field else ""
    if class_field and not name:
        raise DataError(f"{place}: {class_field} is empty")
    score = _number(row, "score", place) if row.get("score") else None
    difficult = row.get("difficult", "").lower()
    hard = _TRUTH_VALUES.get(difficult)
    hard = _number(row, "difficult", place) if hard is None else hard
    return Outline(_points(row, shape, place), name, hard > 0, place, score)


def _points(row: Row, shape: Sequence[str], place: str) -> NDArray[np.float64]:
    numbers = [_number(row, name, place) for name in shape]
    if len(numbers) == len(CORNERS):
        return np.array(numbers, dtype=np.float64).reshape(4, 2)
    left, top, right, bottom = numbers
    check_edges(left, top, right, bottom, place)
    return corners_of_edges(left, top, right, bottom)


def _number(row: Row, name: str, place: str) -> float:
    number = finite_number(row[name])
    if number is None:
        raise DataError(f"{place}: {name} is {row[name]!r}, which is no number")
    return number
