"""Oriented boxes: their corners, their canonical form, their way to the map and to metres.

A box is ``(cx, cy, w, h, angle_rad)`` in pixels of its raster: x to the right, y down, the first
pixel covers [0, 1) x [0, 1). Corner k is ``c + R (±w/2, ±h/2)`` with
``R = [[cos a, -sin a], [sin a, cos a]]``: a positive angle turns a box clockwise on screen. The
authors' theta is minus this angle. Canonical boxes have ``w >= h`` and an angle in [-pi/2, pi/2).

Arithmetic is written once, for arrays of numpy and for tensors of torch (:func:`namespace_of`):
what a network needs within a step (:func:`corners_of`, :func:`canonical`, :func:`half_turn`,
:func:`axis_aligned_bounds`) also takes tensors ``(..., 5)`` of torch, of any floating dtype and
device, and is differentiable; everything else is float64.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

import numpy as np
import shapely
from affine import Affine
from numpy.typing import ArrayLike, NDArray

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, local_metres

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Array = TypeVar("Array", NDArray[np.float64], "Tensor")


@overload
def corners_of(boxes: Tensor) -> Tensor: ...
@overload
def corners_of(boxes: ArrayLike) -> Floats: ...
def corners_of(boxes: Any) -> Any:
    """Return corners ``(N, 4, 2)`` of boxes ``(N, 5)``, clockwise on screen.

    The first is the top-left corner of the box before it is turned.
    """
    xp, (cx, cy, w, h, angle) = _columns(boxes)
    cos, sin = xp.cos(angle) / 2, xp.sin(angle) / 2
    right = xp.stack([w * cos, w * sin], axis=-1)  # half of the box's width
    down = xp.stack([-h * sin, h * cos], axis=-1)
    around = [-right - down, right - down, right + down, down - right]
    return xp.stack([cx, cy], axis=-1)[..., None, :] + xp.stack(around, axis=-2)


def boxes_of_corners(corners: ArrayLike) -> Floats:
    """Return minimum rectangles ``(N, 5)`` of quadrilaterals ``(N, 4, 2)``, canonical.

    Exact for rectangles. The order of the corners does not count; they may cross, lie on a line or
    be one point.
    """
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4, 2)
    # A side of the smallest rectangle lies on a side of the convex hull, and every side of the
    # hull of four points joins two of them.
    first, second = np.triu_indices(4, k=1)
    return _smallest_rectangles(corners, corners[:, second] - corners[:, first])


def uncrossed(corners: ArrayLike) -> Floats:
    """Return quadrilaterals ``(N, 4, 2)`` whose sides do not cross: corners may be given anyhow.

    Of two sides that cross, both are the diagonals; quadrilaterals without such stay as they are.
    """
    corners = np.array(corners, dtype=np.float64).reshape(-1, 4, 2)
    a, b, c, d = corners.transpose(1, 0, 2)
    first, second = _cross(a, b, c, d), _cross(b, c, d, a)
    corners[first] = corners[first][:, [0, 2, 1, 3]]
    corners[second] = corners[second][:, [0, 1, 3, 2]]
    return corners


def _cross(a: Floats, b: Floats, c: Floats, d: Floats) -> NDArray[np.bool_]:
    """Say of lines from a to b and from c to d, ``(N, 2)`` each, whether they cross."""

    def side(start: Floats, end: Floats, point: Floats) -> Floats:
        way, other = end - start, point - start
        return way[:, 0] * other[:, 1] - way[:, 1] * other[:, 0]

    is_between = side(a, b, c) * side(a, b, d) < 0
    crosses: NDArray[np.bool_] = is_between & (side(c, d, a) * side(c, d, b) < 0)
    return crosses


def box_of_polygon(points: ArrayLike) -> Floats:
    """Return the minimum rectangle ``(5,)`` of a polygon's corners ``(K, 2)``, canonical.

    Raises:
        ValueError: if there is no point.
    """
    points = np.asarray(points, dtype=np.float64).reshape(-1, 2)
    if len(points) == 0:
        raise ValueError("a box needs at least one point")
    hull = shapely.get_coordinates(shapely.convex_hull(shapely.multipoints(points)))
    sides = np.diff(hull, axis=0, append=hull[:1])
    return _smallest_rectangles(hull[None], sides[None])[0]


@overload
def canonical(boxes: Tensor) -> Tensor: ...
@overload
def canonical(boxes: ArrayLike) -> Floats: ...
def canonical(boxes: Any) -> Any:
    """Return the same rectangles ``(N, 5)`` with ``w >= h`` and angles in [-pi/2, pi/2)."""
    xp, (cx, cy, w, h, angle) = _columns(boxes)
    angle = half_turn(xp.where(w < h, angle + pi / 2, angle))
    return xp.stack([cx, cy, xp.maximum(w, h), xp.minimum(w, h), angle], axis=-1)


def half_turn(angle: Array) -> Array:
    """Bring angles of lines, which are the same after half a turn, into [-pi/2, pi/2)."""
    xp = namespace_of(angle)
    turned: Array = xp.remainder(angle + pi / 2, pi) - pi / 2
    # A remainder of a tiny negative number rounds up to the divisor itself.
    brought: Array = xp.where(turned >= pi / 2, turned - pi, turned)
    return brought


@overload
def axis_aligned_bounds(boxes: Tensor) -> Tensor: ...
@overload
def axis_aligned_bounds(boxes: ArrayLike) -> Floats: ...
def axis_aligned_bounds(boxes: Any) -> Any:
    """Return the smallest axis-aligned rectangles ``(N, 4)`` around boxes: ``x1, y1, x2, y2``."""
    xp, (cx, cy, w, h, angle) = _columns(boxes)
    cos, sin = abs(xp.cos(angle)) / 2, abs(xp.sin(angle)) / 2
    half_x, half_y = w * cos + h * sin, w * sin + h * cos
    return xp.stack([cx - half_x, cy - half_y, cx + half_x, cy + half_y], axis=-1)


def map_boxes(boxes: ArrayLike, transform: Affine) -> Floats:
    """Map boxes to the frame that an affine leads to, canonical there.

    The corners are mapped, then measured: exact where the affine keeps right angles, mirrored or
    not; elsewhere the smallest rectangle around what has become a parallelogram.
    """
    return boxes_of_corners(mapped_points(corners_of(boxes), transform))


def mapped_points(points: Floats, transform: Affine) -> Floats:
    """Map points ``(..., 2)`` by an affine."""
    x, y = points[..., 0], points[..., 1]
    a, b, c, d, e, f = transform[:6]
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=-1)


@dataclass(frozen=True)
class GroundSizes:
    """Sizes of boxes, ``(N,)`` each; NaN outside the domain of the CRS.

    Args:
        length_m, width_m: along the longer axis and across it, on the ground.
        area_m2: ``length_m * width_m``, which is the area of the four corners' polygon.
        bearing: of the longer axis on the ground, degrees clockwise from grid north (where the
            map's y grows), in [0, 180).
        unit: ``px`` where nothing ties the pixels to the earth: then all figures are in pixels,
            and north is up on screen.
    """

    length_m: Floats
    width_m: Floats
    area_m2: Floats
    bearing: Floats
    unit: Literal["m", "px"]


def ground_sizes(boxes: ArrayLike, georeference: Georeference) -> GroundSizes:
    """Measure boxes ``(N, 5)`` of a raster on the ground, or in pixels without a CRS on the earth.

    Ground control points are not read here: map the corners by them, then see
    :func:`sizes_of_corners`.
    """
    corners = corners_of(boxes)
    if georeference.transform is None or not is_tied_to_earth(georeference.crs_wkt):
        return sizes_of_corners(corners * (1, -1), None)
    return sizes_of_corners(mapped_points(corners, georeference.transform), georeference.crs_wkt)


def sizes_of_corners(corners: ArrayLike, crs_wkt: str | None) -> GroundSizes:
    """Measure boxes by their corners on the map, ``(N, 4, 2)`` in the order around the box.

    Metres are those on the ground, along geodesics, in any CRS. Where a map shears a box to a
    parallelogram its length is that of its longer sides, its width the distance between them.

    Args:
        crs_wkt: None, or a CRS that is not tied to the earth, measures in the corners' own unit.
    """
    corners = np.asarray(corners, dtype=np.float64).reshape(-1, 4, 2)
    tied = is_tied_to_earth(crs_wkt)
    plane = local_metres(corners, crs_wkt) if tied else corners
    along = (plane[:, 1] + plane[:, 2] - plane[:, 0] - plane[:, 3]) / 2
    across = (plane[:, 2] + plane[:, 3] - plane[:, 0] - plane[:, 1]) / 2
    area = np.abs(along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0])
    is_wider = np.hypot(*along.T) < np.hypot(*across.T)
    east, north = np.where(is_wider[:, None], across, along).T
    length = np.hypot(east, north)
    bearing = np.mod(np.degrees(np.arctan2(east, north)), 180.0)
    return GroundSizes(
        length_m=length,
        width_m=np.divide(area, length, out=np.zeros_like(area), where=length != 0),
        area_m2=area,
        bearing=np.where(bearing >= 180.0, 0.0, bearing),
        unit="m" if tied else "px",
    )


def namespace_of(values: object) -> Any:
    """Return the library that computes with values: torch with its tensors, else numpy.

    Functions call what both name alike (``stack``, ``where``, ``maximum``; torch takes numpy's
    ``axis``). Torch is never imported here: whoever has a tensor has loaded it.
    """
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(values, torch.Tensor) else np


def as_boxes(boxes: Any) -> Any:
    """Return a tensor as it is, everything else as a float64 array ``(N, 5)``."""
    if namespace_of(boxes) is not np:
        return boxes
    return np.asarray(boxes, dtype=np.float64).reshape(-1, 5)


def _columns(boxes: Any) -> tuple[Any, Any]:
    """Return the library that computes with boxes, and their five columns."""
    boxes = as_boxes(boxes)
    return namespace_of(boxes), (boxes[..., i] for i in range(5))


def _smallest_rectangles(points: Floats, directions: Floats) -> Floats:
    """Find for each set of points the smallest rectangle that has a side along a direction.

    Args:
        points: ``(N, K, 2)``.
        directions: ``(N, D, 2)``, of any length; those of length 0 are left out.
    """
    # Map coordinates are large: measured from the middle, no digits are lost.
    middle = points.mean(axis=1)  # (N, 2)
    points = points - middle[:, None]
    lengths = np.hypot(directions[..., 0], directions[..., 1])  # (N, D)
    nowhere = lengths == 0
    unit = directions / np.where(nowhere, 1.0, lengths)[..., None]
    unit[nowhere] = (1.0, 0.0)
    normal = np.stack([-unit[..., 1], unit[..., 0]], axis=-1)
    along = np.einsum("ndc,nkc->ndk", unit, points)
    across = np.einsum("ndc,nkc->ndk", normal, points)
    areas = np.ptp(along, axis=-1) * np.ptp(across, axis=-1)
    best = np.argmin(np.where(nowhere, np.inf, areas), axis=1)  # (N,)
    rows = np.arange(len(points))
    unit, normal, along, across = (a[rows, best] for a in (unit, normal, along, across))
    centre_along = (along.max(axis=1) + along.min(axis=1)) / 2
    centre_across = (across.max(axis=1) + across.min(axis=1)) / 2
    centre = middle + unit * centre_along[:, None] + normal * centre_across[:, None]
    angle = np.arctan2(unit[:, 1], unit[:, 0])
    sides = np.ptp(along, axis=1), np.ptp(across, axis=1)
    return canonical(np.column_stack([centre, *sides, angle]))
