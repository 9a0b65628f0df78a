"""What everything around the model costs: `detect` over the time of its model alone.

    python benchmarks/detect.py [--weights objects] [--side 8192] [--device cpu]

A simulated town of 8192 x 8192 pixels is written first. Then two processes take turns. One is the
whole pipeline (read, model, boxes to scene pixels, one merge over the scene, shapefile with sizes
and bearings). The other gives the same windows in the same batches to the same runtime, and adds
up the time that this takes alone: it reads each batch before the clock starts, throws the answers
away, and merges nothing. The ratio is that of the medians; aim: at most 1.15.

Without weights the light Oriented R-CNN over LeMeViT-Tiny runs as it is born. Its answers are full
(300 boxes a window, none surer than another), which is the worst that the merge can get.
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
import torch

from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import Predictor, load_predictor
from lemevit_cli.inference.run import inference_over
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, open_weights, save_weights
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import (
    DetectionOptions,
    InferenceSettings,
    OutputOptions,
    RuntimeOptions,
)
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.detection.inference import Detection
from lemevit_cli.tasks.detection.network import network_for

NAMES = ["storage-tank", "small-vehicle", "ship", "plane"]


def write_newborn(path: Path) -> None:
    """Weights of the light form over LeMeViT-Tiny, without a step of training."""
    torch.manual_seed(0)
    card = Card(
        task="det",
        backbone="lemevit_tiny",
        head="oriented_rcnn",
        classes=classes_from_names(NAMES),
        window=1024,
        overlap=200,
    )
    save_weights(path, load_network("det").build_model(card).state_dict(), card)


def settings_of(args: argparse.Namespace) -> InferenceSettings:
    return InferenceSettings(
        runtime=RuntimeOptions(device=args.device),
        output=OutputOptions(overwrite=True),
        detection=DetectionOptions(score=args.score),
    )


def run_ours(args: argparse.Namespace, predictor: Predictor) -> float:
    """Seconds of the whole pipeline, as `lemevit detect` runs it after loading its weights."""
    settings = settings_of(args)
    start = time.perf_counter()
    task = Detection(predictor.card, settings, Silent())
    target = str(args.scene.with_name("boxes.shp"))
    report = infer_scenes(task, [str(args.scene)], [target], lambda: predictor).results[0]
    seconds = time.perf_counter() - start
    print(report["objects"], "objects,", json.dumps(report["seconds"]), file=sys.stderr)
    return seconds


def run_model(args: argparse.Namespace, predictor: Predictor) -> float:
    """Seconds of the runtime alone, on the batches that `detect` gives it."""
    settings, seconds = settings_of(args), 0.0
    with open_scene(str(args.scene)) as scene:
        source = scene_input(scene, predictor.card, settings.reading, Silent())
        with inference_over(source, predictor, settings.tiling, Silent()) as inference:
            windows, size = list(inference.grid.windows_over(source.area)), inference.batch_size
        for first in range(0, len(windows), size):
            batch = [source.view.read(w)[0] for w in windows[first : first + size]]
            empty = [np.zeros_like(batch[0])] * (size - len(batch))
            pixels = np.stack(batch + empty)
            start = time.perf_counter()
            predictor.runtime(pixels)
            seconds += time.perf_counter() - start
    return seconds


RUNS = {"ours": run_ours, "model": run_model}


def measure(name: str, args: argparse.Namespace) -> tuple[float, float]:
    """Seconds and MB of one run in a fresh process."""
    command = [sys.executable, __file__, "--run", name, "--scene", str(args.scene)]
    command += ["--weights", args.weights, "--device", args.device, "--score", str(args.score)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, megabytes = out.split()
    return float(seconds), float(megabytes)


def run_once(args: argparse.Namespace) -> None:
    options = RuntimeOptions(device=args.device)
    weights = open_weights(args.weights)
    network = network_for(DetectionOptions(score=args.score))
    predictor = load_predictor(weights, network, options)
    bands, side = predictor.card.bands, predictor.card.window
    predictor.runtime(np.zeros((1, bands, side, side), np.uint8))  # what is built at the first call
    before = peak_memory_mb()
    print(RUNS[args.run](args, predictor), peak_memory_mb() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", help="a starter's name or a file; default: newborn ones")
    parser.add_argument("--side", type=int, default=8192)
    parser.add_argument("--score", type=float, default=0.3)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--scene", type=Path, help="default: a simulated town of this side")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run_once(args)
        return
    with tempfile.TemporaryDirectory() as folder:
        if args.weights is None:
            args.weights, args.score = str(Path(folder) / "newborn.safetensors"), 0.05
            write_newborn(Path(args.weights))
        if args.scene is None:
            simulate_pair(folder, size=args.side, seed=3)
            args.scene = Path(folder) / "before.tif"
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in RUNS}
        for _ in range(args.repeats):
            for name in RUNS:
                found[name].append(measure(name, args))
    seconds = {name: statistics.median(s for s, _ in runs) for name, runs in found.items()}
    for name, runs in found.items():
        print(
            f"{name}: {seconds[name]:.1f} s, peak {max(m for _, m in runs):.0f} MB above the rest"
        )
    print(f"ratio: {seconds['ours'] / seconds['model']:.3f}")


if __name__ == "__main__":
    main()
