"""Detection: an oriented box around every object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lemevit_cli.errors import LemevitError
from lemevit_cli.models.backbone import check_backbone, check_reduction
from lemevit_cli.models.oriented_rcnn import (
    PAPER_HEAD,
    check_head_args,
    head_defaults,
)
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.detection.data import BOXES, check_objects, note_crowds, note_sizes
from lemevit_cli.tasks.detection.network import NETWORK
from lemevit_cli.tasks.detection.pictures import draw_report, draw_samples
from lemevit_cli.tasks.detection.validation import BoxValidation
from lemevit_cli.tasks.detection.windows import MOST_OBJECTS, BoxTargets, aim_at_objects
from lemevit_cli.training.datasets.source import Sources
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.gather import gather_data, make_card
from lemevit_cli.training.loop import Loss
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.sources import open_sources
from lemevit_cli.training.task import TaskData

_HEAD = "oriented_rcnn"
# Forms of the head, by the names that `--decoder` takes.
_FORMS: dict[str, dict[str, Any]] = {_HEAD: head_defaults(), f"{_HEAD}_paper": dict(PAPER_HEAD)}
# Proposals of a window are as many whatever its size: in larger ones small objects have none.
_LARGEST_WINDOW, _OVERLAP_OF_LARGEST = 768, 150


class OrientedDetection:
    """The task ``det``."""

    network = NETWORK
    headline = (
        "ap50",
        "ap75",
        "ap50_95",
        "ap50_voc07",
        "false_finds",
        "false_finds_per_km2",
        "length_error",
        "bearing_error_deg",
        "classes",
    )

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders in the layouts of DOTA, YOLO and COCO, and scenes with layers of boxes."""
        sources = open_sources(data, crop=options.crop, openers=BOXES, init=options.init)
        sources = check_objects(sources)
        draw = WindowDraw(sources, options, aim_at_objects, evenly=True)
        card = _card(sources, draw, options)
        largest_side = round(options.crop / options.augmentation.zoom[0])
        gathered = gather_data(
            sources,
            draw,
            card,
            options,
            unit="objects",
            targets=BoxTargets(card.class_names),
            make_judge=BoxValidation,
            draw_samples=draw_samples,
            draw_report=draw_report,
            notes=(
                *sources.notes,
                *note_sizes(sources.training, options.crop),
                *note_crowds(sources.training, largest_side, MOST_OBJECTS),
            ),
        )
        judge = gathered.training.validate
        if not isinstance(judge, BoxValidation):
            return gathered
        return replace(gathered, finish=partial(_choose_scores, judge=judge))

    def make_loss(self, data: TaskData, options: TrainingOptions) -> Loss:
        def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            pixels = batch["pixels"]
            mean = model(pixels, batch["boxes"], batch["labels"], batch["unknown"])
            windows = torch.tensor(len(pixels), device=pixels.device)
            return mean * windows, windows

        return loss

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
        check_reduction(options.backbone, options.backbone_args)


TRAINING = OrientedDetection()


@torch.inference_mode()
def _choose_scores(model: nn.Module, card: Card, *, judge: BoxValidation) -> Card:
    """Let the boxes of each class count from the score that is best on what was held back."""
    device = next(model.parameters()).device
    judge(lambda pixels: model(pixels.to(device)))
    return replace(card, class_scores=judge.tally.best_scores())


def _card(sources: Sources, draw: WindowDraw, options: TrainingOptions) -> Card:
    head_args = dict(_FORMS[options.decoder or _HEAD])
    # Statistics of norms can be frozen only if the backbone brings some that fit it.
    head_args["freeze_norms"] &= options.pretrained or options.init is not None
    # A detector sees more of a scene than it was trained on at once: fewer objects are cut.
    window = min(2 * options.crop, _LARGEST_WINDOW)
    return make_card(
        "det",
        sources,
        draw,
        options,
        head=_HEAD,
        head_args=head_args | check_head_args(options.decoder_args),
        window=window,
        overlap=round(window * _OVERLAP_OF_LARGEST / _LARGEST_WINDOW),
    )
