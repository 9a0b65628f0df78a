"""Oriented boxes on a torch device: the little geometry that a detector needs within a step.

A box is ``(cx, cy, w, h, angle_rad)``: pixels of the window, x to the right, y down, pixel (0, 0)
covers [0, 1) x [0, 1); a positive angle turns it clockwise on the screen. The authors' theta is
minus this angle. Canonical boxes have ``w >= h`` and an angle in [-pi/2, pi/2).

``geometry/oriented_boxes.py`` has the same frame in numpy, for whole scenes.
"""

from __future__ import annotations

from math import pi

import torch
from torch import Tensor

_FARTHEST_PX = 1e5  # of a centre and a size
_TINY = 1e-9  # square pixels: keeps the overlap of two boxes without an area at zero


def canonical(boxes: Tensor) -> Tensor:
    """Return the same rectangles ``(..., 5)`` with ``w >= h`` and an angle in [-pi/2, pi/2)."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    angle = half_turn(torch.where(w < h, angle + pi / 2, angle))
    return torch.stack([cx, cy, torch.maximum(w, h), torch.minimum(w, h), angle], dim=-1)


def half_turn(angle: Tensor) -> Tensor:
    """Bring angles of lines, which are the same after half a turn, into [-pi/2, pi/2)."""
    turned = torch.remainder(angle + pi / 2, pi) - pi / 2
    return torch.where(turned >= pi / 2, turned - pi, turned)  # a remainder may round up to pi


def within_reach(boxes: Tensor) -> Tensor:
    """Clamp boxes ``(..., 5)``: without NaN, none so far or large that an index would overflow."""
    return boxes.nan_to_num().clamp(-_FARTHEST_PX, _FARTHEST_PX)


def corners(boxes: Tensor) -> Tensor:
    """Return corners ``(..., 4, 2)`` of ``(..., 5)``: top left, then clockwise on the screen."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    cos, sin = angle.cos() / 2, angle.sin() / 2
    right = torch.stack([w * cos, w * sin], dim=-1)  # half of the box's width
    down = torch.stack([-h * sin, h * cos], dim=-1)
    centre = torch.stack([cx, cy], dim=-1)
    around = [-right - down, right - down, right + down, down - right]
    return torch.stack([centre + corner for corner in around], dim=-2)


def circumscribed(boxes: Tensor) -> Tensor:
    """Return axis-aligned boxes ``(..., 4)`` as ``x1, y1, x2, y2`` around ``(..., 5)``."""
    cx, cy, w, h, angle = boxes.unbind(-1)
    cos, sin = angle.cos().abs() / 2, angle.sin().abs() / 2
    half_width, half_height = w * cos + h * sin, w * sin + h * cos
    return torch.stack(
        [cx - half_width, cy - half_height, cx + half_width, cy + half_height], dim=-1
    )


def upright_intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return shared areas ``(N, M)`` of axis-aligned boxes ``(N, 4)`` and ``(M, 4)``."""
    low = torch.maximum(boxes[:, None, :2], others[None, :, :2])
    high = torch.minimum(boxes[:, None, 2:], others[None, :, 2:])
    sides = (high - low).clamp(min=0)
    return sides[..., 0] * sides[..., 1]


def upright_areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return shared areas ``(N, M)`` of oriented boxes ``(N, 5)`` and ``(M, 5)``.

    Only pairs whose circumscribed boxes meet are looked at closely.
    """
    shared = upright_intersections(circumscribed(boxes), circumscribed(others))
    first, second = (shared > 0).nonzero(as_tuple=True)
    shared = torch.zeros_like(shared)
    shared[first, second] = paired_intersections(boxes[first], others[second])
    return shared


def paired_intersections(boxes: Tensor, others: Tensor) -> Tensor:
    """Return shared areas ``(N,)`` of the boxes of each row of ``(N, 5)`` and ``(N, 5)``.

    In the frame of the other box, axis-aligned there, let every point of the first box's
    outline move to the nearest point of the other box. The outline then runs around the
    intersection, and what lay outside runs along the other's border, to and fro: the area within
    is the line integral of ``x dy``. No vertices are looked for or sorted, so that boxes that are
    nearly alike are as safe as any; the result is exact up to rounding.
    """
    centre = boxes[:, :2] - others[:, :2]
    cos, sin = others[:, 4].cos(), others[:, 4].sin()
    x = centre[:, 0] * cos + centre[:, 1] * sin
    y = centre[:, 1] * cos - centre[:, 0] * sin
    seen = torch.stack([x, y, boxes[:, 2], boxes[:, 3], boxes[:, 4] - others[:, 4]], dim=-1)
    start = corners(seen)  # (N, 4, 2)
    way = start.roll(-1, dims=1) - start
    half = others[:, None, 2:4] / 2
    # Where along an edge, from 0 to 1, x and y enter and leave the other box. An edge along the
    # border divides by zero: any place will do, for the edge does not cross.
    meets = torch.stack([(-half - start) / way, (half - start) / way]).nan_to_num(nan=0.0)
    enters, leaves = meets.clamp(0, 1).amin(dim=0), meets.clamp(0, 1).amax(dim=0)
    (_, first), (_, last) = enters.unbind(-1), leaves.unbind(-1)
    turns = [bound[..., 0].clamp(first, last) for bound in (enters, leaves)]
    at = torch.stack([first, *turns, last], dim=-1)  # (N, 4, 4): straight between these
    x = (start[..., :1] + way[..., :1] * at).clamp(-half[..., :1], half[..., :1])
    y = (start[..., 1:] + way[..., 1:] * at).clamp(-half[..., 1:], half[..., 1:])
    area = (x[..., 1:] + x[..., :-1]) / 2 * (y[..., 1:] - y[..., :-1])
    return area.sum(dim=(1, 2)).clamp(min=0)


def intersection_over_union(boxes: Tensor, others: Tensor) -> Tensor:
    """Return IoU ``(N, M)`` in [0, 1] of oriented boxes; 0 where both have no area."""
    return _over_union(intersections(boxes, others), _areas(boxes)[:, None], _areas(others))


def paired_intersection_over_union(boxes: Tensor, others: Tensor) -> Tensor:
    """Return IoU ``(N,)`` in [0, 1] of the boxes of each row of ``(N, 5)`` and ``(N, 5)``."""
    return _over_union(paired_intersections(boxes, others), _areas(boxes), _areas(others))


def _areas(boxes: Tensor) -> Tensor:
    return boxes[:, 2] * boxes[:, 3]


def _over_union(shared: Tensor, areas: Tensor, other_areas: Tensor) -> Tensor:
    return shared / (areas + other_areas - shared).clamp(min=_TINY)


def intersection_over_own_area(boxes: Tensor, others: Tensor) -> Tensor:
    """Return the share ``(N, M)`` of each box inside each other box; 0 without an area."""
    return intersections(boxes, others) / _areas(boxes).clamp(min=_TINY)[:, None]
