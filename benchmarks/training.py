"""What the training loop costs beside the pure step of its model, on the same batches.

    python benchmarks/training.py

Pictures are simulated first. The loop is `lemevit train`'s: worker processes that read, cut and
vary windows, the step, clipping, averaged weights, metrics; validation and checkpoints stay out.
The pure step is forward, loss, backward and optimizer on batches held in memory. The two take
turns in one process, some steps each, so that a busy machine slows both; after each turn the loop's
first steps do not count, for which workers have read ahead. Figures are medians and their ratio.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path

import torch
from timm.optim import create_optimizer_v2
from torch.utils.data import default_collate

from lemevit_cli.simulation.scenes import simulate_dataset
from lemevit_cli.tasks import load_simulation, load_training
from lemevit_cli.training.loop import Loss, TrainingData, fit
from lemevit_cli.training.options import DataOptions, TrainingOptions

PREFETCHED = 2  # batches a worker, torch's default


class Turns:
    """Listens to the loop, times its steps, and lets the pure step run every ``turn`` of them."""

    def __init__(self, pure_step: Callable[[], None], *, turn: int, uncounted: int) -> None:
        self._pure_step, self._turn, self._uncounted = pure_step, turn, uncounted
        self._before = time.perf_counter()
        self.loop_s: list[float] = []
        self.pure_s: list[float] = []

    def advance(self, count: int = 1, **figures: float) -> None:
        now = time.perf_counter()
        done = int(figures["step"])
        if (done - 1) % self._turn >= self._uncounted:
            self.loop_s.append(now - self._before)
        if done % self._turn == 0:
            for _ in range(self._turn - self._uncounted):
                began = time.perf_counter()
                self._pure_step()
                self.pure_s.append(time.perf_counter() - began)
        self._before = time.perf_counter()

    def start(self, label: str, *, total: int, unit: str) -> None: ...

    def finish(self) -> None: ...

    def warn(self, message: str) -> None: ...

    def note(self, message: str) -> None: ...


def pure_steps(
    model: torch.nn.Module, loss: Loss, data: TrainingData, options: TrainingOptions
) -> Callable[[], None]:
    """Return a function of one step; its batches are the loop's first ones."""
    optimizer = create_optimizer_v2(
        model, opt=options.optimizer, lr=options.lr, weight_decay=options.weight_decay
    )
    size = options.batch_size
    batches: Iterator[dict[str, torch.Tensor]] = cycle(
        [
            default_collate([data.samples[i] for i in range(first, first + size)])
            for first in range(0, 4 * size, size)
        ]
    )
    model.train()

    def step() -> None:
        total, count = loss(model, next(batches))
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    step()  # the first one allocates
    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="lemevit_tiny")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--workers", type=int, default=TrainingOptions.workers)
    parser.add_argument("--optimizer", default=TrainingOptions.optimizer)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--turns", type=int, default=4)
    parser.add_argument("--steps", type=int, default=10, help="of the loop in a turn")
    args = parser.parse_args()
    uncounted = PREFETCHED * args.workers + 1
    if args.steps <= uncounted:
        parser.error(f"--steps must be above {uncounted}: so many of a turn do not count")
    options = TrainingOptions(
        backbone=args.backbone,
        crop=args.crop,
        batch_size=args.batch_size,
        workers=args.workers,
        threads=args.threads,
        optimizer=args.optimizer,
        steps=args.turns * args.steps,
        validate_every=10**9,
        checkpoint_every=10**9,
        device="cpu",
    )
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    task = load_training("seg")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        simulate_dataset(folder / "town", load_simulation("seg"), size=1024, scenes=4)
        found = task.open_data(DataOptions(paths=(str(folder / "town"),)), options)
        samples = TrainingData(found.training.samples)  # and no validation
        loss = task.make_loss(found, options)
        pure = pure_steps(task.network.build_model(found.card), loss, samples, options)
        turns = Turns(pure, turn=args.steps, uncounted=uncounted)
        fit(
            task.network.build_model(found.card),
            loss,
            samples,
            options,
            folder=folder,
            progress=turns,
            save_best=lambda tensors, record: None,
        )
    loop_s, pure_s = statistics.median(turns.loop_s), statistics.median(turns.pure_s)
    print(
        f"{args.backbone}, {args.optimizer}, {args.batch_size} windows of {args.crop}, "
        f"{args.threads} thread(s), {args.workers} worker(s), torch {torch.__version__}"
    )
    print(f"median of {len(turns.loop_s)} and {len(turns.pure_s)} steps, in seconds")
    print(f"loop {loop_s:.3f}  pure {pure_s:.3f}  ratio {loop_s / pure_s:.2f}")


if __name__ == "__main__":
    main()
