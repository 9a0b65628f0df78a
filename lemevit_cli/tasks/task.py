"""What the training loop, prediction and scoring have to know about a task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from lemevit_cli.models.weights import Card
from lemevit_cli.training.loop import TrainingData
from lemevit_cli.training.options import DataOptions, TrainingOptions


@dataclass(frozen=True)
class TaskData:
    """What was found in the user's DATA, checked.

    Args:
        card: what the weights will say of themselves, metrics and record left out.
        training: the batches, and how a model is validated.
        record: names and sizes of the data, for the card.
    """

    card: Card
    training: TrainingData
    record: dict[str, Any]


class Task(Protocol):
    """A task: its data, head, loss, decoding and metrics."""

    @property
    def name(self) -> str:
        """Its key in ``TASKS`` and in the card."""
        ...

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Find and check training data before any step.

        Raises:
            DataError: one line on what is wrong and where.
        """
        ...

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """The network of a card: pixels ``(B, bands, H, W)`` to logits."""
        ...

    def for_inference(self, model: nn.Module) -> nn.Module:
        """The same answers, sooner; the model given may be changed."""
        ...

    def loss(self, model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Let a model answer a batch: sum of the loss over all its targets, and their number."""
        ...

    def scores(self, logits: Tensor) -> Tensor:
        """Scores in [0, 1] that may be blended where windows overlap."""
        ...
