"""Average precision of oriented boxes, as the evaluator of the DOTA devkit counts it.

Found boxes of a class are taken from the highest score downwards. Each belongs to the true box of
its picture that it overlaps most. If that overlap is above the threshold, the box is right when
it is the first for that truth, wrong when it is not, and nothing at all when the truth is marked
as difficult; else it is wrong. Recall counts the truths that are not difficult.

Of ignored areas, such as COCO's crowds, any number of boxes is nothing: a box that is not right
and lies in one, by as large a share of its own area as the threshold.

Source: DOTA devkit, dota_evaluation_task1.py, ``voc_eval`` and ``voc_ap``; for crowds COCO's API,
``cocoeval.py`` and ``bbIou``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.rotated_iou import paired_iou_of_corners, paired_share_of_corners
from lemevit_cli.metrics.confusion import mean_known, ratio

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
_ASKED_AT_ONCE = 1024  # found boxes whose truths are looked for at once: bounds memory
_TINY = np.finfo(np.float64).eps


@dataclass(frozen=True, kw_only=True)
class Truth:
    """True boxes.

    Args:
        boxes: ``(N, 5)``, see ``geometry/oriented_boxes.py``; or corners ``(N, 4, 2)`` of any
            quadrilaterals. Pixels of their picture, or one map's units.
        class_ids: ``(N,)``.
        image_ids: ``(N,)`` integers: boxes of different pictures never meet.
        difficult: ``(N,)`` bool: neither finding nor missing them counts.
        is_area: ``(N,)`` bool: difficult ones that are no objects, but places that may hold any
            number of them; None: none is.
    """

    boxes: Floats
    class_ids: Indices
    image_ids: Indices
    difficult: NDArray[np.bool_]
    is_area: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        if self.is_area is None:
            object.__setattr__(self, "is_area", np.zeros(len(self.boxes), dtype=bool))


@dataclass(frozen=True, kw_only=True)
class Detections:
    """Detected boxes with their scores ``(N,)``; the rest as in :class:`Truth`."""

    boxes: Floats
    scores: Floats
    class_ids: Indices
    image_ids: Indices


def average_precision(
    detections: Detections,
    truth: Truth,
    class_names: Sequence[str],
    ious: Sequence[float] = IOUS,
    *,
    score: float | Floats = 0.0,
) -> dict[str, Any]:
    """Judge found boxes by true ones.

    Args:
        class_names: by class id.
        ious: overlaps that ``ap50_95`` is the mean over.
        score: precision and recall are those of the boxes with at least this score, or that of
            their class.

    Returns:
        ``ap50``, ``ap75``, ``ap50_95``: areas under the curves of precision over recall, and
        ``ap50_voc07``, the mean of precision at eleven recalls, each the mean over the classes
        that have a truth that is not difficult. ``precision`` and ``recall`` at an overlap of 0.5,
        pooled over those classes. ``false_finds``: boxes with at least the score that are wrong, of
        any class. ``classes.<name>``: the same of a class, with ``truths`` (not
        difficult), ``difficult`` and ``found``. None where nothing is there to be judged by.
    """
    matches = [_match(detections, truth, class_id) for class_id in range(len(class_names))]
    chosen = np.broadcast_to(np.asarray(score, dtype=np.float64), len(class_names))
    counts = [
        _count(match, detections.scores, ious, float(least))
        for match, least in zip(matches, chosen, strict=True)
    ]
    classes = {name: c.figures for name, c in zip(class_names, counts, strict=True)}
    means = {
        key: mean_known(record[key] for record in classes.values())
        for key in ("ap50", "ap75", "ap50_95", "ap50_voc07")
    }
    judged = [count for count in counts if count.figures["truths"]]
    hits, false_alarms = sum(c.hits for c in judged), sum(c.false_alarms for c in judged)
    return {
        **means,
        "precision": ratio(hits, hits + false_alarms),
        "recall": ratio(hits, sum(c.figures["truths"] for c in judged)),
        "false_finds": sum(c.false_alarms for c in counts),
        "classes": classes,
    }


def right_boxes(detections: Detections, truth: Truth, iou: float = 0.5) -> tuple[Indices, Indices]:
    """Return the boxes that are right, as indices, and the truth that each is right about."""
    boxes, truths = [np.empty(0, dtype=np.int64)], [np.empty(0, dtype=np.int64)]
    for class_id in np.unique(truth.class_ids):
        match = _match(detections, truth, class_id)
        right, _ = _judge(match, iou)
        boxes.append(match.boxes[right])
        truths.append(match.truths[right])
    return np.concatenate(boxes), np.concatenate(truths)


def precision_curve(detections: Detections, truth: Truth, class_id: int) -> tuple[Floats, Floats]:
    """Return a class's recall and precision at overlap 0.5, after each box by falling score."""
    match = _match(detections, truth, class_id)
    return _curve(*_judge(match, 0.5), match.num_truths)


