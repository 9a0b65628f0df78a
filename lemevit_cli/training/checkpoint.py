"""The state of a training on disk: tensors and plain values, whole or not at all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import nn

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.weights import load_checkpoint
from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.schedule import Pace

CHECKPOINT_NAME = "checkpoint.pt"
# What a resume may choose anew: it changes how long and where a training runs, not what it is.
_FREE = {
    "steps",
    "epochs",
    "time_budget_s",
    "device",
    "precision",
    "threads",
    "workers",
    "validate_every",
    "validation_windows",
    "checkpoint_every",
    "checkpoint_every_s",
    "half",
    "resume",
    "overwrite",
    "chosen",
}


class Memory(Protocol):
    """What a loss keeps from step to step: tensors and plain values, as a module gives them."""

    def state_dict(self) -> dict[str, Any]:
        """Return them by name."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Take them up."""
        ...


@dataclass
class Run:
    """The state of a training; a checkpoint holds it.

    Args:
        backbone: the part of the model that may be frozen, or learn at a rate of its own.
        before_s: seconds of earlier sittings.
        total_steps: None until a time budget is over.
        pace: of a time budget; None where the steps are counted.
        plan: the options that the number of steps comes from.
        elapsed_s: since the training began, without the time between two sittings.
        best: step and figures of the best validation so far.
        validated_step, saved_step: the last of their kind, None before.
        saved_s: ``elapsed_s`` of the last checkpoint.
        told_s: seconds of a time budget that were told as progress.
        memory: what the loss keeps, of the first process; None where it keeps nothing.
        is_main: of several processes, the one that validates and writes.
    """

    model: nn.Module
    backbone: nn.Module | None
    average: ModelEmaV3
    optimizer: torch.optim.Optimizer
    total_steps: int | None = None
    pace: Pace | None = None
    step: int = 0
    elapsed_s: float = 0.0
    best_score: float = -inf
    best: dict[str, Any] = field(default_factory=dict)
    plan: list[float | None] = field(default_factory=list)
    validated_step: int | None = None
    saved_step: int | None = None
    saved_s: float = 0.0
    told_s: int = 0
    before_s: float = 0.0
    memory: Memory | None = None
    is_main: bool = True

    @property
    def done(self) -> float:
        """The part of the training that is over."""
        if self.pace is not None:
            return self.pace.done
        return self.step / self.total_steps if self.total_steps else 0.0

    @property
    def is_done(self) -> bool:
        if self.pace is not None:
            return self.pace.is_over
        return self.total_steps is not None and self.step >= self.total_steps


def recipe_of(
    options: TrainingOptions, *, processes: int, data: Mapping[str, Any]
) -> dict[str, Any]:
    """Return plain values that a resume must find unchanged, by the names of their options."""
    named = asdict(options)
    varied = {f"augmentation.{key}": value for key, value in named.pop("augmentation").items()}
    chosen = {key: value for key, value in named.items() if key not in _FREE}
    return {**chosen, **varied, "processes": processes, **data}


def save_run(run: Run, folder: Path, accelerator: Accelerator, recipe: Mapping[str, Any]) -> None:
    """Write a checkpoint; all processes call this, the first one writes.

    Raises:
        OSError, RuntimeError: if it cannot be written; the one before is untouched.
    """
    # Drop path draws from it, in each process its own.
    random = accelerator.gather(torch.get_rng_state().to(accelerator.device)[None])
    if not run.is_main:
        return
    scaler = accelerator.scaler
    state = {
        "recipe": dict(recipe),
        "plan": run.plan,
        "total_steps": run.total_steps,
        "pace": None if run.pace is None else asdict(run.pace),
        "model": accelerator.unwrap_model(run.model).state_dict(),
        "average": run.average.module.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "scaler": {} if scaler is None else scaler.state_dict(),
        "memory": {} if run.memory is None else run.memory.state_dict(),
        "random": random.cpu(),
        "step": run.step,
        "elapsed_s": run.elapsed_s,
        "best_score": run.best_score,
        "best": run.best,
        "validated_step": run.validated_step,
    }
    _write(folder / CHECKPOINT_NAME, state)
    run.saved_step = run.step
    run.saved_s = run.elapsed_s


def _write(path: Path, state: Mapping[str, Any]) -> None:
    """Write beside the old checkpoint and rename: a full disk keeps the old."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        torch.save(state, file)


def check_resumable(folder: Path, recipe: Mapping[str, Any]) -> None:
    """Refuse to go on from a checkpoint of another recipe.

    Raises:
        WeightsError: if it is missing, or of another recipe; names the first option that differs.
    """
    path = folder / CHECKPOINT_NAME
    _check_recipe(path, load_checkpoint(path).get("recipe", {}), recipe)


def restore_run(
    run: Run, folder: Path, accelerator: Accelerator, recipe: Mapping[str, Any]
) -> None:
    """Take up a run where its checkpoint left it; before the model is spread over processes.

    Raises:
        WeightsError: if it is missing, or of another recipe; names the first option that differs.
    """
    path = folder / CHECKPOINT_NAME
    state = load_checkpoint(path)
    try:
        _check_recipe(path, state["recipe"], recipe)
        run.model.load_state_dict(state["model"])
        run.average.module.load_state_dict(state["average"])
        run.optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None and state["scaler"]:
            accelerator.scaler.load_state_dict(state["scaler"])
        if run.memory is not None:
            run.memory.load_state_dict(state["memory"])
        run.plan, run.total_steps = state["plan"], state["total_steps"]
        run.pace = Pace(**state["pace"]) if state.get("pace") else None
        run.step = run.saved_step = state["step"]
        run.elapsed_s = run.saved_s = run.before_s = state["elapsed_s"]
        run.best_score, run.best = state["best_score"], state["best"]
        # Judged, but not kept (a full disk) is to be judged again.
        run.validated_step = state.get("validated_step") if run.best else None
        torch.set_rng_state(state["random"][accelerator.process_index].clone())
    except (
        *(LookupError, TypeError, ValueError, AttributeError, ArithmeticError, AssertionError),
        RuntimeError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise WeightsError(
            f"{path}: not a checkpoint of this training ({reason}); "
            "resume with the options and data that it was started with"
        ) from error


def _check_recipe(path: Path, stored: object, given: Mapping[str, Any]) -> None:
    if not isinstance(stored, Mapping):
        raise WeightsError(f"{path}: holds no recipe; start anew without --resume")
    for name, value in given.items():
        # Compared as text: tensors, which a file may hold, compare by element.
        if name in stored and repr(stored[name]) != repr(value):
            raise WeightsError(
                f"{path}: made with {name} {stored[name]!r}, but {value!r} is given; resume with "
                "the options it was started with, or start anew without --resume"
            )
