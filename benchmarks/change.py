"""What everything around the model costs: `change` over the time of its model alone.

    python benchmarks/change.py [--weights buildings-change] [--side 8192] [--device cpu]
    python benchmarks/change.py --polygons

A simulated town of 8192 x 8192 pixels is drawn at two dates, and the second one is written to
another grid: web Mercator, 0.7 of the pixel size, another extent. Then two processes take turns.
One is the whole pipeline (shift between the dates, warped reads, model, mask and polygons with all
their fields). The other gives the same windows in the same batches to the same runtime, and adds
up the time that this takes alone. The ratio is that of the medians; aim: at most 1.2.

With ``--polygons`` a mask of that side with about 100,000 regions is outlined, from the file to
shapely polygons, by us and by `rasterio.features.shapes` over the whole array.

Without weights LeMeViT-Tiny with the head `difference` runs as it is born.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import rasterio
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from rasterio.enums import Resampling
from rasterio.features import shapes
from rasterio.vrt import WarpedVRT
from rasterio.warp import transform_bounds
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import Predictor, load_predictor
from lemevit_cli.inference.run import inference_over
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, open_weights, save_weights
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.change.inference import Change
from lemevit_cli.tasks.change.pair_input import pair_input
from lemevit_cli.vector.outlines import create_draft, outline_regions

REGIONS = 100_000


def write_newborn(path: Path) -> None:
    """Write weights over LeMeViT-Tiny without a step of training."""
    torch.manual_seed(0)
    card = Card(
        task="change",
        backbone="lemevit_tiny",
        head="difference",
        classes=classes_from_names(["unchanged", "changed"]),
    )
    save_weights(path, load_network("change").build_model(card).state_dict(), card)


def write_to_another_grid(scene: Path, target: Path) -> None:
    """Write the same ground in another CRS, 0.7 of its pixel, a twentieth cut off on the west."""
    with rasterio.open(scene) as source:
        west, south, east, north = transform_bounds(source.crs, 3857, *source.bounds)
        west += 0.05 * (east - west)
        step = 0.7 * (north - south) / source.height
        grid = {
            "crs": "EPSG:3857",
            "transform": Affine(step, 0, west, 0, -step, north),
            "width": int((east - west) / step),
            "height": int((north - south) / step),
        }
        profile = {"driver": "GTiff", "dtype": "uint8", "count": 3, "nodata": 0, "tiled": True}
        with (
            WarpedVRT(source, resampling=Resampling.cubic, nodata=0, **grid) as warped,
            rasterio.open(target, "w", **profile, **grid, compress="deflate") as file,
        ):
            for _, window in file.block_windows(1):
                file.write(warped.read(window=window), window=window)


def settings_of(args: argparse.Namespace) -> InferenceSettings:
    return InferenceSettings(
        runtime=RuntimeOptions(device=args.device), output=OutputOptions(overwrite=True)
    )


def run_ours(args: argparse.Namespace, predictor: Predictor) -> float:
    """Return seconds of all that `lemevit change` runs after loading its weights."""
    start = time.perf_counter()
    targets = tuple(str(args.before.with_name(name)) for name in ("changes.shp", "mask.tif"))
    before, after = str(args.before), str(args.after)
    task = Change(predictor.card, settings_of(args), Silent(), before, after, targets)
    report = infer_scenes(task, [before], targets[:1], lambda: predictor).results[0]
    seconds = time.perf_counter() - start
    print(report["polygons"], "polygons,", json.dumps(report["seconds"]), file=sys.stderr)
    return seconds


def run_model(args: argparse.Namespace, predictor: Predictor) -> float:
    """Return seconds of the runtime alone, on the batches that `change` gives it."""
    settings, seconds = settings_of(args), 0.0
    pair = open_pair(str(args.before), str(args.after))
    found = pair_input(pair, predictor.card, settings.reading, Silent())
    with found.scene:
        with inference_over(found, predictor, settings.tiling, Silent()) as inference:
            grid, size = inference.grid, inference.batch_size
        windows = (found.view.read(w) for w in grid.windows_over(pair.window))
        waiting: list[NDArray[np.uint8]] = []
        run = partial(timed, predictor, size=size)
        for pixels, valid in windows:
            if valid.any():
                waiting.append(pixels)
            if len(waiting) == size:
                seconds += run(waiting)
                waiting = []
        if waiting:
            seconds += run(waiting)
    return seconds


def timed(predictor: Predictor, pixels: list[NDArray[np.uint8]], *, size: int) -> float:
    batch = np.stack(pixels + [np.zeros_like(pixels[0])] * (size - len(pixels)))
    start = time.perf_counter()
    predictor.runtime(batch)
    return time.perf_counter() - start


def run_once(args: argparse.Namespace) -> None:
    weights = open_weights(args.weights)
    predictor = load_predictor(weights, load_network("change"), RuntimeOptions(device=args.device))
    bands, side = 2 * predictor.card.bands, predictor.card.window
    predictor.runtime(np.zeros((1, bands, side, side), np.uint8))  # what is built at the first call
    before = peak_memory_mb()
    run = {"ours": run_ours, "model": run_model}[args.run]
    print(run(args, predictor), peak_memory_mb() - before)


def write_regions(path: Path, side: int) -> None:
    """Write a mask of crosses and blots on a raster of cells, none touching another."""
    random = np.random.default_rng(0)
    cell = side // int(REGIONS**0.5)
    with create_draft(path, width=side, height=side) as draft:
        for top in range(0, side - cell + 1, cell):
            row = np.zeros((cell, side), np.uint8)
            for left in range(0, side - cell + 1, cell):
                height, width = random.integers(cell // 4, cell - 2, 2)
                row[1 : 1 + height, left + 1 : left + 1 + cell // 4] = 1
                row[1 : 1 + cell // 4, left + 1 : left + 1 + width] = 1
            draft.write(row, 1, window=RasterioWindow(0, top, side, cell))


def outline_ours(mask: Path) -> int:
    return len(outline_regions(mask).polygons)


def outline_whole(mask: Path) -> int:
    with rasterio.open(mask) as file:
        array = file.read(1)
    found = shapes(array, mask=array == 1, connectivity=4)
    return len([shapely.geometry.shape(polygon) for polygon, _ in found])


def outline_once(args: argparse.Namespace) -> None:
    before, start = peak_memory_mb(), time.perf_counter()
    outline = {"ours": outline_ours, "whole array": outline_whole}[args.run]
    print(outline(args.mask), "polygons", file=sys.stderr)
    print(time.perf_counter() - start, peak_memory_mb() - before)


def measure(name: str, arguments: list[str]) -> tuple[float, float]:
    """Return seconds and MB of one run in a fresh process."""
    command = [sys.executable, __file__, "--run", name, *arguments]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, megabytes = out.split()
    return float(seconds), float(megabytes)


def compare_runs(names: tuple[str, str], arguments: list[str], repeats: int) -> None:
    """Take turns, then tell medians of the time, the highest memory, and the ratio of both."""
    runs = [[measure(name, arguments) for name in names] for _ in range(repeats)]
    times = [statistics.median(turn[i][0] for turn in runs) for i in (0, 1)]
    peaks = [max(turn[i][1] for turn in runs) for i in (0, 1)]
    for name, seconds, megabytes in zip(names, times, peaks, strict=True):
        print(f"{name}: {seconds:.1f} s, peak {megabytes:.0f} MB above the rest")
    print(f"ratio: {times[0] / times[1]:.3f} of the time, {peaks[0] / peaks[1]:.2f} of the memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="a starter's name or a file; default: newborn ones")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--polygons", action="store_true", help="outline a mask instead")
    for name in ("--run", "--before", "--after", "--mask"):
        parser.add_argument(name, type=str if name == "--run" else Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        (outline_once if args.mask else run_once)(args)
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.polygons:
            write_regions(folder / "mask.tif", args.side)
            compare_runs(
                ("ours", "whole array"), ["--mask", str(folder / "mask.tif")], args.repeats
            )
            return
        if args.weights is None:
            args.weights = str(folder / "newborn.safetensors")
            write_newborn(Path(args.weights))
        simulate_pair(folder, size=args.side, seed=3)
        write_to_another_grid(folder / "after.tif", folder / "other.tif")
        arguments = ["--before", str(folder / "before.tif"), "--after", str(folder / "other.tif")]
        arguments += ["--weights", args.weights, "--device", args.device]
        compare_runs(("ours", "model"), arguments, args.repeats)


if __name__ == "__main__":
    main()
