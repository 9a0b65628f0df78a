"""A class for every window: any backbone of timm with its own pooling, and one linear layer."""

from __future__ import annotations

import timm
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import PixelFront, any_size, check_backbone
from lemevit_cli.models.weights import Card

HEAD = "linear"


class Classifier(nn.Module):
    """Pixels in, logits of the window out: normalisation and padding happen inside.

    Args:
        encoder: a picture to one vector, as timm pools and norms it.
        head: that to logits.
    """

    classifiers = ("head",)  # the layers that have a row for every class

    def __init__(self, *, front: PixelFront, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.front, self.encoder, self.head = front, encoder, head

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(B, classes)`` of uint8 or float ``(B, bands, H, W)``."""
        logits: Tensor = self.head(self.encoder(self.front(pixels)))
        return logits


def build_classifier(card: Card, pretrained: bool = False) -> Classifier:
    """Build the network of a card, untrained.

    Args:
        card: its backbone is any classifier of timm that ends in one linear layer.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm refuses, or the backbone ends in something else.
    """
    check_backbone(card.backbone, pretrained=pretrained)
    try:
        encoder = timm.create_model(
            card.backbone,
            pretrained=pretrained,
            num_classes=len(card.classes),
            in_chans=card.bands,
            **any_size(card.backbone) | card.backbone_args,
        )
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"backbone {card.backbone!r}: {reason}") from error
    head = encoder.get_classifier()
    if not isinstance(head, nn.Linear):
        raise WeightsError(
            f"backbone {card.backbone!r} ends in {type(head).__name__}, not in one linear layer; "
            "choose another for cls"
        )
    # Taken out, so that backbone and head may learn at rates of their own.
    encoder.reset_classifier(0)
    return Classifier(front=PixelFront(card.mean, card.std), encoder=encoder, head=head)
