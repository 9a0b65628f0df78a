"""``lemevit train``: from labelled pictures and scenes to one file of weights with its card."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from shlex import quote
from typing import Any

import torch
from torch import Tensor, nn

from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import LemevitError, OutputError
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.models.card import check_readable
from lemevit_cli.models.device import choose_device
from lemevit_cli.models.lemevit_fusion import fuse_tokens
from lemevit_cli.models.processor import multiplies_bf16
from lemevit_cli.models.variants import check_fusion
from lemevit_cli.models.weights import (
    Card,
    Weights,
    find_weights,
    initialise,
    open_weights,
    read_card,
    save_weights,
)
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.tasks import load_recipes, load_training
from lemevit_cli.tasks.evaluation import evaluate_source, predictor_to_score
from lemevit_cli.training.checkpoint import CHECKPOINT_NAME, Run, check_resumable, recipe_of
from lemevit_cli.training.datasets.listing import data_paths, is_listing
from lemevit_cli.training.fusion import MOST_CALIBRATIONS, calibrate_threshold
from lemevit_cli.training.loop import Loss, TrainingData, fit, steps_of_plan, try_one_window
from lemevit_cli.training.metrics_log import read_metrics
from lemevit_cli.training.optimizer import check_optimizer
from lemevit_cli.training.options import DataOptions, TrainingOptions
from lemevit_cli.training.task import TaskData, Training

_BEST_NAME = "best.safetensors"
_REPORT_NAME = "report.png"
_FEWEST_STEPS = 20  # fewer teach nothing
_NOT_OF_THE_RECIPE = {
    "backbone",
    "backbone_args",
    "decoder",
    "decoder_args",
    "half",
    "resume",
    "overwrite",
    "chosen",
}


def train(
    task: str | Training,
    data: DataOptions,
    output: str,
    options: TrainingOptions,
    progress: Progress | None = None,
    *,
    samples: str | None = None,
    spent_s: float = 0.0,
) -> dict[str, Any]:
    """Train, and write the averaged weights that validated best.

    Checkpoint, metrics, a picture and the best weights so far lie in
    ``<output without suffix>_training/``.

    Args:
        task: a name in ``TASKS``, or a training.
        samples: a PNG to draw before the first step, as :func:`show_samples` does.
        spent_s: seconds that the user has waited already; they count for a time budget.

    Returns:
        A record: ``path``, ``steps``, ``seconds``, ``parameters``, ``classes``, ``report`` (the
        picture), the ``best`` validation with its ``step`` and, by data set, ``figures``; and
        ``scores`` by data set, of the weights written on the whole of what was held back, as
        ``lemevit eval`` gives them. Of several processes all but the first tell path and steps.

    Raises:
        LemevitError: for data, options or targets that are wrong, before any step, in one line.
        OutputError: also after the last step, if no weights could be kept on the way.
    """
    began = time.perf_counter() - spent_s
    progress = _of_first_process(progress)
    start = _begin(task, data, output, options, samples, progress)
    run = fit(
        start.model,
        start.loss,
        _with_calibration(start.data, start.options),
        start.options,
        folder=start.folder,
        progress=progress,
        save_best=start.save_best,
        spent_s=time.perf_counter() - began,
    )
    if not run.is_main:
        return {"path": output, "steps": run.step}
    _check_saved(start.folder / _BEST_NAME, run)
    card, scores = _write_weights(start, data, output, progress, _End(run, began, progress, output))
    if run.step < _FEWEST_STEPS:
        progress.warn(
            f"{output}: weights of {run.step} steps have learned next to nothing and are useless; "
            f"take {_FEWEST_STEPS} at least: more time, a smaller --crop or --batch-size"
        )
    return {
        "path": output,
        "steps": run.step,
        "seconds": round(time.perf_counter() - began, 1),
        "parameters": start.parameters,
        "best": run.best,
        "scores": scores,
        "classes": list(card.class_names),
        "report": str(start.folder / _REPORT_NAME),
    }


@dataclass(frozen=True)
class _Start:
    """All that a training has before its first step."""

    training: Training
    data: TaskData
    options: TrainingOptions
    folder: Path
    model: nn.Module
    loss: Loss
    parameters: int

    def save_best(self, state: Mapping[str, Tensor], best: dict[str, Any]) -> None:
        """Keep the averaged weights of a step, signed by a card."""
        self.keep_best(state, _sign(self.data.card, self.data.record, best, self.options))

    def keep_best(self, state: Mapping[str, Tensor], card: Card) -> None:
        """Keep what of a model's tensors makes the weights, with their card."""
        tensors = state if self.data.saved is None else self.data.saved(state)
        save_weights(self.folder / _BEST_NAME, tensors, card)


