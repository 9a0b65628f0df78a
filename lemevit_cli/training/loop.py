"""The training loop: one file, from top to bottom, for any task.

    batches -> model -> the task's loss -> gradients -> AdamW -> averaged weights (EMA)
    now and then: validate the averaged weights, keep the best; write a checkpoint

It runs on whatever Accelerate finds: one process by default, several under ``torchrun``. A
checkpoint holds tensors and plain values only. What it restores is exact: on a CPU the weights
after a resume equal those of a run that was never interrupted, bit for bit, unless a time budget
drives the schedule.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from timm.optim import create_optimizer_v2
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from lemevit_cli.errors import LemevitError, WeightsError
from lemevit_cli.execution.device import choose_device, choose_dtype, use_threads
from lemevit_cli.models.weights import load_checkpoint
from lemevit_cli.training.crops import StepBatches
from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.schedule import rate_factor

CHECKPOINT_NAME = "checkpoint.pt"
METRICS_NAME = "metrics.jsonl"
_LOG_EVERY = 10  # steps
_MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}

Loss = Callable[[nn.Module, Mapping[str, Tensor]], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Validation:
    """How good a model is: ``score`` chooses the best, ``figures`` (plain values) tell why."""

    score: float
    figures: dict[str, Any]


@dataclass(frozen=True)
class TrainingData:
    """What the loop needs of the data.

    Args:
        samples: sample ``i`` is a dict of tensors with ``pixels``; there is no last one.
        validate: judges a model in eval mode, which takes pixels on any device.
    """

    samples: Dataset[dict[str, Tensor]]
    validate: Callable[[Callable[[Tensor], Tensor]], Validation]


class Listener(Protocol):
    """Hears how the training goes."""

    def start(self, label: str, *, total: int, unit: str) -> None: ...

    def advance(self, count: int = 1, **figures: float) -> None: ...

    def finish(self) -> None: ...

    def warn(self, message: str) -> None: ...

    def note(self, message: str) -> None: ...


@dataclass
class Run:
    """The state of a training, all of which a checkpoint holds."""

    model: nn.Module
    average: ModelEmaV3
    optimizer: torch.optim.Optimizer
    step: int = 0
    elapsed_s: float = 0.0
    best_score: float = float("-inf")
    best: dict[str, Any] = field(default_factory=dict)  # step and figures of the best validation
    is_main: bool = True  # of several processes, the one that validates and writes


def fit(
    model: nn.Module,
    loss: Loss,
    data: TrainingData,
    options: TrainingOptions,
    *,
    folder: Path,
    listener: Listener,
    save_best: Callable[[Mapping[str, Tensor], dict[str, Any]], None],
) -> Run:
    """Train a model; the best averaged weights go through ``save_best`` as they are found.

    Args:
        folder: for the checkpoint and the metrics, one JSON object a line.

    Raises:
        LemevitError: if the loss is no longer a number.
        WeightsError: if the checkpoint to resume from is missing or of another model.
    """
    accelerator = _accelerator(options)
    run = _prepare(model, accelerator, options, folder)
    log = MetricsLog(folder / METRICS_NAME, first_step=run.step, silent=not run.is_main)
    clock = time.perf_counter() - run.elapsed_s
    bar = ProgressBar(listener, options)
    done = _progress(run, options) >= 1.0
    batches = () if done else _batches(data.samples, accelerator, options, run.step)
    try:
        with _stop_signals() as stop:
            for batch in batches:
                rate = options.lr * rate_factor(_progress(run, options), warmup=options.warmup)
                value = _step(run, batch, loss, accelerator, options, rate)
                run.step += 1
                run.elapsed_s = time.perf_counter() - clock
                done = _progress(run, options) >= 1.0
                log.step(run, loss=value, lr=rate, flush=done)
                bar.show(run, loss=value)
                if done or run.step % options.validate_every == 0:
                    _validate(run, data, accelerator, log, save_best)
                    run.elapsed_s = time.perf_counter() - clock
                if done or stop.signal or run.step % options.checkpoint_every == 0:
                    _save(run, folder, accelerator, listener)
                if stop.signal:
                    listener.note(f"stopped after step {run.step}; go on with --resume")
                    _leave(stop.signal)
                if done:
                    break
    finally:
        listener.finish()
    accelerator.wait_for_everyone()
    return run


def _progress(run: Run, options: TrainingOptions) -> float:
    if options.time_budget_s is not None:
        return run.elapsed_s / options.time_budget_s
    return run.step / options.steps


def _leave(number: signal.Signals) -> None:
    """End as the signal would have ended the program."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)


