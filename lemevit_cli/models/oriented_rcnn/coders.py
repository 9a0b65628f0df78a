"""From anchors and proposals to boxes and back, in numbers of a size that a network can learn.

Sources: Xie et al., "Oriented R-CNN for Object Detection", ICCV 2021, section 3.1 (midpoint
offsets); the second coder is that of the authors' OBBDetection. Both work in the frame of
``geometry/oriented_boxes.py``; their theta is minus our angle, so that the last number of the
second coder has the opposite sign here.
"""

from __future__ import annotations

from math import log, pi

import torch
from torch import Tensor

from lemevit_cli.geometry.oriented_boxes import (
    axis_aligned_bounds,
    canonical,
    corners_of,
    half_turn,
)

SMALLEST_SIDE_PX = 1.0  # of decoded boxes: a degenerate one would divide by zero later
_LARGEST_GROWTH = log(1000 / 16)
_FARTHEST_PX = 1e5  # of a centre and a size
_TIE_PX = 0.1  # corners this near to each other's height count as equally high
_MIDPOINT_STDS = (1.0, 1.0, 1.0, 1.0, 0.5, 0.5)
_ROTATED_STDS = (0.1, 0.1, 0.2, 0.2, 0.1)


def encode_midpoints(anchors: Tensor, boxes: Tensor) -> Tensor:
    """Encode boxes ``(N, 5)`` as six numbers ``(N, 6)`` from axis-aligned anchors ``(N, 4)``.

    With the circumscribed box ``(gx, gy, gw, gh)`` and the anchor ``(px, py, pw, ph)``::

        (gx - px) / pw, (gy - py) / ph, ln(gw / pw), ln(gh / ph), (ga - gx) / gw, (gb - gy) / gh

    over their deviations, where ga is the x of the top corner and gb the y of the right corner; of
    an axis-aligned box that is the corner farthest right, and the one farthest down.

    Deviates from the original, which looks for ties of top and right corners one by one: where only
    the shorter side lies nearly level, both become one corner and the box a line.

    Args:
        anchors: as ``x1, y1, x2, y2``.
    """
    centre, size = _centre_and_size(anchors)
    outer_centre, outer_size = _centre_and_size(axis_aligned_bounds(boxes))
    x, y = corners_of(boxes).unbind(-1)  # (N, 4) each
    tie = torch.where(_is_axis_aligned(x, y), _TIE_PX, 0.0)[:, None]
    is_top = y <= y.amin(dim=1, keepdim=True) + tie
    is_right = x >= x.amax(dim=1, keepdim=True) - tie
    top_x = x.masked_fill(~is_top, float("-inf")).amax(dim=1)
    right_y = y.masked_fill(~is_right, float("-inf")).amax(dim=1)
    vertices = torch.stack([top_x, right_y], dim=-1)
    deltas = [
        (outer_centre - centre) / size,
        (outer_size / size).log(),
        (vertices - outer_centre) / outer_size,
    ]
    return torch.cat(deltas, dim=-1) / boxes.new_tensor(_MIDPOINT_STDS)


def _is_axis_aligned(x: Tensor, y: Tensor) -> Tensor:
    """Mark where both the two top and the two right corners, ``(N, 4)`` each, are level."""
    left_to_right, down = x.sort(dim=1).values, y.sort(dim=1).values
    level = down[:, 1] - down[:, 0] < _TIE_PX
    return level & (left_to_right[:, 3] - left_to_right[:, 2] < _TIE_PX)


def decode_midpoints(anchors: Tensor, deltas: Tensor) -> Tensor:
    """Return canonical boxes ``(..., 5)`` of anchors ``(..., 4)`` and deltas ``(..., 6)``.

    Top and right corner give a parallelogram; its shorter diagonal is stretched to the longer one,
    which makes it a rectangle. Boxes may reach over the picture's edges.
    """
    centre, size = _centre_and_size(anchors)
    deltas = deltas * deltas.new_tensor(_MIDPOINT_STDS)
    shift, growth, vertices = deltas.split(2, dim=-1)
    centre = centre + shift * size
    size = size * growth.clamp(-_LARGEST_GROWTH, _LARGEST_GROWTH).exp()
    top_x, right_y = (vertices.clamp(-0.5, 0.5) * size).unbind(-1)
    top = torch.stack([top_x, -size[..., 1] / 2], dim=-1)  # both as seen from the centre
    right = torch.stack([size[..., 0] / 2, right_y], dim=-1)
    lengths = torch.stack([top.norm(dim=-1), right.norm(dim=-1)], dim=-1)
    stretch = lengths.amax(dim=-1, keepdim=True) / lengths
    top, right = top * stretch[..., :1], right * stretch[..., 1:]
    return _box_of_diagonals(centre, top, right)