def _begin(
    task: str | Training,
    data: DataOptions,
    output: str,
    options: TrainingOptions,
    samples: str | None,
    progress: Progress,
) -> _Start:
    """Refuse what is wrong, open the data and build the network."""
    folder = training_folder(Path(output))
    init = None if options.init is None else str(find_weights(options.init))
    outputs = [output] if samples is None else [output, samples]
    check_inputs_kept(outputs, [*data_paths(data), init])
    _check_target(Path(output), folder, options)
    options = _without_resume_of_nothing(options, folder, progress)
    with _phase(progress, "open the data"):
        training = load_training(task) if isinstance(task, str) else task
        options = follow_recipe(task, options) if isinstance(task, str) else options
        found = _open_data(training, data, options, samples)
        options = found.options
        loss = training.make_loss(found, options)
        _check_checkpoint(folder, found, options)
    with _phase(progress, "build the network"):
        torch.manual_seed(options.seed)
        model, notes = _build_model(training, found, options)
        if options.batch_size == 1:
            try_one_window(model, loss, found.training)
    parameters = sum(p.numel() for p in model.parameters())
    folder.mkdir(exist_ok=True)
    # Last of all: what is told of the data does not stand above an error.
    _tell(found, notes, progress)
    _draw_samples(found, samples, options)
    with _phase(progress, "prepare"):
        if found.prepare is not None and not options.resume:
            found.prepare(model)
    if is_first_process() and not options.resume:
        _remove_old_run(folder)
    return _Start(training, found, options, folder, model, loss, parameters)


def _write_weights(
    start: _Start, data: DataOptions, output: str, progress: Progress, end: _End
) -> tuple[Card, dict[str, Any]]:
    """Score the best weights as far as there is time; write them with the figures in their card."""
    best, scores = open_weights(start.folder / _BEST_NAME), {}
    if end.has_time_to_score():
        with _phase(progress, "calibrate"):
            best = _calibrate(best, start)
        scores = _score(best, start.data, start.options, progress, end)
    headline = start.training.headline
    metrics = _metrics(scores, headline, Path(output), data, start.options)
    card = replace(best.card, metrics=metrics)
    save_weights(output, best.state(), card, half=start.options.half)
    with _phase(progress, "draw the report"):
        start.data.draw_report(start.folder / _REPORT_NAME, read_metrics(start.folder))
    return card, scores


def show_samples(
    task: str,
    data: DataOptions,
    options: TrainingOptions,
    output: str,
    progress: Progress | None = None,
) -> None:
    """Draw a sheet of augmented training windows with their labels: the first that a run sees.

    Raises:
        LemevitError: as :func:`train`.
    """
    if is_first_process():
        progress = _of_first_process(progress)
        with _phase(progress, "open the data"):
            options = follow_recipe(task, options)
            found = _open_data(load_training(task), data, options, output)
        _tell(found, (), progress)
        _draw_samples(found, output, options)


