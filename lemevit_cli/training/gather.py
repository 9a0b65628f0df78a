"""What the labelled trainings share: the card, and all that the loop asks of opened data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

from torch import Tensor

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.training.class_counts import labels_by_class
from lemevit_cli.training.datasets.source import Sources, count_pictures, pixel_sizes
from lemevit_cli.training.draw import DrawnWindow, WindowDraw
from lemevit_cli.training.loop import TrainingData, Validation
from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.samples import Targets, TrainingSamples, Vary, vary_window
from lemevit_cli.training.statistics import statistics_of
from lemevit_cli.training.task import TaskData

_WINDOW, _OVERLAP = 512, 64


class Judge(Protocol):
    """Judges a model on windows of what is held back."""

    @property
    def cost_of_all(self) -> float:
        """Return how many times a call's work it takes to predict all in whole."""
        ...

    @property
    def num_pixels(self) -> int:
        """Return how many pixels a call looks at."""
        ...

    def __call__(self, answer: Callable[[Tensor], Tensor]) -> Validation: ...


def make_card(
    task: str,
    sources: Sources,
    draw: Callable[[int], DrawnWindow],
    options: TrainingOptions,
    *,
    head: str = "",
    head_args: Mapping[str, Any] | None = None,
    window: int = _WINDOW,
    overlap: int = _OVERLAP,
) -> Card:
    """Make the card of weights to be trained: what they see, in which values, and where."""
    first = sources.training[0]
    statistics = statistics_of(draw, bands=first.bands, dtype=first.dtype)
    sites = [site for source in sources.training for site in source.sites]
    return Card(
        task=task,
        backbone=options.backbone,
        backbone_args=options.backbone_args,
        head=head,
        head_args=dict(head_args or {}),
        classes=classes_from_names(sources.classes),
        bands=first.bands,
        dtype=first.dtype,
        gsd_m=options.gsd_m or pixel_sizes(sites),
        window=window,
        overlap=overlap,
        value_range=statistics.value_range,
        mean=statistics.mean,
        std=statistics.std,
    )


def gather_data(
    sources: Sources,
    draw: WindowDraw,
    card: Card,
    options: TrainingOptions,
    *,
    unit: str,
    targets: Targets,
    make_judge: Callable[..., Judge],
    draw_samples: Callable[..., None],
    draw_report: Callable[..., None],
    notes: tuple[str, ...],
    vary: Vary = vary_window,
) -> TaskData:
    """Gather what was opened, with all that the loop and the card ask of it.

    Args:
        unit: what the card calls the labels that were counted.
        targets, vary: as of :class:`TrainingSamples`.
        make_judge: takes sources, card and ``limit``, the windows of each source.
        draw_samples: draws a picture of ``samples``, by ``card``.
        draw_report: draws the pictures of a report; takes ``validation`` and ``card``, too.
    """
    dates = len(sources.training[0].sites[0].dates)
    samples = TrainingSamples(
        draw,
        options,
        value_range=card.value_range,
        fill=card.mean * dates,
        targets=targets,
        vary=vary,
    )
    judge = None
    if sources.validation:
        judge = make_judge(sources.validation, card, limit=options.validation_windows)
    record = _record(sources, unit)
    training = TrainingData(
        samples,
        judge,
        origin=samples.origin,
        labelled_pixels=sum(source.num_pixels for source in sources.training),
        validation_pixels=judge.num_pixels if judge else 0,
        final_cost=judge.cost_of_all if judge else 0.0,
        identity={"classes": list(card.class_names), **record},
    )
    return TaskData(
        card,
        training,
        record,
        options,
        partial(draw_report, validation=judge, card=card),
        validation=sources.validation,
        notes=notes,
        warnings=sources.warnings,
        draw_samples=partial(draw_samples, samples=samples, card=card),
    )


def _record(sources: Sources, unit: str) -> dict[str, list[dict[str, object]]]:
    """Record what the card says of the data."""
    total = sum(sources.weights)
    return {
        "data": [
            {
                "name": source.name,
                "pictures": count_pictures(source.sites),
                unit: int(cells.counts.sum()),
                "by_class": labels_by_class(source, cells),
                "weight": round(weight / total, 4),
                "classes": list(source.classes),
            }
            for source, cells, weight in zip(
                sources.training, sources.cells, sources.weights, strict=True
            )
        ]
    }
