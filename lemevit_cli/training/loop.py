"""The training loop: one file, from top to bottom, for any task.

    batches -> model -> the task's loss -> gradients -> optimizer -> averaged weights (EMA)
    now and then: validate the averaged weights, keep the best; write a checkpoint

It runs on whatever Accelerate finds: one process by default, several under ``torchrun``. The loss
of a step is the mean over the targets of all its batches and processes. A checkpoint holds tensors
and plain values only, and what it restores is exact: on a CPU the weights after a resume equal
those of a run that was never interrupted, bit for bit.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, nullcontext
from dataclasses import dataclass, field
from datetime import timedelta
from math import inf, isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset

from lemevit_cli.atomic import remove_parts
from lemevit_cli.errors import LemevitError
from lemevit_cli.models.device import choose_device, choose_dtype, use_threads
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.training.checkpoint import (
    CHECKPOINT_NAME,
    Memory,
    Run,
    recipe_of,
    restore_run,
    save_run,
)
from lemevit_cli.training.loader import load_batches
from lemevit_cli.training.metrics_log import MetricsLog
from lemevit_cli.training.optimizer import make_optimizer
from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.samples import StepBatches
from lemevit_cli.training.schedule import (
    MEASURED_STEPS,
    FirstSteps,
    cosine_schedule,
    steps_of_epochs,
)
from lemevit_cli.training.stop_signals import agreed_signal, leave, stop_signals

_MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
_UNMEASURED_STEPS = 1000  # the schedule of a time budget's first steps, until their number is fixed
_PATIENCE = timedelta(days=2)  # of the processes that wait while the first one validates
_FAREWELL_S = 3.0
_NAMED_WINDOWS = 4  # of a step whose loss is no number

Loss = Callable[[nn.Module, Mapping[str, Tensor]], tuple[Tensor, Tensor]]
SaveBest = Callable[[Mapping[str, Tensor], dict[str, Any]], None]


@dataclass(frozen=True)
class Validation:
    """Judgement of a model: ``score`` chooses the best, ``figures`` (plain values) tell why."""

    score: float
    figures: dict[str, Any]


@dataclass(frozen=True)
class TrainingData:
    """Data as the loop sees them.

    Args:
        samples: sample ``i`` is a dict of tensors with ``pixels``; there is no last one. Worker
            processes get it pickled.
        validate: judges a model in eval mode, which takes pixels on any device; None where nothing
            is held back: then the last averaged weights count as the best.
        origin: says of sample ``i`` where it is from, for messages.
        labelled_pixels: of all training data; what an epoch is measured by.
        labelled_pixels_a_window: measures their mean over training windows, where epochs are
            asked for; None: windows are labelled throughout.
        final_cost: how many times a validation's time the scoring after the training takes.
        identity: plain values that a resume must find unchanged.
        memory: what the loss keeps from step to step, for checkpoints.
    """

    samples: Dataset[dict[str, Tensor]]
    validate: Callable[[Callable[[Tensor], Tensor]], Validation] | None = None
    origin: Callable[[int], str] | None = None
    labelled_pixels: int = 0
    labelled_pixels_a_window: Callable[[], float] | None = None
    final_cost: float = 1.0
    identity: Mapping[str, Any] = field(default_factory=dict)
    memory: Memory | None = None


@dataclass(frozen=True)
class Setup:
    """All that a training runs with, and nothing that it changes."""

    loss: Loss
    data: TrainingData
    options: TrainingOptions
    folder: Path
    progress: Progress
    save_best: SaveBest
    accelerator: Accelerator

    @property
    def recipe(self) -> dict[str, Any]:
        processes = self.accelerator.num_processes
        return recipe_of(self.options, processes=processes, data=self.data.identity)


def fit(
    model: nn.Module,
    loss: Loss,
    data: TrainingData,
    options: TrainingOptions,
    *,
    folder: Path,
    progress: Progress,
    save_best: SaveBest,
    spent_s: float = 0.0,
) -> Run:
    """Train a model; the best averaged weights go through ``save_best`` as they are found.

    Args:
        model: its attribute ``encoder``, if there is one, is its backbone.
        folder: for the checkpoint and the metrics, one JSON object a line.
        spent_s: seconds that the user has waited already; they count for a time budget.

    Raises:
        LemevitError: if the optimizer is unknown, or the loss is no longer a number.
        WeightsError: if the checkpoint to resume from is missing or of another training.
    """
    began = time.perf_counter() - spent_s
    accelerator = _accelerator(options)
    progress = progress if accelerator.is_main_process else Silent()
    setup = Setup(loss, data, options, folder, progress, save_best, accelerator)
    run = _prepare(model, setup)
    began -= run.elapsed_s
    log = MetricsLog(folder, first_step=run.step, warn=progress.warn) if run.is_main else None
    schedule = _schedule(run, options)
    first_steps = FirstSteps(options.time_budget_s or inf, options.head_first)
    _announce(run, progress)
    try:
        with closing(_batches(run, setup)) as batches, stop_signals() as stop:
            while not run.is_done:
                schedule.step_update(run.step)
                _set_modes(run, options, first_steps)
                value = _step(run, batches, setup)
                run.step += 1
                seconds = time.perf_counter() - began - run.elapsed_s
                run.elapsed_s += seconds
                progress.advance(1, loss=value, step=run.step)
                if run.total_steps is None:
                    first_steps.add(_from_main(seconds, accelerator))
                    if first_steps.enough:
                        _fix_steps(run, first_steps, setup, log, began)
                        schedule = _schedule(run, options)
                if log is not None:
                    log.step(run.step, run.elapsed_s, loss=value, lr=_rate(run), last=run.is_done)
                if run.is_done or run.step % options.validate_every == 0:
                    _validate(run, setup, log)
                run.elapsed_s = time.perf_counter() - began
                stopped_by = agreed_signal(stop, accelerator)
                if run.is_done or stopped_by or _is_checkpoint_due(run, setup):
                    _save(run, setup)
                if stopped_by:
                    progress.note(f"stopped after step {run.step}; go on with --resume")
                    leave(stopped_by)
            if run.validated_step != run.step:  # a resume that finds no step left to do
                _validate(run, setup, log)
                _save(run, setup)
    finally:
        progress.finish()
        if log is not None:
            log.close()
    accelerator.wait_for_everyone()
    return run


def leave_group() -> None:
    """End what joins the processes of a training, at the end of each process.

    Threads of the group that outlive the interpreter would abort it.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _accelerator(options: TrainingOptions) -> Accelerator:
    use_threads(options.threads)
    device = choose_device(options.device)
    precision = _MIXED_PRECISION[choose_dtype(options.precision, device)]
    if device.index is not None:
        torch.cuda.set_device(device)
    # A backbone of timm may carry parts that its maps do not depend on, and one may be frozen:
    # no gradient reaches them.
    unused = DistributedDataParallelKwargs(find_unused_parameters=True)
    return Accelerator(
        cpu=device.type == "cpu",
        mixed_precision=precision,
        kwargs_handlers=[unused, InitProcessGroupKwargs(timeout=_PATIENCE)],
    )


