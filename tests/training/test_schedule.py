import pytest
import torch

from lemevit_cli.training.options import TrainingOptions
from lemevit_cli.training.schedule import (
    Pace,
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


def run_for(budget_s, step_s, validation_s, **changes):
    """Go through a run by the clock; return its end, its shares, and what was done at the end.

    Args:
        step_s, validation_s: of the elapsed seconds and the steps so far.
    """
    opening_s = changes.pop("opening_s", 0.0)
    pace = Pace(budget_s, **{"validate_every": 20, "final_cost": 2.0, **changes})
    now, steps, shares, done = opening_s, 0, [0.0], []
    pace.pass_time(now)
    while not pace.is_over:
        now += step_s(now, steps)
        steps += 1
        pace.add_step(now)
        shares.append(pace.done)
        if pace.is_validation_due():
            now += validation_s(now, steps)
            pace.add_validation(now)
    if pace.may_validate and pace.fits(pace.next_validation_s, now):
        now += validation_s(now, steps)
        pace.add_validation(now)
        done.append("validated")
    if pace.may_score and pace.fits(pace.final_cost * pace.next_validation_s, now):
        now += pace.final_cost * validation_s(now, steps)
        done.append("scored")
    return now, shares, done


def busy_from(second, seconds, *, times=4.0):
    return lambda now, _: seconds * (times if now >= second else 1.0)


MACHINES = {
    "quiet": (busy_from(999, 0.5), busy_from(999, 2.0)),
    "busy from the middle on": (busy_from(120, 0.5), busy_from(120, 2.0)),
    "busy at the very end": (busy_from(210, 0.5), busy_from(210, 2.0)),
    "busy at the start": (lambda now, _: 3.0 if now < 60 else 0.3, lambda now, _: 2.0),
    "busy all the time": (busy_from(0, 5.0), busy_from(0, 8.0)),
    "cold": (lambda _, steps: 20.0 if steps < 2 else 0.5, lambda *_: 4.0),
    "few steps": (lambda *_: 25.0, lambda *_: 10.0),
    "a teacher that is asked at first": (
        lambda _, steps: 4.0 if steps < 30 else 0.4,
        lambda *_: 1.0,
    ),
    "long validations": (lambda *_: 0.2, lambda *_: 30.0),
    "validations that are too long": (lambda *_: 0.5, lambda *_: 60.0),
}


@pytest.mark.parametrize("name", MACHINES)
def test_a_time_budget_is_kept_whatever_the_machine_does(name):
    end_s, shares, done = run_for(240.0, *MACHINES[name])
    assert 0.8 * 240.0 <= end_s <= 1.2 * 240.0
    assert shares == sorted(shares) and shares[-1] == 1.0
    if not name.startswith(("busy all", "few", "long", "validations")):
        assert done == ["validated", "scored"]


def test_the_share_of_a_budget_rises_evenly_over_its_validations():
    _, shares, _ = run_for(240.0, lambda *_: 0.5, lambda *_: 2.0)
    steps = len(shares) - 1
    assert shares == pytest.approx([i / steps for i in range(steps + 1)], abs=0.02)


def test_the_rate_reaches_its_end_with_the_budget_on_a_machine_that_becomes_busy():
    _, shares, _ = run_for(240.0, *MACHINES["busy from the middle on"])
    half = next(i for i, share in enumerate(shares) if share >= 0.5)
    assert half > 2 * (len(shares) - half)  # fewer steps, of the same time, behind the middle
    assert shares[-2] > 0.98


def test_the_opening_of_data_counts_and_one_step_is_always_made():
    end_s, shares, _ = run_for(240.0, lambda *_: 0.5, lambda *_: 2.0, opening_s=120.0)
    assert 0.8 * 240.0 <= end_s <= 1.2 * 240.0 and 100 < len(shares) < 240
    _, shares, done = run_for(60.0, lambda *_: 90.0, lambda *_: 2.0)
    assert (shares, done) == ([0.0, 1.0], [])


def test_a_validation_is_guessed_before_it_is_measured():
    pace = Pace(240.0, 100, final_cost=3.0, validation_steps=8.0)
    for step in range(3):
        pace.add_step(20.0 * (step + 1))  # each 20 s: a validation would take 160 s
    assert not pace.may_validate and not pace.is_validation_due()
    assert pace.next_validation_s == 160.0


def test_a_frozen_backbone_does_not_make_validations_look_longer():
    pace = Pace(240.0, 100)
    pace.freeze(True)
    for step in range(5):
        pace.add_step(0.1 * (step + 1))
    pace.add_validation(2.5)
    pace.freeze(False)  # steps become four times as long, validations do not
    for step in range(5):
        pace.add_step(2.5 + 0.4 * (step + 1))
    assert pace.next_validation_s == pytest.approx(2.0)
    for step in range(9):
        pace.add_step(4.5 + 0.8 * (step + 1))  # now the machine is twice as busy
    assert pace.next_validation_s == pytest.approx(4.0)


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
