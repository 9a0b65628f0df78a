"""From a detector's candidates to the boxes of a window: pure arithmetic on arrays.

A network gives what may be objects (``models/oriented_rcnn/detector.py``); here is decided which of
it is an answer. Every step takes the better candidate first, so that the boxes of a score are those
of a lower one that have the score, for any number of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import canonical
from lemevit_cli.geometry.rotated_iou import rotated_iou
from lemevit_cli.geometry.rotated_nms import rotated_nms
from lemevit_cli.inference.runtime import Answer
from lemevit_cli.settings import USUAL_SCORE, DetectionOptions
from lemevit_cli.tasks.detection.merge import SURE

Floats = NDArray[np.floating]

BOX = 5  # numbers of a box, in front of the scores of a candidate
_ANSWER = 7  # cx, cy, w, h, angle_rad, score, class id
_NOBODY = -1  # class of a row without a box
_EQUAL_IOU = 0.5
_LAST = 0.05  # share of the proposals, the least sure ones, that hold no box if they are enough
_CANDIDATES_A_ROW = 10  # candidates that suppression takes up at first, for each row of the answer


@dataclass(frozen=True)
class Decoding:
    """Which candidates of a window are an answer.

    Args:
        score: those of a lower score, or of none, are left out; one for all classes, or one each.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
        max_per_window: boxes in the answer; one more row tells what had no room.
        class_ids: of which boxes are asked for; None asks for all.
        proposals: so many candidates are of one scale, best first; None if that is not known.
    """

    score: float | Sequence[float] = 0.05
    nms_iou: float = 0.1
    max_per_window: int = 300
    class_ids: tuple[int, ...] | None = None
    proposals: int | None = None


def decoding_of(options: DetectionOptions | None) -> Decoding:
    """Return how windows are decoded for a scene; None stands for a detector by itself.

    Within a window suppression is stricter than between windows, unless the user says how strict.
    What the merge of a scene asks of its windows is decoded even where a user asks for a higher
    score.
    """
    if options is None:
        return Decoding()
    return Decoding(
        np.minimum(options.asked_score, SURE).tolist(),
        Decoding.nms_iou if options.nms_iou is None else options.nms_iou,
        max_per_window=options.max_per_window,
        class_ids=options.class_ids,
        proposals=options.proposals,
    )


def decode(candidates: Floats, options: DetectionOptions | None = None) -> NDArray[np.float32]:
    """Return boxes ``(B, K + 1, 7)`` of candidates: see :func:`decode_candidates`."""
    return decode_candidates(candidates, decoding_of(options))


def decode_candidates(candidates: Floats, decoding: Decoding) -> NDArray[np.float32]:
    """Choose boxes by score, by suppression within a class, and by their number.

    Args:
        candidates: ``(B, N, 5 + classes)``: box, and the score of each class; of each scale in the
            order of the detector's proposals, best first.

    Returns:
        ``(B, max_per_window + 1, 7)``: ``cx, cy, w, h, angle_rad, score, class id``, best first;
        rows without a box have score 0, class -1. The last row is no answer: it holds the best box
        that had no room; or, with class -1, the score of the best box among the last proposals,
        where a detector may not have proposed enough. All is NaN for a picture with a score that is
        none.
    """
    answers = np.zeros((len(candidates), decoding.max_per_window + 1, _ANSWER), np.float32)
    answers[..., -1] = _NOBODY
    for answer, of_picture in zip(answers, candidates, strict=True):
        if not np.isfinite(of_picture[:, BOX:]).all():
            answer[:] = np.nan  # not silently nothing
            continue
        found = _best_boxes(of_picture, decoding)
        answer[: len(found)] = found[:, :_ANSWER]
        if len(found) <= decoding.max_per_window and decoding.proposals is not None:
            rank = found[:, _ANSWER] % decoding.proposals
            is_last = rank >= (1 - _LAST) * decoding.proposals
            answer[-1, BOX] = found[is_last, BOX].max(initial=0.0)
    return answers


def _best_boxes(candidates: Floats, decoding: Decoding) -> Floats:
    """Return the rows of a picture, each with the number of its candidate.

    A candidate may answer for several classes.

    As many candidates are taken up as fill the rows: what comes later changes nothing before it.
    """
    scores = candidates[:, BOX:]
    is_box = (scores >= decoding.score) & (scores > 0)
    if decoding.class_ids is not None:
        is_box &= np.isin(np.arange(scores.shape[1]), decoding.class_ids)
    places, class_ids = np.nonzero(is_box)
    confident = scores[places, class_ids]
    best = np.argsort(-confident, kind="stable")
    rows = np.column_stack([candidates[places, :BOX], confident, class_ids, places])[best]
    wanted = decoding.max_per_window + 1
    taken = _CANDIDATES_A_ROW * wanted
    while True:
        found = suppress_boxes(rows[:taken], decoding.nms_iou)
        if len(found) >= wanted or taken >= len(rows):
            return found[:wanted]
        taken *= 2


def suppress_boxes(rows: Floats, nms_iou: float) -> Floats:
    """Return the rows ``(N, 7 or more)`` that no better one of their class overlaps."""
    return rows[rotated_nms(rows[:, :BOX], rows[:, 5], rows[:, 6].astype(np.int64), nms_iou)]


def share_of_equal_boxes(candidates: Floats, others: Floats) -> float:
    """Return the share of the boxes of two detectors that the other one has, too, in [0, 1].

    Boxes with a score of at least 0.3, of one class and with an IoU of at least
    ``_EQUAL_IOU``; 1 where neither has any.
    """
    decoding = Decoding(score=USUAL_SCORE)
    equal = count = 0
    for pair in zip(candidates, others, strict=True):
        boxes, theirs = (_best_boxes(of_picture, decoding) for of_picture in pair)
        overlaps = rotated_iou(boxes[:, :BOX], theirs[:, :BOX]) >= _EQUAL_IOU
        overlaps &= boxes[:, 6, None] == theirs[:, 6]
        equal += overlaps.any(axis=0).sum() + overlaps.any(axis=1).sum()
        count += len(boxes) + len(theirs)
    return float(equal / count) if count else 1.0


class SymmetricDetector:
    """Answers with the boxes that another runtime finds in the eight symmetries of a window.

    The windows are turned and mirrored, the boxes turned back; of those that overlap the best one
    stays. A window that is turned gives the turned boxes.

    Args:
        runtime: answers ``(N, K, 7)``; its windows are square.
        decoding: how it decodes; the same holds for what all symmetries show.
    """

    def __init__(self, runtime: Answer, decoding: Decoding) -> None:
        self._runtime, self._decoding = runtime, decoding

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        side = pixels.shape[-1]
        found = []
        for turns in range(4):
            turned = np.rot90(pixels, turns, axes=(2, 3))
            for mirrored in (False, True):
                seen = np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)
                rows = self._runtime(seen).astype(np.float64)
                found.append(_turned_back(rows, turns, side=side, mirrored=mirrored))
        answers = [self._best(rows) for rows in np.stack(found, axis=1)]
        return np.stack(answers).astype(np.float32)

    def _best(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Keep the boxes that no better one of ``(8, K, 7)`` covers, as :func:`decode` does."""
        most = self._decoding.max_per_window
        seen, without_room = (_boxes_of(part) for part in (rows[:, :most], rows[:, most:]))
        of_last_proposals = rows[:, most:][rows[:, most:, 6] < 0]
        seen[:, :BOX] = canonical(seen[:, :BOX])
        kept = suppress_boxes(seen, self._decoding.nms_iou)
        without_room = np.concatenate([kept[most:], without_room])
        best = np.zeros((most + 1, _ANSWER))
        best[:, 6] = _NOBODY
        best[: len(kept[:most])] = kept[:most]
        if len(without_room):
            best[-1] = without_room[without_room[:, 5].argmax()]
        else:
            best[-1, BOX] = of_last_proposals[:, BOX].max(initial=0.0)
        return best


def _boxes_of(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rows ``(N, 7)`` of ``(..., 7)`` that hold a box."""
    return rows[rows[..., 6] >= 0]


def symmetric_detector(runtime: Answer, options: DetectionOptions | None) -> Answer:
    """Let a detector answer with what the eight symmetries of each window show."""
    return SymmetricDetector(runtime, decoding_of(options))


def _turned_back(
    rows: NDArray[np.float64], turns: int, *, side: int, mirrored: bool
) -> NDArray[np.float64]:
    """Turn back boxes ``(..., 7)`` of a window turned by ``np.rot90``, then mirrored."""
    cx, cy, angle = rows[..., 0], rows[..., 1], rows[..., 4]
    if mirrored:
        cx, angle = side - cx, -angle
    for _ in range(turns):
        # What stands at (x, y) after a quarter turn counter-clockwise stood at (side - y, x).
        cx, cy, angle = side - cy, cx, angle + np.pi / 2
    turned = rows.copy()
    turned[..., 0], turned[..., 1], turned[..., 4] = cx, cy, angle
    return turned
