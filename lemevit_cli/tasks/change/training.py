"""Change: what has become of every pixel from one date to the next."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from lemevit_cli.errors import LemevitError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.backbone import check_backbone
from lemevit_cli.models.change import check_head, head_defaults
from lemevit_cli.models.two_dates import DATES
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.change.classes import change_groups, classes_of_all
from lemevit_cli.tasks.change.crops import PairCrops
from lemevit_cli.tasks.change.data import PAIRS
from lemevit_cli.tasks.change.figures import change_figures, match_changes
from lemevit_cli.tasks.change.network import NETWORK
from lemevit_cli.training.crops import WindowDraw, source_of_crops
from lemevit_cli.training.datasets.source import pixel_sizes
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
# Forms of the heads, by the names that `--head` takes.
_FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "difference": ("difference", {}),
    "difference_decoded": ("difference", {"decode_first": True}),
    "bit": ("bit", {}),
}
_DEFAULT_FORM = "difference"


class ChangeDetection:
    """The task ``change``."""

    network = NETWORK
    headline = ("f1", "iou", "precision", "recall", "batch_f1", "batch_precision", "batch_recall")

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders of pairs, and pairs of scenes with layers or rasters of what changed."""
        found = open_sources(data, crop=options.crop, openers=PAIRS)
        classes = classes_of_all([(source.name, source.classes) for source in found.training])
        crops = [
            source_of_crops(source, cells, classes, balance=options.balance, groups=change_groups)
            for source, cells in zip(found.training, found.cells, strict=True)
        ]
        draw = WindowDraw(crops, found.weights, options)
        first = found.training[0]
        statistics = statistics_of(draw, bands=first.bands, dtype=first.dtype)
        card = _card(found, classes, statistics, options)
        samples = PairCrops(draw, options, value_range=card.value_range, fill=card.mean * DATES)
        validate = (
            WindowValidation(
                found.validation,
                card,
                limit=options.validation_windows,
                match=match_changes,
                figures_of=change_figures,
                judged_by="f1",
            )
            if found.validation
            else None
        )
        notes = (*found.notes, _note_of_change(found))

        def report(path: str | Path, metrics: Sequence[Mapping[str, Any]]) -> None:
            score, dates = ("f1", "F1 of change"), ("before", "after")
            draw_report(path, validate, card, metrics, score=score, dates=dates)

        return data_of_pixels(
            found, card, samples, samples.origin, validate, options, report, notes
        )

    def prepare(self, model: nn.Module, found: TaskData) -> None:
        """Do nothing: there is nothing to fit beforehand."""

    def make_loss(self, found: TaskData, options: TrainingOptions) -> Loss:
        return loss_of_pixels(found, options)

    def draw_samples(self, path: str | Path, found: TaskData) -> None:
        draw_samples(path, found.training.samples, found.card)

    def check(self, options: TrainingOptions) -> None:
        """Refuse a loss, a head or a backbone that there is not."""
        if options.decoder is not None and options.decoder not in _FORMS:
            raise LemevitError(
                f"no head {options.decoder!r} for change; choose one of {', '.join(_FORMS)}"
            )
        check_head(*_head_of(options))
        check_backbone(options.backbone, pretrained=options.pretrained)
        make_loss(options.loss)


TRAINING = ChangeDetection()


def _head_of(options: TrainingOptions) -> tuple[str, dict[str, Any]]:
    head, form = _FORMS[options.decoder or _DEFAULT_FORM]
    return head, {**head_defaults(head), **form, **(options.decoder_args or {})}


def _note_of_change(found: Sources) -> str:
    counts = [cells.counts.sum(axis=0) for cells in found.cells]
    changed = sum(int(each[1:].sum()) for each in counts)
    return f"{changed / sum(int(each.sum()) for each in counts):.1%} of the labelled pixels changed"


def _card(
    found: Sources, classes: Sequence[str], statistics: Statistics, options: TrainingOptions
) -> Card:
    first = found.training[0]
    head, head_args = _head_of(options)
    return Card(
        task="change",
        backbone=options.backbone,
        backbone_args=options.backbone_args,
        head=head,
        head_args=head_args,
        classes=classes_from_names(classes),
        bands=first.bands,
        dtype=first.dtype,
        gsd_m=options.gsd_m or pixel_sizes([s for source in found.training for s in source.sites]),
        window=_WINDOW,
        overlap=_OVERLAP,
        value_range=statistics.value_range,
        mean=statistics.mean,
        std=statistics.std,
    )
