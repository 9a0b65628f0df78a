"""The network of segmentation: a class for every pixel."""

from __future__ import annotations

from typing import Any

from torch import nn

from lemevit_cli.inference.network import CardNetwork, arguments_of, softmax_over_classes
from lemevit_cli.models.segmenter import Segmenter
from lemevit_cli.models.weights import Card


def _build(card: Card, pretrained: bool) -> nn.Module:
    parts: dict[str, Any] = {"decoder": card.head, "decoder_args": card.head_args}
    return Segmenter(**arguments_of(card), **parts, pretrained=pretrained)


NETWORK = CardNetwork("seg", _build, softmax_over_classes)
