"""What a training of classes shows: its windows before it starts, its curves after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.pictures.training_picture import write_titled_sheet, write_training_report
from lemevit_cli.tasks.classification.validation import ClassValidation
from lemevit_cli.tasks.classification.windows import UNKNOWN
from lemevit_cli.training.pictures import as_rgb

_SAMPLES = 32


def draw_samples(path: str | Path, samples: Dataset[dict[str, Tensor]], card: Card) -> None:
    """Draw the first windows of a training, augmented, each under the name of its class."""
    names = {UNKNOWN: "no label", **dict(enumerate(card.class_names))}
    shown = [samples[i] for i in range(_SAMPLES)]
    write_titled_sheet(
        path,
        [as_rgb(sample["pixels"].numpy(), card.value_range) for sample in shown],
        [names[int(sample["label"])] for sample in shown],
    )


def draw_report(
    path: str | Path,
    metrics: Sequence[Mapping[str, Any]],
    *,
    validation: ClassValidation | None,
    card: Card,
) -> None:
    """Draw curves, and the confusion of the last validation.

    Of sources with other classes, those with the most usual ones count.
    """
    tallies = {} if validation is None else validation.tallies
    found = [tally.confusion for tally in tallies.values()]
    usual = Counter(confusion.classes for confusion in found).most_common(1)
    names = usual[0][0] if usual else card.class_names
    alike = [confusion.counts for confusion in found if confusion.classes == names]
    colored = {info.name: info for info in (*classes_from_names(names), *card.classes)}
    write_training_report(
        path,
        metrics,
        np.sum(alike, axis=0) if alike else None,
        [colored[name] for name in names],
        [],
        score=("top1", "top-1"),
    )
