"""A training of a few steps on noise; run as a program where a test needs processes of its own.

python noise_training.py '[{"folder": ..., "options": {...}, "signals": [[5, 0, 9]]}, ...]'
"""

import json
import os
import sys
from itertools import count
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import Dataset, StackDataset

from lemevit_cli.errors import LemevitError
from lemevit_cli.training.loop import TrainingData, Validation, fit, leave_group
from lemevit_cli.training.options import TrainingOptions

IGNORED = -100
RANK = int(os.environ.get("RANK", "0"))


def make_samples(count=64):
    """Make pixels with the sign of their mean as target, in sample ``i`` some ``4 + i``."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(count, 3, 8, 8, generator=generator)
    target = (pixels.mean(dim=1) > 0).long()
    for number in range(count):
        target[number].view(-1)[4 + number % 50 :] = IGNORED
    return StackDataset(pixels=pixels, target=target)  # importable, so that workers can unpickle it


class Endless(Dataset):
    """The same samples again and again."""

    def __init__(self, samples):
        self.samples = samples

    def __getitem__(self, index):
        return self.samples[index % len(self.samples)]


class Net(nn.Module):
    """A network whose dropout and batch norm have states that must be restored."""

    def __init__(self, *, dropout=0.3, frozen_norm=False):
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(dropout)
        )
        self.head = nn.Conv2d(8, 2, 1)
        self.frozen_norm = frozen_norm

    def train(self, mode=True):
        super().train(mode)
        self.encoder[1].train(mode and not self.frozen_norm)
        return self

    def forward(self, pixels):
        return self.head(self.encoder(pixels))


def loss(model, batch):
    target = batch["target"]
    total = nn.functional.cross_entropy(
        model(batch["pixels"]), target, reduction="sum", ignore_index=IGNORED
    )
    return total, (target != IGNORED).sum()


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


class Listener:
    def __init__(self, act=None):
        self.act, self.count = act, 0
        self.warnings, self.notes, self.phases = [], [], []

    def start(self, label, *, total, unit):
        self.phases.append((label, total, unit))

    def advance(self, count=1, **figures):
        self.count += count
        if self.act:
            self.act(figures["step"])

    def finish(self): ...

    def warn(self, message):
        self.warnings.append(message)

    def note(self, message):
        self.notes.append(message)


def run(folder, listener=None, *, loss=loss, net=None, data=None, **changes):
    """Train; the state, and the steps of the weights that were kept as the best."""
    torch.manual_seed(0)
    samples, best = make_samples(), []
    samples = samples if changes.get("workers") else Endless(samples)
    state = fit(
        Net(**(net or {})),
        loss,
        TrainingData(samples, **{"validate": validate, **(data or {})}),
        options_of(**changes),
        folder=Path(folder),
        progress=listener or Listener(),
        save_best=lambda tensors, record: best.append(record["step"]),
    )
    return state, best


def disturbed_loss(signals, nan_at):
    """Return the loss; send the own process signals; at a call of rank 1 it may be no number.

    Args:
        signals: ``[call, rank, number]`` each.
    """
    calls = count(1)
    mine = {call: number for call, rank, number in signals if rank == RANK}

    def disturbed(model, batch):
        call = next(calls)
        if call in mine:
            os.kill(os.getpid(), mine[call])
        total, targets = loss(model, batch)
        return total * (float("nan") if call == nan_at and RANK == 1 else 1.0), targets

    return disturbed


def main():
    """Run what the argument lists; how a run ended, if not well, is left in its folder."""
    for job in json.loads(sys.argv[1]):
        disturbed = disturbed_loss(job.get("signals", []), job.get("nan_at"))
        end = Path(job["folder"]) / f"end{RANK}"
        try:
            run(job["folder"], loss=disturbed, net=job.get("net"), **job["options"])
        except SystemExit as status:
            end.write_text(str(status.code))
        except LemevitError as error:
            end.write_text(str(error))
    leave_group()


if __name__ == "__main__":
    main()
