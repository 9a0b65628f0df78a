"""A recipe for few labels: twenty polygons on a scene teach colours, and little about shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lemevit_cli.errors import DataError
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.pixel_view import fit_pixel_view
from lemevit_cli.models.segmenter import PIXEL_DECODER, Segmenter
from lemevit_cli.models.weights import find_weights, read_card
from lemevit_cli.training.datasets.source import Sources
from lemevit_cli.training.losses import own_ids
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions

FEW = 0.05  # of the pixels that could have a label

# The backbone is frozen, so that steps are short and many; colours stay as they are on this scene.
_RECIPE: dict[str, Any] = {
    "decoder": PIXEL_DECODER,
    "optimizer": "adamw",
    "lr": 3e-3,
    "backbone_lr": 0.0,
    "batch_size": 4,
    "balance": 1.0,
    "ema_decay": 0.99,
    "augmentation": replace(AugmentationOptions.none(), symmetries=True, brightness=0.1),
}
_WINDOWS = 64  # whose labelled pixels the pixel view is fitted to
_PIXELS_A_WINDOW = 4096  # of these at most


def share_of_labels(sources: Sources) -> float:
    """Return the part of the pixels of all training rasters that have a label, in [0, 1]."""
    return sources.num_labels / max(sum(source.num_pixels for source in sources.training), 1)


def suit_few_labels(options: TrainingOptions, sources: Sources) -> TrainingOptions:
    """Return options for few labels, in all that the user did not choose; others as they are.

    Labels are few if no source says what all its pixels are, and less than a twentieth of them has
    a label. The backbone is frozen then, so it must know something: without weights of its kind to
    start from nothing is changed.
    """
    if any(source.is_complete for source in sources.training) or share_of_labels(sources) >= FEW:
        return options
    if options.init is None or read_card(find_weights(options.init)).backbone != options.backbone:
        return options
    chosen = {*options.chosen, *(["backbone_lr"] if options.head_first > 0 else [])}
    chosen |= {"lr"} if "optimizer" in chosen else set()  # another one has a rate of its own
    return replace(options, **{k: v for k, v in _RECIPE.items() if k not in chosen})


def fit_single_pixels(model: Segmenter, samples: Dataset[dict[str, Tensor]]) -> None:
    """Fit the pixel view of a model, if it has one, to labelled pixels of the first windows.

    Pixels of classes that their source cannot tell apart are left out.

    Raises:
        DataError: if all are.
    """
    view = model.pixel_view
    if view is None:
        return
    model.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in range(_WINDOWS):
        sample = samples[index]
        ids = own_ids(sample["ids"], sample["groups"]).flatten()
        known = (ids != NODATA_CLASS).nonzero()[:, 0]
        known = known[torch.randperm(len(known))[:_PIXELS_A_WINDOW]]
        with torch.inference_mode():
            inputs = model.pixel_inputs(sample["pixels"][None])
        colours, detail = (values[0].flatten(1)[:, known].T for values in inputs)
        found.append((colours, detail, ids[known]))
    colours, detail, ids = (torch.cat(parts).clone() for parts in zip(*found, strict=True))
    if len(ids) == 0:
        raise DataError(
            f"--decoder {PIXEL_DECODER} learns from single pixels, and the labels of the first "
            f"{_WINDOWS} windows stand for several classes each; take --decoder upernet"
        )
    fit_pixel_view(view, colours, detail, ids)