def describe_training(
    task: str, data: DataOptions, options: TrainingOptions, progress: Progress | None = None
) -> dict[str, Any]:
    """Say how a training would go, after all checks of its data; nothing is trained.

    Returns:
        A record: ``task``, ``data``, ``steps`` (None where a time budget fixes them on the way),
        ``parameters``, ``card`` (what the weights would say of themselves) and ``recipe``.

    Raises:
        LemevitError: as :func:`train`.
    """
    progress = progress or Silent()
    with _phase(progress, "open the data"):
        training = load_training(task)
        found = _open_data(training, data, follow_recipe(task, options), None)
        training.make_loss(found, found.options)  # for its check
        model = training.network.build_model(found.card)
    _tell(found, (), progress)
    card = asdict(found.card)
    del card["training"], card["metrics"]
    return {
        "task": task,
        **found.record,
        "steps": steps_of_plan(found.options, found.training, processes=_num_processes()),
        "parameters": sum(p.numel() for p in model.parameters()),
        "card": {**card, "classes": list(found.card.class_names)},
        "recipe": _recipe_of(found.options),
    }


def follow_recipe(task: str, options: TrainingOptions) -> TrainingOptions:
    """Return options as the recipe that they name sets them, in all that the user did not choose.

    Raises:
        LemevitError: if the task has no such recipe.
    """
    if options.recipe is None:
        return options
    recipes = load_recipes(task)
    if options.recipe not in recipes:
        known = f"there are {', '.join(recipes)}" if recipes else "it has none"
        raise LemevitError(f"no recipe {options.recipe!r} for task {task}; {known}")
    chosen = set(options.chosen)
    if chosen & {"steps", "time_budget"}:
        chosen.add("epochs")
    if "drop_path" in chosen:
        chosen.add("backbone_args")
    changes = recipes[options.recipe](options, _num_processes())
    return replace(options, **{k: v for k, v in changes.items() if k not in chosen})


def training_folder(target: Path) -> Path:
    """Return the folder of checkpoint, metrics and picture of a training, beside its weights."""
    return target.with_name(f"{target.stem}_training")


def is_first_process() -> bool:
    """Say whether this process speaks and writes: torchrun numbers processes in ``RANK``."""
    return os.environ.get("RANK", "0") == "0"


def _num_processes() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _without_resume_of_nothing(
    options: TrainingOptions, folder: Path, progress: Progress
) -> TrainingOptions:
    """Begin anew where there is nothing to go on from: a script may repeat its command as it is."""
    if not options.resume or (folder / CHECKPOINT_NAME).is_file():
        return options
    progress.note(f"{folder}: no checkpoint to go on from; the training begins anew")
    return replace(options, resume=False)


def _of_first_process(progress: Progress | None) -> Progress:
    return progress if progress is not None and is_first_process() else Silent()


def _check_options(training: Training, options: TrainingOptions) -> None:
    """Refuse in a second what would fail after minutes of reading data."""
    check_optimizer(options.optimizer)
    choose_device(options.device)
    check_fusion(options.backbone, options.backbone_args, options.fuse_tokens)
    training.check(options)
    if options.init is not None and not options.resume:
        read_card(find_weights(options.init))


def _slow_arithmetic(options: TrainingOptions) -> tuple[str, ...]:
    """Return a warning of arithmetic that the processor only emulates."""
    on_cpu = choose_device(options.device).type == "cpu"
    if options.precision != "bf16" or not on_cpu or multiplies_bf16():
        return ()
    return ("this processor only emulates bf16, which is many times slower; take --precision fp32",)


def _remove_old_run(folder: Path) -> None:
    """Remove what an earlier run left, which would pass for this one's; metrics begin anew."""
    for name in (_BEST_NAME, CHECKPOINT_NAME, _REPORT_NAME):
        (folder / name).unlink(missing_ok=True)


def _check_saved(best: Path, run: Run) -> None:
    if not run.best or not best.is_file():
        raise OutputError(
            f"{best}: no weights could be kept in {run.step} steps; make room on the disk, then go "
            "on with --resume or start anew"
        )


