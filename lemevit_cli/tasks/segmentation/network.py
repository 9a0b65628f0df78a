"""The network of segmentation: a class for every pixel."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.segmenter import Segmenter
from lemevit_cli.models.weights import Card


class SegmentationNetwork:
    """Backbone and decoder, with the card's normalisation inside."""

    task = "seg"

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build backbone and decoder of a card."""
        return Segmenter(
            backbone=card.backbone,
            backbone_args=card.backbone_args,
            decoder=card.head,
            decoder_args=card.head_args,
            num_classes=len(card.classes),
            mean=card.mean,
            std=card.std,
            pretrained=pretrained,
        )

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Fold what can be folded."""
        return optimise_for_inference(model)

    def scores(self, logits: Tensor) -> Tensor:
        """Apply softmax over the classes: ``(B, classes, H, W)``, sums to one in every pixel."""
        return torch.softmax(logits, dim=1)


NETWORK = SegmentationNetwork()