def best_score(detections: Detections, truth: Truth, class_id: int) -> float | None:
    """Return the score from which on the boxes of a class have the best F1, at overlap 0.5.

    F1 is the harmonic mean of precision and recall. None where no box of the class is right.
    """
    match = _match(detections, truth, class_id)
    right, wrong = _judge(match, 0.5)
    if not right.any():
        return None
    hits = np.cumsum(right)
    f1 = 2 * hits / (hits + np.cumsum(wrong) + match.num_truths)
    scores = detections.scores[match.boxes]
    is_last = np.diff(scores, append=-1.0) != 0  # boxes of one score come together
    return float(scores[np.where(is_last, f1, 0.0).argmax()])


@dataclass(frozen=True)
class _Count:
    """Figures of a class, and at the chosen score its right and its wrong boxes."""

    figures: dict[str, Any]
    hits: int
    false_alarms: int


def _count(match: _Match, scores: Floats, ious: Sequence[float], score: float) -> _Count:
    def area(iou: float) -> float | None:
        return area_under(*_curve(*_judge(match, iou), truths)) if truths else None

    truths = match.num_truths
    right, wrong = _judge(match, 0.5)
    chosen = scores[match.boxes] >= score
    hits, false_alarms = int((right & chosen).sum()), int((wrong & chosen).sum())
    figures = {
        "ap50": area(0.5),
        "ap75": area(0.75),
        "ap50_95": mean_known(area(iou) for iou in ious),
        "ap50_voc07": eleven_points(*_curve(right, wrong, truths)) if truths else None,
        "precision": ratio(hits, hits + false_alarms),
        "recall": ratio(hits, truths),
        "truths": truths,
        "difficult": match.num_difficult,
        "found": int(chosen.sum()),
        "score": score,
    }
    return _Count(figures, hits, false_alarms)


def area_under(recall: Floats, precision: Floats) -> float:
    """Measure the area under a curve whose precision is the best at each recall or more.

    Args:
        recall: ``(N,)``, never falling, in [0, 1].
        precision: ``(N,)`` in [0, 1].
    """
    ends = np.concatenate([[0.0], recall, [1.0]])
    best_after = np.maximum.accumulate(np.append(precision, 0.0)[::-1])[::-1]
    return float((np.diff(ends) * best_after).sum())


def eleven_points(recall: Floats, precision: Floats) -> float:
    """Average the best precisions at recalls of 0, 0.1, ... 1 or more, as in VOC 2007."""
    # By arange, as the devkit: three tenths are a little less than its fourth point.
    points = np.arange(0.0, 1.1, 0.1)
    return float(np.mean([precision[recall >= t].max(initial=0.0) for t in points]))


@dataclass(frozen=True)
class _Match:
    """Detected boxes of a class from the highest score downwards, and the truth of each.

    Args:
        boxes: their indices.
        truths: index of the true box of the class that each overlaps most, -1 without any.
        overlaps: with that.
        is_difficult: whether that one is.
        shares: of each box in the ignored area that has most of it.
        num_truths: that are not difficult.
        num_difficult: that are.
    """

    boxes: Indices
    truths: Indices
    overlaps: Floats
    is_difficult: NDArray[np.bool_]
    shares: Floats
    num_truths: int
    num_difficult: int


