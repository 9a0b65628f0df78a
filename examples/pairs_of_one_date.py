"""Pairs that teach changed buildings, made of pictures of one date with labelled buildings.

    python examples/pairs_of_one_date.py PAIRS DATA/czech_orthophoto:2 DATA/jonkoping_buildings:2

Of every window of every picture (shrunk by the number behind its folder) comes one pair for
`lemevit train --task change`, in train or val as the picture is. A third of the pairs show one
window twice: nothing has changed, however the colours vary. In the others parts of the later date
come from another window of the set, as blobs with soft edges or as a whole; what is a building at
one date alone has changed. That two unrelated pictures can teach change is the idea of Zheng et al.
2021 (ChangeStar, arXiv 2108.07002); the blobs are ours: around them the ground and its buildings
stay the same.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lemevit_cli.inference.window_grid import window_offsets
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Site, Source

SAME, SPLICED = 0.33, 0.77  # up to these parts of the pairs; the rest are two windows in whole
SIDE_PX = 512  # of a window at most: more pairs of a set meet than with whole pictures
BLOB_PX = 96  # the scale on which what has changed alternates with what has not
LabelledWindow = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # (H, W, 3) pixels, (H, W) ids


def main() -> None:
    """Write PAIRS/{train,val}/{A,B,label} and PAIRS/classes.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("folders", nargs="+", metavar="FOLDER[:SHRINK]")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    for split, text in product(("train", "val"), options.folders):
        folder, _, shrink = text.partition(":")
        source = open_folder(folder, split)
        write_pairs(source, int(shrink or 1), options.pairs / split, generator)
    classes = {"classes": ["unchanged", "changed"], "ignore_index": NODATA_CLASS}
    (options.pairs / "classes.json").write_text(json.dumps(classes))


def write_pairs(source: Source, shrink: int, pairs: Path, generator: np.random.Generator) -> None:
    """Write a pair for every window of pictures with masks."""
    for part in ("A", "B", "label"):
        (pairs / part).mkdir(parents=True, exist_ok=True)
    windows = [window for site in source.sites for window in cut_windows(source, site, shrink)]
    for number, (pixels, ids) in enumerate(windows):
        others = [*windows[:number], *windows[number + 1 :]]
        alike = [other for other in others if other[0].shape == pixels.shape] or [(pixels, ids)]
        pixels_later, ids_later = alike[generator.integers(len(alike))]
        amount = share_of_later(ids.shape, generator)
        later = pixels * (1 - amount[..., None]) + pixels_later * amount[..., None]
        kept = np.where(ids == NODATA_CLASS, NODATA_CLASS, 0)
        label = np.where(amount > 0.5, change_ids(ids, ids_later), kept)
        name = f"{source.name}_{number:04d}.png"
        Image.fromarray(pixels).save(pairs / "A" / name)
        Image.fromarray(later.round().astype(np.uint8)).save(pairs / "B" / name)
        Image.fromarray(label.astype(np.uint8)).save(pairs / "label" / name)


def cut_windows(source: Source, site: Site, shrink: int) -> list[LabelledWindow]:
    """Cut a picture, shrunk, into windows with ids: 1 building, 0 none, 255 unknown."""
    sample = source.read(site, site.extent)
    is_building = sample.ids == source.classes.index("building")
    ids = np.where(sample.ids == NODATA_CLASS, NODATA_CLASS, is_building).astype(np.uint8)
    size = (ids.shape[1] // shrink, ids.shape[0] // shrink)
    picture = Image.fromarray(np.ascontiguousarray(np.moveaxis(sample.pixels[:3], 0, -1)))
    pixels = np.asarray(picture.resize(size, Image.Resampling.BOX))
    ids = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    cols, rows = (window_offsets(side, size=SIDE_PX, overlap=0) for side in size)
    windows = [np.s_[row : row + SIDE_PX, col : col + SIDE_PX] for row in rows for col in cols]
    return [(pixels[window], ids[window]) for window in windows]


def share_of_later(shape: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return how much of each pixel is of the other picture, 0 to 1."""
    drawn = generator.uniform()
    if drawn < SAME:
        return np.zeros(shape)
    if drawn > SPLICED:
        return np.ones(shape)
    height, width = shape
    coarse = generator.normal(size=(2 + height // BLOB_PX, 2 + width // BLOB_PX)).astype(np.float32)
    noise = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    is_later = noise > np.quantile(noise, generator.uniform(0.3, 0.7))
    soft = Image.fromarray(is_later.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(soft) / 255.0


def change_ids(ids: NDArray[np.uint8], ids_later: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 where one date alone has a building, 255 where either is unknown."""
    is_unknown = (ids == NODATA_CLASS) | (ids_later == NODATA_CLASS)
    return np.where(is_unknown, NODATA_CLASS, ids != ids_later).astype(np.uint8)


if __name__ == "__main__":
    main()
