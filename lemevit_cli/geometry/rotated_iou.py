"""Exact overlap of oriented boxes and of quadrilaterals, for many pairs at once.

Functions of boxes ``(N, 5)`` take arrays of numpy or tensors of torch, see ``oriented_boxes.py``.

Quadrilaterals are numpy's alone. The area under the lower of two edges, over the columns that both
span, has a closed form. Summed over the edges of two polygons, signed by their direction, it is the
area that they share: nothing is cut, sorted or compared, so nothing goes astray where edges nearly
coincide. What polygons that cross themselves share is counted by winding numbers, as the DOTA
devkit's polyiou counts it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemevit_cli.geometry.oriented_boxes import (
    Array,
    as_boxes,
    axis_aligned_bounds,
    corners_of,
    namespace_of,
)

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]

_PAIRS_AT_ONCE = 8192  # in numpy: a pair takes 1 to 2 kB on the way; more leaves the cache


@overload
def rotated_iou(boxes: Tensor, others: Tensor) -> Tensor: ...
@overload
def rotated_iou(boxes: ArrayLike, others: ArrayLike) -> Floats: ...
def rotated_iou(boxes: Any, others: Any) -> Any:
    """Return the intersection over union of every pair of oriented boxes.

    Args:
        boxes: ``(N, 5)``, see ``geometry/oriented_boxes.py``.
        others: ``(M, 5)``, same frame.

    Returns:
        ``(N, M)`` in [0, 1]. Zero, not NaN, where a box has no area.
    """
    boxes, others = as_boxes(boxes), as_boxes(others)
    return _over_union(intersections(boxes, others), _areas(boxes)[:, None], _areas(others))


@overload
def paired_iou(boxes: Tensor, others: Tensor) -> Tensor: ...
@overload
def paired_iou(boxes: ArrayLike, others: ArrayLike) -> Floats: ...
def paired_iou(boxes: Any, others: Any) -> Any:
    """Return the IoU of box i ``(N, 5)`` and other i ``(N, 5)``: ``(N,)`` in [0, 1]."""
    boxes, others = as_boxes(boxes), as_boxes(others)
    return _over_union(shared_areas(boxes, others), _areas(boxes), _areas(others))


def intersections(boxes: Array, others: Array) -> Array:
    """Return the areas ``(N, M)`` that oriented boxes ``(N, 5)`` and ``(M, 5)`` share.

    Only pairs whose circumscribed rectangles meet are looked at closely.
    """
    xp = namespace_of(boxes)
    shared = axis_aligned_intersections(axis_aligned_bounds(boxes), axis_aligned_bounds(others))
    first, second = xp.where(shared > 0)
    shared = xp.zeros_like(shared)
    shared[first, second] = shared_areas(boxes[first], others[second])
    return shared


def axis_aligned_intersections(boxes: Array, others: Array) -> Array:
    """Return the areas ``(N, M)`` that ``(N, 4)`` and ``(M, 4)``, ``x1, y1, x2, y2``, share."""
    xp = namespace_of(boxes)
    low = xp.maximum(boxes[:, None, :2], others[None, :, :2])
    high = xp.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = xp.clip(high - low, 0, None)
    shared: Array = sides[..., 0] * sides[..., 1]
    return shared


def shared_areas(boxes: Array, others: Array) -> Array:
    """Return the areas ``(N,)`` that box i ``(N, 5)`` shares with other i ``(N, 5)``.

    In the frame of the other box, axis-aligned there, let every point of the first box's
    outline move to the nearest point of the other box. The outline then runs around the
    intersection, and what lay outside runs along the other's border, to and fro: the area within
    is the line integral of ``x dy``. No vertices are looked for or sorted, so that boxes that are
    nearly alike are as safe as any; the result is exact up to rounding.
    """
    xp = namespace_of(boxes)
    size = _PAIRS_AT_ONCE if xp is np else max(len(boxes), 1)
    parts = [slice(i, i + size) for i in range(0, max(len(boxes), 1), size)]
    shared: Array = xp.concatenate([_shared_by_few(boxes[part], others[part]) for part in parts])
    return shared


def _shared_by_few(boxes: Any, others: Any) -> Any:
    xp = namespace_of(boxes)
    x, y = _corners_seen_from(boxes, others)  # (4, N) each: pairs stand last, where loops are long
    way_x, way_y = xp.roll(x, -1, 0) - x, xp.roll(y, -1, 0) - y
    half_w, half_h = others[:, 2] / 2, others[:, 3] / 2
    first, last = _inside(y, way_y, half_h)
    turns = (xp.clip(bound, first, last) for bound in _inside(x, way_x, half_w))
    at = xp.stack([first, *turns, last])  # (4, 4, N): straight between these places of an edge
    x = xp.clip(x + way_x * at, -half_w, half_w)
    y = xp.clip(y + way_y * at, -half_h, half_h)
    areas = (x[1:] + x[:-1]) / 2 * (y[1:] - y[:-1])
    return xp.clip(areas.sum((0, 1)), 0, None)


def _corners_seen_from(boxes: Any, others: Any) -> Any:
    """Return x and y ``(4, N)`` of the boxes' corners in the frames of the other boxes."""
    xp = namespace_of(boxes)
    dx, dy = boxes[:, 0] - others[:, 0], boxes[:, 1] - others[:, 1]
    cos, sin = xp.cos(others[:, 4]), xp.sin(others[:, 4])
    centre = [dx * cos + dy * sin, dy * cos - dx * sin]
    turn = boxes[:, 4] - others[:, 4]
    corners = corners_of(xp.stack([*centre, boxes[:, 2], boxes[:, 3], turn], axis=-1))
    return (xp.stack([corners[:, k, axis] for k in range(4)]) for axis in (0, 1))


