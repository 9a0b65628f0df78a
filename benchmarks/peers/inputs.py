"""Write what all peers are given: a scene, and a model as TorchScript.

    python benchmarks/peers/inputs.py FOLDER --size 8192 --model landcover --window 512

`run.py` calls it in a process of its own. The scene is a simulated town of 2048 x 2048 pixels of
0.3 m, repeated to the size asked for (deflate, tiles of 256). The models normalise the scene's
values themselves: `conv` is one convolution of 3 x 3 to six classes with random weights,
`landcover` the network of the starter weights, as `lemevit predict` folds it.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.windows import Window
from torch import nn

from lemevit_cli.inference.predictor import load_model, open_weights_for
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.scores import PixelScores
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks import load_network

TOWN = 2048


class OneConvolution(nn.Module):
    """A convolution of 3 x 3, from three bands to six classes, on normalised pixels."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution = nn.Conv2d(3, 6, 3, padding=1)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.convolution((pixels.float() - 128.0) / 16.0)


def landcover() -> nn.Module:
    weights = open_weights_for("seg", "landcover")
    return optimise_for_inference(load_model(weights, load_network("seg")))


class OfAnySize(nn.Module):
    """Widen smaller windows, as of geo-inference's edges, to the size that was traced."""

    def __init__(self, traced: torch.jit.ScriptModule, window: int) -> None:
        super().__init__()
        self.traced = traced
        self.window = window

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        rows, cols = pixels.shape[-2], pixels.shape[-1]
        missing = [0, self.window - cols, 0, self.window - rows]
        whole = torch.nn.functional.pad(pixels, missing)
        return self.traced(whole)[..., :rows, :cols]


MODELS = {"conv": OneConvolution, "landcover": landcover}


def write_model(folder: Path, name: str, window: int) -> None:
    """Trace the model, once to logits and once to probabilities.

    Raises:
        RuntimeError: if the traced model answers another batch otherwise than the module.
    """
    model = MODELS[name]().eval()
    random = torch.Generator().manual_seed(0)
    one, two = (
        torch.randint(256, (batch, 3, window, window), dtype=torch.uint8, generator=random)
        for batch in (1, 2)
    )
    with torch.inference_mode():
        for form, module in {"logits": model, "probabilities": PixelScores(model)}.items():
            traced = torch.jit.trace(module, two, check_trace=False)
            if not torch.allclose(traced(one), module(one), atol=1e-4):
                raise RuntimeError(f"the traced {name} answers another batch otherwise")
            scripted = torch.jit.script(OfAnySize(traced, window).eval())
            scripted.save(str(folder / f"{form}.pt"))


def write_scene(path: Path, size: int) -> None:
    """Repeat a simulated town over a scene, in strips of its height."""
    folder = path.with_suffix(".town")
    simulate_pair(folder, size=TOWN)
    with rasterio.open(folder / "before.tif") as source:
        town, profile = source.read(), source.profile
    repeated = np.tile(town, (1, 1, -(-size // TOWN)))[:, :, :size]
    profile.update(width=size, height=size, BIGTIFF="IF_SAFER")
    with rasterio.open(path, "w", **profile) as target:
        for row in range(0, size, TOWN):
            rows = min(TOWN, size - row)
            target.write(repeated[:, :rows], window=Window(0, row, size, rows))
    shutil.rmtree(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--model", choices=MODELS, required=True)
    parser.add_argument("--window", type=int, required=True)
    args = parser.parse_args()
    write_model(args.folder, args.model, args.window)
    write_scene(args.folder / "scene.tif", args.size)


if __name__ == "__main__":
    main()
