"""LeMeViT whose third stage merges tokens by a learned mask, beside the plain one.

    lemevit simulate town --task seg --size 768 --scenes 6
    python benchmarks/merged_tokens.py town --steps 300 --init landcover
    python benchmarks/merged_tokens.py --sizes 512 1024

With data, a segmenter of each share is trained for as many steps from the same start; the mask
starts afresh. The score is the mean IoU on windows of what is held back. Seconds are of the folded
backbone on one thread, one window, models by turns: medians of `--repeats`.
"""

from __future__ import annotations

import argparse
from typing import Any

import timm
import torch
from backbones import trained
from paper_tables import head, interleaved, row

from lemevit_cli.models.cost import count
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.training.options import DataOptions, TrainingOptions


def main() -> None:
    """Print a row a share of merged tokens."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--init", help="weights that all begin with")
    parser.add_argument(
        "--lr", type=float, default=1e-3, help="a quarter of what is usual from scratch"
    )
    parser.add_argument("--backbone", default="lemevit_tiny")
    parser.add_argument("--shares", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75])
    parser.add_argument("--sizes", type=int, nargs="*", default=[512, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    for size in options.sizes:
        tell_speed(options, size)
    if options.data:
        tell_scores(options)


def tell_speed(options: argparse.Namespace, size: int) -> None:
    models = {share: backbone(options.backbone, share) for share in options.shares}
    fast = {str(share): optimise_for_inference(model) for share, model in models.items()}
    seconds = interleaved(fast, size, options.repeats)
    plain = seconds[str(options.shares[0])]
    head(f"merged, {options.backbone}, {size}", "M", "G all", "ms", "times faster")
    for share in options.shares:
        with torch.device("meta"):
            cost = count(backbone(options.backbone, share), size=size)
        needed = seconds[str(share)]
        figures = f"{cost.parameters / 1e6:.2f}", f"{cost.macs / 1e9:.2f}", f"{1e3 * needed:.0f}"
        row(f"{share:.0%}", *figures, f"{plain / needed:.2f}")
    print()


def backbone(name: str, share: float) -> Any:
    return timm.create_model(name, features_only=True, **merging(share)).eval()


def merging(share: float) -> dict[str, float]:
    return {"merge_tokens": share} if share else {}


def tell_scores(options: argparse.Namespace) -> None:
    torch.set_num_threads(2)
    head(f"merged, {options.steps} steps from {options.init or 'scratch'}", "mean IoU", "minutes")
    for share in options.shares:
        recipe = TrainingOptions(
            backbone=options.backbone,
            backbone_args=merging(share),
            init=options.init,
            batch_size=4,
            precision="bf16",
            lr=options.lr,
            steps=options.steps,
            # The average of few steps, as of many: a part of them.
            ema_decay=0.98,
            validate_every=1_000_000,
        )
        model = trained("seg", DataOptions(paths=(options.data,)), recipe)
        row(f"{share:.0%}", f"{model.score:.3f}", f"{model.seconds / 60:.1f}")


if __name__ == "__main__":
    main()