def _prepare(model: nn.Module, setup: Setup) -> Run:
    """Put a model and its optimizer in place, as new or as a checkpoint left them."""
    options, accelerator = setup.options, setup.accelerator
    model = model.to(accelerator.device).to(memory_format=torch.channels_last)
    backbone = getattr(model, "encoder", None)
    if backbone is None and (options.backbone_lr != 1.0 or options.head_first > 0.0):
        raise ValueError("the model has no `encoder` that could learn at a rate of its own")
    if backbone is not None and options.backbone_lr == 0.0:
        set_backbone_trainable(backbone, False)
    # use_warmup: the average forgets the first, random weights quickly.
    average = ModelEmaV3(model, decay=options.ema_decay, use_warmup=True)
    optimizer = make_optimizer(model, backbone, options)
    memory, is_main = setup.data.memory, accelerator.is_main_process
    run = Run(model, backbone, average, optimizer, memory=memory, is_main=is_main)
    if run.is_main:
        remove_parts(setup.folder / CHECKPOINT_NAME)
    # Processes drop other paths; the first one draws what it would draw alone.
    if accelerator.process_index > 0:
        torch.manual_seed(options.seed + accelerator.process_index)
    if options.resume:
        restore_run(run, setup.folder, accelerator, setup.recipe)
    _plan_steps(run, setup)
    run.model, run.optimizer = accelerator.prepare(model, optimizer)
    return run


def _plan_steps(run: Run, setup: Setup) -> None:
    """Fix the number of steps; a time budget leaves it open until its first steps are measured.

    A resume keeps the number that the checkpoint has, unless the options ask for another.
    """
    options, before = setup.options, run.total_steps
    plan = [options.steps, options.epochs, options.time_budget_s]
    if run.plan == plan:
        return
    run.plan = plan
    steps = steps_of_plan(options, setup.data, processes=setup.accelerator.num_processes)
    run.total_steps = None if steps is None else max(steps, run.step)
    if before is not None and run.total_steps == run.step:
        setup.progress.note(f"{run.step} steps are done already; the training ends here")
    elif before is not None and run.total_steps not in {None, before}:
        setup.progress.note(
            f"goes on at step {run.step} towards step {run.total_steps}, not {before} as before; "
            "the learning rate follows the new number"
        )


