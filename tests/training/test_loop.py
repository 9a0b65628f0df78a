import json
import os
import signal

import pytest
import torch

from lemevit_cli.errors import LemevitError, WeightsError
from lemevit_cli.models.weights import load_checkpoint
from lemevit_cli.training.loop import CHECKPOINT_NAME, METRICS_NAME, TrainingData, Validation, fit
from lemevit_cli.training.options import TrainingOptions


class Noise(torch.utils.data.Dataset):
    """Pixels whose target is the sign of their mean, from the sample's number alone."""

    def __getitem__(self, index):
        pixels = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(index))
        return {"pixels": pixels, "target": (pixels.mean() > 0).long()}


class Listener:
    def __init__(self, act=None):
        self.act = act
        self.warnings = []

    def start(self, label, *, total, unit): ...

    def advance(self, count=1, **figures):
        if self.act:
            self.act(figures["step"])

    def finish(self): ...

    def warn(self, message):
        self.warnings.append(message)

    def note(self, message): ...


def loss(model, batch):
    logits = model(batch["pixels"])
    total = torch.nn.functional.cross_entropy(logits, batch["target"], reduction="sum")
    return total, torch.tensor(len(logits))


def validate(answer):
    pixels = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(99))
    return Validation(float(answer(pixels).sum()), {"some": {"miou": 0.5}})


def options_of(**changes):
    settings = {
        "steps": 6,
        "batch_size": 2,
        "workers": 0,
        "device": "cpu",
        "checkpoint_every": 100,
        "validate_every": 3,
        "lr": 1e-2,
        **changes,
    }
    return TrainingOptions(**settings)


def run(folder, listener=None, *, loss=loss, **changes):
    torch.manual_seed(0)
    # Dropout draws from the global generator, batch norm has buffers: both must be restored.
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.Dropout(0.3),
        torch.nn.Flatten(),
        torch.nn.Linear(8 * 36, 2),
    )
    best = []
    state = fit(
        model,
        loss,
        TrainingData(Noise(), validate),
        options_of(**changes),
        folder=folder,
        listener=listener or Listener(),
        save_best=lambda tensors, record: best.append(record["step"]),
    )
    return state, best


def tensors_of(folder):
    state = load_checkpoint(folder / CHECKPOINT_NAME)
    return {
        f"{part}.{key}": value
        for part in ("model", "average")
        for key, value in state[part].items()
    }


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_run_goes_on_bit_for_bit(tmp_path, workers):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    whole.mkdir(), parts.mkdir()
    run(whole, workers=workers)

    def kill(step):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(SystemExit) as stopped:
        run(parts, Listener(kill), workers=workers)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert load_checkpoint(parts / CHECKPOINT_NAME)["step"] == 2
    torch.rand(5)  # a resume restores the generator, whatever was drawn before
    state, _ = run(parts, workers=workers, resume=True)
    assert state.step == 6
    expected, found = tensors_of(whole), tensors_of(parts)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert torch.equal(value, found[name]), name


def test_ctrl_c_saves_a_checkpoint_and_stays_a_ctrl_c(tmp_path):
    def interrupt(step):
        if step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Listener(interrupt))
    assert load_checkpoint(tmp_path / CHECKPOINT_NAME)["step"] == 4
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_metrics_are_json_lines_without_doubles_after_a_resume(tmp_path):
    run(tmp_path, steps=20, checkpoint_every=10, validate_every=10)
    lines = [json.loads(line) for line in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20]
    assert [line["step"] for line in lines if "score" in line] == [10, 20]
    assert lines[0]["loss"] > 0 and lines[0]["lr"] > 0
    with (tmp_path / METRICS_NAME).open("a") as file:
        file.write('{"step": 30, "loss": 1.0}\n')  # lost with the step that was not saved
    run(tmp_path, steps=30, checkpoint_every=10, validate_every=10, resume=True)
    lines = [json.loads(line) for line in (tmp_path / METRICS_NAME).read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20, 30]


def test_the_best_validation_is_kept(tmp_path):
    state, best = run(tmp_path, steps=9)
    assert state.best["step"] == best[-1]
    scores = [
        json.loads(line)["score"]
        for line in (tmp_path / METRICS_NAME).read_text().splitlines()
        if "score" in line
    ]
    assert state.best_score == max(scores)


def test_a_time_budget_ends_the_training(tmp_path):
    state, _ = run(tmp_path, steps=10**6, time_budget_s=0.3)
    assert 1 <= state.step < 10**5
    assert state.elapsed_s >= 0.3


def test_a_loss_that_is_no_number_stops_with_its_step(tmp_path):
    def broken(model, batch):
        return model(batch["pixels"]).sum() * torch.nan, torch.tensor(1)

    with pytest.raises(LemevitError, match="the loss is nan at step 0"):
        run(tmp_path, loss=broken)


def test_targets_weigh_alike_however_many_a_batch_has(tmp_path):
    def twice(model, batch):
        total, count = loss(model, batch)
        return total * 2, count * 2

    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir(), two.mkdir()
    run(one, steps=3)
    run(two, steps=3, loss=twice)
    for name, value in tensors_of(one).items():
        torch.testing.assert_close(tensors_of(two)[name], value)


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="no such checkpoint"):
        run(tmp_path, resume=True)
    torch.save({"model": {}, "average": {}, "optimizer": {}}, tmp_path / CHECKPOINT_NAME)
    with pytest.raises(WeightsError, match="not a checkpoint of this training") as error:
        run(tmp_path, resume=True)
    assert "\n" not in str(error.value)


def test_a_checkpoint_that_cannot_be_written_is_told_and_training_goes_on(tmp_path, monkeypatch):
    def full(state, path):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("torch.save", full)
    listener = Listener()
    state, _ = run(tmp_path, listener, checkpoint_every=3)
    assert state.step == 6
    assert len(listener.warnings) == 2
    assert "the checkpoint of step 3 could not be written" in listener.warnings[0]
