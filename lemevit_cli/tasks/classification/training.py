"""Classification: one class for every window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from timm.data import Mixup
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import Tensor, nn

from lemevit_cli.errors import LemevitError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.backbone import check_backbone
from lemevit_cli.models.classifier import HEAD, build_classifier, fusion_of, merges_in_blocks
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.classification.data import WINDOWS
from lemevit_cli.tasks.classification.losses import MOST_REMEMBERED, FeatureMemory, make_window_loss
from lemevit_cli.tasks.classification.network import NETWORK
from lemevit_cli.tasks.classification.pictures import draw_report, draw_samples
from lemevit_cli.tasks.classification.validation import ClassValidation
from lemevit_cli.tasks.classification.windows import (
    UNKNOWN,
    ClassTargets,
    TimmSamples,
    aim_at_windows,
    seeded,
)
from lemevit_cli.training.datasets.source import Site, Source, Sources
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.gather import gather_data, make_card
from lemevit_cli.training.loop import Loss
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.sources import open_sources
from lemevit_cli.training.task import TaskData

_ALIKE = 1.05  # of sizes


class Classification:
    """The task ``cls``."""

    network = NETWORK
    headline = ("top1", "top5", "f1", "classes")

    def open_data(self, data: DataOptions, options: TrainingOptions) -> TaskData:
        """Open folders and tables of pictures, and scenes with labels."""
        sources = open_sources(data, crop=options.crop, openers=WINDOWS, init=options.init)
        draw = WindowDraw(sources, options, aim_at_windows)
        card = _card(sources, draw, options)
        targets = ClassTargets(card.class_names)
        gathered = gather_data(
            sources,
            draw,
            card,
            options,
            unit="labelled_pixels",
            targets=targets,
            make_judge=ClassValidation,
            draw_samples=draw_samples,
            draw_report=draw_report,
            notes=(*sources.notes, *_notes_of_sizes(sources.training, card)),
        )
        samples = gathered.training.samples
        if options.timm is not None:
            _check_rgb(sources.training[0])
            samples = TimmSamples(draw, options.crop, options.timm, card, targets)
        training = replace(
            gathered.training,
            samples=samples,
            labelled_pixels=sources.num_labels,
            # A picture counts as the pixels of a window.
            memory=_memory(card, max(sources.num_labels // options.crop**2, 1)),
        )
        division = {"val_fraction": data.val_fraction, "seed": data.seed}
        return replace(
            gathered,
            training=training,
            record={**gathered.record, "division": division},
            draw_samples=partial(draw_samples, samples=samples, card=card),
        )

    def make_loss(self, found: TaskData, options: TrainingOptions) -> Loss:
        """Make the cross-entropy of windows, or of mixtures of two where they are mixed."""
        num_classes, how = len(found.card.classes), options.timm
        mix = None
        if how is not None and (how.mixup > 0 or how.cutmix > 0):
            mix = Mixup(
                mixup_alpha=how.mixup,
                cutmix_alpha=how.cutmix,
                prob=how.mix_prob,
                switch_prob=how.mix_switch,
                mode=how.mix_mode,
                label_smoothing=options.label_smoothing,
                num_classes=num_classes,
            )
        smoothing = options.label_smoothing
        memory = found.training.memory
        of_one = make_window_loss(
            found.card,
            memory if isinstance(memory, FeatureMemory) else None,
            LabelSmoothingCrossEntropy(smoothing),
            smoothing,
        )

        def loss(model: nn.Module, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
            known = batch["label"] != UNKNOWN
            pixels, labels = batch["pixels"][known], batch["label"][known]
            windows = torch.tensor(len(labels), device=pixels.device)
            if len(labels) == 0:
                return model(batch["pixels"]).sum() * 0.0, windows
            if mix is None or len(labels) % 2:  # timm mixes pairs
                return of_one(
                    model, pixels, labels, float(batch.get("done", 0.0))
                ) * windows, windows
            with seeded(None):
                pixels, shares = mix(pixels.clone(), labels)
            return SoftTargetCrossEntropy()(model(pixels), shares) * windows, windows

        return loss

    def check(self, options: TrainingOptions) -> None:
        """Refuse a backbone that there is not, and what only tasks with a class a pixel have."""
        for option, value, usual in (
            ("--decoder", options.decoder, None),
            ("--loss", options.loss, TrainingOptions.loss),
            ("--class-weights", options.class_weights, TrainingOptions.class_weights),
        ):
            if value != usual:
                raise LemevitError(f"{option} {value}: is not for cls, whose head is one layer")
        is_mixed = options.timm is not None and (options.timm.mixup or options.timm.cutmix)
        if is_mixed and options.batch_size % 2:
            raise LemevitError(
                f"--batch-size {options.batch_size}: windows are mixed two by two; take an even one"
            )
        check_backbone(options.backbone, pretrained=options.pretrained)
        _check_reduction(options, is_mixed=bool(is_mixed))


TRAINING = Classification()


def _check_reduction(options: TrainingOptions, *, is_mixed: bool) -> None:
    """Refuse a backbone that cannot run on fewer tokens, and windows that are no whole ones."""
    names = classes_from_names(["a", "b"])
    card = Card(
        task="cls",
        backbone=options.backbone,
        backbone_args=options.backbone_args,
        classes=names,
        window=options.crop,
    )
    if not {"fuse_tokens", "merge_tokens"} & options.backbone_args.keys():
        return
    with torch.device("meta"):
        build_classifier(card)
    if is_mixed and (fusion_of(card) or merges_in_blocks(card)):
        raise LemevitError(
            f"--recipe {options.recipe}: mixes two windows, and tokens are fused or merged by what "
            "a whole one is; leave it out"
        )


def _memory(card: Card, num_windows: int) -> FeatureMemory | None:
    if not merges_in_blocks(card):
        return None
    return FeatureMemory(len(card.classes), room=min(num_windows, MOST_REMEMBERED))


def _card(sources: Sources, draw: WindowDraw, options: TrainingOptions) -> Card:
    # Windows of a scene overlap by half: what lies on the edge of one is amid the next.
    card = make_card(
        "cls",
        sources,
        draw,
        options,
        head=HEAD,
        window=options.crop,
        overlap=options.crop // 2,
    )
    return replace(card, gsd_m=_gsd_of_windows(sources.training, options))


def _gsd_of_windows(
    sources: Sequence[Source], options: TrainingOptions
) -> tuple[float, float] | None:
    """Return the pixel sizes of windows on the ground; pictures are brought to their size."""
    sizes: list[float | None] = []
    for source in sources:
        for site in source.sites:
            shrinking = _short_side(site) / options.crop if source.whole_pictures else 1.0
            own = options.gsd_m or (site.gsd_m,)
            sizes += [None if gsd is None else gsd * shrinking for gsd in own]
    known = [size for size in sizes if size is not None]
    return (min(known), max(known)) if len(known) == len(sizes) else None


def _short_side(site: Site) -> int:
    return min(site.extent.width, site.extent.height)


def _notes_of_sizes(sources: Sequence[Source], card: Card) -> list[str]:
    """Tell of pictures that are resized, if their pixels have no size on the ground."""
    notes = []
    for source in sources if card.gsd_m is None else ():
        if not source.whole_pictures:
            continue
        side = float(np.median([_short_side(site) for site in source.sites]))
        if max(side, card.window) > _ALIKE * min(side, card.window):
            notes.append(
                f"{source.name}: pictures of {side:.0f} pixels are seen as windows of "
                f"{card.window}; say by --gsd FROM TO how large their pixels are on the ground, "
                "and predict will bring scenes to the same"
            )
    return notes


def _check_rgb(source: Source) -> None:
    if (source.bands, source.dtype) != (3, "uint8"):
        raise LemevitError(
            f"{source.name}: has {source.bands} bands of {source.dtype}; timm varies pictures of "
            "three bands of bytes, so leave out --recipe"
        )