def steps_of_plan(options: TrainingOptions, data: TrainingData, *, processes: int) -> int | None:
    """Count the steps that are asked for; None where a time budget fixes them on the way."""
    if options.time_budget_s is not None:
        return None
    if options.epochs is None:
        return options.steps
    if data.labelled_pixels <= 0:
        raise ValueError("epochs need the number of labelled pixels")
    windows = options.batch_size * options.accumulate * processes
    measure = data.labelled_pixels_a_window
    a_window = options.crop**2 if measure is None else measure()
    return steps_of_epochs(
        options.epochs, labelled_pixels=data.labelled_pixels, pixels_a_step=windows * a_window
    )


def _schedule(run: Run, options: TrainingOptions) -> CosineLRScheduler:
    steps = run.total_steps or _UNMEASURED_STEPS
    return cosine_schedule(run.optimizer, options, steps=steps)


def _rate(run: Run) -> float:
    return max(float(group["lr"]) for group in run.optimizer.param_groups)


def _announce(run: Run, progress: Progress) -> None:
    """Begin a phase: what is left, so that the time left is right after a resume too."""
    if run.total_steps is None:
        progress.start("measure", total=MEASURED_STEPS, unit="steps")
    else:
        progress.start("train", total=run.total_steps - run.step, unit="steps")


