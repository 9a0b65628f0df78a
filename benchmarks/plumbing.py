"""What everything around the model costs: `predict` with a model of one convolution.

    python benchmarks/plumbing.py

An 8192 x 8192 scene of three bands (a smooth landscape with noise, written first), 6 classes,
windows of 512 with overlap 64. Beside our whole pipeline (read, model, softmax, blend, argmax,
nodata, statistics, compressed GeoTIFF with overviews) runs a straight loop that reads the same
windows with rasterio, runs the same model on the same batches and throws the result away. Each
runs in a process of its own, in turn; the ratio is that of the medians, memory is the peak above
the process after its imports and model.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from rasterio.windows import Window as RasterioWindow
from torch import nn

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.runtimes.torch import TorchRuntime
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.scores import PixelScores
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions
from lemevit_cli.tasks.segmentation.inference import Segmentation

WINDOW, OVERLAP, BATCH, NUM_CLASSES = 512, 64, 2, 6


class OneConvolution(nn.Module):
    """A convolution of 3 x 3, from three bands to six classes, on normalised pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, NUM_CLASSES, 3, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.convolution((pixels.float() - 128.0) / 16.0)


def write_scene(path: Path, side: int) -> None:
    """Write a smooth landscape with sensor noise, drawn in strips."""
    random = np.random.default_rng(0)
    hills = torch.from_numpy(random.normal(128, 40, (1, 3, side // 128, side // 128)))
    profile = {
        "driver": "GTiff",
        "width": side,
        "height": side,
        "count": 3,
        "dtype": "uint8",
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "crs": "EPSG:32633",
        "transform": from_origin(500000, 5600000, 0.3, 0.3),
    }
    smooth = torch.nn.functional.interpolate(hills, size=(side, side), mode="bilinear")[0]
    with rasterio.open(path, "w", **profile) as target:
        for row in range(0, side, 512):
            rows = smooth[:, row : row + 512].numpy()
            rows = rows + random.normal(0, 1, rows.shape)
            window = RasterioWindow(0, row, side, rows.shape[1])
            target.write(rows.clip(0, 255).astype(np.uint8), window=window)


def run_ours(path: Path) -> None:
    """Run all that `lemevit predict` does after loading its weights."""
    card = Card(task="seg", backbone="-", classes=classes_from_names([f"c{i}" for i in range(6)]))
    runtime = TorchRuntime(PixelScores(OneConvolution()), lambda scores: scores, RuntimeOptions())
    predictor = Predictor("one convolution", "0", card, runtime, "cpu")
    settings = InferenceSettings(output=OutputOptions(overwrite=True))
    task, target = Segmentation(card, settings, Silent()), str(path.with_name("out.tif"))
    report = infer_scenes(task, [str(path)], [target], lambda: predictor).results[0]
    print(json.dumps(report["seconds"]), file=sys.stderr)


def run_loop(path: Path) -> None:
    """Read, run, throw away."""
    model = OneConvolution().eval()
    with rasterio.open(path) as scene, torch.inference_mode():
        grid = WindowGrid(width=scene.width, height=scene.height, size=WINDOW, overlap=OVERLAP)
        whole = Window(col_off=0, row_off=0, width=scene.width, height=scene.height)
        windows = [(w.col_off, w.row_off) for w in grid.windows_over(whole)]
        for first in range(0, len(windows), BATCH):
            batch = [
                scene.read(window=RasterioWindow(col, row, WINDOW, WINDOW))
                for col, row in windows[first : first + BATCH]
            ]
            model(torch.from_numpy(np.stack(batch)))


RUNS = {"ours": run_ours, "loop": run_loop}


def measure(name: str, path: Path) -> tuple[float, float]:
    """Return the seconds and MB of one run in a fresh process."""
    command = [sys.executable, __file__, "--run", name, "--scene", str(path)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, megabytes = out.split()
    return float(seconds), float(megabytes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--scene", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        before, start = peak_memory_mb(), time.perf_counter()
        RUNS[args.run](args.scene)
        print(time.perf_counter() - start, peak_memory_mb() - before)
        return
    with tempfile.TemporaryDirectory() as folder:
        scene = Path(folder) / "scene.tif"
        write_scene(scene, args.side)
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
        for _ in range(args.repeats):
            for name in RUNS:
                found[name].append(measure(name, scene))
    seconds = {name: statistics.median(s for s, _ in runs) for name, runs in found.items()}
    for name, runs in found.items():
        print(f"{name}: {seconds[name]:.1f} s, peak {max(m for _, m in runs):.0f} MB above imports")
    print(f"ratio: {seconds['ours'] / seconds['loop']:.2f}")


if __name__ == "__main__":
    main()
