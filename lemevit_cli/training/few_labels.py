"""A recipe for few labels: twenty polygons on a scene teach colours, and little about shapes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.pixel_view import fit_pixel_view
from lemevit_cli.models.segmenter import PIXEL_DECODER, Segmenter
from lemevit_cli.training.class_groups import own_ids
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions
from lemevit_cli.training.sources import Sources

FEW = 0.05  # of the pixels that could have a label

# The backbone rests, so that steps are short and many; colours stay what they are on this scene.
_RECIPE: dict[str, Any] = {
    "decoder": PIXEL_DECODER,
    "lr": 3e-3,
    "backbone_lr": 0.0,
    "batch_size": 4,
    "balance": 1.0,
    "ema_decay": 0.99,
    "augmentation": replace(AugmentationOptions.none(), symmetries=True, brightness=0.1),
}
_WINDOWS = 64  # whose labelled pixels the pixel view is fitted to


def share_of_labels(found: Sources) -> float:
    """Part of the pixels of all training sites that have a label, in [0, 1]."""
    labelled = sum(int(cells.counts.sum()) for cells in found.cells)
    areas = (site.area for source in found.training for site in source.sites)
    return labelled / max(sum(area.width * area.height for area in areas), 1)


def suit_few_labels(options: TrainingOptions, found: Sources) -> TrainingOptions:
    """The options for few labels, in all that was left at its default; others as they are.

    Labels are few if no source says what all its pixels are, and less than a twentieth of them has
    a label. Without weights to start from the backbone knows nothing that would be worth keeping:
    then nothing is changed.
    """
    complete = any(source.is_complete for source in found.training)
    if complete or options.init is None or share_of_labels(found) >= FEW:
        return options
    usual = TrainingOptions()
    untouched = {k: v for k, v in _RECIPE.items() if getattr(options, k) == getattr(usual, k)}
    return replace(options, **untouched)


def fit_single_pixels(model: Segmenter, samples: Dataset[dict[str, Tensor]]) -> None:
    """Fit the pixel view of a model to the labelled pixels of the first training windows.

    Pixels of classes that their source cannot tell apart are left out.
    """
    view = model.pixel_view
    if view is None:
        return
    model.eval()
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for index in range(_WINDOWS):
        sample = samples[index]
        ids = own_ids(sample["ids"], sample["groups"])
        known = ids != NODATA_CLASS
        with torch.inference_mode():
            colours, detail = model.pixel_inputs(sample["pixels"][None])
        found.append((colours[0][:, known].T, detail[0][:, known].T, ids[known]))
    colours, detail, ids = (torch.cat(parts).clone() for parts in zip(*found, strict=True))
    if len(ids):
        fit_pixel_view(view, colours, detail, ids)
