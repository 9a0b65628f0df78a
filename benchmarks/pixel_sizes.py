"""What land cover gains where windows are seen enlarged, shrunk, or in several sizes at once.

    python benchmarks/pixel_sizes.py DATA [--windows 8] [--scales 1 1.5 2 0.67]

DATA holds folders of masks. The starter weights answer windows of each validation part as they are,
at every other scale, which is what ``predict --gsd`` does for a scene, and with the mean of their
scores at 1 and that scale. In bf16; a line each, mean IoU by data set and over all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.inference.predictor import load_model
from lemevit_cli.models.weights import Weights, open_weights
from lemevit_cli.tasks import load_network
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.window_validation import WindowValidation


def main() -> None:
    """Print a table of mean IoU."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--scales", type=float, nargs="+", default=[1.0, 1.5, 2.0, 0.67])
    options = parser.parse_args()
    weights, network = open_weights("landcover"), load_network("seg")
    model = network.for_inference(load_model(weights, network)).eval()
    folders = sorted(path for path in options.data.iterdir() if (path / "val" / "masks").is_dir())
    print("\t".join(["scales", *(folder.name for folder in folders), "mean"]))
    for scales in _sets_of(options.scales):
        scores = [_score(model, weights, folder, scales, options.windows) for folder in folders]
        numbers = [f"{score:.3f}" for score in [*scores, np.mean(scores)]]
        print("\t".join([" + ".join(f"{scale:g}" for scale in scales), *numbers]), flush=True)


def _sets_of(scales: list[float]) -> list[tuple[float, ...]]:
    return [*((scale,) for scale in scales), *((1.0, scale) for scale in scales if scale != 1)]


@torch.inference_mode()
def _score(
    model: nn.Module, weights: Weights, folder: Path, scales: tuple[float, ...], windows: int
) -> float:
    judge = WindowValidation([open_folder(folder, "val")], weights.card, limit=windows)

    def answer(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return sum((_seen_at(model, pixels, scale) for scale in scales), torch.zeros(()))

    return judge(answer).score


def _seen_at(model: nn.Module, pixels: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return torch.as_tensor(model(pixels).float())
    sides = [round(side * scale) for side in pixels.shape[-2:]]
    seen = F.interpolate(pixels, size=sides, mode="bilinear", antialias=scale < 1)
    answers: Tensor = model(seen).float()
    return F.interpolate(answers, size=pixels.shape[-2:], mode="bilinear")


if __name__ == "__main__":
    main()
