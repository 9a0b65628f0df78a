"""What land cover's weights know of a stranger's scene: each set left out of the training in turn.

    python benchmarks/left_out.py LANDCOVER.toml --init BACKBONE.safetensors [--steps 250]

The list is the one that `examples/train_landcover.sh` writes. A network learns from all of it, then
one from all but each set (its weight is 0); all train with the recipe of `backbones.py` from the
same backbone for as many steps. The backbone may have seen pictures of the set, without labels.
Scores are mean IoU and the IoU of buildings on windows of the set's validation part.
"""

from __future__ import annotations

import argparse
import re
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from backbones import RECIPES, trained

from lemevit_cli.training.options import DataOptions, TrainingOptions

Figures = dict[str, dict[str, Any]]  # by data set


def main() -> None:
    """Print a table with a row for each set: its figures when it is learned from, and when not."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("listing", type=lambda path: Path(path).resolve())
    parser.add_argument("--init", required=True)
    parser.add_argument("--steps", type=int, default=250)
    parser.add_argument("--sets", nargs="+", help="by the names of their folders; default: all")
    options = parser.parse_args()
    together = figures_of(options, options.listing)
    columns = ["set", "mean IoU", "left out", "building", "left out", "road", "left out"]
    print(f"| {' | '.join(columns)} |\n|" + "---|" * len(columns))
    for name in options.sets or dict.fromkeys(Path(f).name for f in folders_of(options.listing)):
        with without(options.listing, name) as listing:
            alone = figures_of(options, listing)
        for of_set in (each for each in together if each.split(" (")[0] == name):
            tell(of_set, together[of_set], alone[of_set])


def figures_of(options: argparse.Namespace, listing: Path) -> Figures:
    """Train by a list, and score on all of its validation parts."""
    recipe = TrainingOptions(
        backbone="lemevit_tiny",
        init=options.init,
        batch_size=4,
        precision="bf16",
        steps=options.steps,
        ema_decay=0.98,
        validate_every=1_000_000,
        **RECIPES["seg"],
    )
    return trained("seg", DataOptions(paths=(str(listing),)), recipe).figures


def folders_of(listing: Path) -> list[str]:
    """Return the folders of a list, from its own."""
    sources = tomllib.loads(listing.read_text())["source"]
    return [str(listing.parent / source["folder"]) for source in sources]


@contextmanager
def without(listing: Path, name: str) -> Iterator[Path]:
    """Give a list by whose set ``name`` a training is judged and taught nothing."""
    blocks = iter(listing.read_text().split("[[source]]")[1:])
    text = ""
    for folder, block in zip(folders_of(listing), blocks, strict=True):
        block = re.sub(r"folder = .*", f'folder = "{folder}"', block)
        if Path(folder).name == name:
            block = re.sub(r"weight = .*", "weight = 0", block)
        text += f"[[source]]{block}"
    with TemporaryDirectory() as directory:
        changed = Path(directory) / listing.name
        changed.write_text(text)
        yield changed


def tell(name: str, together: dict[str, Any], alone: dict[str, Any]) -> None:
    """Print one row of the table."""
    pairs = [(together["miou"], alone["miou"])]
    for of_class in ("building", "road"):
        pairs.append(tuple(f["classes"].get(of_class, {}).get("iou") for f in (together, alone)))
    cells = ["-" if value is None else f"{value:.3f}" for pair in pairs for value in pair]
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
