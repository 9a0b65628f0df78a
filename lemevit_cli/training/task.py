"""What training asks of a task."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.source import Source
from lemevit_cli.training.loop import Loss, TrainingData
from lemevit_cli.training.options import DataOptions, TrainingOptions

DrawReport = Callable[[str | Path, Sequence[Mapping[str, Any]]], None]
# From what the user chose and the number of processes to fields of the options by their names.
Recipe = Callable[[TrainingOptions, int], Mapping[str, Any]]


class NetworkToTrain(Protocol):
    """A task's network, as training sees it."""

    def build_model(self, card: Card, *, pretrained: bool = False) -> nn.Module:
        """Build the network of a card."""
        ...


@dataclass(frozen=True)
class TaskData:
    """Checked data of a user, with all that a training asks of them.

    Args:
        card: what the weights will say of themselves, metrics and record left out.
        training: the batches, and how a model is validated.
        record: names and sizes of the data, for the card.
        options: the recipe, where it left something to the data.
        validation: what is held back, to be scored in whole; empty where nothing is.
        class_pixels: labelled training pixels of each class, where the data name it.
        notes: what a user should know of the data, a line each.
        warnings: what is wrong with them, a line each.
        draw_report: draws how a training went, from the lines of its metrics, and what the last
            validation saw.
        draw_samples: draws a picture of augmented training windows with their labels.
        prepare: fits, before the first step, what is not trained by steps.
        finish: fits, after the last step, what is not trained by steps, and returns the card with
            what it says of that.
        saved: what of a model's tensors makes the weights; None takes all.
    """

    card: Card
    training: TrainingData
    record: dict[str, Any]
    options: TrainingOptions
    draw_report: DrawReport
    validation: tuple[Source, ...] = ()
    class_pixels: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    draw_samples: Callable[[str | Path], None] | None = None
    prepare: Callable[[nn.Module], None] | None = None
    finish: Callable[[nn.Module, Card], Card] | None = None
    saved: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] | None = None


class Training(Protocol):
    """A task's training: its data, loss, figures and pictures."""

    @property
    def network(self) -> NetworkToTrain:
        """Return the network that is trained."""
        ...

    @property
    def headline(self) -> tuple[str, ...]:
        """Return the names of the figures that a card keeps of a scoring."""
        ...

    def check(self, options: TrainingOptions) -> None:
        """Refuse what is wrong before the data are opened, in a second.

        Raises:
            LemevitError: if the options name a loss or a part of the network that there is not.
        """
        ...

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Find and check training data before any step.

        Raises:
            DataError: one line on what is wrong and where.
        """
        ...

    def make_loss(self, data: TaskData, options: TrainingOptions) -> Loss:
        """Make what lets a model answer a batch: sum of the loss over its targets, their number.

        Raises:
            DataError: if the options name a loss or a class that there is not.
        """
        ...
