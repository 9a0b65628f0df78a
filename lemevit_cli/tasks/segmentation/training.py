"""Semantic segmentation: a class for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torch.utils.data import Dataset

from lemevit_cli.models.backbone import check_reduction
from lemevit_cli.models.segmenter import (
    DEFAULT_DECODER,
    Segmenter,
    check_architecture,
    decoder_defaults,
)
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.segmentation.network import NETWORK
from lemevit_cli.training.datasets.source import Source, Sources
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.few_labels import fit_single_pixels, share_of_labels, suit_few_labels
from lemevit_cli.training.gather import make_card
from lemevit_cli.training.loop import Loss
from lemevit_cli.training.losses import make_loss
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.pixel_data import PIXELS, gather_pixels, loss_of_pixels
from lemevit_cli.training.sources import open_sources
from lemevit_cli.training.task import TaskData
from lemevit_cli.training.temperature import find_temperature


class Segmentation:
    """The task ``seg``."""

    network = NETWORK
    headline = ("miou", "accuracy", "calibration_error", "classes")

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders of pictures and masks, and scenes with polygons or rasters of class ids."""
        sources = open_sources(data, crop=options.crop, openers=PIXELS, init=options.init)
        suited = suit_few_labels(options, sources)
        notes = (*sources.notes, *([] if suited == options else [_note_of_few(suited, sources)]))
        options = replace(suited, chosen=())
        draw = WindowDraw(sources, options)
        decoder, given = options.decoder or DEFAULT_DECODER, options.decoder_args
        head_args = decoder_defaults(decoder) if given is None else given
        card = make_card("seg", sources, draw, options, head=decoder, head_args=head_args)
        gathered = gather_pixels(sources, draw, card, options, notes=notes)
        return replace(
            gathered,
            prepare=partial(_prepare, samples=gathered.training.samples),
            finish=partial(calibrate, sources=gathered.validation) if gathered.validation else None,
        )

    def make_loss(self, data: TaskData, options: TrainingOptions) -> Loss:
        return loss_of_pixels(data, options)

    def check(self, options: TrainingOptions) -> None:
        """Refuse a loss, a decoder or a backbone that there is not."""
        decoder = options.decoder or DEFAULT_DECODER
        check_architecture(options.backbone, decoder, pretrained=options.pretrained)
        check_reduction(options.backbone, options.backbone_args)
        make_loss(options.loss)


TRAINING = Segmentation()


def _prepare(model: nn.Module, samples: Dataset[dict[str, Tensor]]) -> None:
    if isinstance(model, Segmenter):
        fit_single_pixels(model, samples)


def calibrate(model: nn.Module, card: Card, *, sources: Sequence[Source]) -> Card:
    """Divide the logits so that scores are as sure as they are right; the card says by what.

    Args:
        sources: what was held back.
    """
    if not isinstance(model, Segmenter) or model.pixel_view is not None:  # which blends scores
        return card
    device = next(model.parameters()).device
    temperature = find_temperature(lambda pixels: model(pixels.to(device)).float(), card, sources)
    model.divide_logits(temperature)
    # A training that is resumed behind its last step has divided them before.
    total = round(temperature * card.training.get("temperature", 1.0), 4)
    return replace(card, training=card.training | {"temperature": total})


def _note_of_few(options: TrainingOptions, sources: Sources) -> str:
    return (
        f"{share_of_labels(sources):.2%} of the pixels have a label: the recipe for few labels is "
        f"taken (--decoder {options.decoder}, --backbone-lr {options.backbone_lr:g}, "
        f"--lr {options.lr:g}), where nothing else was said"
    )
