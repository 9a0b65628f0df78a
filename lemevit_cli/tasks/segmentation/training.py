"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.segmenter import (
    DEFAULT_DECODER,
    Segmenter,
    check_architecture,
    decoder_defaults,
)
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.segmentation.network import NETWORK
from lemevit_cli.training.crops import TrainingCrops, WindowDraw, source_of_crops
from lemevit_cli.training.datasets.source import pixel_sizes
from lemevit_cli.training.few_labels import fit_single_pixels, share_of_labels, suit_few_labels
from lemevit_cli.training.loop import Loss
from lemevit_cli.training.losses import make_loss
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.pictures import draw_report, draw_samples
from lemevit_cli.training.pixel_data import data_of_pixels, loss_of_pixels
from lemevit_cli.training.sources import Sources, open_sources
from lemevit_cli.training.statistics import Statistics, statistics_of
from lemevit_cli.training.task import TaskData
from lemevit_cli.training.window_validation import WindowValidation

_WINDOW, _OVERLAP = 512, 64


class Segmentation:
    """The task ``seg``."""

    network = NETWORK
    headline = ("miou", "accuracy", "classes")

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders of pictures and masks, and scenes with polygons or rasters of class ids."""
        found = open_sources(data, crop=options.crop)
        suited = suit_few_labels(options, found)
        notes = found.notes if suited == options else (*found.notes, _note_of_few(suited, found))
        options = replace(suited, chosen=())
        classes = found.classes
        crops = [
            source_of_crops(source, cells, classes, balance=options.balance)
            for source, cells in zip(found.training, found.cells, strict=True)
        ]
        draw = WindowDraw(crops, found.weights, options)
        first = found.training[0]
        statistics = statistics_of(draw, bands=first.bands, dtype=first.dtype)
        card = _card(found, statistics, options)
        samples = TrainingCrops(draw, options, value_range=card.value_range, fill=card.mean)
        validate = (
            WindowValidation(found.validation, card, limit=options.validation_windows)
            if found.validation
            else None
        )

        def report(path: str | Path, metrics: Sequence[Mapping[str, Any]]) -> None:
            draw_report(path, validate, card, metrics)

        return data_of_pixels(
            found, card, samples, samples.origin, validate, options, report, notes
        )

    def prepare(self, model: nn.Module, found: TaskData) -> None:
        if isinstance(model, Segmenter):
            fit_single_pixels(model, found.training.samples)

    def make_loss(self, found: TaskData, options: TrainingOptions) -> Loss:
        return loss_of_pixels(found, options)

    def draw_samples(self, path: str | Path, found: TaskData) -> None:
        draw_samples(path, found.training.samples, found.card)

    def check(self, options: TrainingOptions) -> None:
        """Refuse a loss, a decoder or a backbone that there is not."""
        decoder = options.decoder or DEFAULT_DECODER
        check_architecture(options.backbone, decoder, pretrained=options.pretrained)
        make_loss(options.loss)


TRAINING = Segmentation()


def _note_of_few(options: TrainingOptions, found: Sources) -> str:
    return (
        f"{share_of_labels(found):.2%} of the pixels have a label: the recipe for few labels is "
        f"taken (--decoder {options.decoder}, --backbone-lr {options.backbone_lr:g}, "
        f"--lr {options.lr:g}), where nothing else was said"
    )


def _card(found: Sources, statistics: Statistics, options: TrainingOptions) -> Card:
    decoder = options.decoder or DEFAULT_DECODER
    given = options.decoder_args
    first = found.training[0]
    return Card(
        task="seg",
        backbone=options.backbone,
        backbone_args=options.backbone_args,
        head=decoder,
        head_args=decoder_defaults(decoder) if given is None else given,
        classes=classes_from_names(found.classes),
        bands=first.bands,
        dtype=first.dtype,
        gsd_m=options.gsd_m or pixel_sizes([s for source in found.training for s in source.sites]),
        window=_WINDOW,
        overlap=_OVERLAP,
        value_range=statistics.value_range,
        mean=statistics.mean,
        std=statistics.std,
    )
