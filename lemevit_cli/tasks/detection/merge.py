"""One set of boxes out of the boxes that the windows of a scene saw, each for itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds
from lemevit_cli.geometry.rotated_iou import shared_areas
from lemevit_cli.geometry.rotated_nms import rotated_nms, suppress

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Where whole objects lie there is no room for another of their class. What of a part's box is not
# in the whole sticks out because the part is a triangle, a corner that the window's edge cut off:
# half of it, up to the errors of the boxes. A true neighbour that touches reaches in by those only.
_COVERED = 0.4
# Boxes of this score speak against any other; less sure ones only against those that are no surer.
# So whether a box stays depends on no box that is below both its own score and this: whoever asks
# for a higher score gets some of the same boxes, and no others.
SURE = 0.3
_WHOLE_AT_ONCE = 128  # whole boxes whose cut neighbours are looked for at once: bounds memory


@dataclass(frozen=True)
class RawBoxes:
    """Boxes as the windows of a scene saw them, in any order.

    Args:
        boxes: ``(N, 5)`` in pixels of the scene, see ``geometry/oriented_boxes.py``.
        scores: ``(N,)``.
        class_ids: ``(N,)``.
        cut: ``(N,)`` bool: the box reaches over, or nearly to, an edge of its window that is not
            an edge of the scene: the window may have seen a part of the object.
        on_valid: ``(N,)`` bool: the centre lies on a valid pixel.
    """

    boxes: Floats
    scores: Floats
    class_ids: NDArray[np.int64]
    cut: NDArray[np.bool_]
    on_valid: NDArray[np.bool_]


def concatenate_boxes(parts: Sequence[RawBoxes]) -> RawBoxes:
    """Return the boxes of several windows or blocks, one after the other; there may be none."""
    arrays = zip(*(vars(part).values() for part in (_NOTHING, *parts)), strict=True)
    return RawBoxes(*(np.concatenate(of_parts) for of_parts in arrays))


_NOTHING = RawBoxes(
    np.empty((0, 5)), np.empty(0), np.empty(0, np.int64), np.empty(0, bool), np.empty(0, bool)
)


def merge_boxes(raw: RawBoxes, *, nms_iou: float) -> NDArray[np.int64]:
    """Return the indices of the boxes that the scene keeps, best score first.

    Whole boxes that stand for the same object are settled by :func:`rotated_nms`. A cut box then
    falls to those of its class that are left if more than 0.4 of it lies in them, or if one that is
    larger overlaps it by more than ``nms_iou``; even to less sure ones, for a part is often scored
    higher than the whole, but to none below ``SURE`` and its own score. Among cut boxes a larger
    one that stays goes before one that lies in it by more than 0.4, with the same restriction. A
    cut box that nobody saw better stays. At last, :func:`rotated_nms` over all.

    The boxes kept do not depend on the order in which they are given. Those of a score of ``SURE``
    or more do not depend on boxes of less, and those of a lower score on none that is lower still.
    """
    order = _by_value(raw)
    boxes, scores = raw.boxes[order], raw.scores[order]
    class_ids, cut = raw.class_ids[order], raw.cut[order]
    stays = ~cut
    stays[stays] = _mark_settled(raw, order[~cut], nms_iou)
    for class_id in np.unique(class_ids[cut]):
        of_class = class_ids == class_id
        whole, parts = np.flatnonzero(of_class & stays), np.flatnonzero(of_class & cut)
        needed = np.minimum(scores[parts], SURE)
        parts = parts[~_gives_way(boxes[parts], needed, boxes[whole], scores[whole], nms_iou)]
        # By size where they are sure, by score, as they stand, where they are not.
        sizes = np.where(scores[parts] >= SURE, boxes[parts, 2] * boxes[parts, 3], 0.0)
        parts = parts[np.argsort(-sizes, kind="stable")]
        stays[parts[suppress(boxes[parts], _shares_covered, _COVERED)]] = True
    order = order[stays]
    return order[_mark_settled(raw, order, nms_iou)]


def _by_value(raw: RawBoxes) -> Indices:
    """Sort indices by falling score; what is equal in that goes by class, cut and place."""
    keys = (*raw.boxes.T[::-1], raw.cut, raw.class_ids, -raw.scores)  # the last counts most
    return np.lexsort(keys)


def _mark_settled(raw: RawBoxes, order: Indices, nms_iou: float) -> NDArray[np.bool_]:
    """Mark which of some boxes, in falling score, stay."""
    winners = rotated_nms(raw.boxes[order], raw.scores[order], raw.class_ids[order], nms_iou)
    stays = np.zeros(len(order), dtype=bool)
    stays[winners] = True
    return stays


def _gives_way(
    parts: Floats, needed: Floats, whole: Floats, scores: Floats, nms_iou: float
) -> NDArray[np.bool_]:
    """Mark cut boxes that lie in whole ones, these taken together, or stand for a larger one.

    Args:
        needed: the score that a whole box must have, of each part.
        scores: of the whole boxes.
    """
    share, falls = np.zeros(len(parts)), np.zeros(len(parts), dtype=bool)
    areas, whole_areas = parts[:, 2] * parts[:, 3], whole[:, 2] * whole[:, 3]
    index = shapely.STRtree(shapely.box(*axis_aligned_bounds(parts).T))
    rectangles = shapely.box(*axis_aligned_bounds(whole).T)
    for first in range(0, len(whole), _WHOLE_AT_ONCE):
        asking, found = index.query(rectangles[first : first + _WHOLE_AT_ONCE])
        asking += first
        is_sure = scores[asking] >= needed[found]
        asking, found = asking[is_sure], found[is_sure]
        shares = _shares_covered(whole[asking], parts[found])
        share += np.bincount(found, weights=shares, minlength=len(parts))
        union = areas[found] * (1 - shares) + whole_areas[asking]
        is_larger = whole_areas[asking] > areas[found]
        falls[found[is_larger & (shares * areas[found] > nms_iou * union)]] = True
    return falls | (share > _COVERED)


def _shares_covered(boxes: Floats, parts: Floats) -> Floats:
    """Return the share of part i ``(P, 5)`` that lies in box i ``(P, 5)``: ``(P,)`` in [0, 1].

    Zero where the part has no area.
    """
    areas = parts[:, 2] * parts[:, 3]
    return np.divide(shared_areas(boxes, parts), areas, out=np.zeros_like(areas), where=areas > 0)
