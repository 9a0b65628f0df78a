"""Pascal VOC's XML, a file a picture, as labelImg, roLabelImg, CVAT and Roboflow write it.

An ``object`` has a ``name``, maybe ``difficult``, and one of: ``robndbox`` (cx, cy, w, h, angle in
radians, clockwise on screen), ``polygon`` (x1, y1, x2, ...), ``bndbox`` (edges), which an attribute
``rotation`` turns about its centre, in degrees clockwise. Edges are read as they stand: that VOC
itself counts pixels from 1 is not told by a file.
"""

from __future__ import annotations

from math import radians
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, reading
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    Picture,
    check_edges,
    corners_of_edges,
    finite_number,
    fit_to_picture,
)

_EDGES = ("xmin", "ymin", "xmax", "ymax")
_TURNED = ("cx", "cy", "w", "h", "angle")


def read_voc(path: Path, picture: Picture, report: LabelReport) -> list[Outline]:
    """Read the objects of a file, in pixels of its picture as it is stored.

    Raises:
        DataError: with the object that cannot be understood.
    """
    outlines, stated = read_voc_as_stated(path, report)
    return fit_to_picture(outlines, stated, picture, str(path), report)


def read_voc_as_stated(
    path: Path, report: LabelReport
) -> tuple[list[Outline], tuple[int, int] | None]:
    """Read the objects of a file in its own pixels, and the width and height that it states.

    Raises:
        DataError: with the object that cannot be understood.
    """
    root = _root(path)
    outlines = []
    for number, element in enumerate(root.iter("object"), 1):
        with report.over_label():
            outlines.append(_object(element, f"{path}, object {number}"))
    sides = [finite_number(root.findtext(f"size/{side}", "")) for side in ("width", "height")]
    width, height = (int(side or 0) for side in sides)
    return outlines, (width, height) if width and height else None  # zeros stand for unknown


def _root(path: Path) -> ElementTree.Element:
    with reading(path, "cannot be read as XML", raises=DataError):
        # As bytes: XML says itself how it is encoded.
        root = ElementTree.fromstring(path.read_bytes())
    if root.tag != "annotation":
        raise DataError(
            f"{path}: begins with {root.tag!r}; of XML it takes Pascal VOC's, an annotation with "
            "objects"
        )
    return root


def _object(element: ElementTree.Element, place: str) -> Outline:
    name = (element.findtext("name") or "").strip()
    if not name:
        raise DataError(f"{place}: has no name")
    difficult = finite_number((element.findtext("difficult") or "0").strip())
    if difficult is None:
        raise DataError(f"{place}: difficult is {element.findtext('difficult')!r}, it takes 0 or 1")
    return Outline(_points(element, place), name, difficult > 0, place)


def _points(element: ElementTree.Element, place: str) -> NDArray[np.float64]:
    if (turned := element.find("robndbox")) is not None:
        cx, cy, w, h, angle = _numbers(turned, _TURNED, place)
        check_edges(0, 0, w, h, place)
        return corners_of([[cx, cy, w, h, angle]])[0]
    if (polygon := element.find("polygon")) is not None and len(polygon) >= 6:
        names = [f"{axis}{i}" for i in range(1, len(polygon) // 2 + 1) for axis in "xy"]
        return np.array(_numbers(polygon, names, place)).reshape(-1, 2)
    if (box := element.find("bndbox")) is None:
        raise DataError(f"{place}: has neither bndbox, robndbox nor polygon")
    left, top, right, bottom = _numbers(box, _EDGES, place)
    check_edges(left, top, right, bottom, place)
    angle = _rotation(element, place)
    if not angle:
        return corners_of_edges(left, top, right, bottom)
    centre = (left + right) / 2, (top + bottom) / 2
    return corners_of([[*centre, right - left, bottom - top, angle]])[0]


def _rotation(element: ElementTree.Element, place: str) -> float:
    """Return how far a box is turned, in radians clockwise on screen."""
    for attribute in element.iter("attribute"):
        if (attribute.findtext("name") or "").strip() == "rotation":
            return radians(_number(attribute, "value", place))
    return 0.0


def _numbers(
    element: ElementTree.Element, names: tuple[str, ...] | list[str], place: str
) -> list[float]:
    return [_number(element, name, place) for name in names]


def _number(element: ElementTree.Element, name: str, place: str) -> float:
    text = (element.findtext(name) or "").strip()
    number = finite_number(text)
    if number is None:
        raise DataError(f"{place}: {name} is {text!r}, which is no number")
    return number
