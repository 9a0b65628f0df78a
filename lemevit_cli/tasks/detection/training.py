"""Detection: an oriented box around every object."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lemevit_cli.errors import LemevitError
from lemevit_cli.legend import MAX_CLASSES, classes_from_names
from lemevit_cli.models.backbone import check_backbone
from lemevit_cli.models.oriented_rcnn import (
    PAPER_HEAD,
    check_head_args,
    head_defaults,
)
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.detection.crops import FrameDraw, TrainingBoxCrops, source_of_boxes
from lemevit_cli.tasks.detection.data import BoxSources, open_box_sources
from lemevit_cli.tasks.detection.network import NETWORK
from lemevit_cli.tasks.detection.pictures import draw_report, draw_samples
from lemevit_cli.tasks.detection.validation import BoxValidation
from lemevit_cli.training.datasets.source import count_pictures, pixel_sizes
from lemevit_cli.training.loop import Loss, TrainingData
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.statistics import Statistics, statistics_of
from lemevit_cli.training.task import TaskData

_HEAD = "oriented_rcnn"
# Forms of the head, by the names that `--decoder` takes.
_FORMS: dict[str, dict[str, Any]] = {_HEAD: head_defaults(), f"{_HEAD}_paper": dict(PAPER_HEAD)}
_LARGEST_WINDOW, _OVERLAP_OF_LARGEST = 1024, 200


class OrientedDetection:
    """The task ``det``."""

    network = NETWORK
    headline = (
        "ap50",
        "ap75",
        "ap50_95",
        "ap50_voc07",
        "length_error",
        "bearing_error_deg",
        "classes",
    )

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders in the layouts of DOTA, YOLO and COCO, and scenes with layers of boxes."""
        found = open_box_sources(data, crop=options.crop)
        classes = found.classes
        if len(classes) > MAX_CLASSES:
            raise LemevitError(
                f"the data have {len(classes)} classes, weights take {MAX_CLASSES}; name those to "
                "learn by classes = [...] in a TOML list"
            )
        boxes = [
            source_of_boxes(source, classes, balance=options.balance, crop=options.crop)
            for source in found.training
        ]
        draw = FrameDraw(boxes, found.weights, options)
        first = found.training[0]
        statistics = statistics_of(draw, bands=first.bands, dtype=first.dtype)
        card = _card(found, statistics, options)
        samples = TrainingBoxCrops(draw, options, value_range=card.value_range, fill=card.mean)
        validate = (
            BoxValidation(found.validation, card, limit=options.validation_windows)
            if found.validation
            else None
        )
        record = _record(found)
        training = TrainingData(
            samples,
            validate,
            origin=samples.origin,
            labelled_pixels=sum(source.num_pixels for source in found.training),
            final_cost=validate.cost_of_all if validate else 0.0,
            identity={"classes": list(classes), **record},
        )

        def report(path: str | Path, metrics: Sequence[Mapping[str, Any]]) -> None:
            draw_report(path, validate, card, metrics)

        return TaskData(
            card, training, record, options, report, validation=found.validation, notes=found.notes
        )

    def prepare(self, model: nn.Module, found: TaskData) -> None:
        """Do nothing: there is nothing to fit beforehand."""

    def make_loss(self, found: TaskData, options: TrainingOptions) -> Loss:
        def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            pixels = batch["pixels"]
            mean = model(pixels, batch["boxes"], batch["labels"], batch["unknown"])
            windows = torch.tensor(len(pixels), device=pixels.device)
            return mean * windows, windows

        return loss

    def draw_samples(self, path: str | Path, found: TaskData) -> None:
        draw_samples(path, found.training.samples, found.card)

    def check(self, options: TrainingOptions) -> None:
        """Refuse a head or a backbone that there is not, and what only segmentation has."""
        if options.decoder is not None and options.decoder not in _FORMS:
            raise LemevitError(
                f"no decoder {options.decoder!r} for detection; choose one of {', '.join(_FORMS)}"
            )
        for option, value, usual in (
            ("--loss", options.loss, TrainingOptions.loss),
            ("--class-weights", options.class_weights, TrainingOptions.class_weights),
        ):
            if value != usual:
                raise LemevitError(
                    f"{option} {value}: is for segmentation; a detector has losses of its own"
                )
        check_head_args(options.decoder_args)
        check_backbone(options.backbone, pretrained=options.pretrained)


TRAINING = OrientedDetection()


def _record(found: BoxSources) -> dict[str, list[dict[str, object]]]:
    """Record what the card says of the data."""
    return {
        "data": [
            {
                "name": source.name,
                "pictures": count_pictures(source.sites),
                "objects": int(source.counts.sum()),
                "weight": round(weight / sum(found.weights), 4),
                "classes": list(source.classes),
            }
            for source, weight in zip(found.training, found.weights, strict=True)
        ]
    }


def _card(found: BoxSources, statistics: Statistics, options: TrainingOptions) -> Card:
    first = found.training[0]
    head_args = dict(_FORMS[options.decoder or _HEAD])
    # Statistics of norms can be frozen only if the backbone brings some that fit it.
    head_args["freeze_norms"] &= options.pretrained or options.init is not None
    # A detector sees more of a scene than it was trained on at once: fewer objects are cut.
    window = min(2 * options.crop, _LARGEST_WINDOW)
    return Card(
        task="det",
        backbone=options.backbone,
        backbone_args=options.backbone_args,
        head=_HEAD,
        head_args=head_args | check_head_args(options.decoder_args),
        classes=classes_from_names(found.classes),
        bands=first.bands,
        dtype=first.dtype,
        gsd_m=options.gsd_m or pixel_sizes([s for source in found.training for s in source.sites]),
        window=window,
        overlap=round(window * _OVERLAP_OF_LARGEST / _LARGEST_WINDOW),
        value_range=statistics.value_range,
        mean=statistics.mean,
        std=statistics.std,
    )
