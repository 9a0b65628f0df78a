"""Labelled objects as files state them: outlines with names, before they are boxes with ids."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import box_of_polygon, boxes_of_corners
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.datasets.objects import IGNORED, Objects


@dataclass(frozen=True, eq=False)
class Outline:
    """One labelled object.

    Args:
        points: ``(K, 2)`` in pixels of the raster.
        name: of its class; None where it is to be ignored.
        difficult: whether it is marked as hard to tell.
        place: where it is written down, for messages.
    """

    points: NDArray[np.float64]
    name: str | None
    difficult: bool
    place: str


def rename_outlines(outlines: Iterable[Outline], naming: Naming) -> list[Outline]:
    """Rename outlines as a naming says."""
    return [replace(outline, name=naming.name(outline.name)) for outline in outlines]


def list_names(outlines: Iterable[Outline]) -> tuple[str, ...]:
    """List all names, by the alphabet."""
    return tuple(sorted({outline.name for outline in outlines if outline.name is not None}))


def check_names(outlines: Iterable[Outline], classes: Sequence[str], stated_in: str) -> None:
    """Refuse names that a list of classes does not have.

    Raises:
        DataError: with the place of the first one.
    """
    known = set(classes)
    for outline in outlines:
        if outline.name is not None and outline.name not in known:
            raise DataError(
                f"{outline.place}: class {outline.name!r} is none of {stated_in}: "
                f"{', '.join(classes)}"
            )


def check_inside(outlines: Iterable[Outline], *, width: int, height: int) -> None:
    """Refuse an object that shares no point with its raster; corners alone may lie outside.

    Raises:
        DataError: with the place of the first one.
    """
    for outline in outlines:
        (left, top), (right, bottom) = outline.points.min(axis=0), outline.points.max(axis=0)
        if right <= 0 or bottom <= 0 or left >= width or top >= height:
            raise DataError(
                f"{outline.place}: a box from {left:g},{top:g} to {right:g},{bottom:g} lies "
                f"outside its picture of {width} x {height} pixels"
            )


def objects_of(outlines: Sequence[Outline], classes: Sequence[str]) -> Objects:
    """Fit minimum rectangles around outlines, with class ids; what has no area is left out."""
    ids = {name: i for i, name in enumerate(classes)}
    boxes = np.empty((len(outlines), 5))
    has_four = np.array([len(o.points) == 4 for o in outlines], dtype=bool)
    boxes[has_four] = boxes_of_corners([o.points for o in outlines if len(o.points) == 4])
    for row in np.flatnonzero(~has_four).tolist():
        boxes[row] = box_of_polygon(outlines[row].points)
    class_ids = [IGNORED if o.name is None else ids[o.name] for o in outlines]
    kept = boxes[:, 3] > 0
    return Objects(
        boxes[kept],
        np.array(class_ids, dtype=np.int64)[kept],
        np.array([o.difficult for o in outlines], dtype=bool)[kept],
    )
