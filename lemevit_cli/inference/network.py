"""What inference asks of a task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from lemevit_cli.inference.runtimes.torch import Runtime, SymmetricRuntime
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.weights import Card


class Network(Protocol):
    """A task's network: built from a card, made fast, its answers decoded."""

    @property
    def task(self) -> str:
        """Return the task's key in ``TASKS`` and in the card."""
        ...

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card: pixels ``(B, bands, H, W)`` to logits, or to candidates."""
        ...

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Give a network with the same answers, sooner; the model given may be changed."""
        ...

    def decode(self, outputs: Tensor) -> Tensor:
        """Bring outputs to scores in [0, 1] that may be blended, or to boxes.

        Pure: nothing of the model takes part, so that any runtime may have made the outputs.
        """
        ...

    def over_symmetries(self, runtime: Runtime) -> Runtime:
        """Let a runtime answer with what all symmetries of a window show."""
        ...


def _softmax_over_classes(logits: Tensor) -> Tensor:
    return torch.softmax(logits, dim=1)


@dataclass(frozen=True)
class CardNetwork:
    """A network of ours: its card says how it is built, and its LeMeViT is folded for inference.

    Args:
        build: makes the model of a card, with timm's own weights of the backbone if asked to.
        decode: as :meth:`Network.decode`; logits ``(B, classes, H, W)`` to scores that sum to one.
        over_symmetries: as :meth:`Network.over_symmetries`; the mean of scores.
    """

    task: str
    build: Callable[[Card, bool], nn.Module]
    decode: Callable[[Tensor], Tensor] = _softmax_over_classes
    over_symmetries: Callable[[Runtime], Runtime] = SymmetricRuntime

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card."""
        return self.build(card, pretrained)

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Fold what can be folded."""
        return optimise_for_inference(model)
