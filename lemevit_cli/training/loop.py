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
from copy import deepcopy
from dataclasses import dataclass, field
from datetime import timedelta
from math import ceil, inf, isfinite
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from timm.scheduler import CosineLRScheduler
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.utils.data import Dataset, default_collate

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
from lemevit_cli.training.schedule import Pace, cosine_schedule, steps_of_epochs
from lemevit_cli.training.stop_signals import agreed_signal, leave, stop_signals

_MIXED_PRECISION = {torch.float32: "no", torch.bfloat16: "bf16", torch.float16: "fp16"}
_PARTS_OF_BUDGET = 100_000  # of the learning rate's schedule, where it follows the time
# Of a budget that is over before the first step: the machine is so busy that another process would
# take as long to begin. Windows are the same without it.
_LATE_START = 0.15
_FORWARD_PART = 1 / 3  # of a step's time: a validation needs no gradients
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
        validation_pixels: that a validation judges.
        final_cost: how many times a validation's time the scoring after the training takes.
        identity: plain values that a resume must find unchanged.
        memory: what the loss keeps from step to step, for checkpoints.
    """

    samples: Dataset[dict[str, Tensor]]
    validate: Callable[[Callable[[Tensor], Tensor]], Validation] | None = None
    origin: Callable[[int], str] | None = None
    labelled_pixels: int = 0
    labelled_pixels_a_window: Callable[[], float] | None = None
    validation_pixels: int = 0
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
    if run.pace is not None:
        run.pace.pass_time(_from_main(time.perf_counter() - began, accelerator))
        run.told_s = int(run.pace.elapsed_s)
    _announce(run, progress)
    try:
        with closing(_batches(run, setup)) as batches, stop_signals() as stop:
            while not run.is_done:
                schedule.step_update(_place_in_schedule(run))
                _set_modes(run, options)
                value = _step(run, batches, setup)
                _count_step(run, time.perf_counter() - began, accelerator)
                _advance(run, value, progress)
                if log is not None:
                    log.step(run.step, run.elapsed_s, loss=value, lr=_rate(run), last=run.is_done)
                if run.is_done or _is_validation_due(run, options):
                    _validate_in_time(run, setup, log, began)
                run.elapsed_s = time.perf_counter() - began
                stopped_by = agreed_signal(stop, accelerator)
                if run.is_done or stopped_by or _is_checkpoint_due(run, setup):
                    _save(run, setup)
                if stopped_by:
                    progress.note(f"stopped after step {run.step}; go on with --resume")
                    leave(stopped_by)
            if run.validated_step != run.step:  # a resume that finds no step left to do
                _validate_in_time(run, setup, log, began)
                _save(run, setup)
    finally:
        progress.finish()
        if log is not None:
            log.close()
    accelerator.wait_for_everyone()
    return run


def try_one_window(model: nn.Module, loss: Loss, data: TrainingData) -> None:
    """Refuse a network that cannot learn from a single window, before anything else is done.

    Raises:
        LemevitError: as the first step would.
    """
    batch = {**default_collate([data.samples[0]]), "done": torch.tensor(0.0)}
    with torch.random.fork_rng([]), torch.no_grad():
        _loss(deepcopy(model).train(), batch, loss)


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
    """Fix the number of steps, or the time for them.

    A resume keeps what the checkpoint has, unless the options ask for another.
    """
    options, before = setup.options, run.total_steps
    plan = [options.steps, options.epochs, options.time_budget_s]
    if run.plan == plan:
        return
    is_resumed = bool(run.plan)
    run.plan = plan
    steps = steps_of_plan(options, setup.data, processes=setup.accelerator.num_processes)
    run.total_steps = None if steps is None else max(steps, run.step)
    run.pace = _pace(run, setup) if steps is None else None
    if is_resumed and run.is_done:
        setup.progress.note(f"{run.step} steps are done already; the training ends here")
    elif is_resumed and steps is None:
        left_s = max((options.time_budget_s or inf) - run.elapsed_s, 0.0)
        setup.progress.note(
            f"goes on at step {run.step} with {left_s:.0f} s left of the time budget; the learning "
            "rate follows the time"
        )
    elif is_resumed and run.total_steps != before:
        instead_of = "a time budget" if before is None else before
        setup.progress.note(
            f"goes on at step {run.step} towards step {run.total_steps}, not {instead_of} as "
            "before; the learning rate follows the new number"
        )


def _pace(run: Run, setup: Setup) -> Pace:
    """Begin to measure a time budget, of which a resumed run may have used a part."""
    options, data = setup.options, setup.data
    budget_s = options.time_budget_s or inf
    pixels_a_step = options.batch_size * options.accumulate * options.crop**2
    return Pace(
        budget_s,
        options.validate_every,
        final_cost=data.final_cost,
        validation_steps=_FORWARD_PART * data.validation_pixels / pixels_a_step,
        done=min(run.elapsed_s / budget_s, 1.0),
        steps=run.step,
    )


def steps_of_plan(options: TrainingOptions, data: TrainingData, *, processes: int) -> int | None:
    """Count the steps that are asked for; None where a time budget decides."""
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
    return cosine_schedule(run.optimizer, options, steps=run.total_steps or _PARTS_OF_BUDGET)


def _place_in_schedule(run: Run) -> int:
    """Return the step of the schedule: with a time budget it follows the time."""
    return run.step if run.pace is None else round(run.pace.done * _PARTS_OF_BUDGET)


def _rate(run: Run) -> float:
    return max(float(group["lr"]) for group in run.optimizer.param_groups)


def _announce(run: Run, progress: Progress) -> None:
    """Begin a phase: what is left, so that the time left is right after a resume too."""
    if run.pace is not None:
        left_s = max(ceil(run.pace.budget_s) - run.told_s, 1)
        progress.start("train", total=left_s, unit="s")
    elif run.total_steps is not None:
        progress.start("train", total=run.total_steps - run.step, unit="steps")


def _count_step(run: Run, elapsed_s: float, accelerator: Accelerator) -> None:
    run.step += 1
    run.elapsed_s = elapsed_s
    if run.pace is None:
        return
    run.pace.add_step(_from_main(elapsed_s, accelerator))
    if run.pace.is_over:
        run.total_steps = run.step


def _advance(run: Run, value: float, progress: Progress) -> None:
    """Tell of a step; with a time budget in whole seconds of it."""
    count = 1
    if run.pace is not None:
        count = int(run.pace.elapsed_s) - run.told_s
        run.told_s += count
    progress.advance(count, loss=value, step=run.step)


def _batches(run: Run, setup: Setup) -> Generator[dict[str, Tensor]]:
    """Yield this process's batches from the run's next step on, without an end."""
    options, accelerator = setup.options, setup.accelerator
    order = StepBatches(
        batch_size=options.batch_size,
        first_step=run.step * options.accumulate,
        rank=accelerator.process_index,
        num_processes=accelerator.num_processes,
    )
    workers = options.workers
    if run.pace is not None and run.pace.elapsed_s - run.before_s > _LATE_START * run.pace.budget_s:
        workers = 0
    return load_batches(setup.data.samples, order, workers=workers, device=accelerator.device)


def _set_modes(run: Run, options: TrainingOptions) -> None:
    """Set mode and rates of the next step: a frozen backbone is in evaluation mode."""
    run.model.train()
    if run.backbone is None:
        return
    if options.backbone_lr == 0.0:
        set_backbone_trainable(run.backbone, False)
        return
    if options.head_first == 0.0:
        return
    is_frozen = run.done < options.head_first
    if run.pace is not None:
        run.pace.freeze(is_frozen)
    set_backbone_trainable(run.backbone, not is_frozen)
    if is_frozen:
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


def _is_validation_due(run: Run, options: TrainingOptions) -> bool:
    if run.pace is not None:
        return run.pace.is_validation_due()
    return run.step % options.validate_every == 0


def _validate_in_time(run: Run, setup: Setup, log: MetricsLog | None, began: float) -> None:
    """Validate, and measure how long that takes; after a budget that has no time for it, do not."""
    pace, accelerator = run.pace, setup.accelerator
    if pace is None or setup.data.validate is None:
        _validate(run, setup, log)
        return
    now_s = _from_main(time.perf_counter() - began, accelerator)
    pace.pass_time(now_s)
    if run.is_done and not (pace.may_validate and pace.fits(pace.next_validation_s, now_s)):
        run.validated_step = run.step
        setup.progress.warn(
            f"a validation would take {pace.next_validation_s:.0f} s of a time budget of "
            f"{pace.budget_s:g} s: the last weights are kept, unscored"
        )
        if run.is_main:
            _keep_best(run, -inf, None, setup)
        accelerator.wait_for_everyone()
        return
    _validate(run, setup, log)
    pace.add_validation(_from_main(time.perf_counter() - began, accelerator))


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
            # Of equals the later one: it has learned more, and where nothing can be judged all are.
            if validation.score >= run.best_score:
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
