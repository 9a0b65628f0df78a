"""Trainings that are ended on the way."""

from dataclasses import replace

import pytest

from lemevit_cli.models.weights import load_weights
from lemevit_cli.progress import Silent
from lemevit_cli.tasks.training import train


class StopError(Exception):
    """Ends a training."""


class HaltingAt(Silent):
    """Ends a training while it reports a step."""

    def __init__(self, step):
        self.step = step

    def advance(self, count=1, **figures):
        if figures.get("step") == self.step:
            raise StopError


def train_whole_and_in_parts(task, data, folder, options, *, halt):
    """Return tensors of a training, and of the same one ended at a step and resumed."""
    whole = train(task, data, str(folder / "whole.safetensors"), options)
    target = str(folder / "parts.safetensors")
    with pytest.raises(StopError):
        train(task, data, target, options, HaltingAt(halt))
    resumed = train(task, data, target, replace(options, resume=True))
    return [load_weights(report["path"])[0] for report in (whole, resumed)]


class Interrupting:
    """Ends a training while it reports a step that comes after a checkpoint."""

    def __init__(self, after):
        self.left = after
        self.notes = []

    def advance(self, count=1, **figures):
        self.left -= count
        if self.left < 0:
            raise KeyboardInterrupt

    def start(self, label, *, total, unit): ...

    def finish(self): ...

    def warn(self, message): ...

    def note(self, message):
        self.notes.append(message)