def _open_data(
    training: Training,
    data: DataOptions,
    options: TrainingOptions,
    samples: str | None,
) -> TaskData:
    """Check what can be checked in a second, then open the data."""
    if samples is not None and is_first_process():
        check_replaceable(samples, overwrite=options.overwrite or options.resume)
    _check_options(training, options)
    task_data = training.open_data(data, options)
    check_readable(task_data.card)
    return replace(task_data, warnings=(*task_data.warnings, *_slow_arithmetic(options)))


def _tell(task_data: TaskData, notes: Sequence[str], progress: Progress) -> None:
    """Tell of the data, and what else is known before the first step."""
    for note in (*task_data.notes, *notes):
        progress.note(note)
    for warning in task_data.warnings:
        progress.warn(warning)
    if task_data.training.validate is None:
        progress.warn("nothing is held back to validate on: the last weights are kept, unscored")


def _draw_samples(task_data: TaskData, picture: str | None, options: TrainingOptions) -> None:
    """Draw training windows, if asked to; of several processes the first one draws."""
    if picture is None or task_data.draw_samples is None or not is_first_process():
        return
    overwrite = options.overwrite or options.resume
    with torch.random.fork_rng([]), replacing(picture, overwrite=overwrite) as temporary:
        task_data.draw_samples(temporary)


def _build_model(
    training: Training, task_data: TaskData, options: TrainingOptions
) -> tuple[nn.Module, tuple[str, ...]]:
    """Build the network, with the tensors that it begins with, and say what these are."""
    model = training.network.build_model(task_data.card, pretrained=options.pretrained)
    fuse_tokens(model, options.fuse_tokens)
    if options.resume or options.init is None:
        return model, ()  # a checkpoint has all of it
    taken = initialise(model, task_data.card, options.init)
    left = f"; begin anew: {', '.join(taken.left)}" if taken.left else ""
    return model, (f"{taken.copied} tensors taken over from {options.init}{left}",)


def _check_checkpoint(folder: Path, task_data: TaskData, options: TrainingOptions) -> None:
    """Refuse a checkpoint of another training before anything is told of this one."""
    if options.resume:
        recipe = recipe_of(options, processes=_num_processes(), data=task_data.training.identity)
        check_resumable(folder, recipe)


def _with_calibration(data: TaskData, options: TrainingOptions) -> TrainingData:
    """Count the validations of calibrations with what comes after the last step."""
    further = MOST_CALIBRATIONS if options.fuse_tokens == "auto" else 0
    further += data.finish is not None
    return replace(data.training, final_cost=data.training.final_cost + further)


@contextmanager
def _phase(progress: Progress, label: str) -> Iterator[None]:
    """Let a listener know what is done, of which nobody knows how long it takes."""
    progress.start(label, total=0, unit="")
    try:
        yield
    finally:
        progress.finish()


@dataclass(frozen=True)
class _End:
    """What a time budget leaves for the scoring after the last step."""

    run: Run
    began: float
    progress: Progress
    output: str

    def has_time_to_score(self) -> bool:
        """Say whether there is time for all that was held back; tell if there is not."""
        pace = self.run.pace
        if pace is None:
            return True
        cost_s = pace.final_cost * pace.next_validation_s
        if pace.may_score and pace.fits(cost_s, self._elapsed_s()):
            return True
        self.tell(f"would take {cost_s:.0f} s")
        return False

    def is_late(self) -> bool:
        """Say whether the time for scoring is over."""
        pace = self.run.pace
        return pace is not None and not pace.fits(0.0, self._elapsed_s())

    def tell(self, why: str) -> None:
        budget_s = self.run.pace.budget_s if self.run.pace is not None else 0.0
        self.progress.warn(
            f"scoring all that was held back {why}, too much for the time budget of "
            f"{budget_s:g} s: the weights are without figures; lemevit eval {self.output} DATA"
        )

    def _elapsed_s(self) -> float:
        """Return the seconds of all sittings."""
        return time.perf_counter() - self.began + self.run.before_s


