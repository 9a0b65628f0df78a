"""Oriented R-CNN: pixels in, candidates for oriented boxes out, over any backbone of timm.

    backbone -> feature pyramid -> proposals -> rotated features of each -> class and box

Paper: Xie et al., "Oriented R-CNN for Object Detection", ICCV 2021, arXiv 2108.05699; numbers as
LeMeViT's authors trained it in OBBDetection. Written from a description of what that code computes.
Its parts are put together in ``build.py``. Which candidates are an answer is decided outside, by
``tasks/detection/decoding.py``.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.models.backbone import PixelFront, freeze_norms
from lemevit_cli.models.oriented_rcnn.assignment import truths_of
from lemevit_cli.models.oriented_rcnn.roi_head import RoiHead
from lemevit_cli.models.oriented_rcnn.rpn import STRIDES, RegionProposals, anchors_like

LEVELS = 4  # of the backbone, strides 4 to 32; the pyramid adds a fifth


class OrientedRCNN(nn.Module):
    """Finds objects as oriented boxes; normalisation and padding happen inside.

    Args:
        encoder: answers the picture and its maps, the last four of strides 4 to 32.
        feature_norms: one for each map of the encoder; the last four are asked.
        pyramid: four maps to five of strides 4 to 64.
        pyramid_scales: 1 sees pictures as they are, 2 at half their size too, and so on.
        freeze_norms: the encoder's batch norms keep their statistics while training.
    """

    def __init__(
        self,
        *,
        front: PixelFront,
        encoder: nn.Module,
        feature_norms: nn.ModuleList,
        pyramid: nn.Module,
        rpn: RegionProposals,
        roi_head: RoiHead,
        pyramid_scales: int = 1,
        freeze_norms: bool = False,
    ) -> None:
        super().__init__()
        self.front, self.encoder, self.feature_norms = front, encoder, feature_norms
        self.pyramid, self.rpn, self.roi_head = pyramid, rpn, roi_head
        self.pyramid_scales, self.freeze_norms = pyramid_scales, freeze_norms

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Return the names of the layers that have a row for every class."""
        return ("roi_head.classify",)

    def forward(
        self,
        pixels: Tensor,
        boxes: Tensor | None = None,
        labels: Tensor | None = None,
        unknown: Tensor | None = None,
    ) -> Tensor:
        """Return the loss in training mode; in evaluation mode candidates for boxes.

        Args:
            pixels: ``(B, bands, H, W)``, uint8 or float, any size.
            boxes: ``(B, K, 5)``, pixels of the window; as ``labels``, for training only.
            labels: ``(B, K)``: class ids; -1 where a slot is empty, -2 for an object that is
                neither truth nor background.
            unknown: ``(B, classes)`` bool: classes that the picture's data set does not label.

        Returns:
            The loss, a float32 scalar; or candidates ``(B, N, 5 + classes)`` float32: ``cx, cy, w,
            h, angle_rad`` and the score of each class, of one pyramid scale after the other. N
            depends on the size of the pictures alone; all scores are zero where no candidate is,
            NaN where the network has no finite answer.
        """
        if not self.training:
            scales = [self._candidates(pixels, halvings) for halvings in range(self.pyramid_scales)]
            return torch.cat(scales, dim=1)
        if boxes is None or labels is None:
            raise ValueError("a detector in training mode needs boxes and labels beside pixels")
        return torch.stack(list(self.losses(pixels, boxes, labels, unknown).values())).sum()

    def losses(
        self, pixels: Tensor, boxes: Tensor, labels: Tensor, unknown: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the four terms of the loss by name; those of boxes as the assigner weighs them."""
        # At each step, for whoever sets the encoder's mode by itself sets that of its norms too.
        if self.freeze_norms:
            freeze_norms(self.encoder)
        truths = truths_of(boxes, labels, unknown, self.roi_head.num_classes)
        levels = self.levels(pixels)
        logits, deltas = self.rpn(levels)
        anchors = anchors_like(levels)
        with torch.autocast(pixels.device.type, enabled=False):
            size = (pixels.shape[-2], pixels.shape[-1])
            terms = self.rpn.losses(logits, deltas, anchors, truths, size)
            rows = zip(*self.rpn.proposals(logits, deltas, anchors), strict=True)
            samples = self.roi_head.sample_proposals([own[there] for own, there in rows], truths)
        logits, deltas = self.roi_head.predict(
            levels[:LEVELS], STRIDES[:LEVELS], samples.boxes, samples.pictures
        )
        with torch.autocast(pixels.device.type, enabled=False):
            return terms | self.roi_head.losses(logits, deltas, samples)

    def _candidates(self, pixels: Tensor, halvings: int) -> Tensor:
        """Return candidates ``(B, P, 5 + classes)`` of one scale, in pixels of whole pictures."""
        if halvings:
            pixels = halve_pictures(pixels, halvings)
        levels = self.levels(pixels)
        logits, deltas = self.rpn(levels)
        with torch.autocast(pixels.device.type, enabled=False):
            proposals, exists = self.rpn.proposals(logits, deltas, anchors_like(levels))
        boxes, scores = self.roi_head.refine(levels[:LEVELS], STRIDES[:LEVELS], proposals, exists)
        factor = float(1 << halvings)
        return torch.cat([boxes * boxes.new_tensor((factor,) * 4 + (1.0,)), scores], dim=-1)

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """Return the pyramid ``(B, channels, H / s, W / s)``, s from 4 to 64; sides round up."""
        features = self.encoder(self.front(pixels))[-LEVELS:]
        norms = list(self.feature_norms)[-LEVELS:]
        normed = [norm(level) for norm, level in zip(norms, features, strict=True)]
        pyramid: list[Tensor] = self.pyramid(normed)
        return pyramid


def halve_pictures(pixels: Tensor, times: int) -> Tensor:
    """Shrink pictures ``(B, bands, H, W)`` by a power of two, to one pixel at least.

    A pixel is the weighted mean of those around it; place ``x`` becomes ``x / 2 ** times`` exactly.
    """
    part = 0.5**times
    # The last row and column are repeated: what does not fill a pixel would be cut off.
    short = [-side % (1 << times) for side in pixels.shape[-2:]]
    padded = F.pad(pixels.float(), (0, short[1], 0, short[0]), mode="replicate")
    return F.interpolate(padded, scale_factor=part, mode="bilinear", antialias=True)