def _inside(start: Any, way: Any, half: Any) -> Any:
    """Return where along an edge, from 0 to 1, it enters and leaves ``[-half, half]``."""
    xp = namespace_of(start)
    with np.errstate(divide="ignore", invalid="ignore"):
        # An edge along the border divides zero by zero: any place will do, it does not cross.
        meets = [xp.nan_to_num((side - start) / way, nan=0.0) for side in (-half, half)]
    one, other = (xp.clip(place, 0.0, 1.0) for place in meets)
    return xp.minimum(one, other), xp.maximum(one, other)


def intersection_over_own_area(boxes: Array, others: Array) -> Array:
    """Return the share ``(N, M)`` of each box inside each other box; 0 without an area."""
    shared = intersections(boxes, others)
    share: Array = _share(shared, _areas(boxes)[:, None])
    return share


def _areas(boxes: Any) -> Any:
    return boxes[:, 2] * boxes[:, 3]


def paired_iou_of_corners(corners: ArrayLike, others: ArrayLike) -> Floats:
    """Return the IoU of quadrilateral i and other i, ``(N, 4, 2)`` each.

    The corners follow each other around, either way; quadrilaterals need be neither rectangles nor
    convex. Zero where one has no area.
    """
    return _over_union(*_shared_and_own_areas(corners, others))


def paired_share_of_corners(corners: ArrayLike, others: ArrayLike) -> Floats:
    """Return the share of quadrilateral i inside other i, as :func:`paired_iou_of_corners`."""
    shared, areas, _ = _shared_and_own_areas(corners, others)
    share: Floats = _share(shared, areas)
    return share


def _shared_and_own_areas(corners: ArrayLike, others: ArrayLike) -> tuple[Floats, Floats, Floats]:
    # Map coordinates are large: measured from a corner nearby, no digits are lost.
    start = np.asarray(others, dtype=np.float64)[:, :1]
    near: Floats = np.asarray(corners, dtype=np.float64) - start
    other_near: Floats = np.asarray(others, dtype=np.float64) - start
    areas, other_areas = _signed_areas(near), _signed_areas(other_near)
    shared = _signed_overlaps(near, other_near) * np.sign(areas) * np.sign(other_areas)
    return shared, np.abs(areas), np.abs(other_areas)


