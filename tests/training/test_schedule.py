from math import ceil

import pytest
import torch

from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.schedule import (
    FirstSteps,
    cosine_schedule,
    mean_labelled_pixels,
    steps_of_epochs,
)


def rates(steps, warmup, *, scale=1.0):
    parameter = torch.nn.Parameter(torch.zeros(1))
    group = {"params": [parameter], "lr_scale": scale}
    optimizer = torch.optim.SGD([group], lr=2.0)
    options = TrainingOptions(lr=2.0, warmup=warmup)
    schedule = cosine_schedule(optimizer, options, steps=steps)
    found = []
    for step in range(steps + 1):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_the_rate_rises_to_its_peak_and_falls_as_a_cosine():
    found = rates(100, 0.1)
    assert found[0] == pytest.approx(0.02)
    assert found[5] == pytest.approx(0.02 + 0.5 * 1.98)
    assert max(found) == found[10] == pytest.approx(2.0)
    assert found[55] == pytest.approx(0.02 + 0.5 * 1.98)
    assert found[100] == pytest.approx(0.02)
    assert rates(100, 0.1, scale=0.3) == pytest.approx([0.3 * rate for rate in found])


def test_a_schedule_needs_no_warmup_and_may_be_of_one_step(caplog):
    assert rates(10, 0.0)[0] == pytest.approx(2.0)
    assert rates(1, 0.0)[0] == pytest.approx(2.0)
    assert caplog.records == []  # timm warns of a schedule of one step


def test_an_epoch_is_as_many_pixels_as_are_labelled():
    assert steps_of_epochs(2.0, labelled_pixels=1000, pixels_a_step=100) == 20
    assert steps_of_epochs(1.0, labelled_pixels=1001, pixels_a_step=100) == 11
    assert steps_of_epochs(0.1, labelled_pixels=5, pixels_a_step=100) == 1


def test_labelled_pixels_are_counted_in_the_first_windows():
    ids = torch.full((16, 4, 4), 255)
    assert mean_labelled_pixels([{"ids": window} for window in ids]) == 1.0  # not 0: a divisor
    ids[:8, 0] = 0
    ids[8:, :2] = 3
    assert mean_labelled_pixels([{"ids": window} for window in ids]) == 6.0


def measure(seconds, **changes):
    first = FirstSteps(**{"budget_s": 100.0, **changes})
    for value in seconds:
        first.add(value)
    return first


def test_enough_is_measured_after_twelve_steps_or_a_twentieth_of_the_budget():
    assert not measure([0.1] * 11).enough
    assert measure([0.1] * 12).enough
    assert not measure([90.0, 90.0, 3.0, 1.9]).enough  # the first two count for nothing
    assert measure([90.0, 90.0, 3.0, 2.1]).enough
    assert not measure([0.0, 0.0, 90.0]).enough


def end_of(steps, *, done, elapsed_s, step_s, validation_s, validate_every, final_cost):
    """Return the time at which a run ends, by going through it."""
    for step in range(done + 1, steps + 1):
        elapsed_s += step_s
        if step == steps or step % validate_every == 0:
            elapsed_s += validation_s
    return elapsed_s + final_cost * validation_s


@pytest.mark.parametrize("validate_every", [7, 20, 1000])
@pytest.mark.parametrize("validation_s", [0.0, 2.0])
def test_the_steps_fill_the_budget_but_for_its_margin(validate_every, validation_s):
    run = {"done": 12, "elapsed_s": 5.0, "validation_s": validation_s, "final_cost": 3.0}
    run["validate_every"] = validate_every
    steps = measure([9.0, 9.0] + [0.5] * 10).affordable_steps(**run)
    assert end_of(steps, step_s=0.5, **run) <= 95.0
    assert end_of(steps + 1, step_s=0.5, **run) > 95.0


def test_steps_of_a_resting_backbone_are_measured_apart():
    first = measure([9.0, 9.0] + [0.1, 0.4] * 5, head_first=0.5)
    assert first.next_is_short
    steps = first.affordable_steps(
        done=12, elapsed_s=0.0, validation_s=0.0, validate_every=10, final_cost=1.0
    )
    short = ceil(0.5 * steps) - 12
    assert short * 0.1 + (steps - 12 - short) * 0.4 == pytest.approx(95.0, abs=0.4)


def test_no_step_that_was_made_is_taken_back():
    run = {"validation_s": 1.0, "validate_every": 10, "final_cost": 1.0}
    assert measure([1.0] * 12).affordable_steps(done=12, elapsed_s=99.0, **run) == 12
    assert measure([1.0] * 12).affordable_steps(done=12, elapsed_s=1e6, **run) == 12


def test_a_cooldown_stays_at_the_lowest_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=2.0)
    options = TrainingOptions(lr=2.0, warmup=0.1, cooldown=0.2, first_rate=0.002, last_rate=0.05)
    schedule = cosine_schedule(optimizer, options, steps=100)
    found = []
    for step in range(100):
        schedule.step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    assert found[0] == pytest.approx(0.004) and max(found) == found[10] == pytest.approx(2.0)
    assert found[45] == pytest.approx(0.1 + 0.5 * 1.9)  # the cosine is half done
    assert found[80:] == pytest.approx([0.1] * 20)
