"""The second stage: what is in each proposal, and how exactly does it lie?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.geometry.rotated_iou import intersection_over_own_area, paired_iou, rotated_iou
from lemevit_cli.models.device import is_recording
from lemevit_cli.models.oriented_rcnn.assignment import (
    Assigner,
    Truth,
    mark_hidden,
    match,
    sample,
)
from lemevit_cli.models.oriented_rcnn.coders import decode_rotated, encode_rotated, within_reach
from lemevit_cli.models.oriented_rcnn.roi_align import BINS, align_rois

_DELTAS = 5
_POSITIVE_IOU = 0.5
_POSITIVE_SHARE = 0.25
_STEPS_AWAY = (1.0, 1.0, 1.0, 1.0, 1.5)  # of moved copies: deviations, in the coder's numbers
_MARGIN = (1.2, 1.4)  # times width and height: what lies around an object tells much of it


@dataclass(frozen=True)
class Samples:
    """Proposals of a batch that the loss looks at.

    Args:
        boxes: ``(S, 5)``.
        pictures: ``(S,)``, index of the picture.
        class_ids: ``(S,)``; the number of classes stands for background.
        objects: ``(S, 5)``, the box to learn; meaningless for background.
        unknown: ``(S, classes)`` bool, of the picture.
    """

    boxes: Tensor
    pictures: Tensor
    class_ids: Tensor
    objects: Tensor
    unknown: Tensor


class RoiHead(nn.Module):
    """Two wide layers over a proposal's features, then its class and a better box for any class.

    Args:
        channels: of the levels.
        hidden: width of both layers.
        samples: proposals of a picture that the loss looks at.
        assigner: which proposals learn which object.
        stages: of the cascade, each refining the boxes of the one before by the same layers.
        stage_score: what no class scores above this after a stage goes through no further one.
    """

    def __init__(
        self,
        channels: int,
        *,
        hidden: int,
        num_classes: int,
        samples: int,
        assigner: Assigner,
        stages: int = 1,
        stage_score: float = 0.0,
    ) -> None:
        super().__init__()
        self.num_classes, self.samples, self.assigner = num_classes, samples, assigner
        self.stages, self.stage_score = stages, stage_score
        self.fc1 = nn.Linear(BINS * BINS * channels, hidden)
        self.fc2 = nn.Linear(hidden, hidden)
        self.classify = nn.Linear(hidden, num_classes + 1)  # the last one is background
        self.regress = nn.Linear(hidden, _DELTAS)
        for layer in (self.fc1, self.fc2):
            nn.init.xavier_uniform_(layer.weight)
        nn.init.normal_(self.classify.weight, std=0.01)
        nn.init.normal_(self.regress.weight, std=0.001)
        for layer in (self.fc1, self.fc2, self.classify, self.regress):
            nn.init.zeros_(layer.bias)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits ``(R, classes + 1)``, deltas ``(R, 5)`` of ``(R, bins, C)``, float32."""
        hidden = F.relu(self.fc2(F.relu(self.fc1(features.flatten(1)))))
        return self.classify(hidden).float(), self.regress(hidden).float()

    def predict(
        self, maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, pictures: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return logits and deltas of boxes ``(R, 5)`` in the pictures of a batch."""
        margin = boxes.new_tensor((1.0, 1.0, *_MARGIN, 1.0))
        return self(align_rois(maps, strides, boxes * margin, pictures))

    def refine(
        self, maps: Sequence[Tensor], strides: Sequence[int], proposals: Tensor, exists: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Lead proposals through the stages of the cascade.

        Args:
            proposals: ``(B, P, 5)``.
            exists: ``(B, P)`` bool: the others fill a picture's row.

        Returns:
            Boxes ``(B, P, 5)`` and scores ``(B, P, classes)``: zeros where a stage before the last
            saw nothing, NaN where any stage had no answer.
        """
        boxes, shape = proposals.flatten(0, 1), proposals.shape[:2]
        pictures = torch.arange(shape[0], device=boxes.device).repeat_interleave(shape[1])
        is_scored = exists.flatten()
        scores = boxes.new_zeros(len(boxes), self.num_classes)
        for stage in range(self.stages):
            if stage:
                is_scored = ~(scores <= self.stage_score).all(dim=1)  # NaN is: it must be told of
            rows = _rows_of(is_scored)
            logits, deltas = self.predict(maps, strides, boxes[rows], pictures[rows])
            with torch.autocast(boxes.device.type, enabled=False):
                better = within_reach(decode_rotated(boxes[rows], deltas))
                answer = logits.softmax(dim=1)[:, :-1]
            answer = torch.where(scores[rows].isnan(), scores[rows], answer)
            answer = answer.masked_fill(~is_scored[rows, None], 0.0)
            boxes = boxes.index_copy(0, rows, better)
            scores = torch.zeros_like(scores).index_copy(0, rows, answer)
        return boxes.unflatten(0, shape), scores.unflatten(0, shape)

    @torch.no_grad()
    def sample_proposals(self, proposals: Sequence[Tensor], truths: Sequence[Truth]) -> Samples:
        """Draw random proposals and their targets; the objects themselves are proposals too."""
        samples = [
            self._sample_of_picture(
                torch.cat([self._truths_and_copies(truth), boxes]), truth, number
            )
            for number, (boxes, truth) in enumerate(zip(proposals, truths, strict=True))
        ]
        return Samples(*(torch.cat(parts) for parts in zip(*samples, strict=True)))

    def _truths_and_copies(self, truth: Truth) -> Tensor:
        """Return the objects, and copies that a small step leads back from."""
        originals = truth.boxes.repeat(self.assigner.moved_copies, 1)
        steps = torch.randn_like(originals) * originals.new_tensor(_STEPS_AWAY)
        copies = decode_rotated(originals, steps)
        near = paired_iou(copies, originals) >= _POSITIVE_IOU
        return torch.cat([truth.boxes, copies[near]])

    def _sample_of_picture(self, boxes: Tensor, truth: Truth, number: int) -> tuple[Tensor, ...]:
        matches = match(
            rotated_iou(boxes, truth.boxes),
            mark_hidden(boxes, truth.ignored, intersection_over_own_area),
            positive=_POSITIVE_IOU,
            negative=_POSITIVE_IOU,
        )
        positive, negative = sample(matches, number=self.samples, positive_share=_POSITIVE_SHARE)
        index = torch.cat([positive, negative])
        boxes, objects = boxes[index], matches[positive]
        class_ids = boxes.new_full((len(index),), self.num_classes, dtype=torch.long)
        class_ids[: len(positive)] = truth.class_ids[objects]
        targets = boxes.clone()
        targets[: len(positive)] = truth.boxes[objects]
        pictures = torch.full_like(class_ids, number)
        return boxes, pictures, class_ids, targets, truth.unknown.expand(len(index), -1)

    def losses(self, logits: Tensor, deltas: Tensor, samples: Samples) -> dict[str, Tensor]:
        """Return the loss of classes over the number of samples, and that of boxes as weighed."""
        count = max(len(samples.boxes), 1)
        surprise = class_loss(logits, samples.class_ids, samples.unknown)
        positive = samples.class_ids < self.num_classes
        target = encode_rotated(samples.boxes[positive], samples.objects[positive])
        offset = F.smooth_l1_loss(deltas[positive], target, reduction="sum")
        box = self.assigner.mean_offset(offset, positive=len(target), samples=count)
        return {"class": surprise.sum() / count, "box": box}


def _rows_of(mask: Tensor) -> Tensor:
    """Return the rows to compute: those of the mask, or all where a graph needs fixed shapes."""
    if is_recording():
        return torch.arange(mask.shape[0], device=mask.device)
    return mask.nonzero()[:, 0]


def class_loss(logits: Tensor, class_ids: Tensor, unknown: Tensor) -> Tensor:
    """Return cross-entropy ``(S,)`` where background may also be an object without a label.

    With the set ``U`` of the classes that the picture's data set does not label::

        object of class c:  loss = -log p_c
        background:         loss = -log (p_background + sum_{u in U} p_u)

    Args:
        logits: ``(S, classes + 1)``, background last.
        unknown: ``(S, classes)`` bool.
    """
    background = logits.shape[1] - 1
    fits = F.one_hot(class_ids, background + 1).bool()
    fits[:, :-1] |= unknown & (class_ids == background)[:, None]
    return logits.logsumexp(dim=1) - logits.masked_fill(~fits, float("-inf")).logsumexp(dim=1)
