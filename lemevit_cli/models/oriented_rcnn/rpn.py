"""Oriented region proposals: where could an object be, of whatever class?"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.geometry.axis_aligned_nms import suppress_axis_aligned
from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds
from lemevit_cli.geometry.rotated_iou import axis_aligned_intersections
from lemevit_cli.models.device import is_recording
from lemevit_cli.models.oriented_rcnn.anchors import anchors_of
from lemevit_cli.models.oriented_rcnn.assignment import (
    Assigner,
    Truth,
    mark_hidden,
    match,
    sample,
)
from lemevit_cli.models.oriented_rcnn.coders import (
    decode_midpoints,
    encode_midpoints,
    within_reach,
)

STRIDES = (4, 8, 16, 32, 64)
_SHAPES = 3  # anchors of a cell
_DELTAS = 6
_NEGATIVE_IOU = 0.3
_POSITIVE_SHARE = 0.5
_NMS_IOU = 0.8
_BETA = 1 / 9
# Background of a picture whose data set leaves out labels of some classes is less certain.
UNSURE_BACKGROUND_WEIGHT = 0.25


class RegionProposals(nn.Module):
    """Scores and midpoint offsets of the anchors of all levels, by one small network.

    Args:
        channels: of the levels.
        samples: anchors of a picture that the loss looks at.
        proposals: kept before and after suppression: of each level, then of a picture.
        assigner: which anchors learn which object.
    """

    def __init__(self, channels: int, *, samples: int, proposals: int, assigner: Assigner) -> None:
        super().__init__()
        self.samples, self.limit, self.assigner = samples, proposals, assigner
        self.conv = nn.Conv2d(channels, channels, kernel_size=3, padding=1)
        self.objectness = nn.Conv2d(channels, _SHAPES, kernel_size=1)
        self.deltas = nn.Conv2d(channels, _SHAPES * _DELTAS, kernel_size=1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return logits ``(B, anchors)``, deltas ``(B, anchors, 6)`` of each level, float32."""
        logits, deltas = [], []
        for level in levels:
            x = F.relu(self.conv(level))
            logits.append(self.objectness(x).float().permute(0, 2, 3, 1).flatten(1))
            of_cells = self.deltas(x).float().permute(0, 2, 3, 1)
            deltas.append(of_cells.unflatten(-1, (_SHAPES, _DELTAS)).flatten(1, 3))
        return logits, deltas

    def losses(
        self,
        logits: Sequence[Tensor],
        deltas: Sequence[Tensor],
        anchors: Sequence[Tensor],
        truths: Sequence[Truth],
        size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """Return the loss of the scores and of the offsets, each over the samples of the batch.

        Background counts ``UNSURE_BACKGROUND_WEIGHT`` in pictures with unknown classes.

        Args:
            size: rows and columns of the pictures.
        """
        all_anchors = torch.cat(list(anchors))
        inside = self._that_teach(all_anchors, size).nonzero().flatten()
        candidates = all_anchors[inside]
        all_logits, all_deltas = torch.cat(list(logits), dim=1), torch.cat(list(deltas), dim=1)
        score_loss = all_logits.sum() * 0.0
        offset_loss = all_deltas.sum() * 0.0
        count = positives = 0
        for number, truth in enumerate(truths):
            matches = _match_anchors(candidates, truth, self.assigner)
            positive, negative = sample(
                matches, number=self.samples, positive_share=_POSITIVE_SHARE
            )
            of_picture = all_logits[number][inside]
            unsure = torch.where(truth.unknown.any(), UNSURE_BACKGROUND_WEIGHT, 1.0)
            score_loss = score_loss + F.softplus(-of_picture[positive]).sum()
            score_loss = score_loss + unsure * F.softplus(of_picture[negative]).sum()
            target = encode_midpoints(candidates[positive], truth.boxes[matches[positive]])
            offset_loss = offset_loss + F.smooth_l1_loss(
                all_deltas[number][inside[positive]], target, beta=_BETA, reduction="sum"
            )
            count += len(positive) + len(negative)
            positives += len(positive)
        return {
            "rpn_score": score_loss / max(count, 1),
            "rpn_offset": self.assigner.mean_offset(offset_loss, positive=positives, samples=count),
        }

    def _that_teach(self, anchors: Tensor, size: tuple[int, int]) -> Tensor:
        if self.assigner.inside_only:
            return _inside(anchors, size)
        return torch.ones(len(anchors), dtype=torch.bool, device=anchors.device)

    @torch.no_grad()
    def proposals(
        self, logits: Sequence[Tensor], deltas: Sequence[Tensor], anchors: Sequence[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Return oriented boxes ``(B, P, 5)``, best first, and ``(B, P)``: which ones there are.

        P depends on the size of the pictures alone: what suppression leaves free comes last.
        """
        scores, boxes, stays = [], [], []
        for of_level, moves, places in zip(logits, deltas, anchors, strict=True):
            best, index = of_level.topk(min(self.limit, of_level.shape[1]), dim=1)
            moves = moves.gather(1, index[..., None].expand(-1, -1, _DELTAS))
            boxes.append(within_reach(decode_midpoints(places[index], moves)))
            scores.append(best)
            stays.append(_mark_best(axis_aligned_bounds(boxes[-1]), best))
        all_boxes, all_stay = torch.cat(boxes, dim=1), torch.cat(stays, dim=1)
        ranked = torch.cat(scores, dim=1).masked_fill(~all_stay, float("-inf"))
        order = ranked.sort(dim=1, descending=True, stable=True).indices[:, : self.limit]
        in_order = all_boxes.gather(1, order[..., None].expand(-1, -1, all_boxes.shape[-1]))
        return in_order, all_stay.gather(1, order)


def _mark_best(boxes: Tensor, scores: Tensor) -> Tensor:
    """Mark ``(B, N)`` which axis-aligned boxes ``(B, N, 4)`` of a level no better one covers."""
    on_arrays = boxes.device.type == "cpu" and not is_recording()
    # torchvision's, for a GPU or as one operation of a graph, takes as long to import as torch.
    nms = _nms_on_arrays if on_arrays else import_module("torchvision.ops").nms
    stays = torch.zeros_like(scores, dtype=torch.bool)
    for number in range(len(boxes)):
        stays[number, nms(boxes[number], scores[number], _NMS_IOU)] = True
    return stays


def _nms_on_arrays(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    return torch.from_numpy(suppress_axis_aligned(boxes.numpy(), scores.numpy(), iou))


def anchors_like(levels: Sequence[Tensor]) -> list[Tensor]:
    """Return anchors of maps ``(B, C, H, W)`` of the strides ``STRIDES``."""
    sizes = [(level.shape[-2], level.shape[-1]) for level in levels]
    return anchors_of(sizes, STRIDES, device=levels[0].device)


def _inside(anchors: Tensor, size: tuple[int, int]) -> Tensor:
    height, width = size
    low, high = anchors.split(2, dim=1)
    return (low >= 0).all(dim=1) & (high[:, 0] <= width) & (high[:, 1] <= height)


def _match_anchors(anchors: Tensor, truth: Truth, assigner: Assigner) -> Tensor:
    """Match anchors ``(N,)`` by the axis-aligned boxes around the objects."""
    areas = _areas(anchors)[:, None]
    objects = axis_aligned_bounds(truth.boxes)
    shared = axis_aligned_intersections(anchors, objects)
    overlaps = shared / (areas + _areas(objects) - shared)

    def shares(boxes: Tensor, ignored: Tensor) -> Tensor:
        return axis_aligned_intersections(boxes, axis_aligned_bounds(ignored)) / areas

    return match(
        overlaps,
        mark_hidden(anchors, truth.ignored, shares),
        positive=assigner.anchor_iou,
        negative=_NEGATIVE_IOU,
        rescue=_NEGATIVE_IOU,
        best=assigner.anchors_an_object,
    )


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