def _calibrate(weights: Weights, start: _Start) -> Weights:
    """Fit what is fitted after the last step; the card keeps what was found.

    It is what the task asks for, and for weights that fuse what is alike, how alike it must be.
    """
    data, card = start.data, weights.card
    validate = data.training.validate if start.options.fuse_tokens == "auto" else None
    if data.finish is None and validate is None:
        return weights
    model = start.training.network.build_model(card)
    model.load_state_dict(weights.state())
    model.to(choose_device(start.options.device)).eval()
    if validate is not None:
        card = replace(card, fuse_threshold=calibrate_threshold(model, validate))
    if data.finish is not None:
        # As the network answers from now on; it changes no tensor.
        fuse_tokens(model, start.options.fuse_tokens, card.fuse_threshold)
        card = data.finish(model, card)
    start.keep_best(model.state_dict(), card)
    return open_weights(start.folder / _BEST_NAME)


def _score(
    weights: Weights,
    task_data: TaskData,
    options: TrainingOptions,
    progress: Progress,
    end: _End,
) -> dict[str, Any]:
    """Score the best weights by data set, on the whole of what was held back."""
    if not task_data.validation:
        return {}
    # In full precision: the card's figures do not depend on the machine.
    runtime = RuntimeOptions(
        device=options.device,
        precision="fp32",
        threads=options.threads,
        fuse_tokens=options.fuse_tokens,
    )
    with _phase(progress, "load the weights"):
        predictor = predictor_to_score(weights, runtime, progress)
    scores = {
        source.name: evaluate_source(predictor, source, progress=progress, is_late=end.is_late)
        for source in task_data.validation
    }
    if not all(scores.values()):
        end.tell("took longer than expected")
    return {name: figures for name, figures in scores.items() if figures}


def _metrics(
    scores: Mapping[str, Any],
    headline: Sequence[str],
    target: Path,
    data: DataOptions,
    options: TrainingOptions,
) -> tuple[dict[str, Any], ...]:
    """Make the card's record of the scores, each with the command that gives it."""
    # Of several of one name each has its number (``training/sources.py``), in a list's folders too.
    folders: dict[str, str] = {}
    counts = Counter[str]()
    for path in () if any(map(is_listing, data.paths)) else data.paths:
        name = Path(path).resolve().name
        counts[name] += 1
        folders[name if counts[name] == 1 else f"{name} ({counts[name]})"] = path
    further = " --precision fp32"
    further += f" --fuse-tokens {options.fuse_tokens}" if options.fuse_tokens else ""
    return tuple(
        {key: figures[key] for key in headline}
        | {
            "data": name,
            "command": f"lemevit eval {target.name} {quote(folders[name])}{further}"
            if name in folders
            else f"lemevit train -o {target.name}, on what it held back",
        }
        for name, figures in scores.items()
    )


def _check_target(target: Path, folder: Path, options: TrainingOptions) -> None:
    if target.suffix != ".safetensors":
        raise OutputError(f"{target}: weights are written as .safetensors; name it so")
    earlier = [folder / name for name in (CHECKPOINT_NAME, _BEST_NAME) if (folder / name).exists()]
    if earlier and not options.overwrite and not options.resume:
        raise OutputError(
            f"{earlier[0]} is of an earlier run; go on with it by --resume, or begin anew and "
            "replace it by --overwrite"
        )
    goes_on = options.resume and (folder / CHECKPOINT_NAME).is_file()
    check_replaceable(target, overwrite=options.overwrite or goes_on)
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder} is a file; the checkpoints need a folder of that name")


def _sign(
    card: Card, record: dict[str, Any], best: dict[str, Any], options: TrainingOptions
) -> Card:
    """Add to a card what was done to get there."""
    training = {**record, "step": best["step"], "recipe": _recipe_of(options)}
    return replace(card, training=training)


def _recipe_of(options: TrainingOptions) -> dict[str, Any]:
    return {key: value for key, value in asdict(options).items() if key not in _NOT_OF_THE_RECIPE}
