"""Exact overlap of oriented boxes and of quadrilaterals, for many pairs at once.

The area under the lower of two edges, over the columns that both span, has a closed form. Summed
over the edges of two polygons, signed by their direction, it is the area that they share: nothing
is cut, sorted or compared, so nothing goes astray where edges nearly coincide. What polygons that
cross themselves share is counted by winding numbers, as the DOTA devkit's polyiou counts it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lemevit_cli.geometry.oriented_boxes import corners_of

Floats = NDArray[np.float64]

_PAIRS_AT_ONCE = 8192  # a pair takes about 2 kB on the way; more at once leaves the cache


def rotated_iou(boxes: ArrayLike, others: ArrayLike) -> Floats:
    """Return the intersection over union of every pair of oriented boxes.

    Args:
        boxes: ``(N, 5)``, see ``geometry/oriented_boxes.py``.
        others: ``(M, 5)``, same frame.

    Returns:
        ``(N, M)`` in [0, 1]. Zero, not NaN, where a box has no area.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 5)
    others = np.asarray(others, dtype=np.float64).reshape(-1, 5)
    rows, cols = np.indices((len(boxes), len(others))).reshape(2, -1)
    return paired_iou(boxes[rows], others[cols]).reshape(len(boxes), len(others))


def paired_iou(boxes: ArrayLike, others: ArrayLike) -> Floats:
    """Return the IoU of box i ``(N, 5)`` and other i ``(N, 5)``: ``(N,)`` in [0, 1]."""
    boxes, others = np.asarray(boxes, dtype=np.float64), np.asarray(others, dtype=np.float64)
    shared = shared_areas(boxes, others)
    return _over_union(shared, boxes[:, 2] * boxes[:, 3], others[:, 2] * others[:, 3])


def shared_areas(boxes: Floats, others: Floats) -> Floats:
    """Return the areas ``(N,)`` that box i ``(N, 5)`` shares with other i ``(N, 5)``."""
    # In the frame of the other box two of its edges are vertical and add exactly nothing.
    cos, sin = np.cos(others[:, 4]), np.sin(others[:, 4])
    dx, dy = (boxes[:, :2] - others[:, :2]).T
    turned = np.column_stack(
        [dx * cos + dy * sin, dy * cos - dx * sin, boxes[:, 2:4], boxes[:, 4] - others[:, 4]]
    )
    upright = np.zeros_like(turned)
    upright[:, 2:4] = others[:, 2:4]
    # Rounding may leave less than nothing of boxes that lie apart.
    return np.maximum(_signed_overlaps(corners_of(turned), corners_of(upright)), 0.0)


def paired_iou_of_corners(corners: ArrayLike, others: ArrayLike) -> Floats:
    """Return the IoU of quadrilateral i and other i, ``(N, 4, 2)`` each.

    The corners follow each other around, either way; quadrilaterals need be neither rectangles nor
    convex. Zero where one has no area.
    """
    # Map coordinates are large: measured from a corner nearby, no digits are lost.
    start = np.asarray(others, dtype=np.float64)[:, :1]
    near: Floats = np.asarray(corners, dtype=np.float64) - start
    other_near: Floats = np.asarray(others, dtype=np.float64) - start
    areas, other_areas = _signed_areas(near), _signed_areas(other_near)
    shared = _signed_overlaps(near, other_near) * np.sign(areas) * np.sign(other_areas)
    return _over_union(shared, np.abs(areas), np.abs(other_areas))


def _over_union(shared: Floats, areas: Floats, other_areas: Floats) -> Floats:
    has_area = (areas > 0) & (other_areas > 0)
    union = np.where(has_area, areas + other_areas - shared, 1.0)
    return np.where(has_area, np.clip(shared / union, 0.0, 1.0), 0.0)


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
