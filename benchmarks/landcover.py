"""LeMeViT-Tiny beside Swin-T and a classifier of colours, on real land cover.

    python benchmarks/landcover.py DATA [--steps 300] [--simulated FOLDER]

DATA holds six of the folders of `examples/train_landcover.sh`. Both backbones train from scratch on
them with the light decoder, by the recipe that script had at first: LeMeViT-Tiny and Swin-T for as
many steps, then Swin-T for as much time as LeMeViT-Tiny took. The classifier of colours answers the
class most probable among the training pixels of that colour (32 steps a band, classes weighted by
the square root of their pixels); it learns from the two sets that know all classes. Networks are
scored on windows of 512 pixels, 24 of each validation part, the colours on all its pixels.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from backbones import trained
from numpy.typing import NDArray

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import Confusion, match_classes
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Source
from lemevit_cli.training.options import DataOptions, TrainingOptions

CLASSES = ("land", "building", "road", "vegetation", "water")
SETS = {  # name: how often it is drawn from
    "czech_orthophoto": 0.35,
    "dubai_landcover": 0.22,
    "jonkoping_buildings": 0.15,
    "buildings_many_places": 0.12,
    "massachusetts_buildings": 0.08,
    "oam_ramp_buildings": 0.06,
}
_BINS = 32  # a band
Figures = dict[str, dict[str, Any]]  # by data set


def main() -> None:
    """Print a table of mean IoU and building IoU by model and data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--simulated", type=Path)
    options = parser.parse_args()
    tell("colours", colour_scores(options.data))
    seconds = run(options, options.steps, backbone="lemevit_tiny")
    swin = {
        "backbone": "swin_tiny_patch4_window7_224",
        "backbone_args": {"strict_img_size": False},
    }
    swin_seconds = run(options, options.steps, **swin)
    # A step of Swin-T takes as long now as it did a moment ago.
    run(options, max(1, round(options.steps * seconds / swin_seconds)), **swin)


def run(options: argparse.Namespace, steps: int, **changes: Any) -> float:
    """Train one model and tell its row of the table; seconds of its steps."""
    paths = [str(options.data / name) for name in SETS]
    weights = list(SETS.values())
    if options.simulated:
        paths.append(str(options.simulated))
        weights.append(0.08)
    recipe = TrainingOptions(
        optimizer="muon",
        lr=4e-3,
        balance=0.75,
        gsd_m=(0.07, 1.0),
        precision="bf16",
        steps=steps,
        # The average of few steps, as of many: a part of them.
        ema_decay=0.98,
        warmup=0.08,
        validate_every=1_000_000,
        validation_windows=24,
        **changes,
    )
    data = DataOptions(paths=tuple(paths), source_weights=tuple(weights))
    model = trained("seg", data, recipe)
    tell(model.name, {name: model.figures[name] for name in SETS})
    return model.seconds


def colour_scores(data: Path) -> Figures:
    """Learn colours from the training parts, score them on the validation parts."""
    counts = np.zeros((len(CLASSES), _BINS**3))
    for name in SETS:
        source = open_folder(data / name, "train")
        if source.classes == CLASSES:
            for pixels, ids in pictures_of(source):
                known = ids != NODATA_CLASS
                pairs = ids[known].astype(np.int64) * _BINS**3 + colour_bins(pixels)[known]
                counts += np.bincount(pairs, minlength=counts.size).reshape(counts.shape)
    frequent = counts / np.sqrt(counts.sum(axis=1, keepdims=True))
    answers = frequent.argmax(axis=0).astype(np.uint8)
    figures = {}
    for name in SETS:
        source = open_folder(data / name, "val")
        match = match_classes(CLASSES, source.classes)
        confusion = Confusion(match.classes)
        for pixels, ids in pictures_of(source):
            confusion.add(match.truth(ids), match.prediction(answers[colour_bins(pixels)]))
        figures[name] = confusion.figures()
    return figures


def pictures_of(source: Source) -> Any:
    """Return whole pictures with their ids."""
    for site in source.sites:
        sample = source.read(site, site.extent)
        yield sample.pixels, sample.ids


def colour_bins(pixels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return the number of each pixel's colour, ``(3, H, W)`` to ``(H, W)``."""
    red, green, blue = pixels.astype(np.int64) * _BINS // 256
    return (red * _BINS + green) * _BINS + blue


def tell(name: str, figures: Figures) -> None:
    """Return one row of the table: mean IoU (building IoU) by data set."""
    cells = [f"{f['miou']:.3f} ({f['classes']['building']['iou']:.3f})" for f in figures.values()]
    if name == "colours":
        print("| model | " + " | ".join(figures) + " |\n|---|" + "---|" * len(figures))
    print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
