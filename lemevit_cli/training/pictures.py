"""What a training of dense classes shows: its windows before it starts, its results after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lemevit_cli.legend import ClassInfo, classes_from_names
from lemevit_cli.metrics.class_groups import BACKGROUND
from lemevit_cli.models.weights import Card
from lemevit_cli.pictures.training_picture import write_sample_sheet, write_training_report
from lemevit_cli.training.losses import own_ids
from lemevit_cli.training.window_validation import WindowValidation

_SAMPLES = 16


def draw_samples(path: str | Path, samples: Dataset[dict[str, Tensor]], card: Card) -> None:
    """Draw the first windows of a training, augmented, with their labels.

    A label that stands for several classes of the model is shown as background. Of pairs both dates
    are drawn.
    """
    drawn = (samples[i] for i in range(_SAMPLES))
    shown = [
        (*dates_as_rgb(s["pixels"].numpy(), card), model_ids(s["ids"], s["groups"])) for s in drawn
    ]
    has_background = any((ids == len(card.classes)).any() for *_, ids in shown)
    classes = _with_background(card.classes) if has_background else card.classes
    write_sample_sheet(path, shown, classes)


def draw_report(
    path: str | Path,
    metrics: Sequence[Mapping[str, Any]],
    *,
    validation: WindowValidation | None,
    card: Card,
    score: tuple[str, str] = ("miou", "mean IoU"),
    dates: Sequence[str] = ("window",),
) -> None:
    """Draw curves, confusion and validation windows as the last validation left them.

    Of sources that are judged by different classes, those of the most usual ones are shown.

    Args:
        score: key and name of the figure that validations are judged by.
        dates: titles of a window's pictures.
    """
    confusions = {} if validation is None else validation.confusions
    judged_by = Counter(confusion.classes for confusion in confusions.values())
    names = judged_by.most_common(1)[0][0] if judged_by else card.class_names
    alike = [confusion.counts for confusion in confusions.values() if confusion.classes == names]
    examples = [] if validation is None else [e for e in validation.examples if e.classes == names]
    colored = {info.name: info for info in (*classes_from_names(names), *card.classes)}
    write_training_report(
        path,
        metrics,
        np.sum(alike, axis=0) if alike else None,
        [colored[name] for name in names],
        [(*dates_as_rgb(e.pixels, card), e.truth, e.prediction) for e in examples],
        score=score,
        titles=(*dates, "truth", "result"),
    )


def dates_as_rgb(pixels: NDArray[np.float32], card: Card) -> tuple[NDArray[np.uint8], ...]:
    """Return each date of pixels ``(dates * bands, H, W)`` for the eye, ``(H, W, 3)``."""
    dates = np.split(pixels, len(pixels) // card.bands)
    return tuple(as_rgb(date, card.value_range) for date in dates)


def as_rgb(pixels: NDArray[np.float32], value_range: tuple[float, float]) -> NDArray[np.uint8]:
    """Scale pixels ``(bands, H, W)`` for the eye, ``(H, W, 3)``: three bands, or one in grey."""
    low, high = value_range
    bands = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
    scaled = np.clip((bands - low) / (high - low), 0.0, 1.0) * 255.0
    return scaled.transpose(1, 2, 0).round().astype(np.uint8)


def model_ids(ids: Tensor, groups: Tensor) -> NDArray[np.uint8]:
    """Return a source's class ids ``(H, W)`` as the model's; background gets the next free id.

    Args:
        groups: for every class of the model the source's class that it belongs to.
    """
    return own_ids(ids, groups, several=len(groups)).numpy().astype(np.uint8)


def _with_background(classes: Sequence[ClassInfo]) -> list[ClassInfo]:
    if any(info.name == BACKGROUND for info in classes):
        return list(classes)
    return [*classes, *classes_from_names([BACKGROUND])]
