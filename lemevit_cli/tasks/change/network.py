"""The network of change: what has become of every pixel from one date to the next."""

from __future__ import annotations

from typing import Any

from torch import nn

from lemevit_cli.inference.network import CardNetwork, arguments_of, softmax_over_classes
from lemevit_cli.models.bit import ChangeDetector
from lemevit_cli.models.weights import Card


def _build(card: Card, pretrained: bool) -> nn.Module:
    parts: dict[str, Any] = {"head": card.head, "head_args": card.head_args}
    return ChangeDetector(**arguments_of(card), **parts, pretrained=pretrained)


NETWORK = CardNetwork("change", _build, softmax_over_classes)
