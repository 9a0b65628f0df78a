"""A map from twenty polygons: `lemevit train --init` beside random forests on the same polygons.

    pip install scikit-learn
    python benchmarks/few_polygons.py --data ../shared/data/seg/czech_orthophoto \\
        --data ../shared/data/seg/dubai_landcover

Scenes are two simulated towns and, of the validation part of every DATA folder, pictures spread
evenly. In each, twenty discs are drawn from the truth, as many of each class as can be among the
classes that cover more than a hundredth of the scene: the middle anywhere in the class, the disc
cut to the connected part of the class around its middle, so large that all together cover at most
a hundredth. They are written as a layer beside the scene, and

    lemevit train --task seg --scene scene.tif --labels twenty.gpkg --label-field class \\
        --background ignore --init landcover --time-budget 4m -o mine.safetensors
    lemevit predict scene.tif -w mine.safetensors -o map.tif

makes the map. Beside it, with ``--teacher``, a linear layer on the features of a network at rest,
as `lemevit probe` fits it, on the same polygons. The forests are scikit-learn's with 200 trees, one
on the bands of each pixel, one also on their mean and standard deviation in squares of 3, 5 and 9
pixels; they need seconds, and more trees do not change their figures. Mean IoU is over the classes
that were drawn, in all pixels of these classes outside the polygons.

The starter weights saw the training parts of czech_orthophoto and dubai_landcover, other towns,
and chose their best step by windows of the validation parts.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio
import torch
from numpy.typing import NDArray
from PIL import Image
from rasterio.features import shapes
from rasterio.transform import from_origin
from shapely.geometry import shape

from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.dense_features import FeatureSource, open_features
from lemevit_cli.models.weights import read_card
from lemevit_cli.simulation.world import CLASS_NAMES, World, WorldSpec
from lemevit_cli.tasks.backbone.linear_probe import features_at, fit_linear_layer

POLYGONS = 20
SHARE = 0.01  # of the pixels, that polygons may cover; and of a class, to be drawn at all
SQUARES = (3, 5, 9)  # pixels, of the local mean and deviation: those of our own head
WINDOW_PX = 512  # that a network at rest sees at once
CRS, GSD_M = "EPSG:32633", 0.3  # made up where a picture has none: nothing here depends on them
_TRANSFORM = from_origin(500_000, 5_600_000, GSD_M, GSD_M)


@dataclass(frozen=True)
class Example:
    """A scene with its truth and the polygons drawn from it.

    Args:
        pixels: ``(H, W, 3)`` uint8.
        truth: ``(H, W)`` class ids, ``NODATA_CLASS`` where unknown.
        numbers: ``(H, W)``, from 1 on the polygon that covers a pixel, 0 where none does.
    """

    name: str
    pixels: NDArray[np.uint8]
    truth: NDArray[np.uint8]
    numbers: NDArray[np.uint8]
    classes: tuple[str, ...]

    @property
    def drawn(self) -> NDArray[np.uint8]:
        """Return the ids of the classes that have a polygon."""
        return np.unique(self.truth[self.numbers > 0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, action="append", default=[])
    parser.add_argument("--pictures", type=int, default=6, help="of each DATA folder")
    parser.add_argument("--simulated", type=int, default=2)
    parser.add_argument("--seed", type=int, default=7, help="of the polygons")
    parser.add_argument("--time-budget", default="4m")
    parser.add_argument("--init", default="landcover")
    parser.add_argument("--teacher", help="a timm name, or a file of --teacher-model's weights")
    parser.add_argument("--teacher-model")
    options = parser.parse_args()
    forest_class()
    rows: dict[str, list[float]] = {}
    methods = [*METHODS, linear_layer] if options.teacher else METHODS
    print(f"{'scene':32}" + "".join(f"{method.__name__:>14}" for method in methods) + "   seconds")
    for example in [*simulated(options), *photographed(options)]:
        maps, seconds = zip(*(method(example, options) for method in methods), strict=True)
        rows[example.name] = [mean_iou(example, found) for found in maps]
        show(example.name, rows[example.name], seconds)
    means = np.mean(list(rows.values()), axis=0)
    show("mean", means)
    print(f"above the better forest: {means[2] - max(means[:2]):+.3f}")


def show(name: str, scores: Sequence[float], seconds: Sequence[float] = ()) -> None:
    times = " ".join(f"{s:.0f}" for s in seconds)
    print(f"{name:32}" + "".join(f"{score:14.3f}" for score in scores) + f"   {times}", flush=True)


def forest_class() -> type:
    try:
        from sklearn.ensemble import RandomForestClassifier
    except ImportError:
        sys.exit("this benchmark, and nothing else here, needs scikit-learn: pip install it")
    return RandomForestClassifier


def scipy_images() -> Any:
    from scipy import ndimage  # comes with scikit-learn

    return ndimage


# --- Scenes --------------------------------------------------------------------------------------


def simulated(options: argparse.Namespace) -> Iterator[Example]:
    for number in range(options.simulated):
        whole = Window(col_off=0, row_off=0, width=1024, height=1024)
        world = World(WorldSpec(seed=9001 + number, width=1024, height=1024, gsd_m=GSD_M))
        drawing = world.draw(whole)
        yield example_of(
            f"simulated town {number}",
            drawing.pixels.transpose(1, 2, 0),
            drawing.class_ids,
            CLASS_NAMES,
            options.seed,
        )


def photographed(options: argparse.Namespace) -> Iterator[Example]:
    for folder in options.data:
        classes = tuple(json.loads((folder / "classes.json").read_text())["classes"])
        paths = sorted((folder / "val" / "images").iterdir())
        for path in paths[:: max(1, len(paths) // options.pictures)][: options.pictures]:
            pixels = np.asarray(Image.open(path).convert("RGB"))
            truth = np.asarray(Image.open(folder / "val" / "masks" / f"{path.stem}.png"))
            name = f"{folder.name[:12]} {path.stem}"
            yield example_of(name, pixels, truth, classes, options.seed)


def example_of(
    name: str,
    pixels: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    classes: tuple[str, ...],
    seed: int,
) -> Example:
    """Draw the polygons: discs, cut to the connected part of their class around the middle."""
    random = np.random.default_rng(seed)
    ids, counts = np.unique(truth[truth != NODATA_CLASS], return_counts=True)
    drawn = ids[counts > SHARE * counts.sum()]
    radius = np.sqrt(SHARE * truth.size / POLYGONS / np.pi)
    numbers = np.zeros(truth.shape, np.uint8)
    rows, cols = np.indices(truth.shape)
    for number in range(1, POLYGONS + 1):
        free = (truth == drawn[number % len(drawn)]) & (numbers == 0)
        places = np.argwhere(free)
        for _ in range(20):  # a speck of a few pixels is nothing that anybody would draw
            row, col = places[random.integers(len(places))]
            disc = (rows - row) ** 2 + (cols - col) ** 2 <= radius**2
            parts, _ = scipy_images().label(disc & free)
            polygon = parts == parts[row, col]
            if polygon.sum() > 0.1 * np.pi * radius**2:
                break
        numbers[polygon] = number
    return Example(name, pixels, truth, numbers, classes)


def mean_iou(example: Example, found: NDArray[np.uint8]) -> float:
    """Average the IoU of the classes drawn, in their pixels outside the polygons."""
    rest = np.isin(example.truth, example.drawn) & (example.numbers == 0)
    true, said = example.truth[rest], found[rest]
    both = [((true == i) & (said == i)).sum() for i in example.drawn]
    either = [((true == i) | (said == i)).sum() for i in example.drawn]
    return float(np.mean(np.divide(both, either)))


# --- Methods: each answers class ids (H, W) and the seconds it took -------------------------------


def colour_forest(example: Example, options: argparse.Namespace) -> tuple[NDArray[np.uint8], float]:
    return forest(example, example.pixels.astype(np.float32))


def local_forest(example: Example, options: argparse.Namespace) -> tuple[NDArray[np.uint8], float]:
    bands = example.pixels.astype(np.float32)
    layers = [bands]
    for side in SQUARES:
        mean, of_squares = (
            scipy_images().uniform_filter(values, (side, side, 0), mode="nearest")
            for values in (bands, bands**2)
        )
        layers += [mean, np.sqrt(np.maximum(of_squares - mean**2, 0.0))]
    return forest(example, np.concatenate(layers, axis=2))


def forest(example: Example, features: NDArray[np.float32]) -> tuple[NDArray[np.uint8], float]:
    began = time.perf_counter()
    labelled = example.numbers > 0
    trees = forest_class()(200, n_jobs=-1, random_state=0)
    trees.fit(features[labelled], example.truth[labelled])
    rows = np.array_split(features.reshape(-1, features.shape[2]), 16)  # a bound on the memory
    found = [trees.predict(part) for part in rows]
    return np.concatenate(found).reshape(example.truth.shape), time.perf_counter() - began


def lemevit(example: Example, options: argparse.Namespace) -> tuple[NDArray[np.uint8], float]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_scene(folder / "scene.tif", example)
        write_polygons(folder / "twenty.gpkg", example)
        began = time.perf_counter()
        weights = folder / "mine.safetensors"
        run(
            *("train", "--task", "seg", "--scene", folder / "scene.tif"),
            *("--labels", folder / "twenty.gpkg", "--label-field", "class"),
            *("--background", "ignore", "--init", options.init),
            *("--time-budget", options.time_budget, "-o", weights),
        )
        run("predict", folder / "scene.tif", "-w", weights, "-o", folder / "map.tif")
        seconds = time.perf_counter() - began
        with rasterio.open(folder / "map.tif") as source:
            found = source.read(1)
        ids = [example.classes.index(name) for name in read_card(weights).class_names]
        return np.array([*ids, *[NODATA_CLASS] * (256 - len(ids))], np.uint8)[found], seconds


def run(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "lemevit_cli", *map(str, arguments), "--quiet"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_scene(path: Path, example: Example) -> None:
    height, width, bands = example.pixels.shape
    profile = {"driver": "GTiff", "width": width, "height": height, "count": bands}
    with rasterio.open(
        path, "w", **profile, dtype="uint8", crs=CRS, transform=_TRANSFORM
    ) as target:
        target.write(example.pixels.transpose(2, 0, 1))


def write_polygons(path: Path, example: Example) -> None:
    found = shapes(example.numbers, mask=example.numbers > 0, connectivity=8, transform=_TRANSFORM)
    outlines = {int(number): shape(outline) for outline, number in found}
    names = [example.classes[example.truth[example.numbers == number][0]] for number in outlines]
    layer = geopandas.GeoDataFrame({"class": names}, geometry=list(outlines.values()), crs=CRS)
    layer.to_file(path)


def linear_layer(example: Example, options: argparse.Namespace) -> tuple[NDArray[np.uint8], float]:
    """Fit a layer on the teacher's features of the polygons' pixels, window by window."""
    began = time.perf_counter()
    source = FeatureSource(options.teacher, model=options.teacher_model)
    network = open_features(source, option="--teacher-model")
    windows = windows_of(example.truth.shape)
    maps_of_windows, features, ids = [], [], []
    for window in windows:
        pixels = torch.from_numpy(example.pixels[window].transpose(2, 0, 1).copy()).float()
        with torch.inference_mode():
            maps = [m.float() for m in network(pixels[None])]
        maps_of_windows.append(maps)
        rows, cols = np.nonzero(example.numbers[window])
        points = np.stack([(2 * cols + 1) / pixels.shape[2], (2 * rows + 1) / pixels.shape[1]], 1)
        features.append(features_at(maps, torch.from_numpy(points.astype(np.float32) - 1)))
        ids.append(np.searchsorted(example.drawn, example.truth[window][rows, cols]))
    labels = torch.from_numpy(np.concatenate(ids))
    layer = fit_linear_layer(torch.cat(features), labels, num_classes=len(example.drawn))
    found = np.empty_like(example.truth)
    for window, maps in zip(windows, maps_of_windows, strict=True):
        height, width = found[window].shape
        answers = layer.logits(maps, height=height, width=width)[0].argmax(dim=0)
        found[window] = example.drawn[answers.numpy()]
    return found, time.perf_counter() - began


def windows_of(shape: tuple[int, int]) -> list[tuple[slice, slice]]:
    """Cut a picture into equal windows of at most ``WINDOW_PX`` a side."""
    edges = [np.linspace(0, side, -(-side // WINDOW_PX) + 1).astype(int) for side in shape]
    rows, cols = ([slice(*pair) for pair in pairwise(of_side)] for of_side in edges)
    return list(product(rows, cols))


METHODS = (colour_forest, local_forest, lemevit)

if __name__ == "__main__":
    main()