class ProgressBar:
    """Shows steps, or the part of a time budget that is used up."""

    def __init__(self, listener: Listener, options: TrainingOptions) -> None:
        self._listener, self._options = listener, options
        self._shown = 0
        by_time = options.time_budget_s is not None
        self._total = 100 if by_time else options.steps
        listener.start("train", total=self._total, unit="%" if by_time else "steps")

    def show(self, run: Run, *, loss: float) -> None:
        """After a resume the first call makes up for what was done before."""
        reached = min(int(_progress(run, self._options) * self._total + 1e-9), self._total)
        self._listener.advance(reached - self._shown, loss=loss, step=run.step)
        self._shown = reached


def _step(
    run: Run,
    batch: dict[str, Tensor],
    loss: Loss,
    accelerator: Accelerator,
    options: TrainingOptions,
    rate: float,
) -> float:
    """One update of the weights; the mean loss over the targets of all processes."""
    for group in run.optimizer.param_groups:
        group["lr"] = rate
    run.model.train()
    total, count = _loss(run.model, batch, loss)
    # Divide by the targets of all processes: processes with few of them must not weigh more.
    # Distributed gradients are averaged, hence the number of processes.
    count = accelerator.reduce(count.float(), reduction="sum").clamp(min=1.0)
    mean = total * accelerator.num_processes / count
    value = float(accelerator.reduce(mean.detach(), reduction="mean"))
    if not isfinite(value):
        raise LemevitError(
            f"the loss is {value} at step {run.step}; resume from the last checkpoint with a "
            f"smaller learning rate than {options.lr:g}, or in fp32"
        )
    accelerator.backward(mean)
    accelerator.clip_grad_norm_(run.model.parameters(), options.clip_norm)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.average.update(accelerator.unwrap_model(run.model), step=run.step)
    return value


def _loss(model: nn.Module, batch: dict[str, Tensor], loss: Loss) -> tuple[Tensor, Tensor]:
    try:
        return loss(model, batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LemevitError(
            "a batch norm of the decoder sees a single value in training; use a --batch-size of at "
            "least 2, or another --decoder"
        ) from error


def _validate(
    run: Run,
    data: TrainingData,
    accelerator: Accelerator,
    log: MetricsLog,
    save_best: Callable[[Mapping[str, Tensor], dict[str, Any]], None],
) -> None:
    if not accelerator.is_main_process:
        return
    averaged = run.average.module.eval()

    def answer(pixels: Tensor) -> Tensor:
        with torch.inference_mode(), accelerator.autocast():
            logits: Tensor = averaged(pixels.to(accelerator.device))
            return logits.float()

    validation = data.validate(answer)
    log.write(step=run.step, score=validation.score, validation=validation.figures)
    if validation.score > run.best_score:
        run.best_score = validation.score
        run.best = {"step": run.step, "figures": validation.figures}
        save_best(averaged.state_dict(), run.best)


def _accelerator(options: TrainingOptions) -> Accelerator:
    use_threads(options.threads)
    device = choose_device(options.device)
    precision = _MIXED_PRECISION[choose_dtype(options.precision, device)]
    if device.index is not None:
        torch.cuda.set_device(device)
    # A backbone of timm may carry parts that its maps do not depend on: no gradient reaches them.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        cpu=device.type == "cpu", mixed_precision=precision, kwargs_handlers=[unused]
    )


