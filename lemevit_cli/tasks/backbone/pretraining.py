"""``lemevit pretrain``: a backbone that learns from a teacher, on pictures without labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.progress import Progress
from lemevit_cli.tasks.backbone.training import Distillation, DistillationOptions
from lemevit_cli.tasks.training import train, training_folder
from lemevit_cli.training.options import DataOptions, TrainingOptions


def pretrain(
    data: DataOptions,
    output: str,
    teaching: DistillationOptions,
    options: TrainingOptions,
    progress: Progress | None = None,
    *,
    spent_s: float = 0.0,
) -> dict[str, Any]:
    """Distil a teacher into a backbone, and write its averaged weights.

    Args:
        spent_s: as of :func:`lemevit_cli.tasks.training.train`.

    Returns:
        A record as of :func:`lemevit_cli.tasks.training.train`.

    Raises:
        LemevitError: for a teacher, data, options or targets that are wrong, before any step.
    """
    check_inputs_kept([output], [teaching.teacher.name])
    distillation = Distillation(teaching, training_folder(Path(output)))
    record = train(distillation, data, output, options, progress, spent_s=spent_s)
    distillation.finish()
    return record