def _batches(run: Run, setup: Setup) -> Generator[dict[str, Tensor]]:
    """Yield this process's batches from the run's next step on, without an end."""
    options, accelerator = setup.options, setup.accelerator
    order = StepBatches(
        batch_size=options.batch_size,
        first_step=run.step * options.accumulate,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    return load_batches(
        setup.data.samples, order, workers=options.workers, device=accelerator.device
    )


def _set_modes(run: Run, options: TrainingOptions, first_steps: FirstSteps) -> None:
    """Set mode and rates of the next step: a frozen backbone is in evaluation mode.

    While a time budget is measured, every other step computes the gradients of a frozen backbone
    too, to learn what they will cost, but its rate is zero.
    """
    run.model.train()
    if run.backbone is None:
        return
    if options.backbone_lr == 0.0:
        set_backbone_trainable(run.backbone, False)
        return
    if options.head_first == 0.0:
        return
    total = run.total_steps
    is_frozen = total is None or run.step < options.head_first * total
    set_backbone_trainable(run.backbone, not is_frozen)
    if is_frozen:
        run.backbone.requires_grad_(total is None and not first_steps.next_is_short)
        for group in run.optimizer.param_groups:
            if group["part"] == "backbone":
                group["lr"] = 0.0


def set_backbone_trainable(backbone: nn.Module, trainable: bool) -> None:
    """Freeze a backbone, without gradients and in evaluation mode, or let it learn."""
    backbone.train(trainable)
    backbone.requires_grad_(trainable)


def _step(run: Run, batches: Iterator[dict[str, Tensor]], setup: Setup) -> float:
    """Update the weights once; return the mean loss over all targets of all processes."""
    options, accelerator = setup.options, setup.accelerator
    sums = torch.zeros(2, device=accelerator.device)  # of the loss, of the targets
    unit = torch.ones((), device=accelerator.device)
    for number in range(options.accumulate):
        is_last = number == options.accumulate - 1
        with nullcontext() if is_last else accelerator.no_sync(run.model):
            batch = {**next(batches), "done": torch.tensor(run.done)}
            total, count = _loss(run.model, batch, setup.loss)
            # Processes with few targets must not weigh more: divide by the targets of all.
            sums += accelerator.reduce(torch.stack([total.detach().float(), count.float()]), "sum")
            if number == 0:
                unit = sums[1].clamp(min=1.0)
            # Gradients are averaged over the processes, hence their number.
            accelerator.backward(total * accelerator.num_processes / unit)
    targets = sums[1].clamp(min=1.0)
    value = float(sums[0] / targets)
    if not isfinite(value):
        raise _bad_step(f"the loss is {value}", run, setup)
    if options.accumulate > 1:  # until now the gradients are per target of the first batch
        for parameter in run.model.parameters():
            if parameter.grad is not None:
                parameter.grad.mul_(unit / targets)
    largest = inf if options.clip_norm is None else options.clip_norm
    norm = float(accelerator.clip_grad_norm_(run.model.parameters(), largest))
    # With a scaler (fp16) such a gradient is no failure: it leaves out the step.
    if not isfinite(norm) and accelerator.scaler is None:
        raise _bad_step(f"the gradient's norm is {norm}", run, setup)
    run.optimizer.step()
    run.optimizer.zero_grad(set_to_none=True)
    run.average.update(accelerator.unwrap_model(run.model), step=run.step)
    return value


def _loss(model: nn.Module, batch: Mapping[str, Tensor], loss: Loss) -> tuple[Tensor, Tensor]:
    try:
        return loss(model, batch)
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise LemevitError(
            "a batch norm of the decoder sees a single value in training; use a --batch-size of at "
            "least 2, or another --decoder"
        ) from error


def _bad_step(what: str, run: Run, setup: Setup) -> LemevitError:
    """Tell where a training broke and what is left of it; that step has not touched the weights."""
    if not run.is_main:
        # The first process tells. torchrun ends it as soon as another one has left: let it finish.
        time.sleep(_FAREWELL_S)
        sys.exit(1)
    options = setup.options
    windows = options.batch_size * options.accumulate * setup.accelerator.num_processes
    samples = range(run.step * windows, (run.step + 1) * windows)
    origin = setup.data.origin or "sample {}".format
    named = "; ".join(origin(sample) for sample in samples[:_NAMED_WINDOWS])
    more = f"; and {windows - _NAMED_WINDOWS} more" if windows > _NAMED_WINDOWS else ""
    path = setup.folder / CHECKPOINT_NAME
    checkpoint = "no checkpoint was written yet"
    if run.saved_step is not None:
        checkpoint = f"the last good checkpoint is {path} of step {run.saved_step}"
    exact = setup.accelerator.mixed_precision == "no"
    resume = "" if exact or run.saved_step is None else "resume with --precision fp32, or "
    return LemevitError(
        f"{what} at step {run.step} on {windows} windows ({named}{more}); {checkpoint}; "
        f"{resume}check these windows, or start anew with a smaller --lr than {options.lr:g}"
    )


def _fix_steps(
    run: Run, first_steps: FirstSteps, setup: Setup, log: MetricsLog | None, began: float
) -> None:
    """Measure a validation too, then say once how many steps the time budget is enough for."""
    options, accelerator = setup.options, setup.accelerator
    before = time.perf_counter()
    _validate(run, setup, log)
    now = time.perf_counter()
    run.total_steps = first_steps.affordable_steps(
        done=run.step,
        elapsed_s=_from_main(now - began, accelerator),
        validation_s=_from_main(now - before, accelerator) if setup.data.validate else 0.0,
        validate_every=options.validate_every,
        final_cost=setup.data.final_cost,
    )
    setup.progress.finish()
    setup.progress.note(
        f"a time budget of {options.time_budget_s:g} s is enough for {run.total_steps} steps"
    )
    _announce(run, setup.progress)


def _validate(run: Run, setup: Setup, log: MetricsLog | None) -> None:
    """Judge the averaged weights and keep them if they are the best; once a step."""
    accelerator, validate = setup.accelerator, setup.data.validate
    if run.validated_step == run.step or (validate is None and not run.is_done):
        return
    run.validated_step = run.step
    if log is not None:
        averaged = run.average.module.eval()

        def answer(pixels: Tensor) -> Tensor:
            with torch.inference_mode(), accelerator.autocast():
                logits: Tensor = averaged(pixels.to(accelerator.device))
                return logits.float()

        if validate is None:
            _keep_best(run, -inf, None, setup)
        else:
            validation = validate(answer)
            log.validation(run.step, score=validation.score, figures=validation.figures)
            if validation.score > run.best_score:
                _keep_best(run, validation.score, validation.figures, setup)
    accelerator.wait_for_everyone()


def _keep_best(run: Run, score: float, figures: dict[str, Any] | None, setup: Setup) -> None:
    best = {"step": run.step, "figures": figures}
    try:
        setup.save_best(run.average.module.state_dict(), best)
    except OSError as error:
        setup.progress.warn(f"the best weights of step {run.step} could not be written ({error})")
        return
    run.best_score, run.best = score, best


def _save(run: Run, setup: Setup) -> None:
    """Write a checkpoint; without room for it the training goes on, and the old one stays."""
    try:
        save_run(run, setup.folder, setup.accelerator, setup.recipe)
    except (OSError, RuntimeError) as error:
        setup.progress.warn(
            f"{setup.folder / CHECKPOINT_NAME}: the checkpoint of step {run.step} could not be "
            f"written ({str(error).splitlines()[0]}); the one before, if any, is kept"
        )
    setup.accelerator.wait_for_everyone()


def _is_checkpoint_due(run: Run, setup: Setup) -> bool:
    """Decide by steps, or by the first process's clock, so that all write it together."""
    options = setup.options
    if options.checkpoint_every is not None and run.step % options.checkpoint_every == 0:
        return True
    every = options.checkpoint_every_s
    # Seconds of the other processes do not count: their checkpoints are not written by them.
    return every is not None and _from_main(run.elapsed_s - run.saved_s, setup.accelerator) >= every


def _from_main(value: float, accelerator: Accelerator) -> float:
    """Return the first process's value, so that all decide alike."""
    return float(accelerator.gather(torch.tensor([value], device=accelerator.device))[0])
