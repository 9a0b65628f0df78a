"""What inference asks of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.weights import Card


class Network(Protocol):
    """A task's network: built from a card, made fast, its answers decoded."""

    @property
    def task(self) -> str:
        """Return the task's key in ``TASKS`` and in the card."""
        ...

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card: pixels ``(B, bands, H, W)`` to logits, or to boxes."""
        ...

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Give a network with the same answers, sooner; the model given may be changed."""
        ...

    def scores(self, logits: Tensor) -> Tensor:
        """Bring answers to scores in [0, 1] that may be blended; boxes stay as they are."""
        ...


@dataclass(frozen=True)
class CardNetwork:
    """A network of ours: its card says how it is built, and its LeMeViT is folded for inference.

    Args:
        build: makes the model of a card, with timm's own weights of the backbone if asked to.
        scores: as :meth:`Network.scores`.
    """

    task: str
    build: Callable[[Card, bool], nn.Module]
    scores: Callable[[Tensor], Tensor]

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card."""
        return self.build(card, pretrained)

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Fold what can be folded."""
        return optimise_for_inference(model)


def arguments_of(card: Card) -> dict[str, Any]:
    """Return what every network is built with: backbone, number of classes, normalisation."""
    return {
        "backbone": card.backbone,
        "backbone_args": card.backbone_args,
        "num_classes": len(card.classes),
        "mean": card.mean,
        "std": card.std,
    }


def softmax_over_classes(logits: Tensor) -> Tensor:
    """Bring logits ``(B, classes, H, W)`` to scores that sum to one in every pixel."""
    return torch.softmax(logits, dim=1)
