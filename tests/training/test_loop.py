import importlib.util
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from lemevit_cli.errors import LemevitError, WeightsError
from lemevit_cli.models.weights import load_checkpoint
from lemevit_cli.training.checkpoint import CHECKPOINT_NAME, check_resumable
from lemevit_cli.training.loop import Validation
from lemevit_cli.training.metrics_log import METRICS_NAME

PROGRAM = Path(__file__).with_name("noise_training.py")
_spec = importlib.util.spec_from_file_location("noise_training", PROGRAM)
noise = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(noise)
Listener, run = noise.Listener, noise.run


def start(*jobs, **environment):
    """Start a process that trains as the jobs say."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), **environment}
    command = [sys.executable, str(PROGRAM), json.dumps(jobs)]
    return subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def wait_until_all_have_left(session):
    """Fail if processes of a session are still there after a while."""
    for _ in range(300):
        left = []
        for pid in psutil.pids():
            with suppress(ProcessLookupError):
                left += [pid] if os.getsid(pid) == session else []
        if not left:
            return
        time.sleep(0.1)
    pytest.fail(f"processes {left} are left")


def tensors_of(folder, parts=("model", "average")):
    state = load_checkpoint(folder / CHECKPOINT_NAME)
    return {f"{part}.{key}": value for part in parts for key, value in state[part].items()}


def assert_equal_weights(folder, other):
    expected, found = tensors_of(folder), tensors_of(other)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def lines_of(folder):
    return [json.loads(line) for line in (folder / METRICS_NAME).read_text().splitlines()]


def at(step, number):
    """Return a listener that sends its own process a signal after a step."""

    def act(reached):
        if reached == step:
            os.kill(os.getpid(), number)

    return Listener(act)


@pytest.fixture
def folders(tmp_path):
    """Return two folders, for runs that are compared."""
    (tmp_path / "whole").mkdir()
    (tmp_path / "parts").mkdir()
    return tmp_path / "whole", tmp_path / "parts"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_killed_in_the_middle_goes_on_bit_for_bit(folders, workers):
    whole, parts = folders
    run(whole, workers=0)
    options = {"workers": workers, "checkpoint_every": 2}
    killed = start({"folder": str(parts), "options": options, "signals": [[6, 0, signal.SIGKILL]]})
    assert killed.wait() == -signal.SIGKILL, killed.stderr.read()
    wait_until_all_have_left(killed.pid)
    assert load_checkpoint(parts / CHECKPOINT_NAME)["step"] == 4
    (parts / f".{CHECKPOINT_NAME}.{killed.pid}.part").write_bytes(b"half a checkpoint")
    torch.rand(5)  # a resume restores the generator, whatever was drawn before
    state, _ = run(parts, workers=workers, resume=True)
    assert state.step == 6
    assert_equal_weights(whole, parts)
    left = {path.name for path in parts.iterdir() if not path.name.startswith("events.")}
    assert left == {CHECKPOINT_NAME, METRICS_NAME}  # and TensorBoard's events, if installed


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "muon"},
        {"accumulate": 2, "head_first": 0.5, "backbone_lr": 0.3},
        {"optimizer": "lookahead_nadamw", "backbone_lr": 0.0},
    ],
)
def test_a_terminated_run_goes_on_bit_for_bit(folders, changes):
    whole, parts = folders
    run(whole, **changes)
    with pytest.raises(SystemExit) as stopped:
        run(parts, at(2, signal.SIGTERM), **changes)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert load_checkpoint(parts / CHECKPOINT_NAME)["step"] == 2
    torch.rand(5)
    run(parts, **changes, resume=True)
    assert_equal_weights(whole, parts)


def test_ctrl_c_saves_a_checkpoint_and_stays_a_ctrl_c(tmp_path):
    listener = at(4, signal.SIGINT)
    before = signal.getsignal(signal.SIGINT)  # ignored, where a shell started us in the background
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, listener)
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME)["step"] == 4
    assert listener.notes == ["stopped after step 4; go on with --resume"]
    assert signal.getsignal(signal.SIGINT) is before


def test_a_resume_with_other_options_names_them(tmp_path):
    run(tmp_path, data={"identity": {"sources": ("town",)}})
    for changes, said in [
        ({"lr": 0.5}, r"made with lr 0\.01, but 0\.5 is given"),
        ({"optimizer": "lion"}, "made with optimizer 'muon', but 'lion' is given"),
        ({"backbone_args": {"a": 1}}, "made with backbone_args {}, but {'a': 1} is given"),
        ({"data": {"identity": {"sources": ("sea",)}}}, "made with sources"),
    ]:
        with pytest.raises(WeightsError, match=said) as raised:
            run(tmp_path, **changes, resume=True)
        assert "\n" not in str(raised.value)


def test_a_resume_may_change_how_long_and_where(tmp_path):
    run(tmp_path)
    listener = Listener()
    changes = {"workers": 2, "threads": 1, "validate_every": 2, "checkpoint_every": 5}
    state, _ = run(tmp_path, listener, steps=8, **changes, resume=True)
    assert state.step == 8
    assert listener.notes == [
        "goes on at step 6 towards step 8, not 6 as before; "
        "the learning rate follows the new number"
    ]
    assert listener.phases == [("train", 2, "steps")]  # what is left, for the time left


def test_a_resume_with_fewer_steps_than_are_done_gives_what_there_is(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, at(4, signal.SIGTERM), validate_every=10)
    listener = Listener()
    state, best = run(tmp_path, listener, validate_every=10, steps=2, resume=True)
    assert (state.step, best, state.best["step"]) == (4, [4], 4)
    assert listener.notes == ["4 steps are done already; the training ends here"]
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME)["best"] == state.best
    _, best = run(tmp_path, validate_every=10, steps=2, resume=True)
    assert best == []  # judged and kept already
    assert [line["step"] for line in lines_of(tmp_path) if "score" in line] == [4]
    state, best = run(tmp_path, data={"validate": None}, steps=3, resume=True)
    assert (state.step, best) == (4, [])


def test_a_run_without_validation_that_is_cut_short_keeps_its_last_weights(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, at(4, signal.SIGTERM), data={"validate": None})
    _, best = run(tmp_path, data={"validate": None}, steps=4, resume=True)
    assert best == [4]


def test_every_validated_step_is_validated_once(tmp_path):
    calls = []

    def watched(answer):
        calls.append(answer)
        return noise.validate(answer)

    run(tmp_path, data={"validate": watched})
    assert len(calls) == 2  # after steps 3 and 6


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        run(tmp_path, resume=True)
    for state in ({"model": {}}, {"recipe": {}, "model": {}, "average": {}, "optimizer": {}}):
        torch.save(state, tmp_path / CHECKPOINT_NAME)
        with pytest.raises(WeightsError, match="not a checkpoint of this training") as error:
            run(tmp_path, resume=True)
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "recipe", [None, [1], torch.ones(2), {"lr": torch.ones(2)}, {"lr": [torch.ones(2)]}]
)
def test_a_recipe_that_is_none_or_holds_tensors_is_refused(tmp_path, recipe):
    torch.save({"recipe": recipe}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(WeightsError, match=r"holds no recipe|made with lr .*tensor"):
        check_resumable(tmp_path, {"lr": 0.1})


def test_a_full_disk_loses_the_newest_checkpoint_only(tmp_path):
    whole = tmp_path / "whole"
    whole.mkdir()
    run(whole)
    size = (whole / CHECKPOINT_NAME).stat().st_size
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill_disk(step):
        if step == 4:
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))

    listener = Listener(fill_disk)
    try:
        state, _ = run(tmp_path, listener, checkpoint_every=3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert state.step == 6
    (warning,) = listener.warnings
    assert "the checkpoint of step 6 could not be written" in warning and "\n" not in warning
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME)["step"] == 3
    run(tmp_path, resume=True)
    assert_equal_weights(whole, tmp_path)


def test_best_weights_that_cannot_be_written_do_not_end_the_training(tmp_path):
    def full(tensors, record):
        raise OSError(28, "No space left on device")

    listener = Listener()
    torch.manual_seed(0)
    state = noise.fit(
        noise.Net(),
        noise.loss,
        noise.TrainingData(noise.make_samples(), noise.validate),
        noise.options_of(),
        folder=tmp_path,
        progress=listener,
        save_best=full,
    )
    assert state.step == 6 and state.best == {}
    assert "the best weights of step 3 could not be written" in listener.warnings[0]
    _, best = run(tmp_path, resume=True)  # there is room again
    assert best == [6]


def test_metrics_are_json_lines_without_doubles_after_a_resume(tmp_path):
    run(tmp_path, steps=20, checkpoint_every=10, validate_every=10)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [10, 20]
    assert [line["step"] for line in lines if "score" in line] == [10, 20]
    assert lines[0]["loss"] > 0 and lines[0]["lr"] > 0
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write('{"step": 30, "loss": 1.0}\n{"st')  # lost with the step that was not saved
    run(tmp_path, steps=30, checkpoint_every=10, validate_every=10, resume=True)
    lines = lines_of(tmp_path)
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30]


def test_the_best_validation_is_kept(tmp_path):
    state, best = run(tmp_path, steps=9)
    assert state.best["step"] == best[-1]
    assert state.best_score == max(line["score"] for line in lines_of(tmp_path) if "score" in line)


def test_of_equal_validations_the_last_is_kept(tmp_path):
    nothing_told = {"validate": lambda answer: Validation(0.0, {})}
    state, best = run(tmp_path, data=nothing_told, steps=9)
    assert state.best["step"] == best[-1] == 9


def test_without_validation_the_last_weights_are_kept(tmp_path):
    state, best = run(tmp_path, data={"validate": None})
    assert best == [6]
    assert state.best == {"step": 6, "figures": None}
    assert not any("score" in line for line in lines_of(tmp_path))
    _, best = run(tmp_path, data={"validate": None}, steps=7, resume=True)
    assert best == [7]


def test_an_epoch_is_as_many_windows_as_the_labels_fill(tmp_path):
    # 2.5 epochs of 1000 pixels are 2500; a step has 2 batches of 2 windows of 64: 256 pixels.
    changes = {"epochs": 2.5, "crop": 8, "accumulate": 2}
    state, _ = run(tmp_path, data={"labelled_pixels": 1000}, **changes)
    assert state.step == 10
    # Of a window 20 pixels are labelled, of a step 80: 2500 are 32 steps.
    sparse = {"labelled_pixels": 1000, "labelled_pixels_a_window": lambda: 20.0}
    state, _ = run(tmp_path, data=sparse, **changes)
    assert state.step == 32
    with pytest.raises(ValueError, match="labelled pixels"):
        run(tmp_path, **changes)


class Clock:
    """A clock that goes on where it is told to: a loss takes a time, and a validation."""

    def __init__(self, monkeypatch, *, step_s=0.05, validation_s=0.1):
        self.now, self.step_s, self.validation_s = 0.0, step_s, validation_s
        stopped = SimpleNamespace(perf_counter=lambda: self.now, sleep=time.sleep)
        monkeypatch.setattr("lemevit_cli.training.loop.time", stopped)

    def loss(self, model, batch):
        self.now += self.step_s
        return noise.loss(model, batch)

    def validate(self, answer):
        self.now += self.validation_s
        return noise.validate(answer)


def test_a_time_budget_ends_in_time_and_its_rate_with_it(folders, monkeypatch):
    clock, listener = Clock(monkeypatch), Listener()
    data = {"validate": clock.validate}
    changes = {"time_budget_s": 5.0, "validate_every": 30}
    state, best = run(folders[0], listener, loss=clock.loss, data=data, **changes)
    # 5% are kept free, and the time of the scoring afterwards: as long as a validation.
    assert clock.now == pytest.approx(0.95 * 5.0 - 0.1, abs=0.05)
    validations = sum("score" in line for line in lines_of(folders[0]))
    assert state.step == state.total_steps == round((clock.now - validations * 0.1) / 0.05)
    assert best and listener.phases == [("train", 5, "s")]
    assert listener.count == int(clock.now - 0.1)  # seconds until the last step
    rates = [line["lr"] for line in lines_of(folders[0]) if "lr" in line]
    assert max(rates) == pytest.approx(1e-2, rel=0.1)
    assert rates[-1] == pytest.approx(1e-4, rel=0.2)  # last_rate: a hundredth


def test_a_resumed_time_budget_goes_on_with_the_time_that_is_left(folders, monkeypatch):
    whole, parts = folders
    clock = Clock(monkeypatch)
    changes = {"loss": clock.loss, "data": {"validate": clock.validate}}
    changes |= {"time_budget_s": 4.0, "head_first": 0.5, "checkpoint_every": 1}
    state, _ = run(whole, **changes)
    end = clock.now
    clock.now = 1000.0
    with pytest.raises(SystemExit):
        run(parts, at(20, signal.SIGTERM), **changes)
    clock.now = 5000.0  # what lies between two sittings does not count
    listener = Listener()
    resumed, _ = run(parts, listener, **changes, resume=True)
    # A clock that says the same gives the same weights, bit for bit.
    assert (resumed.step, listener.notes) == (state.step, [])
    assert resumed.elapsed_s == pytest.approx(end)
    ((_, left_s, _),) = listener.phases
    assert listener.count == int(end - 0.1) - (4 - left_s)  # the time left is right
    assert_equal_weights(whole, parts)


def test_a_resume_may_be_given_more_time_or_steps(folders, monkeypatch):
    clock, listener = Clock(monkeypatch), Listener()
    changes = {"loss": clock.loss, "data": {"validate": clock.validate}}
    first, _ = run(folders[0], time_budget_s=2.0, **changes)
    more, _ = run(folders[0], listener, time_budget_s=4.0, **changes, resume=True)
    assert 3.5 <= more.elapsed_s <= 4.0 and more.step > 1.5 * first.step
    assert listener.notes == [
        f"goes on at step {first.step} with 2 s left of the time budget; the learning rate follows "
        "the time"
    ]
    listener = Listener()
    steps = more.step + 5
    last, _ = run(folders[0], listener, steps=steps, **changes, resume=True)
    assert last.step == steps
    assert listener.notes[0].startswith(
        f"goes on at step {more.step} towards step {steps}, not {more.step} as before"
    )


def test_a_backbone_rests_for_its_part_of_a_time_budget(folders, monkeypatch):
    weights, clock = [], Clock(monkeypatch)

    def watched(model, batch):
        weights.append(model.encoder[0].weight.detach().clone())
        return clock.loss(model, batch)

    changes = {"time_budget_s": 4.0, "head_first": 0.5, "data": {"validate": clock.validate}}
    state, _ = run(folders[0], loss=watched, validate_every=1000, **changes)
    resting = [torch.equal(weights[0], weight) for weight in weights]
    assert resting == sorted(resting, reverse=True)
    assert sum(resting) == pytest.approx(state.step / 2, abs=3)


def test_what_a_time_budget_has_no_time_for_is_left_out_and_told(folders, monkeypatch):
    clock, listener = Clock(monkeypatch, step_s=1.0, validation_s=60.0), Listener()
    # Of 48 x 64 pixels a step sees 128: a validation is guessed to take eight steps.
    data = {"validate": clock.validate, "validation_pixels": 48 * 64}
    state, best = run(folders[0], listener, loss=clock.loss, data=data, crop=8, time_budget_s=20.0)
    assert 16.0 <= clock.now <= 20.0
    assert best == [state.step] and state.best["figures"] is None
    (warning,) = listener.warnings
    assert warning == (
        "a validation would take 8 s of a time budget of 20 s: the last weights are kept, unscored"
    )


def test_a_time_budget_that_is_over_ends_the_training(tmp_path):
    state, best = run(tmp_path, time_budget_s=1e-3)
    assert (state.step, best, state.best["figures"]) == (1, [1], None)


def test_a_loss_that_is_no_number_stops_with_all_that_helps(tmp_path):
    def broken(model, batch):
        total, count = noise.loss(model, batch)
        broken.steps += 1
        return total * (torch.nan if broken.steps == 6 else 1.0), count

    broken.steps = 0
    changes = {"accumulate": 2, "batch_size": 3, "checkpoint_every": 1}
    with pytest.raises(LemevitError) as raised:
        run(tmp_path, loss=broken, data={"origin": "window {}".format}, **changes)
    assert str(raised.value) == (
        "the loss is nan at step 2 on 6 windows (window 12; window 13; window 14; window 15; and "
        f"2 more); the last good checkpoint is {tmp_path / CHECKPOINT_NAME} of step 2; "
        "check these windows, or start anew with a smaller --lr than 0.01"
    )
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME)["step"] == 2


def test_a_gradient_that_is_no_number_leaves_the_weights_alone(tmp_path):
    kept = []

    def broken(model, batch):
        kept[:] = [(p, p.detach().clone()) for p in model.parameters()]
        total, count = noise.loss(model, batch)
        # A root at zero: a finite value with an infinite slope.
        return total + sum((p - p.detach()).abs().sum().sqrt() for p in model.parameters()), count

    with pytest.raises(
        LemevitError, match=r"gradient's norm is (nan|inf) at step 0 .*no checkpoint"
    ):
        run(tmp_path, loss=broken)
    assert kept and all(torch.equal(p, before) for p, before in kept)


def test_an_unknown_optimizer_is_told_before_any_step(tmp_path):
    with pytest.raises(LemevitError, match="no optimizer 'adamz' in timm; use adamw, muon"):
        run(tmp_path, optimizer="adamz")
    assert not list(tmp_path.iterdir())


def weights_after(folder, **changes):
    state, _ = run(folder, **changes)
    return {name: p.detach().clone() for name, p in state.model.named_parameters()}


def test_targets_weigh_alike_however_many_a_batch_has(tmp_path):
    """Gradients of accumulated batches with other numbers of targets are those of one batch."""
    net = {"dropout": 0.0, "frozen_norm": True}
    changes = {"steps": 3, "net": net, "validate_every": 9}
    one = weights_after(tmp_path, batch_size=6, **changes)
    loss = lines_of(tmp_path)[0]["loss"]
    three = weights_after(tmp_path, batch_size=2, accumulate=3, **changes)
    assert lines_of(tmp_path)[0]["loss"] == pytest.approx(loss, abs=1e-6)
    for name, value in one.items():
        torch.testing.assert_close(three[name], value, atol=1e-5, rtol=0)


def test_a_backbone_of_rate_zero_stays_as_it_is(tmp_path):
    torch.manual_seed(0)
    before = noise.Net()
    state, _ = run(tmp_path, backbone_lr=0.0)
    for name, value in before.encoder.state_dict().items():  # the norm's statistics too
        assert torch.equal(state.model.encoder.state_dict()[name], value), name
    assert not torch.equal(state.model.head.weight, before.head.weight)


def test_a_backbone_rests_and_then_joins(tmp_path):
    weights = []

    def watched(model, batch):
        weights.append(
            (model.encoder[0].weight.detach().clone(), model.encoder[1].running_mean.clone())
        )
        return noise.loss(model, batch)

    state, _ = run(tmp_path, loss=watched, head_first=0.5)
    for first, second in zip(weights[0], weights[3], strict=True):
        assert torch.equal(first, second)
    assert not torch.equal(weights[3][0], weights[4][0])
    assert not torch.equal(weights[3][1], state.model.encoder[1].running_mean)


def test_a_model_without_a_backbone_cannot_rest_one(tmp_path):
    with pytest.raises(ValueError, match="no `encoder`"):
        noise.fit(
            torch.nn.Conv2d(3, 2, 1),
            noise.loss,
            noise.TrainingData(noise.make_samples()),
            noise.options_of(head_first=0.5),
            folder=tmp_path,
            progress=Listener(),
            save_best=lambda tensors, record: None,
        )


def test_two_processes_do_what_one_does_with_twice_the_batch(tmp_path):
    """One pair of processes, several runs: starting them is what takes time."""
    net = {"dropout": 0.0, "frozen_norm": True}
    # Plain gradient descent with a rate of one: the weights' change is the gradient.
    plain = {"optimizer": "momentum", "lr": 1.0, "weight_decay": 0.0, "warmup": 0.0}
    plain |= {"clip_norm": 1e6, "steps": 1}
    lively = {"optimizer": "muon", "accumulate": 2, "head_first": 0.4, "steps": 5}
    jobs = {
        "plain": {"net": net, "options": {**plain, "batch_size": 3}},
        "accumulated": {"net": net, "options": {**plain, "batch_size": 3, "accumulate": 2}},
        "lively": {"options": lively},
        # One process alone is told to end: both must leave after the same step.
        "stopped": {"options": lively, "signals": [[5, 1, signal.SIGTERM]]},
        "resumed": {"options": {**lively, "resume": True}},
        "budget": {"options": {**lively, "time_budget_s": 0.5}},
        "broken": {"options": {**lively, "checkpoint_every": 1}, "nan_at": 6},
    }
    for name, job in jobs.items():
        folder = tmp_path / (name if name != "resumed" else "stopped")
        folder.mkdir(exist_ok=True)
        job["folder"] = str(folder)
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(found.getsockname()[1])}
    pair = [
        start(*jobs.values(), RANK=str(r), LOCAL_RANK=str(r), WORLD_SIZE="2", **place)
        for r in range(2)
    ]
    said = [process.communicate(timeout=200)[1] for process in pair]
    assert [process.returncode for process in pair] == [0, 0], said

    torch.manual_seed(0)
    before = noise.Net().state_dict()
    for name, windows in (("plain", 6), ("accumulated", 12)):
        alone = tmp_path / f"{name}_alone"
        alone.mkdir()
        run(alone, net=net, **plain, batch_size=windows)
        assert lines_of(tmp_path / name)[0]["loss"] == pytest.approx(
            lines_of(alone)[0]["loss"], abs=1e-5
        )
        expected, found = tensors_of(alone, ("model",)), tensors_of(tmp_path / name, ("model",))
        for key, value in before.items():
            torch.testing.assert_close(
                found[f"model.{key}"] - value, expected[f"model.{key}"] - value, atol=1e-5, rtol=0
            )
    stopped = tmp_path / "stopped"
    assert [(stopped / f"end{rank}").read_text() for rank in range(2)] == ["143", "143"]
    assert_equal_weights(tmp_path / "lively", stopped)
    assert load_checkpoint(tmp_path / "budget" / CHECKPOINT_NAME)["total_steps"] >= 3
    ends = [(tmp_path / "broken" / f"end{rank}").read_text() for rank in range(2)]
    assert ends[0].startswith("the loss is nan at step 2 on 8 windows (sample 16; sample 17;")
    assert ends[1] == "1"  # one line is enough