def _over_union(shared: Array, areas: Array, other_areas: Array) -> Array:
    """Return intersections over unions in [0, 1]; zero where one side has no area."""
    iou: Array = _share(shared, areas + other_areas - shared)
    return iou


def _share(part: Any, whole: Any) -> Any:
    xp = namespace_of(part)
    return xp.clip(part / xp.where(whole > 0, whole, 1.0), 0.0, 1.0)


def _signed_areas(corners: Floats) -> Floats:
    x, y = corners[..., 0], corners[..., 1]
    following = np.roll(corners, -1, axis=1)
    return (x * following[..., 1] - y * following[..., 0]).sum(axis=1) / 2


def _signed_overlaps(corners: Floats, others: Floats) -> Floats:
    """Return areas that quadrilaterals share, negative where just one runs the other way."""
    shared = np.empty(len(corners))
    for first in range(0, len(corners), _PAIRS_AT_ONCE):
        part = slice(first, first + _PAIRS_AT_ONCE)
        shared[part] = _overlaps_of_few(corners[part], others[part])
    return shared


def _overlaps_of_few(corners: Floats, others: Floats) -> Floats:
    """Sum over pairs of edges the area under the lower one, signed by their directions."""
    # Pairs stand last: numpy's inner loop then runs over them, not over four edges.
    x, y = corners.transpose(2, 1, 0)[:, :, None]  # (4, 1, N) each
    other_x, other_y = others.transpose(2, 1, 0)[:, None]  # (1, 4, N) each
    # Heights count from below everything, so that an area under an edge is never negative.
    base = np.minimum(y.min(axis=0), other_y.min(axis=1))
    edge, other_edge = _Edges(x, y - base, axis=0), _Edges(other_x, other_y - base, axis=1)
    left = np.maximum(edge.left, other_edge.left)  # (4, 4, N)
    right = np.minimum(edge.right, other_edge.right)
    width = np.maximum(right - left, 0.0)
    at_left, at_right = edge.height(left), edge.height(right)
    above_left = at_left - other_edge.height(left)
    above_right = at_right - other_edge.height(right)
    # The lower of two lines is their mean less half their distance, whose mean over the columns
    # is that of its ends, unless the lines cross.
    far_left, far_right = np.abs(above_left), np.abs(above_right)
    reach = far_left + far_right
    crossing = above_left * above_right < 0
    squares = np.divide(far_left**2 + far_right**2, reach, out=np.zeros_like(reach), where=crossing)
    distance = np.where(crossing, squares, reach) / 2
    middle = (at_left + at_right - (above_left + above_right) / 2) / 2
    areas = width * (middle - distance / 2)
    return np.einsum("ijn,in,jn->n", areas, edge.sign[:, 0], other_edge.sign[0])


class _Edges:
    """Edges of polygons as lines over columns; those without columns have height of one end."""

    def __init__(self, x: Floats, y: Floats, *, axis: int) -> None:
        end_x, end_y = np.roll(x, -1, axis=axis), np.roll(y, -1, axis=axis)
        self.left, self.right = np.minimum(x, end_x), np.maximum(x, end_x)
        self.sign = np.sign(end_x - x)
        is_reversed = end_x < x
        self._low = np.where(is_reversed, end_y, y)
        self._rise = np.where(is_reversed, y, end_y) - self._low
        span = self.right - self.left
        self._per_column = np.divide(1.0, span, out=np.zeros_like(span), where=span > 0)

    def height(self, x: Floats) -> Floats:
        # Clamped: where two edges share no column, nothing may overflow.
        part = np.clip((x - self.left) * self._per_column, 0.0, 1.0)
        return self._low + part * self._rise
