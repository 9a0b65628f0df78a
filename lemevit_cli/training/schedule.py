"""How long a training is, and its learning rate on the way."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from statistics import median

from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import Dataset

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.training.options import TrainingOptions

MEASURED_STEPS = 12  # at most, of a run with a time budget, until a validation is measured
_FEWEST_STEPS = 3  # that tell how long a step takes: caches are cold and workers start at first
_RECENT_STEPS = 9
_MEASURED_PART = 0.05  # of the time budget, at most, until a validation is measured
_MARGIN = 0.05  # of the time budget, kept free: pictures, weights, a machine with other work
_MOST_TO_VALIDATE, _MOST_TO_END = 0.2, 0.4  # of the time budget
LATEST = 1.1  # of the time budget: what would end later is not begun
_COUNTED_WINDOWS = 16  # they cost seconds, and their mean is right to some tenths


def steps_of_epochs(epochs: float, *, labelled_pixels: int, pixels_a_step: float) -> int:
    """Count the steps that see as many labelled pixels as ``epochs`` times all that there are."""
    return max(1, ceil(epochs * labelled_pixels / pixels_a_step))


def mean_labelled_pixels(samples: Dataset[dict[str, Tensor]]) -> float:
    """Average the labelled pixels of the first few training windows, 1 at least.

    Args:
        samples: of each, ``ids`` are class ids, ``NODATA_CLASS`` where nothing is labelled.
    """
    counts = [int((samples[i]["ids"] != NODATA_CLASS).sum()) for i in range(_COUNTED_WINDOWS)]
    return max(sum(counts) / len(counts), 1.0)


def cosine_schedule(
    optimizer: Optimizer, options: TrainingOptions, *, steps: int
) -> CosineLRScheduler:
    """Warm up linearly to ``lr``, then follow half a cosine; groups take it times ``lr_scale``.

    Set the rates of step ``n``, counted from 0, by ``step_update(n)``.

    Args:
        options: of them ``lr``, ``warmup``, ``cooldown``, ``first_rate``, ``last_rate``.
    """
    warmup_steps = round(options.warmup * steps)
    flat_steps = warmup_steps + round(options.cooldown * steps)
    return CosineLRScheduler(
        optimizer,
        # Two at least: of one step timm logs that its cosine has no effect.
        t_initial=max(steps - flat_steps, 2),
        lr_min=options.last_rate * options.lr,
        warmup_t=warmup_steps,
        warmup_lr_init=options.first_rate * options.lr,
        warmup_prefix=True,
        t_in_epochs=False,
    )


@dataclass
class Pace:
    """How much of a time budget is over, measured again at every step.

    The share that is done goes on by what a step takes of the time that is left for steps: it rises
    evenly, skips nothing for a validation, and reaches 1 as the time ends, however busy the machine
    becomes. Times are seconds of the whole run.

    Args:
        budget_s: for the whole run, its end included.
        validate_every: steps between two validations.
        final_cost: how many times a validation's time the scoring after the training takes.
        validation_steps: a guess of how many steps' time a validation takes, until one is measured.
        done: share of the training that is over, in [0, 1].
        steps: of the whole run.
        is_frozen: of the backbone, whose steps are shorter then.
        elapsed_s: until the end of the last step, or of what came after it.
        recent: seconds of the last steps.
        validation_s: of the last validation, made while a step took ``reference_s``.
        since: steps since then.
    """

    budget_s: float
    validate_every: int
    final_cost: float = 0.0
    validation_steps: float = 0.0
    done: float = 0.0
    elapsed_s: float = 0.0
    steps: int = 0
    is_frozen: bool = False
    recent: list[float] = field(default_factory=list)
    validation_s: float | None = None
    reference_s: float | None = None
    since: int = 0

    @property
    def is_over(self) -> bool:
        return self.done >= 1.0

    @property
    def step_s(self) -> float:
        """Return what a step takes at present; 0 before the first one."""
        return median(self.recent) if self.recent else 0.0

    @property
    def next_validation_s(self) -> float:
        """Return what a validation would take now: longer, where steps have become longer."""
        if self.validation_s is None:
            return self.validation_steps * self.step_s
        if self.reference_s is None or not self.recent:
            return self.validation_s
        return self.validation_s * self.step_s / self.reference_s

    @property
    def may_validate(self) -> bool:
        """Say whether a validation leaves most of the budget for steps."""
        return self.next_validation_s <= _MOST_TO_VALIDATE * self.budget_s

    @property
    def may_score(self) -> bool:
        """Say whether validation and scoring at the end leave most of the budget for steps."""
        end_s = (1.0 + self.final_cost) * self.next_validation_s
        return self.may_validate and end_s <= _MOST_TO_END * self.budget_s

    @property
    def left_s(self) -> float:
        """Return the seconds that are left for steps, without validations and the end."""
        validation_s = self.next_validation_s
        end_s = validation_s * (self.may_validate + self.final_cost * self.may_score)
        left_s = (1.0 - _MARGIN) * self.budget_s - self.elapsed_s - end_s
        if self.may_validate and self.step_s > 0:
            left_s /= 1.0 + validation_s / (self.validate_every * self.step_s)
        return max(left_s, 0.0)

    def pass_time(self, elapsed_s: float) -> None:
        """Let time go by that is no step's."""
        self.elapsed_s = elapsed_s

    def add_step(self, elapsed_s: float) -> None:
        """Add a step that has just ended; the last one is that after which no half step fits."""
        seconds = elapsed_s - self.elapsed_s
        self.elapsed_s = elapsed_s
        self.steps += 1
        self.recent = [*self.recent, seconds][-_RECENT_STEPS:]
        self.since += 1
        if self.since == _FEWEST_STEPS:
            # A machine that has become busy during a validation shows it in the steps after it.
            self.reference_s = max(self.reference_s or 0.0, median(self.recent[-self.since :]))
        left_s = self.left_s
        if left_s < self.step_s / 2:
            self.done = 1.0
        else:
            self.done += (1.0 - self.done) * seconds / (left_s + seconds)

    def add_validation(self, elapsed_s: float) -> None:
        """Add a validation that has just ended."""
        self.validation_s = elapsed_s - self.elapsed_s
        self.reference_s, self.since = self.step_s or None, 0
        self.elapsed_s = elapsed_s

    def freeze(self, is_frozen: bool) -> None:
        """Expect steps of another length from a change on, on a machine as busy as before."""
        if is_frozen == self.is_frozen:
            return
        self.is_frozen = is_frozen
        self.validation_s = self.next_validation_s if self.validation_s is not None else None
        self.recent, self.reference_s, self.since = [], None, 0

    def is_validation_due(self) -> bool:
        """Say whether to validate after the step that was added.

        The first time early, to know how long it takes; then as often as was asked for, as long as
        it takes no more than half of what is left.
        """
        if self.is_over or not self.may_validate:
            return False
        if self.validation_s is None and self.steps >= _FEWEST_STEPS:
            is_known = sum(self.recent) >= _MEASURED_PART * self.budget_s
            return is_known or self.steps >= MEASURED_STEPS
        is_turn = self.steps % self.validate_every == 0
        return is_turn and 2.0 * self.next_validation_s <= self.left_s

    def fits(self, seconds: float, elapsed_s: float) -> bool:
        """Say whether something may still be done, a little beyond the budget if need be."""
        return elapsed_s + seconds <= LATEST * self.budget_s