def _match(detections: Detections, truth: Truth, class_id: int) -> _Match:
    boxes = np.flatnonzero(detections.class_ids == class_id)
    boxes = boxes[np.argsort(-detections.scores[boxes], kind="stable")]
    is_own, is_area = truth.class_ids == class_id, np.asarray(truth.is_area)
    true, areas = np.flatnonzero(is_own & ~is_area), np.flatnonzero(is_own & is_area)
    found = _corners(detections.boxes[boxes]), detections.image_ids[boxes]
    best, overlaps = _best_truths(*found, _corners(truth.boxes[true]), truth.image_ids[true])
    _, shares = _best_truths(
        *found,
        _corners(truth.boxes[areas]),
        truth.image_ids[areas],
        overlap_of=paired_share_of_corners,
    )
    # -1, no truth, finds what is appended.
    truths = np.append(true, -1)[best]
    is_difficult = np.append(truth.difficult, False)[truths]
    num_truths = int((~truth.difficult[true]).sum())
    num_difficult = len(true) + len(areas) - num_truths
    return _Match(boxes, truths, overlaps, is_difficult, shares, num_truths, num_difficult)


def _judge(match: _Match, iou: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Mark the boxes that are right, and those that are wrong."""
    reaches = match.overlaps > iou
    candidates = np.flatnonzero(reaches & ~match.is_difficult)
    first_of_truth = np.unique(match.truths[candidates], return_index=True)[1]
    right = np.zeros(len(reaches), dtype=bool)
    right[candidates[first_of_truth]] = True
    is_nothing = (reaches & match.is_difficult) | (match.shares > iou)
    return right, ~right & ~is_nothing


def _curve(
    right: NDArray[np.bool_], wrong: NDArray[np.bool_], truths: int
) -> tuple[Floats, Floats]:
    """Return recall and precision after each box."""
    hits, false_alarms = np.cumsum(right), np.cumsum(wrong)
    return hits / max(truths, 1), hits / np.maximum(hits + false_alarms, _TINY)


def _best_truths(
    corners: Floats,
    image_ids: Indices,
    true_corners: Floats,
    true_image_ids: Indices,
    *,
    overlap_of: Callable[[Floats, Floats], Floats] = paired_iou_of_corners,
) -> tuple[Indices, Floats]:
    """Find for each box the truth that it overlaps most, and by how much; -1, 0 without one."""
    best, overlaps = np.full(len(corners), -1), np.zeros(len(corners))
    if len(corners) == 0 or len(true_corners) == 0:
        return best, overlaps
    rectangles, true_rectangles = _side_by_side(corners, image_ids, true_corners, true_image_ids)
    index = shapely.STRtree(true_rectangles)
    for first in range(0, len(corners), _ASKED_AT_ONCE):
        asking, near = index.query(rectangles[first : first + _ASKED_AT_ONCE])
        asking += first
        same = image_ids[asking] == true_image_ids[near]
        asking, near = asking[same], near[same]
        iou = overlap_of(corners[asking], true_corners[near])
        # The largest overlap of each box comes last; of equal ones the first truth's.
        for_each = np.lexsort((-near, iou, asking))
        asking, near, iou = asking[for_each], near[for_each], iou[for_each]
        is_last = np.diff(asking, append=-1) != 0
        best[asking[is_last]], overlaps[asking[is_last]] = near[is_last], iou[is_last]
    return best, overlaps


def _side_by_side(
    corners: Floats, image_ids: Indices, others: Floats, other_image_ids: Indices
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return rectangles around quadrilaterals, pictures laid out in a row: one index serves all."""
    low = np.minimum(corners.min(axis=(0, 1)), others.min(axis=(0, 1)))
    high = np.maximum(corners.max(axis=(0, 1)), others.max(axis=(0, 1)))
    step = 1.01 * (high[0] - low[0]) + 1.0
    _, places = np.unique(np.concatenate([image_ids, other_image_ids]), return_inverse=True)
    both = []
    for quadrilaterals, place in (
        (corners, places[: len(corners)]),
        (others, places[len(corners) :]),
    ):
        west, south = (quadrilaterals.min(axis=1) - low).T
        east, north = (quadrilaterals.max(axis=1) - low).T
        both.append(shapely.box(west + place * step, south, east + place * step, north))
    return both[0], both[1]


def _corners(boxes: Floats) -> Floats:
    boxes = np.asarray(boxes, dtype=np.float64)
    return boxes if boxes.ndim == 3 else corners_of(boxes)
