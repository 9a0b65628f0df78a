"""Pairs that teach changed buildings, made of pictures of one date with labelled buildings.

    python examples/pairs_of_one_date.py PAIRS DATA/czech_orthophoto:2 DATA/jonkoping_buildings:2

Of every picture (shrunk by the number behind its folder) comes one pair for `lemevit train --task
change`, in train or val as the picture is. A third of the pairs show one picture twice: nothing has
changed, however the colours vary. In the others parts of the later date come from another picture
of the set, as blobs with soft edges or as a whole; what is a building at one date alone has
changed. That two unrelated pictures can teach change is the idea of Zheng et al. 2021 (ChangeStar,
arXiv 2108.07002); the blobs are ours: around them the ground and its buildings stay the same.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageFilter

UNKNOWN = 255
SAME, SPLICED = 0.33, 0.77  # up to these parts of the pairs; the rest are two pictures in whole
SIDE = 512  # of a pair at most: more pairs of a set meet than with whole pictures
BLOB = 96  # pixels, the scale on which what has changed alternates with what has not


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
        write_pairs(Path(folder) / split, int(shrink or 1), options.pairs / split, generator)
    classes = {"classes": ["unchanged", "changed"], "ignore_index": UNKNOWN}
    (options.pairs / "classes.json").write_text(json.dumps(classes))


def write_pairs(folder: Path, shrink: int, pairs: Path, generator: np.random.Generator) -> None:
    """Write a pair for every window of a folder of pictures and masks."""
    for part in ("A", "B", "label"):
        (pairs / part).mkdir(parents=True, exist_ok=True)
    windows = [
        window
        for picture in sorted((folder / "images").iterdir())
        for window in labelled_windows(folder, picture, shrink)
    ]
    for number, (pixels, ids) in enumerate(windows):
        of_shape = [other for other in windows if other[0].shape == pixels.shape]
        pixels_later, ids_later = of_shape[generator.integers(len(of_shape))]
        amount = share_of_later(ids.shape, generator)
        later = pixels * (1 - amount[..., None]) + pixels_later * amount[..., None]
        truth = np.where(amount > 0.5, changed(ids, ids_later), np.where(ids == UNKNOWN, ids, 0))
        name = f"{folder.parent.name}_{number:04d}"
        Image.fromarray(pixels).save(pairs / "A" / f"{name}.png")
        Image.fromarray(later.round().astype(np.uint8)).save(pairs / "B" / f"{name}.png")
        Image.fromarray(truth.astype(np.uint8)).save(pairs / "label" / f"{name}.png")


def labelled_windows(
    folder: Path, picture: Path, shrink: int
) -> list[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Return ``(H, W, 3)`` pixels and ``(H, W)`` ids (1 building, 255 unknown) of a picture."""
    building = json.loads((folder.parent / "classes.json").read_text())["classes"].index("building")
    with rasterio.open(picture) as dataset:
        pixels = np.moveaxis(dataset.read([1, 2, 3]), 0, -1)
    [mask] = (folder / "masks").glob(f"{picture.stem}.*")
    with rasterio.open(mask) as dataset:
        truth = dataset.read(1)
    ids = np.where(truth == UNKNOWN, truth, truth == building).astype(np.uint8)
    size = (pixels.shape[1] // shrink, pixels.shape[0] // shrink)
    pixels = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))
    ids = np.asarray(Image.fromarray(ids).resize(size, Image.Resampling.NEAREST))
    return [
        (pixels[top : top + SIDE, left : left + SIDE], ids[top : top + SIDE, left : left + SIDE])
        for top in range(0, max(1, size[1] - SIDE + 1), SIDE)
        for left in range(0, max(1, size[0] - SIDE + 1), SIDE)
    ]


def share_of_later(shape: tuple[int, int], generator: np.random.Generator) -> NDArray[np.float64]:
    """Return how much of each pixel is of the other picture, 0 to 1."""
    drawn = generator.uniform()
    if drawn < SAME:
        return np.zeros(shape)
    if drawn > SPLICED:
        return np.ones(shape)
    height, width = shape
    coarse = generator.normal(size=(2 + height // BLOB, 2 + width // BLOB)).astype(np.float32)
    noise = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))
    is_later = noise > np.quantile(noise, generator.uniform(0.3, 0.7))
    soft = Image.fromarray(is_later.astype(np.uint8) * 255).filter(ImageFilter.GaussianBlur(2))
    return np.asarray(soft) / 255.0


def changed(ids: NDArray[np.uint8], later: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return 1 where one date alone has a building, 255 where either is unknown."""
    unknown = (ids == UNKNOWN) | (later == UNKNOWN)
    return np.where(unknown, UNKNOWN, ids != later).astype(np.uint8)


if __name__ == "__main__":
    main()
