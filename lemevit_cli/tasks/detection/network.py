"""The network of detection: an oriented box around every object."""

from __future__ import annotations

from torch import Tensor, nn

from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.oriented_rcnn import OrientedRCNN
from lemevit_cli.models.weights import Card


class DetectionNetwork:
    """Backbone and Oriented R-CNN, with the card's normalisation inside."""

    task = "det"

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build backbone and head of a card."""
        return OrientedRCNN(
            backbone=card.backbone,
            backbone_args=card.backbone_args,
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
        """Return boxes as they are: they have their scores."""
        return logits


NETWORK = DetectionNetwork()
