"""LeMeViT whose third stage merges tokens by a learned mask, beside the plain one.

    lemevit simulate town --task seg --size 768 --scenes 6
    python benchmarks/merged_tokens.py town --steps 300 --init landcover
    python benchmarks/merged_tokens.py --sizes 512 1024
    python benchmarks/merged_tokens.py RSSCN7 --task cls --val-fraction 0.2 --fused 0.5

With data, a network of each share, and of each way to fuse, is trained for as many steps from the
same start; the mask starts afresh. The score is the mean IoU on windows of what is held back, or
the top-1. Vision transformers of timm have no speeds here: give `--sizes` no number. Seconds are of
the folded backbone on one thread, one window, models by turns: medians of `--repeats`.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import timm
import torch
from backbones import trained
from paper_tables import head, interleaved, row

from lemevit_cli.commands.options import parse_fusion
from lemevit_cli.models.cost import count
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.settings import FusedShare
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
    parser.add_argument("--task", default="seg", help="of the training")
    parser.add_argument(
        "--fused", nargs="*", default=[], help="also trained: 0.5, auto, or of a ViT r=16"
    )
    parser.add_argument("--pretrained", help="timm's weights of the backbone, a file")
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--val-fraction", type=float)
    parser.add_argument("--threads", type=int, default=2)
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
    torch.set_num_threads(options.threads)
    how = f"{options.backbone}, {options.steps} steps from {options.init or 'its start'}"
    head(how, "score", "minutes")
    data = DataOptions(paths=(options.data,), val_fraction=options.val_fraction)
    plain = TrainingOptions(
        backbone=options.backbone,
        backbone_args=start_of(options),
        pretrained=options.pretrained is not None,
        init=options.init,
        batch_size=options.batch_size,
        crop=options.crop,
        precision="bf16",
        threads=options.threads,
        lr=options.lr,
        steps=options.steps,
        # The average of few steps, as of many: a part of them.
        ema_decay=0.98,
        validate_every=1_000_000,
    )
    for name, (share, arguments) in ways(options).items():
        recipe = replace(
            plain, fuse_tokens=share, backbone_args={**plain.backbone_args, **arguments}
        )
        model = trained(options.task, data, recipe)
        row(name, f"{model.score:.3f}", f"{model.seconds / 60:.1f}")


def ways(options: argparse.Namespace) -> dict[str, tuple[FusedShare, dict[str, Any]]]:
    """Return what is trained, share and arguments of LeMeViT or a ViT: merged, then fused."""
    found: dict[str, tuple[FusedShare, dict[str, Any]]] = {}
    for share in options.shares:
        found[f"merged {share:.0%}" if share else "plain"] = 0.0, merging(share)
    for text in options.fused:
        fused, blocks = parse_fusion(text)
        found[f"fused {text}"] = fused, {"fuse_tokens": blocks} if blocks else {}
    return found


def start_of(options: argparse.Namespace) -> dict[str, Any]:
    """Let timm take its weights from a file, if one is named."""
    path = options.pretrained
    return {} if path is None else {"pretrained_cfg_overlay": {"file": path}}


if __name__ == "__main__":
    main()
