"""LeMeViT-Tiny beside other backbones, head beside head or loss beside loss, on real data.

    python benchmarks/backbones.py det OBJECTS.toml [--steps 400]
    python benchmarks/backbones.py change CHANGE.toml [--backbones lemevit_tiny resnet18]
    python benchmarks/backbones.py change CHANGE.toml --backbones lemevit_tiny --init landcover \\
        --heads difference difference_decoded bit
    python benchmarks/backbones.py seg LANDCOVER.toml --init 'distilled/{backbone}.safetensors'
    python benchmarks/backbones.py seg LANDCOVER.toml --backbones lemevit_tiny --init scenes \\
        --losses ce ce+dice ce+lovasz
    python benchmarks/backbones.py seg LANDCOVER.toml --backbones lemevit_tiny --init scenes \\
        --widths 64 256

The lists are those that `examples/train_landcover.sh`, `train_objects.sh` and
`train_buildings_change.sh` write. Every backbone under every head trains with the task's recipe
below (BIT with the one by which LeMeViT's authors train it) and these data for as many steps, from
scratch or from `--init`, where {backbone} stands for its name; with `--equal-time` all after the
first again, as long as that took. Scores are mean IoU, AP50 or F1 of change, on windows of each
validation part; a class is judged where it is labelled.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import torch

from lemevit_cli.models.lemevit_fusion import fuse_tokens
from lemevit_cli.models.weights import initialise
from lemevit_cli.progress import Silent
from lemevit_cli.tasks import load_training
from lemevit_cli.training.loop import fit
from lemevit_cli.training.metrics_log import read_metrics
from lemevit_cli.training.options import DataOptions, TrainingOptions

RECIPES: dict[str, dict[str, Any]] = {
    "seg": {"crop": 256, "balance": 0.6, "lr": 3e-3, "gsd_m": (0.07, 1.0)},
    "det": {"crop": 384, "balance": 0.7},
    "change": {"crop": 256, "balance": 0.5, "loss": "ce+dice", "lr": 3e-3},
}
# As the code of LeMeViT's authors trains BIT (ViTAE-Transformer/LeMeViT @1b48783).
OF_HEAD: dict[str | None, dict[str, Any]] = {
    "bit": {"optimizer": "adamw", "lr": 2.4e-4, "weight_decay": 0.01, "loss": "ce"},
}
HEAD = {"seg": None, "det": None, "change": "difference_decoded"}
FIGURE = {"seg": "miou", "det": "ap50", "change": "f1"}


def main() -> None:
    """Print a table of scores by model and data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", choices=RECIPES)
    parser.add_argument("listing", type=Path)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--backbones", nargs="+", default=["lemevit_tiny", "resnet18"])
    parser.add_argument("--heads", nargs="+", help="of change: difference, difference_decoded, bit")
    parser.add_argument("--init", help="weights that every model begins with as far as they fit")
    parser.add_argument("--equal-time", action="store_true")
    parser.add_argument("--losses", nargs="+", default=[None], help="such as ce and ce+dice")
    parser.add_argument("--widths", nargs="+", type=int, default=[None], help="of seg's decoder")
    options = parser.parse_args()
    heads = options.heads or [HEAD[options.task]]
    each = product(options.backbones, heads, options.losses, options.widths)
    models = [Variant(*chosen) for chosen in each]
    seconds = run(options, options.steps, models[0], is_first=True)
    for model in models[1:]:
        others = run(options, options.steps, model)
        if options.equal_time:
            # A step takes as long now as it did a moment ago.
            run(options, max(1, round(options.steps * seconds / others)), model)


@dataclass(frozen=True)
class Variant:
    """What is set beside others; None is the task's own."""

    backbone: str
    head: str | None
    loss: str | None
    width: int | None

    def recipe(self, task: str) -> dict[str, Any]:
        """Return what sets its training apart."""
        own = RECIPES[task] | OF_HEAD.get(self.head, {})
        if self.loss:
            own["loss"] = self.loss
        if self.width:
            own["decoder_args"] = {"decoder_channels": self.width}
        return own

    def label(self, model: str) -> str:
        """Name what was chosen, and then the model."""
        width = f"{self.width} channels" if self.width else None
        return ", ".join(part for part in (self.head, self.loss, width, model) if part)


def run(
    options: argparse.Namespace, steps: int, variant: Variant, *, is_first: bool = False
) -> float:
    """Train one model and tell its row of the table; seconds of its steps."""
    recipe = TrainingOptions(
        backbone=variant.backbone,
        decoder=variant.head,
        init=options.init and options.init.format(backbone=variant.backbone),
        batch_size=4,
        precision="bf16",
        steps=steps,
        # The average of few steps, as of many: a part of them.
        ema_decay=0.98,
        validate_every=1_000_000,
        **variant.recipe(options.task),
    )
    model = trained(options.task, DataOptions(paths=(str(options.listing),)), recipe)
    scores = {of_set: figures[FIGURE[options.task]] for of_set, figures in model.figures.items()}
    tell(variant.label(model.name), model.score, scores, is_first=is_first)
    return model.seconds


@dataclass(frozen=True)
class Trained:
    """Outcome of a training.

    Args:
        name: of the backbone, with its size, steps and time.
        seconds: of the steps.
        score: over all data sets.
        figures: of each data set.
    """

    name: str
    seconds: float
    score: float
    figures: dict[str, dict[str, Any]]


def trained(task_name: str, data: DataOptions, recipe: TrainingOptions) -> Trained:
    """Train a model in a folder that is thrown away."""
    task = load_training(task_name)
    found = task.open_data(data, recipe)
    torch.manual_seed(0)
    model = task.network.build_model(found.card, pretrained=recipe.pretrained)
    if recipe.init is not None:
        initialise(model, found.card, recipe.init)
    fuse_tokens(model, recipe.fuse_tokens)
    parameters = sum(p.numel() for p in model.parameters()) / 1e6
    with tempfile.TemporaryDirectory() as folder:
        state = fit(
            model,
            task.make_loss(found, found.options),
            found.training,
            found.options,
            folder=Path(folder),
            progress=Silent(),
            save_best=lambda tensors, best: None,
        )
        lines = read_metrics(Path(folder))
    seconds = float(max(line["elapsed_s"] for line in lines if "elapsed_s" in line))
    name = f"{recipe.backbone} ({parameters:.1f} M), {recipe.steps} steps, {seconds / 60:.1f} min"
    return Trained(name, seconds, lines[-1]["score"], state.best["figures"])


def tell(name: str, score: float, scores: dict[str, float | None], *, is_first: bool) -> None:
    """Return one row of the table: the score over all sets, then by data set."""
    if is_first:
        print("| model | all | " + " | ".join(scores) + " |\n|---|" + "---|" * (len(scores) + 1))
    # A set whose validation part has nothing that the model learns has no score.
    cells = ["-" if value is None else f"{value:.3f}" for value in (score, *scores.values())]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
