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
from lemevit_cli.settings import DetectionOptions


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

    def decode(self, outputs: Tensor, options: DetectionOptions | None) -> Tensor:
        """Bring outputs to scores in [0, 1] that may be blended, or to the boxes asked for.

        Pure: nothing of the model takes part, so that any runtime may have made the outputs.
        """
        ...

    def over_symmetries(self, runtime: Runtime, options: DetectionOptions | None) -> Runtime:
        """Let a runtime answer with what all symmetries of a window show."""
        ...


@dataclass(frozen=True)
class CardNetwork:
    """A network of ours: its card says how it is built, and its LeMeViT is folded for inference.

    Args:
        build: makes the model of a card, with timm's own weights of the backbone if asked to.
        decoder: as :meth:`Network.decode`.
        symmetric: as :meth:`Network.over_symmetries`.
    """

    task: str
    build: Callable[[Card, bool], nn.Module]
    decoder: Callable[[Tensor, DetectionOptions | None], Tensor]
    symmetric: Callable[[Runtime, DetectionOptions | None], Runtime]

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card."""
        return self.build(card, pretrained)

    def for_inference(self, model: nn.Module) -> nn.Module:
        """Fold what can be folded."""
        return optimise_for_inference(model)

    def decode(self, outputs: Tensor, options: DetectionOptions | None = None) -> Tensor:
        """Bring outputs to scores or boxes."""
        return self.decoder(outputs, options)

    def over_symmetries(self, runtime: Runtime, options: DetectionOptions | None = None) -> Runtime:
        """Let a runtime answer with what all symmetries of a window show."""
        return self.symmetric(runtime, options)


def softmax_over_classes(logits: Tensor, options: DetectionOptions | None = None) -> Tensor:
    """Bring logits ``(B, classes, H, W)`` to scores that sum to one in every pixel."""
    return torch.softmax(logits, dim=1)


def mean_over_symmetries(runtime: Runtime, options: DetectionOptions | None = None) -> Runtime:
    """Let a runtime answer with the mean of its scores over the symmetries."""
    return SymmetricRuntime(runtime)
