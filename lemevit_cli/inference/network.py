"""What inference asks of a task."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

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
