"""What land cover gains where windows are seen enlarged, shrunk, or in several sizes at once.

    python benchmarks/pixel_sizes.py DATA [--windows 8] [--scales 1 1.5 2 0.67]

DATA holds folders of masks. The starter weights answer windows of each validation part as they are,
at every other scale, which is what ``predict --gsd`` does for a scene, and with the mean of their
scores at 1 and that scale; then over the eight symmetries of every window (``--tta``). In bf16; a
line each, mean IoU by data set and over all.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.inference.predictor import load_model
from lemevit_cli.inference.runtime import SymmetricRuntime
from lemevit_cli.models.weights import Weights, open_weights
from lemevit_cli.tasks import load_network
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.window_validation import WindowValidation

Answer = Callable[[Tensor], Tensor]


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
    ways = {" + ".join(map("{:g}".format, s)): _sized(model, s) for s in _sets_of(options.scales)}
    for name, answer in {**ways, "eight symmetries": _turned(ways["1"])}.items():
        scores = [_score(answer, weights, folder, options.windows) for folder in folders]
        numbers = [f"{score:.3f}" for score in [*scores, np.mean(scores)]]
        print("\t".join([name, *numbers]), flush=True)


def _sets_of(scales: list[float]) -> list[tuple[float, ...]]:
    return [*((scale,) for scale in scales), *((1.0, scale) for scale in scales if scale != 1)]


@torch.inference_mode()
def _score(answer: Answer, weights: Weights, folder: Path, windows: int) -> float:
    return WindowValidation([open_folder(folder, "val")], weights.card, limit=windows)(answer).score


def _sized(model: nn.Module, scales: tuple[float, ...]) -> Answer:
    def answer(pixels: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return sum((_seen_at(model, pixels, scale) for scale in scales), torch.zeros(()))

    return answer


def _turned(plain: Answer) -> Answer:
    """Answer with the log of the mean score over eight symmetries, as ``--tta`` does."""
    runtime = SymmetricRuntime(lambda a: plain(torch.from_numpy(a)).softmax(1).numpy())
    return lambda pixels: torch.from_numpy(runtime(pixels.numpy())).log()


def _seen_at(model: nn.Module, pixels: Tensor, scale: float) -> Tensor:
    if scale == 1:
        return torch.as_tensor(model(pixels).float())
    sides = [round(side * scale) for side in pixels.shape[-2:]]
    seen = F.interpolate(pixels, size=sides, mode="bilinear", antialias=scale < 1)
    answers: Tensor = model(seen).float()
    return F.interpolate(answers, size=pixels.shape[-2:], mode="bilinear")


if __name__ == "__main__":
    main()
