"""Greedy non-maximum suppression of oriented boxes, through an index of places.

A box falls to a better one that it overlaps by more than a limit, unless that one has fallen
itself. Boxes are taken in rounds of the best that still stand: these are settled among themselves,
then those kept strike what they overlap among all the rest. So overlaps are computed for boxes that
stand near a kept one, and for no others, however many are piled up on one place.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import shapely
from numpy.typing import ArrayLike, NDArray

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds
from lemevit_cli.geometry.rotated_iou import paired_iou

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Overlap = Callable[[Floats, Floats], Floats]

_ROUND = 512  # boxes settled among themselves: at most a square of pairs
_QUERY = 64  # boxes that the index is asked about at once: bounds memory where all are piled up
_PAIRS = 1 << 18  # overlaps computed at once


def rotated_nms(
    boxes: ArrayLike, scores: ArrayLike, class_ids: ArrayLike, iou: float
) -> NDArray[np.int64]:
    """Return the boxes that stay, as indices: best score first, of equal scores the lowest index.

    A box falls to a kept one of its class that goes before it if their intersection over union is
    above ``iou``.

    Args:
        boxes: ``(N, 5)``, see ``geometry/oriented_boxes.py``.
        scores, class_ids: ``(N,)``.
    """
    boxes = np.asarray(boxes, dtype=np.float64).reshape(-1, 5)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    in_order = np.asarray(class_ids)[order]
    stays = np.zeros(len(order), dtype=bool)
    for class_id in np.unique(in_order):
        ranks = np.flatnonzero(in_order == class_id)
        stays[ranks[suppress(boxes[order[ranks]], paired_iou, iou)]] = True
    return order[stays]


def suppress(boxes: Floats, overlap: Overlap, limit: float) -> Indices:
    """Return ascending indices of the boxes ``(N, 5)`` that stay; earlier boxes go before later.

    Args:
        overlap: of box i that goes before, ``(P, 5)``, with box i that may fall, ``(P, 5)``:
            ``(P,)``, zero where their circumscribed rectangles share nothing.
        limit: a box falls where the overlap is above it.
    """
    stands, settled = np.ones(len(boxes), dtype=bool), np.zeros(len(boxes), dtype=bool)
    rectangles = shapely.box(*axis_aligned_bounds(boxes).T)
    index = shapely.STRtree(rectangles)
    first = 0
    while first < len(boxes):
        # Up to the round's last box all that stand are settled: what follows starts behind it.
        waiting = first + np.flatnonzero(stands[first:])[:_ROUND]
        if len(waiting) == 0:
            break
        kept = waiting[_suppress_few(boxes[waiting], rectangles[waiting], overlap, limit)]
        stands[waiting], settled[waiting] = False, True
        stands[kept] = True
        first = int(waiting[-1]) + 1
        for some in np.array_split(kept, -(-len(kept) // _QUERY)):
            asking, found = index.query(rectangles[some])
            open_pairs = stands[found] & ~settled[found]
            better, worse = some[asking[open_pairs]], found[open_pairs]
            stands[worse[_exceeding(boxes, better, worse, overlap, limit)]] = False
    return np.flatnonzero(stands)


def _suppress_few(boxes: Floats, rectangles: NDArray, overlap: Overlap, limit: float) -> Indices:
    """Suppress few boxes as :func:`suppress` does, by all their overlaps."""
    better, worse = shapely.STRtree(rectangles).query(rectangles)
    ahead = better < worse
    better, worse = better[ahead], worse[ahead]
    falls = _exceeding(boxes, better, worse, overlap, limit)
    better, worse = better[falls], worse[falls]
    by_better = np.argsort(better, kind="stable")
    better, worse = better[by_better], worse[by_better]
    starts = np.searchsorted(better, np.arange(len(boxes) + 1))
    stands = np.ones(len(boxes), dtype=bool)
    for i in np.unique(better):
        if stands[i]:
            stands[worse[starts[i] : starts[i + 1]]] = False
    return np.flatnonzero(stands)


def _exceeding(
    boxes: Floats, better: Indices, worse: Indices, overlap: Overlap, limit: float
) -> NDArray[np.bool_]:
    """Mark the pairs that overlap by more than the limit."""
    falls = np.empty(len(better), dtype=bool)
    for first in range(0, len(better), _PAIRS):
        part = slice(first, first + _PAIRS)
        falls[part] = overlap(boxes[better[part]], boxes[worse[part]]) > limit
    return falls
