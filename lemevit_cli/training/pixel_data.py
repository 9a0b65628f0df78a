"""What the tasks with a class for every pixel share: how their data and loss are put together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn

from lemevit_cli.errors import DataError
from lemevit_cli.metrics.class_groups import groups_of, union_of_classes
from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.folders import open_folder, open_splits
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.datasets.source import Source, Sources
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.gather import gather_data
from lemevit_cli.training.loop import Loss
from lemevit_cli.training.losses import make_loss, weigh_classes
from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.pictures import draw_report, draw_samples
from lemevit_cli.training.samples import Groups, PixelTargets, Vary, vary_window
from lemevit_cli.training.schedule import mean_labelled_pixels
from lemevit_cli.training.sources import Openers
from lemevit_cli.training.task import TaskData
from lemevit_cli.training.window_validation import WindowValidation


def merge_pixel_classes(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the classes of a model that learns the pixels of all sources.

    Raises:
        DataError: if there is a single one.
    """
    classes = union_of_classes(
        [source.classes for source in sources], [source.is_complete for source in sources]
    )
    if len(classes) < 2:
        raise DataError(
            f"{sources[0].name}: its labels have one class, {', '.join(classes)}, and the "
            "background is ignored; nothing is there to tell apart"
        )
    return classes


PIXELS = Openers(partial(open_splits, open_folder), open_labelled_scene, merge_pixel_classes)


def gather_pixels(
    sources: Sources,
    draw: WindowDraw,
    card: Card,
    options: TrainingOptions,
    *,
    notes: tuple[str, ...],
    groups: Groups = groups_of,
    make_judge: Callable[..., WindowValidation] = WindowValidation,
    draw_report: Callable[..., None] = draw_report,
    vary: Vary = vary_window,
) -> TaskData:
    """Gather what was opened, as :func:`gather_data`, with what a loss over pixels asks of it.

    Args:
        groups: says which class of a source every class of the model belongs to.
    """
    gathered = gather_data(
        sources,
        draw,
        card,
        options,
        unit="labelled_pixels",
        targets=PixelTargets(card.class_names, groups),
        make_judge=make_judge,
        draw_samples=draw_samples,
        draw_report=draw_report,
        notes=notes,
        vary=vary,
    )
    training = replace(
        gathered.training,
        labelled_pixels=sources.num_labels,
        labelled_pixels_a_window=partial(mean_labelled_pixels, gathered.training.samples),
    )
    class_pixels = count_class_pixels(sources, card.class_names)
    return replace(gathered, training=training, class_pixels=class_pixels)


def loss_of_pixels(data: TaskData, options: TrainingOptions) -> Loss:
    """Make the loss that the options name, over the labelled pixels of a batch.

    Raises:
        DataError: if the options weigh a class that there is not.
    """
    weights = weigh_classes(
        options.class_weights, data.card.class_names, data.class_pixels, loss=options.loss
    )
    of_answer = make_loss(options.loss, weights)

    def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        return of_answer(model(batch["pixels"]), batch["ids"], batch["groups"])

    return loss


def count_class_pixels(sources: Sources, classes: Sequence[str]) -> tuple[int, ...]:
    """Count labelled training pixels of every class of the model, where a source names it."""
    totals = dict.fromkeys(classes, 0)
    for source, cells in zip(sources.training, sources.cells, strict=True):
        for name, pixels in zip(source.classes, cells.counts.sum(axis=0), strict=True):
            if name in totals:
                totals[name] += int(pixels)
    return tuple(totals.values())