def _prepare(
    model: nn.Module, accelerator: Accelerator, options: TrainingOptions, folder: Path
) -> Run:
    """Put a model and its optimizer in place, as new or as a checkpoint left them."""
    model = model.to(accelerator.device).to(memory_format=torch.channels_last)
    # use_warmup: the average forgets the first, random weights quickly.
    average = ModelEmaV3(model, decay=options.ema_decay, use_warmup=True)
    optimizer = create_optimizer_v2(
        model, opt="adamw", lr=options.lr, weight_decay=options.weight_decay
    )
    run = Run(model, average, optimizer, is_main=accelerator.is_main_process)
    if options.resume:
        _restore(run, folder / CHECKPOINT_NAME)
    run.model, run.optimizer = accelerator.prepare(model, optimizer)
    return run


def _batches(
    samples: Dataset[dict[str, Tensor]],
    accelerator: Accelerator,
    options: TrainingOptions,
    first_step: int,
) -> Iterator[dict[str, Tensor]]:
    """Batches on the device, from a step on, without an end."""
    loader = DataLoader(
        samples,
        batch_sampler=StepBatches(
            batch_size=options.batch_size,
            first_step=first_step,
            rank=accelerator.process_index,
            num_processes=accelerator.num_processes,
        ),
        num_workers=options.workers,
        worker_init_fn=_start_worker,
        pin_memory=accelerator.device.type == "cuda",
        # A generator of its own: the loader must not draw from the one that a resume restores.
        generator=torch.Generator().manual_seed(options.seed),
    )
    for batch in loader:
        yield {key: value.to(accelerator.device, non_blocking=True) for key, value in batch.items()}


def _start_worker(worker: int) -> None:
    # Signals reach the whole group of processes; the training process alone answers them.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)


def _save(run: Run, folder: Path, accelerator: Accelerator, listener: Listener) -> None:
    """Write the checkpoint beside the old one and rename: a full disk keeps the old."""
    if not accelerator.is_main_process:
        return
    path = folder / CHECKPOINT_NAME
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    state = {
        "model": accelerator.unwrap_model(run.model).state_dict(),
        "average": run.average.module.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "random": torch.get_rng_state(),  # drop path draws from it
        "step": run.step,
        "elapsed_s": run.elapsed_s,
        "best_score": run.best_score,
        "best": run.best,
    }
    try:
        torch.save(state, temporary)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        listener.warn(f"{path}: the checkpoint of step {run.step} could not be written ({error})")
    finally:
        temporary.unlink(missing_ok=True)


def _restore(run: Run, path: Path) -> None:
    state = load_checkpoint(path)
    try:
        run.model.load_state_dict(state["model"])
        run.average.module.load_state_dict(state["average"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.step, run.elapsed_s = state["step"], state["elapsed_s"]
        run.best_score, run.best = state["best_score"], state["best"]
        torch.set_rng_state(state["random"])
    except (KeyError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise WeightsError(
            f"{path}: not a checkpoint of this training ({reason}); "
            "resume with the options and data that it was started with"
        ) from error


class MetricsLog:
    """A file of JSON lines; lines of steps that will be done again are dropped."""

    def __init__(self, path: Path, *, first_step: int, silent: bool = False) -> None:
        self._path, self._silent = path, silent
        self._losses: list[float] = []
        if silent:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        kept = [line for line in lines if first_step and json.loads(line)["step"] <= first_step]
        path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def step(self, run: Run, *, loss: float, lr: float, flush: bool) -> None:
        """Note a step; every few steps their mean loss becomes a line."""
        self._losses.append(loss)
        if flush or run.step % _LOG_EVERY == 0:
            mean = sum(self._losses) / len(self._losses)
            self.write(step=run.step, loss=mean, lr=lr, elapsed_s=round(run.elapsed_s, 2))
            self._losses.clear()

    def write(self, **figures: Any) -> None:
        if self._silent:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(figures) + "\n")


@dataclass
class Stop:
    """The signal that asked the training to end, None so far."""

    signal: signal.Signals | None = None


@contextmanager
def _stop_signals() -> Iterator[Stop]:
    """Note SIGTERM and Ctrl-C instead of dying of them, so that a checkpoint can be written.

    A second Ctrl-C acts at once.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # Python takes signals in the main thread alone
        return

    def note(number: int, frame: object) -> None:
        if stop.signal is not None:
            raise KeyboardInterrupt
        stop.signal = signal.Signals(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
