"""``lemevit train``: from folders of pictures to one file of weights with its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lemevit_cli.errors import OutputError
from lemevit_cli.models.weights import Card, load_weights, save_weights
from lemevit_cli.pipelines.evaluation import evaluate
from lemevit_cli.pipelines.progress import Progress, Silent
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks import load_task
from lemevit_cli.training.loop import fit
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.writers.atomic import check_replaceable

_BEST_NAME = "best.safetensors"


def train(
    task_name: str,
    data: DataOptions,
    output: str,
    options: TrainingOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, and write the averaged weights that validated best.

    Checkpoint, metrics and the best weights so far lie in ``<output without suffix>_training/``.

    Returns:
        A record: ``path``, ``steps``, ``seconds``, ``parameters``, ``classes``, the ``best``
        validation with its ``step`` and, by data set, ``figures``; and ``scores`` by data set, of
        the weights written on the whole of each validation split, as ``lemevit eval`` gives them.

    Raises:
        DataError, OutputError: before any step, in one line.
    """
    progress = progress or Silent()
    target = Path(output)
    folder = target.with_name(f"{target.stem}_training")
    _check_target(target, folder, options)
    task = load_task(task_name)
    found = task.open_data(data, options)
    torch.manual_seed(options.seed)
    model = task.build_model(found.card, pretrained=options.pretrained)
    parameters = sum(p.numel() for p in model.parameters())
    folder.mkdir(exist_ok=True)

    def save_best(state: Mapping[str, Tensor], best: dict[str, Any]) -> None:
        save_weights(folder / _BEST_NAME, state, _signed(found.card, found.record, best, options))

    run = fit(
        model,
        task.loss,
        found.training,
        options,
        folder=folder,
        listener=progress,
        save_best=save_best,
    )
    if not run.is_main:
        return {"path": output, "steps": run.step}
    scores = {
        path: evaluate(str(folder / _BEST_NAME), path, runtime=_runtime(options), progress=progress)
        for path in data.paths
    }
    state, card = load_weights(folder / _BEST_NAME)
    metrics = tuple(
        {"miou": figures["miou"], "accuracy": figures["accuracy"], "classes": figures["classes"]}
        | {"data": Path(path).resolve().name, "command": f"lemevit eval {target.name} {path}"}
        for path, figures in scores.items()
    )
    save_weights(target, state, replace(card, metrics=metrics))
    return {
        "path": output,
        "steps": run.step,
        "seconds": round(run.elapsed_s, 1),
        "parameters": parameters,
        "best": run.best,
        "scores": {Path(path).resolve().name: figures for path, figures in scores.items()},
        "classes": list(card.class_names),
    }


def _runtime(options: TrainingOptions) -> RuntimeOptions:
    # In full precision, as `lemevit eval` does it by default on a CPU.
    return RuntimeOptions(device=options.device, threads=options.threads)


def _check_target(target: Path, folder: Path, options: TrainingOptions) -> None:
    if target.suffix != ".safetensors":
        raise OutputError(f"{target}: weights are written as .safetensors; name it so")
    check_replaceable(target, overwrite=options.overwrite or options.resume)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; the checkpoints need a folder of that name")


def _signed(
    card: Card, record: dict[str, Any], best: dict[str, Any], options: TrainingOptions
) -> Card:
    """The card with what was done to get there."""
    recipe = {
        key: value
        for key, value in asdict(options).items()
        if key
        not in {"backbone", "backbone_args", "decoder", "decoder_args", "resume", "overwrite"}
    }
    training = {**record, "step": best["step"], "recipe": recipe}
    return replace(card, training=training)
