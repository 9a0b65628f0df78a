"""The network of detection: an oriented box around every object."""

from __future__ import annotations

from torch import Tensor, nn

from lemevit_cli.inference.network import CardNetwork, arguments_of
from lemevit_cli.models.oriented_rcnn import OrientedRCNN
from lemevit_cli.models.weights import Card


def _build(card: Card, pretrained: bool) -> nn.Module:
    return OrientedRCNN(**arguments_of(card), head_args=card.head_args, pretrained=pretrained)


def _as_they_are(boxes: Tensor) -> Tensor:
    return boxes  # they have their scores


NETWORK = CardNetwork("det", _build, _as_they_are)
