"""What the tasks with a class for every pixel share: how data and loss are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from torch import Tensor, nn
from torch.utils.data import Dataset

from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.source import count_pictures
from lemevit_cli.training.loop import Loss, TrainingData
from lemevit_cli.training.losses import make_loss, weigh_classes
from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.schedule import mean_labelled_pixels
from lemevit_cli.training.sources import Sources
from lemevit_cli.training.task import DrawReport, TaskData
from lemevit_cli.training.window_validation import WindowValidation


def data_of_pixels(
    found: Sources,
    card: Card,
    samples: Dataset[dict[str, Tensor]],
    origin: Callable[[int], str],
    validate: WindowValidation | None,
    options: TrainingOptions,
    draw_report: DrawReport,
    notes: tuple[str, ...],
) -> TaskData:
    """Gather what was found, with all that the loop and the card ask of it."""
    record = record_of(found)
    training = TrainingData(
        samples,
        validate,
        origin=origin,
        labelled_pixels=int(sum(cells.counts.sum() for cells in found.cells)),
        labelled_pixels_a_window=partial(mean_labelled_pixels, samples),
        final_cost=validate.cost_of_all if validate else 0.0,
        identity={"classes": list(card.class_names), **record},
    )
    return TaskData(
        card,
        training,
        record,
        options,
        draw_report,
        validation=found.validation,
        class_pixels=pixels_of_classes(found, card.class_names),
        notes=notes,
    )


def loss_of_pixels(found: TaskData, options: TrainingOptions) -> Loss:
    """Make the loss that the options name, over the labelled pixels of a batch.

    Raises:
        DataError: if the options weigh a class that there is not.
    """
    names = found.card.class_names
    weights = weigh_classes(options.class_weights, names, found.class_pixels)
    of_answer = make_loss(options.loss, weights)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return of_answer(model(batch["pixels"]), batch["ids"], batch["groups"])

    return loss


def pixels_of_classes(found: Sources, classes: Sequence[str]) -> tuple[int, ...]:
    """Count labelled training pixels of every class of the model, where a source names it."""
    totals = dict.fromkeys(classes, 0)
    for source, cells in zip(found.training, found.cells, strict=True):
        for name, pixels in zip(source.classes, cells.counts.sum(axis=0), strict=True):
            if name in totals:
                totals[name] += int(pixels)
    return tuple(totals.values())


def record_of(found: Sources) -> dict[str, list[dict[str, object]]]:
    """Return what the card says of the data."""
    return {
        "data": [
            {
                "name": source.name,
                "pictures": count_pictures(source.sites),
                "labelled_pixels": int(cells.counts.sum()),
                "weight": round(weight / sum(found.weights), 4),
                "classes": list(source.classes),
            }
            for source, cells, weight in zip(
                found.training, found.cells, found.weights, strict=True
            )
        ]
    }
