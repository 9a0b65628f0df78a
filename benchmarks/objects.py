"""LeMeViT-Tiny beside other backbones under the same detector, on real objects.

    python benchmarks/objects.py OBJECTS.toml [--steps 400] [--against resnet18]

OBJECTS.toml is the list that `examples/train_objects.sh` writes. Both backbones train from scratch
with that script's recipe and data and the light Oriented R-CNN: first for as many steps, then the
other one for as much time as LeMeViT-Tiny took. Scores are AP50 on windows of all validation parts,
each class judged where it is labelled.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from lemevit_cli.pipelines.progress import Silent
from lemevit_cli.tasks import load_task
from lemevit_cli.training.loop import fit
from lemevit_cli.training.metrics_log import read_metrics
from lemevit_cli.training.options import DataOptions, TrainingOptions

OURS = "lemevit_tiny"


def main() -> None:
    """Print a table of AP50 by model and data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("listing", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--against", default="resnet18", help="any backbone of timm")
    options = parser.parse_args()
    seconds = run(options.listing, options.steps, OURS)
    others = run(options.listing, options.steps, options.against)
    # A step takes as long now as it did a moment ago.
    run(options.listing, max(1, round(options.steps * seconds / others)), options.against)


def run(listing: Path, steps: int, backbone: str) -> float:
    """Train one model and tell its row of the table; seconds of its steps."""
    recipe = TrainingOptions(
        backbone=backbone,
        crop=384,
        batch_size=4,
        balance=0.5,
        precision="bf16",
        steps=steps,
        # The average of few steps, as of many: a part of them.
        ema_decay=0.98,
        validate_every=1_000_000,
    )
    task = load_task("det")
    found = task.open_data(DataOptions(paths=(str(listing),)), recipe)
    torch.manual_seed(0)
    model = task.build_model(found.card)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        state = fit(
            model,
            task.make_loss(found, found.options),
            found.training,
            found.options,
            folder=Path(folder),
            listener=Silent(),
            save_best=lambda tensors, best: None,
        )
        lines = read_metrics(Path(folder))
    seconds = max(line["elapsed_s"] for line in lines if "elapsed_s" in line)
    name = f"{backbone} ({parameters:.1f} M), {steps} steps, {seconds / 60:.1f} min"
    tell(name, lines[-1]["score"], state.best["figures"], is_first=backbone == OURS)
    return float(seconds)


def tell(name: str, score: float, figures: dict[str, Any], *, is_first: bool) -> None:
    """One row of the table: AP50 over all sets, then by data set."""
    if is_first:
        print("| model | all | " + " | ".join(figures) + " |\n|---|" + "---|" * (len(figures) + 1))
    scores = [score, *(of_set["ap50"] for of_set in figures.values())]
    # A set whose validation part has no object that the model learns has no score.
    cells = ["-" if value is None else f"{value:.3f}" for value in scores]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
