"""How well change is told between seasons and sensors: F1 where the later date looks otherwise.

    python benchmarks/seasons.py DATA/levir_cd_test50 [--weights buildings-change]

The later date of every validation pair is written anew as another season or another sensor would
show it; the earlier date and the labels stay. Each copy is scored by `lemevit eval`, and set beside
the pairs as they are.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import rasterio
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from lemevit_cli.training.datasets.folders import list_rasters

Pixels = NDArray[np.float32]  # (H, W, 3), 0 to 255
Look = Callable[[Pixels], Pixels]


def main() -> None:
    """Print F1 of every look, and its part of that of the pairs as they are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="with val/{A,B,label}")
    parser.add_argument("--weights", default="buildings-change")
    options = parser.parse_args()
    print("| later date | f1 | precision | recall | of f1 as it is |\n|---|---|---|---|---|")
    plain = None
    for name, look in LOOKS.items():
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder, options.folder.name)
            write_copy(options.folder, copy, look)
            figures = evaluate(options.weights, copy)
        plain = plain or figures["f1"]
        cells = [figures["f1"], figures["precision"], figures["recall"], figures["f1"] / plain]
        print(f"| {name} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |", flush=True)


def as_it_is(pixels: Pixels) -> Pixels:
    """Return what was given."""
    return pixels


def dry(pixels: Pixels) -> Pixels:
    """Turn what is green to straw: red takes over what green has above blue."""
    green = np.maximum(pixels[..., 1] - pixels[..., [0, 2]].min(axis=-1), 0.0)
    return pixels + green[..., None] * np.array([1.5, 0.4, -0.2], np.float32) + 4


def low_sun(pixels: Pixels) -> Pixels:
    """Darken what is dark already, in a warm light."""
    return 255 * (pixels / 255) ** 1.5 * np.array([1.1, 1.0, 0.85], np.float32)


def snow_light(pixels: Pixels) -> Pixels:
    """Take colour away and brighten the ground, as thin snow and haze do."""
    grey = pixels.mean(axis=-1, keepdims=True)
    return 70 + 0.7 * (grey + 0.4 * (pixels - grey))


def coarse_sensor(pixels: Pixels) -> Pixels:
    """See half as sharp, with noise, and with a cast of blue."""
    picture = as_picture(pixels).filter(ImageFilter.GaussianBlur(1))
    noise = np.random.default_rng(0).normal(0, 5, pixels.shape)
    return np.asarray(picture) * np.array([0.9, 1.0, 1.15], np.float32) + noise


LOOKS: dict[str, Look] = {
    "as it is": as_it_is,
    "dry season": dry,
    "low sun": low_sun,
    "snow and haze": snow_light,
    "coarser sensor": coarse_sensor,
}


def write_copy(folder: Path, copy: Path, look: Look) -> None:
    """Write the validation pairs with another look of the later date."""
    (copy / "val" / "B").mkdir(parents=True)
    for part in ("A", "label"):
        shutil.copytree(folder / "val" / part, copy / "val" / part)
    if (folder / "classes.json").is_file():
        shutil.copy(folder / "classes.json", copy)
    for path in list_rasters(folder / "val" / "B").values():
        with rasterio.open(path) as dataset:
            pixels = np.moveaxis(dataset.read([1, 2, 3]), 0, -1).astype(np.float32)
        as_picture(look(pixels)).save(copy / "val" / "B" / f"{path.stem}.png")


def as_picture(pixels: Pixels) -> Image.Image:
    """Return pixels as a picture."""
    return Image.fromarray(np.clip(pixels, 0, 255).round().astype(np.uint8))


def evaluate(weights: str, folder: Path) -> dict[str, float]:
    """Score weights on the validation pairs of a folder."""
    command = [sys.executable, "-m", "lemevit_cli", "eval", weights, str(folder)]
    done = subprocess.run(
        [*command, "--split", "val", "--json", "--quiet"],
        check=True,
        stdout=subprocess.PIPE,
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


if __name__ == "__main__":
    main()