def _box_of_diagonals(centre: Tensor, top: Tensor, right: Tensor) -> Tensor:
    """Make canonical boxes of two neighbouring corners, seen from the centre, equally far."""
    sides = torch.stack([right - top, right + top], dim=-2)  # (..., 2, 2): right angles
    lengths = sides.norm(dim=-1)
    # The longer side tells the angle: the other may be a point.
    take = (lengths[..., 1] > lengths[..., 0])[..., None]
    long = torch.where(take, sides[..., 1, :], sides[..., 0, :])
    angle = half_turn(torch.atan2(long[..., 1], long[..., 0]))
    size = torch.stack([lengths.amax(dim=-1), lengths.amin(dim=-1)], dim=-1)
    return torch.cat([centre, size.clamp(min=SMALLEST_SIDE_PX), angle[..., None]], dim=-1)


def within_reach(boxes: Tensor) -> Tensor:
    """Clamp boxes ``(..., 5)``: without NaN, none so far or large that an index would overflow."""
    # Not by nan_to_num, which OpenVINO's reader of graphs does not know.
    return boxes.masked_fill(boxes.isnan(), 0.0).clamp(-_FARTHEST_PX, _FARTHEST_PX)


def encode_rotated(proposals: Tensor, boxes: Tensor) -> Tensor:
    """Encode boxes ``(N, 5)`` as five numbers ``(N, 5)`` that lead there from proposals ``(N, 5)``.

    The shift is measured along the proposal's own sides and in their lengths, the sizes as natural
    logarithms, the turn in radians, all over their deviations. A box is also the box turned by a
    right angle with its sides swapped: of the two the one with the smaller turn is taken.
    """
    cx, cy, w, h, angle = proposals.unbind(-1)
    dx, dy = boxes[..., 0] - cx, boxes[..., 1] - cy
    cos, sin = angle.cos(), angle.sin()
    turn = half_turn(boxes[..., 4] - angle)
    other_turn = half_turn(turn + pi / 2)
    swap = other_turn.abs() < turn.abs()
    width = torch.where(swap, boxes[..., 3], boxes[..., 2])
    height = torch.where(swap, boxes[..., 2], boxes[..., 3])
    deltas = [
        (dx * cos + dy * sin) / w,
        (dy * cos - dx * sin) / h,
        (width / w).log(),
        (height / h).log(),
        torch.where(swap, other_turn, turn),
    ]
    return torch.stack(deltas, dim=-1) / boxes.new_tensor(_ROTATED_STDS)


def decode_rotated(proposals: Tensor, deltas: Tensor) -> Tensor:
    """Return canonical boxes ``(..., 5)``: the inverse of :func:`encode_rotated`."""
    cx, cy, w, h, angle = proposals.unbind(-1)
    dx, dy, dw, dh, turn = (deltas * deltas.new_tensor(_ROTATED_STDS)).unbind(-1)
    cos, sin = angle.cos(), angle.sin()
    dx, dy = dx * w, dy * h
    grow_w, grow_h = (d.clamp(-_LARGEST_GROWTH, _LARGEST_GROWTH).exp() for d in (dw, dh))
    boxes = [
        cx + dx * cos - dy * sin,
        cy + dx * sin + dy * cos,
        w * grow_w,
        h * grow_h,
        angle + turn,
    ]
    return canonical(torch.stack(boxes, dim=-1))


def _centre_and_size(rectangles: Tensor) -> tuple[Tensor, Tensor]:
    low, high = rectangles.split(2, dim=-1)
    return (low + high) / 2, high - low
