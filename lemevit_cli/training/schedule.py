"""How long a training is, and its learning rate on the way."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from math import ceil

from timm.scheduler import CosineLRScheduler
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import Dataset

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.training.options import TrainingOptions

MEASURED_STEPS = 12  # at most, of a run with a time budget, until its number of steps is fixed
_STARTING_STEPS = 2  # of these, at first: caches are cold and workers start
_MEASURED_PART = 0.05  # of the time budget, at most
_MARGIN = 0.05  # of the time budget, kept free: checkpoints, a machine with other work
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
class FirstSteps:
    """Seconds that the first steps of a run took, from which a time budget fixes its length.

    Args:
        budget_s: for the whole run.
        head_first: part of the run in which the backbone is frozen; these steps are shorter.
    """

    budget_s: float
    head_first: float = 0.0
    _seconds: list[float] = field(default_factory=list)

    @property
    def next_is_short(self) -> bool:
        """Say whether the next step should be of the shorter kind; the two take turns."""
        return self.head_first > 0 and len(self._seconds) % 2 == 0

    @property
    def enough(self) -> bool:
        measured = self._seconds[_STARTING_STEPS:]
        if len(measured) < 2:  # one of each kind
            return False
        return (
            len(self._seconds) >= MEASURED_STEPS or sum(measured) >= _MEASURED_PART * self.budget_s
        )

    def add(self, seconds: float) -> None:
        self._seconds.append(seconds)

    def affordable_steps(
        self,
        *,
        done: int,
        elapsed_s: float,
        validation_s: float,
        validate_every: int,
        final_cost: float,
    ) -> int:
        """Return the largest number of steps that ends in time; never fewer than are done.

        Args:
            done: steps already made, after ``elapsed_s`` seconds of the run.
            validation_s: seconds of a validation: one comes every ``validate_every`` steps and one
                at the end, then a scoring that takes ``final_cost`` times as long.
        """
        measured = self._seconds[_STARTING_STEPS:]
        resting, whole = measured[::2], measured[1::2]
        if self.head_first == 0:
            resting = whole = measured
        resting_s, whole_s = sum(resting) / len(resting), sum(whole) / len(whole)

        def end_s(steps: int) -> float:
            short = max(ceil(self.head_first * steps) - done, 0)
            validations = ceil(steps / validate_every) - done // validate_every + final_cost
            return (
                elapsed_s
                + short * resting_s
                + (steps - done - short) * whole_s
                + validations * validation_s
            )

        available = (1.0 - _MARGIN) * self.budget_s
        most = done + int(available / min(resting_s, whole_s)) + 1
        return done + bisect_right(range(done + 1, most + 1), available, key=end_s)
