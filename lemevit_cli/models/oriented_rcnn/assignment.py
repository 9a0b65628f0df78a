"""Which anchor or proposal shall learn which object: truths, matches, samples."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

BACKGROUND, NEITHER = -1, -2  # of a match; an object's index is 0 or more
EMPTY_SLOT, IGNORED_OBJECT = -1, -2  # of a label; a class id is 0 or more
_THINNEST_PX = 1.0  # objects thinner than a pixel cannot be learned: they are ignored
_MOSTLY = 0.5  # share of an anchor or proposal within an ignored object
_AT_ONCE = 256  # ignored objects that all candidates are compared with: bounds memory


@dataclass(frozen=True)
class Assigner:
    """Choice of the anchors and proposals that teach the two stages.

    Args:
        inside_only: anchors that reach over the picture's edge teach nothing.
        anchor_iou: an anchor that overlaps an object this much belongs to it.
        anchors_an_object: these many of its best anchors belong to an object in any case, if they
            overlap it at least as much as no background does.
        moved_copies: of each object, a little moved, turned and resized, as further proposals.
        offset_weight: of the mean loss of boxes over those that learn an object; None takes the
            sum over the number of all samples, with which few objects count little.
    """

    inside_only: bool
    anchor_iou: float
    anchors_an_object: int
    moved_copies: int
    offset_weight: float | None

    def mean_offset(self, total: Tensor, *, positive: int, samples: int) -> Tensor:
        """Return a batch's loss of boxes from its sum."""
        if self.offset_weight is None:
            return total / max(samples, 1)
        return self.offset_weight * total / max(positive, 1)


ASSIGNERS = {
    "paper": Assigner(
        inside_only=True, anchor_iou=0.7, anchors_an_object=1, moved_copies=0, offset_weight=None
    ),
    # The paper's assigner leaves a long object one anchor, and the second stage no proposal of it
    # but the object itself: a proposal that is turned a little wrong overlaps it by less than half.
    # Long training makes up for that, short training cannot.
    "generous": Assigner(
        inside_only=False, anchor_iou=0.5, anchors_an_object=4, moved_copies=8, offset_weight=0.3
    ),
}


@dataclass(frozen=True)
class Truth:
    """The objects of one picture.

    Args:
        boxes: ``(T, 5)``, pixels.
        class_ids: ``(T,)``.
        ignored: ``(I, 5)``, objects that are neither truth nor background.
        unknown: ``(classes,)`` bool: objects of these classes may be there without a label.
    """

    boxes: Tensor
    class_ids: Tensor
    ignored: Tensor
    unknown: Tensor


def truths_of(
    boxes: Tensor, labels: Tensor, unknown: Tensor | None, num_classes: int
) -> list[Truth]:
    """Return the objects of a batch.

    Args:
        boxes: ``(B, K, 5)``.
        labels: ``(B, K)``: class ids, ``EMPTY_SLOT`` or ``IGNORED_OBJECT``.
        unknown: ``(B, classes)`` bool, or None: all classes have their labels.
    """
    boxes = boxes.float()
    is_thin = boxes[..., 2:4].amin(dim=-1) < _THINNEST_PX
    labels = labels.masked_fill((labels >= 0) & is_thin, IGNORED_OBJECT)
    if unknown is None:
        unknown = torch.zeros(len(labels), num_classes, dtype=torch.bool, device=labels.device)
    return [
        Truth(own[ids >= 0], ids[ids >= 0], own[ids == IGNORED_OBJECT], flags.bool())
        for own, ids, flags in zip(boxes, labels, unknown, strict=True)
    ]


def mark_hidden(
    candidates: Tensor, ignored: Tensor, shares: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """Mark the candidates ``(N,)`` that lie mostly within one of the ignored objects.

    Args:
        shares: of candidates and some of these objects: which share of each lies within each.
    """
    hidden = torch.zeros(len(candidates), dtype=torch.bool, device=candidates.device)
    for some in ignored.split(_AT_ONCE):
        hidden |= (shares(candidates, some) > _MOSTLY).any(dim=1)
    return hidden


def match(
    overlaps: Tensor,
    hidden: Tensor,
    *,
    positive: float,
    negative: float,
    rescue: float | None = None,
    best: int = 1,
) -> Tensor:
    """Assign each of N candidates the object ``(N,)`` to learn, ``BACKGROUND`` or ``NEITHER``.

    A candidate that lies mostly within an ignored object is no background; it may still belong to
    an object of its own, such as a boat in a harbour that the window cuts.

    Args:
        overlaps: ``(N, T)``, IoU with the objects.
        hidden: ``(N,)`` bool: those within ignored objects.
        positive: IoU from which a candidate belongs to its best object.
        negative: IoU below which it is background.
        rescue: also give every object the candidates that are its best, from this IoU on.
        best: how many those are. All but the first go to the object that they overlap most.
    """
    count, objects = overlaps.shape
    matches = torch.full((count,), BACKGROUND, dtype=torch.long, device=overlaps.device)
    if objects and count:
        overlap, index = overlaps.max(dim=1)
        matches[overlap >= negative] = NEITHER
        matches = torch.where(overlap >= positive, index, matches)
        if rescue is not None:
            least = overlaps.topk(min(best, count), dim=0).values[-1].clamp(min=rescue)
            matches = torch.where((overlaps >= least).any(dim=1), index, matches)
            top = overlaps.amax(dim=0)
            is_top = (overlaps == top) & (top >= rescue)
            # Of several objects that share their best candidate the last one gets it.
            last = objects - 1 - is_top.flip(1).int().argmax(dim=1)
            matches = torch.where(is_top.any(dim=1), last, matches)
    matches[hidden & (matches == BACKGROUND)] = NEITHER
    return matches


def sample(matches: Tensor, *, number: int, positive_share: float) -> tuple[Tensor, Tensor]:
    """Draw candidates with an object, and of background, together at most ``number``: indices.

    Background fills what objects leave free.
    """
    positive = _some(matches >= 0, int(number * positive_share))
    return positive, _some(matches == BACKGROUND, number - len(positive))


def _some(chosen: Tensor, limit: int) -> Tensor:
    indices = chosen.nonzero().flatten()
    if len(indices) <= limit:
        return indices
    return indices[torch.randperm(len(indices), device=indices.device)[:limit]]
