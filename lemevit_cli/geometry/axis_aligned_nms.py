"""Greedy non-maximum suppression of axis-aligned boxes that overlap nearly whole."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_SLACK = 1e-3  # of a box's width: the bound on places is rounded, the overlaps decide


def suppress_axis_aligned(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], iou: float
) -> NDArray[np.bool_]:
    """Mark ``(N,)`` the boxes that stay: a box falls to a kept one of a higher score.

    Of equal scores the first goes before. Of two boxes whose overlap is above ``iou`` the right one
    begins within ``1 - iou`` of the left one's width: no other pair is looked at. The arithmetic is
    float32, as in torchvision, so that the same boxes stay.

    Args:
        boxes: ``(N, 4)`` as ``x1, y1, x2, y2``.
        iou: a box falls where intersection over union is above this.
    """
    rank = np.empty(len(boxes), dtype=np.int64)
    rank[np.argsort(-scores, kind="stable")] = np.arange(len(boxes))
    by_place = np.argsort(boxes[:, 0], kind="stable")
    left, right = _pairs_near(boxes[by_place], iou)
    left, right = by_place[left], by_place[right]
    falls = _paired_iou(boxes, left, right) > iou
    one, other = rank[left[falls]], rank[right[falls]]
    better, worse = np.minimum(one, other), np.maximum(one, other)
    order = np.argsort(better, kind="stable")
    better, worse = better[order], worse[order]
    rivals, starts = np.unique(better, return_index=True)
    stays = np.ones(len(boxes), dtype=np.bool_)
    for rival, start, end in zip(rivals, starts, [*starts[1:], len(worse)], strict=False):
        if stays[rival]:
            stays[worse[start:end]] = False
    return stays[rank]


def _pairs_near(boxes: NDArray[np.float32], iou: float) -> tuple[NDArray[np.int64], ...]:
    """Return indices of pairs of boxes, ascending by their left edge, that may overlap so much."""
    begins, widths = boxes[:, 0], boxes[:, 2] - boxes[:, 0]
    reach = np.searchsorted(begins, begins + widths * (1 - iou + _SLACK), side="right")
    first = np.arange(len(boxes)) + 1
    counts = np.maximum(reach - first, 0)
    left = np.repeat(np.arange(len(boxes)), counts)
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return left, first[left] + within


def _paired_iou(
    boxes: NDArray[np.float32], one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float32]:
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    sides = np.minimum(boxes[one, 2:], boxes[other, 2:]) - np.maximum(
        boxes[one, :2], boxes[other, :2]
    )
    shared = np.prod(np.maximum(sides, 0), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):  # boxes without an area, or no numbers
        overlaps: NDArray[np.float32] = shared / (areas[one] + areas[other] - shared)
    return overlaps
