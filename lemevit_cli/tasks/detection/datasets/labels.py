"""Labelled objects as files state them: outlines with names, before they are boxes with ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import isfinite
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import box_of_polygon, boxes_of_corners
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.datasets.objects import IGNORED, Objects

_FIRST_SWAPPED = 5  # orientation of EXIF from which on width and height change places
_SKIPPING = "train, labels, eval and score leave such labels out on --skip-bad-labels"
_TURNED = (
    "pictures are shown otherwise than they are stored, and their labels are read as of what is "
    "shown"
)


@dataclass(frozen=True, eq=False)
class Outline:
    """One labelled object.

    Args:
        points: ``(K, 2)`` in pixels of the raster.
        name: of its class; None where it is to be ignored.
        difficult: whether it is marked as hard to tell.
        place: where it is written down, for messages.
        score: of what a detector found; None of what people labelled.
        area_of: class of which it is an area to be ignored; such an outline has no name.
    """

    points: NDArray[np.float64]
    name: str | None
    difficult: bool
    place: str
    score: float | None = None
    area_of: str | None = None


@dataclass
class Finding:
    """Labels of a file that share a fate: how many, and where the first one stands."""

    count: int
    first: str


class LabelReport:
    """Collects what readers leave out, and what they read otherwise than it stands, by reason.

    Args:
        skip_bad: count labels that cannot be understood, and leave them out; else the first raises.

    Attributes:
        left_out: by reason; what a user labelled and will not get.
        remarks: by what was done; nothing is lost.
    """

    def __init__(self, *, skip_bad: bool = False) -> None:
        self.left_out: dict[str, Finding] = {}
        self.remarks: dict[str, Finding] = {}
        self._skip_bad = skip_bad

    @contextmanager
    def over_label(self) -> Iterator[None]:
        """Leave a label out, if it is wrong and wrong ones are to be skipped.

        Raises:
            DataError: of the block, with a word on what would skip it.
        """
        try:
            yield
        except DataError as error:
            if not self._skip_bad:
                raise DataError(f"{error} ({_SKIPPING})") from error
            self.leave_out("bad labels left out", str(error))

    def leave_out(self, reason: str, place: str) -> None:
        """Count a label that is not read."""
        _count(self.left_out, reason, place)

    def remark(self, what: str, place: str) -> None:
        """Count something that is read, but otherwise than it stands."""
        _count(self.remarks, what, place)

    def notes(self) -> tuple[str, ...]:
        """Return a line for each reason."""
        return tuple(
            f"{found.count} {reason}, the first: {found.first}"
            for reason, found in (*self.left_out.items(), *self.remarks.items())
        )


def _count(findings: dict[str, Finding], reason: str, place: str) -> None:
    findings.setdefault(reason, Finding(0, place)).count += 1


@dataclass(frozen=True, kw_only=True)
class Picture:
    """The raster that labels belong to.

    Args:
        width, height: as it is stored, and read.
        orientation: of EXIF, 1 to 8: how programs that show pictures turn or mirror it; 1: not.
    """

    path: str
    width: int
    height: int
    orientation: int = 1

    @property
    def size(self) -> tuple[int, int]:
        """Return width and height as stored."""
        return self.width, self.height

    @property
    def size_shown(self) -> tuple[int, int]:
        """Return width and height as programs that show pictures have them."""
        return self.size if self.orientation < _FIRST_SWAPPED else (self.height, self.width)

    def stored(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring points ``(K, 2)`` of the picture as it is shown to its pixels as stored."""
        x, y = points.T
        w, h = self.width, self.height
        stored = {
            1: (x, y),
            2: (w - x, y),
            3: (w - x, h - y),
            4: (x, h - y),
            5: (y, x),
            6: (y, h - x),
            7: (w - y, h - x),
            8: (w - y, x),
        }
        return np.column_stack(stored.get(self.orientation, (x, y)))

    def shown(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Bring points ``(K, 2)`` from its pixels to the picture as it is shown."""
        # All but the two quarter turns undo themselves.
        back = {6: 8, 8: 6}.get(self.orientation, self.orientation)
        width, height = self.size_shown
        return replace(self, width=width, height=height, orientation=back).stored(points)


def bring_to_stored(
    outlines: Sequence[Outline], picture: Picture, report: LabelReport
) -> list[Outline]:
    """Bring outlines of a picture as it is shown, which is what people label, to its pixels."""
    if picture.orientation == 1 or not outlines:
        return list(outlines)
    report.remark(_TURNED, f"{picture.path} (EXIF orientation {picture.orientation})")
    return [replace(outline, points=picture.stored(outline.points)) for outline in outlines]


def fit_to_picture(
    outlines: Sequence[Outline],
    stated: tuple[int, int] | None,
    picture: Picture,
    place: str,
    report: LabelReport,
) -> list[Outline]:
    """Bring outlines to the pixels of a picture whose size the labels may state otherwise.

    Args:
        stated: width and height; None where they state none.
        place: of that statement, for messages.

    Raises:
        DataError: naming both sizes, where the picture was not only made larger or smaller.
    """
    shown = picture.size_shown
    if stated is not None and min(stated) < 1:
        raise DataError(f"{place}: states {stated[0]} x {stated[1]} pixels, which is no picture")
    if stated is not None and stated == picture.size and stated != shown:
        return list(outlines)  # labelled as it is stored
    if stated is None or stated == shown:
        return bring_to_stored(outlines, picture, report)
    across, down = shown[0] / stated[0], shown[1] / stated[1]
    # Both sides are rounded to whole pixels.
    if abs(stated[0] * down - shown[0]) > max(1.0, down):
        raise DataError(
            f"{place}: states {stated[0]} x {stated[1]} pixels, {picture.path} has "
            f"{shown[0]} x {shown[1]}; give the picture that was labelled"
        )
    report.remark(
        "pictures have another size than their labels state, and the labels are scaled",
        f"{picture.path} ({stated[0]} x {stated[1]} stated, {shown[0]} x {shown[1]} in the file)",
    )
    scaled = [replace(o, points=o.points * (across, down)) for o in outlines]
    return bring_to_stored(scaled, picture, report)


def finite_number(value: Any) -> float | None:
    """Return a number, or the number that a text states; None of anything else, NaN and inf."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    # Python also takes 1_000 for a number.
    return number if isfinite(number) and "_" not in str(value) else None


def corners_of_edges(left: float, top: float, right: float, bottom: float) -> NDArray[np.float64]:
    """Return the corners ``(4, 2)`` of an upright box."""
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]], dtype=np.float64)


