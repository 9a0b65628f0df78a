"""The network of change: what has become of every pixel from one date to the next."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from lemevit_cli.models.bit import ChangeDetector
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.weights import Card


class ChangeNetwork:
    """A backbone for both dates and a head that compares them, with normalisation inside."""

    task = "change"

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build backbone and head of a card."""
        return ChangeDetector(
            backbone=card.backbone,
            backbone_args=card.backbone_args,
            head=card.head,
            head_args=card.head_args,
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


NETWORK = ChangeNetwork()
