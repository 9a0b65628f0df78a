"""What a training of a detector shows: its windows before it starts, its results after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from lemevit_cli.models.weights import Card
from lemevit_cli.pictures.box_picture import BoxesShown, write_box_sheet, write_detector_report
from lemevit_cli.settings import USUAL_SCORE
from lemevit_cli.tasks.detection.validation import BoxExample, BoxValidation
from lemevit_cli.tasks.detection.windows import EMPTY
from lemevit_cli.training.datasets.objects import IGNORED
from lemevit_cli.training.pictures import as_rgb

_SAMPLES = 16


def draw_samples(path: str | Path, samples: Dataset[dict[str, Tensor]], card: Card) -> None:
    """Draw the first windows of a training, augmented, with their boxes; ignored ones dotted."""
    write_box_sheet(path, [_shown_sample(samples[i], card) for i in range(_SAMPLES)], card.classes)


def _shown_sample(sample: Mapping[str, Tensor], card: Card) -> tuple[NDArray[np.uint8], BoxesShown]:
    labels = sample["labels"].numpy()
    used = labels != EMPTY
    boxes = sample["boxes"].double().numpy()[used]
    return as_rgb(sample["pixels"].numpy(), card.value_range), BoxesShown(boxes, labels[used])


def draw_report(
    path: str | Path,
    metrics: Sequence[Mapping[str, Any]],
    *,
    validation: BoxValidation | None,
    card: Card,
) -> None:
    """Draw curves, precision by class and validation windows as the last validation left them.

    Found boxes are drawn from a score of 0.3 on.
    """
    # A resume that finds nothing left to do has not validated.
    tally = validation.tally if validation is not None and len(validation.tally) else None
    classes = {} if tally is None else tally.figures()["classes"]
    write_detector_report(
        path,
        metrics,
        {} if tally is None else tally.curves(),
        {name: record["ap50"] for name, record in classes.items()},
        card.classes,
        [_shown_example(e, card) for e in ([] if validation is None else validation.examples)],
    )


def _shown_example(
    example: BoxExample, card: Card
) -> tuple[NDArray[np.uint8], BoxesShown, BoxesShown]:
    places = {name: i for i, name in enumerate(card.class_names)}
    ids = [places.get(name, IGNORED) for name in example.truth_classes]
    truth = example.truth
    counted = truth.counted
    labels = np.full(len(truth), IGNORED)
    labels[counted] = np.array(ids, dtype=np.int64)[truth.class_ids[counted]]
    confident = example.prediction[example.prediction[:, 5] >= USUAL_SCORE]
    return (
        as_rgb(example.pixels, card.value_range),
        BoxesShown(truth.boxes, labels),
        BoxesShown(confident[:, :5], confident[:, 6].astype(np.int64)),
    )
