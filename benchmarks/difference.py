"""What a difference of two pictures tells of change, without learning: the baseline of `change`.

    python benchmarks/difference.py FOLDER [FOLDER ...] [--split val]

Each FOLDER holds `{train,val}/{A,B,label}`. Of each pair every band of each date is brought to mean
0 and deviation 1, which takes away light and season as far as they are even. The difference of a
pixel is the length of its difference vector; Otsu's threshold of all pixels of the pair divides
them. F1, IoU, precision and recall of change are pooled over all pixels, as `lemevit eval` does.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.tasks.change.datasets.folders import open_pair_folder

_BINS = 256
_DATES = 2


def main() -> None:
    """Print a table of figures by data set."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--split", default="val", choices=["train", "val"])
    options = parser.parse_args()
    print("| data set | f1 | iou | precision | recall |\n|---|---|---|---|---|")
    for folder in options.folders:
        hit, found, true = counts(folder, options.split)
        f1, iou = 2 * hit / (found + true), hit / (found + true - hit)
        figures = (f1, iou, hit / found, hit / true)
        print(f"| {folder.name} | " + " | ".join(f"{figure:.3f}" for figure in figures) + " |")


def counts(folder: Path, split: str) -> tuple[int, int, int]:
    """Count pixels that were rightly detected, that were detected, and that have changed."""
    source = open_pair_folder(folder, split)
    hit = found = true = 0
    for site in source.sites:
        sample = source.read(site, site.core)
        ids = sample.ids
        known = sample.valid & (ids != NODATA_CLASS)
        distance = differences(sample.pixels.astype(np.float64), known)
        is_found = (distance > otsu(distance[known])) & known
        is_true = (ids > 0) & known
        hit += int((is_found & is_true).sum())
        found += int(is_found.sum())
        true += int(is_true.sum())
    return hit, found, true


def differences(pixels: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the length ``(H, W)`` of the difference of normalised dates ``(2 * bands, H, W)``."""
    of_valid = pixels[:, valid]
    mean, deviation = of_valid.mean(axis=1), of_valid.std(axis=1)
    normal = (pixels - mean[:, None, None]) / np.maximum(deviation, 1e-9)[:, None, None]
    before, after = np.split(normal, _DATES)
    return np.sqrt(((after - before) ** 2).sum(axis=0))


def otsu(values: NDArray[np.float64]) -> float:
    """Return the threshold of least variance within both sides (Otsu, IEEE TSMC 1979)."""
    heights, edges = np.histogram(values, bins=_BINS)
    middles = (edges[1:] + edges[:-1]) / 2
    below = np.cumsum(heights)[:-1]
    above = len(values) - below
    sums = np.cumsum(heights * middles)
    gap = sums[:-1] / np.maximum(below, 1) - (sums[-1] - sums[:-1]) / np.maximum(above, 1)
    return float(edges[1:-1][np.argmax(below * above * gap**2)])


if __name__ == "__main__":
    main()