def check_edges(left: float, top: float, right: float, bottom: float, place: str) -> None:
    """Refuse edges in the wrong order; a box without area is no mistake here.

    Raises:
        DataError: naming them.
    """
    if right < left or bottom < top:
        raise DataError(
            f"{place}: a box from {left:g},{top:g} to {right:g},{bottom:g} ends before it begins"
        )


def rename_outlines(outlines: Iterable[Outline], naming: Naming) -> list[Outline]:
    """Rename outlines as a naming says."""
    return [replace(outline, name=naming.name(outline.name)) for outline in outlines]


def list_names(outlines: Iterable[Outline]) -> tuple[str, ...]:
    """List all names, by the alphabet."""
    return tuple(sorted({outline.name for outline in outlines if outline.name is not None}))


def check_name(outline: Outline, classes: Sequence[str], stated_in: str) -> None:
    """Refuse a name that a list of classes does not have.

    Raises:
        DataError: with its place.
    """
    if outline.name is not None and outline.name not in classes:
        raise DataError(
            f"{outline.place}: class {outline.name!r} is none of {stated_in}: {', '.join(classes)}"
        )


def check_inside(outline: Outline, *, width: int, height: int) -> None:
    """Refuse an object that shares no point with its raster; corners alone may lie outside.

    Raises:
        DataError: with its place.
    """
    (left, top), (right, bottom) = outline.points.min(axis=0), outline.points.max(axis=0)
    if right <= 0 or bottom <= 0 or left >= width or top >= height:
        raise DataError(
            f"{outline.place}: a box from {left:g},{top:g} to {right:g},{bottom:g} lies "
            f"outside its picture of {width} x {height} pixels"
        )


def has_area(outline: Outline) -> bool:
    """Say whether there is a box around an outline that is more than a line or a point."""
    hull = shapely.convex_hull(shapely.multipoints(outline.points))
    return bool(shapely.area(hull) > 0)


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
