"""``lemevit eval``: weights scored on labelled data, as the commands over scenes use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.inference.predictor import Predictor, load_predictor
from lemevit_cli.models.weights import Card, Weights, open_weights
from lemevit_cli.progress import Progress
from lemevit_cli.settings import DetectionOptions, RuntimeOptions
from lemevit_cli.tasks import TASKS, load_evaluation, load_network


@dataclass(frozen=True)
class Evaluation:
    """How weights of a task are scored.

    Args:
        open: data by path, split and card.
        score: a predictor on opened data, with ``batch_size`` and ``progress`` by keyword.
        judged: which boxes of a window a detector has to answer for it.
    """

    open: Callable[[str, str, Card], Any]
    score: Callable[..., dict[str, Any]]
    judged: DetectionOptions | None = None


def evaluate(
    weights: str,
    data: str,
    *,
    split: str = "val",
    runtime: RuntimeOptions | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a split of a folder, pooled over all its pictures.

    Returns:
        As the task's ``EVALUATION`` gives them.

    Raises:
        WeightsError, DataError: before any prediction.
    """
    opened = open_weights(weights)
    card = opened.card
    if card.task not in TASKS:
        raise WeightsError(
            f"{weights}: weights for task {card.task}; eval scores those for {', '.join(TASKS)}"
        )
    source = load_evaluation(card.task).open(data, split, card)
    predictor = predictor_to_score(opened, runtime or RuntimeOptions())
    return evaluate_source(predictor, source, batch_size=batch_size, progress=progress)


def predictor_to_score(weights: Weights, runtime: RuntimeOptions) -> Predictor:
    """Make weights ready for :func:`evaluate_source`."""
    task = weights.card.task
    return load_predictor(weights, load_network(task), runtime, load_evaluation(task).judged)


def evaluate_source(
    predictor: Predictor,
    source: Any,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a source of data of their task.

    Returns:
        As the task's ``EVALUATION`` gives them.

    Raises:
        DataError: if no class is shared.
        SceneError: if a raster cannot be read as the weights ask.
    """
    score = load_evaluation(predictor.card.task).score
    return score(predictor, source, batch_size=batch_size, progress=progress)
