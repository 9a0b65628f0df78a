"""What fusing tokens in LeMeViT's stage 3 costs in scores and saves in seconds.

    python benchmarks/fuse_tokens.py scores DATA [--pictures 4]
    python benchmarks/fuse_tokens.py seconds DATA [--sizes 512 1024 2048] [--repeats 3]
    python benchmarks/fuse_tokens.py water DATA [--windows 8]

DATA holds the sets in `SETS`. `scores` takes the road of `lemevit eval` with the starter weights
over some pictures of a validation part. `seconds` runs the folded backbone of `landcover`, one
thread, batch 1, on a real picture (mirrored where it is smaller); repeats are interleaved, and the
ratio is that of medians of the time that this process computed. `water` asks for the share of
pixels whose class is another than the plain network's, beside the seconds, on windows of 512
pixels: of a simulated town whose right half is flat water, and of real ones (dubai_landcover).

Beside what `--fuse-tokens` offers stand, in the same place and with one plan a stage, ToMe-SD as it
was published (fused tokens do not count for more; Bolya and Hoffman, arXiv 2303.17604) and mutual
pairs as in MPM (Rave et al., CVPR 2026, arXiv 2604.05718; made from the paper's text): tokens that
are each other's nearest become one, however similar they are.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lemevit_cli.inference.predictor import Predictor, load_model
from lemevit_cli.inference.run import pad_by_reflection
from lemevit_cli.inference.runtimes.torch import TorchRuntime
from lemevit_cli.models.lemevit import LeMeViT, TokenPlan, TokenReduction
from lemevit_cli.models.lemevit_fusion import (
    FuseAlike,
    FuseShare,
    Groups,
    group_tokens,
    unit_length,
)
from lemevit_cli.models.weights import open_weights
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import RuntimeOptions
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks import load_evaluation, load_network
from lemevit_cli.tasks.evaluation import evaluate_source

SETS = {  # weights: data, figure, how many times as many pictures
    "landcover": ("seg/czech_orthophoto", "miou", 1),
    "objects": ("det/nwpu-vhr10-obb", "ap50", 5),
    "buildings-change": ("change/levir_cd_test50", "f1", 1),
}


class Unweighted(FuseShare):
    """As ToMe-SD: a token of any size counts as one."""

    def plan(self, tokens: Tensor, height: int, width: int) -> Groups | None:
        plan = super().plan(tokens, height, width)
        return plan and UnweightedGroups(plan.rows, plan.sizes)


class UnweightedGroups(Groups):
    def merge(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        means, log_sizes = super().merge(tokens)
        return means, log_sizes.clamp(max=0)


@dataclass(frozen=True)
class MutualPairs:
    """As MPM: mutual nearest neighbours become one, at most half of the tokens."""

    def plan(self, tokens: Tensor, height: int, width: int) -> Groups | None:
        unit = unit_length(tokens)
        cosine = unit @ unit.mT
        cosine.diagonal(dim1=1, dim2=2).fill_(-2.0)
        nearest = cosine.argmax(dim=-1)
        place = torch.arange(tokens.shape[1])
        return group_tokens(nearest, (nearest.gather(1, nearest) == place) & (nearest < place))


@dataclass
class Counted:
    """Reduces tokens as another does, or not at all, and counts them."""

    inner: TokenReduction | None
    tokens: int = 0
    left: int = 0

    def plan(self, tokens: Tensor, height: int, width: int) -> TokenPlan | None:
        plan: Any = self.inner and self.inner.plan(tokens, height, width)
        self.tokens += (count := len(tokens) * tokens.shape[1])
        self.left += int((plan.sizes > 0).sum()) if plan else count
        return plan

    def __str__(self) -> str:
        return f"{1 - self.left / self.tokens:.0%}"


REDUCTIONS: dict[str, TokenReduction | None] = {
    "0": None,
    **{f"{share:g}": FuseShare(share) for share in (0.25, 0.5, 0.75, 0.8, 0.9)},
    "auto": FuseAlike(),
    **{f"auto, cosine {cosine:g}": FuseAlike(cosine) for cosine in (0.8, 0.9, 0.95)},
    "ToMe-SD, 0.5": Unweighted(0.5),
    "MPM": MutualPairs(),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=["scores", "seconds", "water"])
    parser.add_argument("data", type=Path)
    parser.add_argument("--weights", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--fused", nargs="+", choices=REDUCTIONS, default=list(REDUCTIONS))
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--windows", type=int, default=8)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024, 2048])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    {"scores": tell_scores, "seconds": tell_seconds, "water": tell_water}[args.table](args)


def tell_scores(args: argparse.Namespace) -> None:
    """Print a table for each of the weights: its score by what is fused."""
    for weights in args.weights:
        source, figure = source_of(args, weights), SETS[weights][1]
        print(f"{weights}, {len(source.sites)} pictures or pairs of {source.name}:\n")
        print(f"| fused | tokens fused | {figure} |\n|---|---|---|", flush=True)
        for name in args.fused:
            counted = Counted(REDUCTIONS[name])
            figures = evaluate_source(predictor_with(weights, counted), source)
            print(f"| {name} | {counted} | {100 * figures[figure]:.2f} |", flush=True)


def source_of(args: argparse.Namespace, weights: str) -> Any:
    """Open some pictures of the data that weights are scored on, spread evenly."""
    data, _, times = SETS[weights]
    card = open_weights(weights).card
    source = load_evaluation(card.task).open_data(str(args.data / data), "val", card)
    step = max(1, len(source.sites) // (args.pictures * times))
    return replace(source, sites=source.sites[::step])


def predictor_with(name: str, reduction: TokenReduction) -> Predictor:
    """Load weights as `lemevit eval` does, with any reduction of tokens."""
    weights, options = open_weights(name), RuntimeOptions(device="cpu", threads=1)
    task = weights.card.task
    decode = (load_evaluation(task).network or load_network(task)).decode
    model = folded_model(name)
    backbone_of(model).reduce_tokens({3: reduction})
    runtime = TorchRuntime(model, decode, options)
    return Predictor(name, weights.digest, weights.card, runtime, "cpu")


def folded_model(name: str) -> Any:
    """Build the network of starter weights, folded."""
    weights = open_weights(name)
    network = load_network(weights.card.task)
    return network.for_inference(load_model(weights, network))


def backbone_of(model: torch.nn.Module) -> LeMeViT:
    return next(module for module in model.modules() if isinstance(module, LeMeViT))


@torch.inference_mode()
def tell_seconds(args: argparse.Namespace) -> None:
    """Print the backbone's milliseconds and ratios to the plain one, by size and what is fused."""
    model = folded_model("landcover")
    picture = next(pictures(args.data / "seg/czech_orthophoto"))
    print("| fused | " + " | ".join(f"{size} px, ms" for size in args.sizes) + " |")
    print("|---|" + "---|" * len(args.sizes))
    columns = []
    for size in args.sizes:
        grown = pad_by_reflection(picture[:, :size, :size], size)
        images = model.model.front(torch.from_numpy(np.ascontiguousarray(grown))[None].float())
        columns.append(interleaved_ms(backbone_of(model), images, args))
    for i, name in enumerate(args.fused):
        cells = [f"{times[i]:.0f} ({times[0] / times[i]:.2f}x)" for times in columns]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def interleaved_ms(backbone: LeMeViT, images: Tensor, args: argparse.Namespace) -> list[float]:
    """Return median milliseconds of this process by reduction, called in turn; the first warms."""
    times: list[list[float]] = [[] for _ in args.fused]
    for repeat in range(args.repeats + 1):
        for name, record in zip(args.fused, times, strict=True):
            backbone.reduce_tokens({3: REDUCTIONS[name]})
            start = time.process_time()
            backbone.forward_intermediates(images, intermediates_only=True)
            if repeat > 0:
                record.append(1000 * (time.process_time() - start))
    return [statistics.median(record) for record in times]


@torch.inference_mode()
def tell_water(args: argparse.Namespace) -> None:
    """Print speed and changed pixels on scenes that are not uniform, by what is fused."""
    model = folded_model("landcover")
    backbone, rows = backbone_of(model), {name: [f"| {name}"] for name in args.fused}
    scenes = {"half water": half_water(args.windows), "dubai": real_windows(args)}
    for windows in scenes.values():
        times = np.sum(
            [interleaved_ms(backbone, model.model.front(w), args) for w in windows], axis=0
        )
        plain = classes_of(model, windows, None)
        for name, ms in zip(args.fused, times, strict=True):
            counted = Counted(REDUCTIONS[name])
            changed = (classes_of(model, windows, counted) != plain).float().mean()
            rows[name].append(f"{counted} | {times[0] / ms:.2f}x | {changed:.2%}")
    titles = " | ".join(f"{scene}: tokens fused | faster | pixels changed" for scene in scenes)
    print(f"| fused | {titles} |\n|---|" + "---|---|---|" * len(scenes))
    print("\n".join(" | ".join(row) + " |" for row in rows.values()))


def classes_of(model: Any, windows: list[Tensor], reduction: TokenReduction | None) -> Tensor:
    backbone_of(model).reduce_tokens({3: reduction})
    return torch.cat([model(window).argmax(dim=1) for window in windows])


def half_water(count: int) -> list[Tensor]:
    """Cut windows of a simulated town whose right half is flat water with a sensor's noise."""
    generator = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        simulate_pair(folder, size=2048)
        with open_scene(str(Path(folder) / "before.tif")) as scene:
            town = scene.read(scene.window)[0][:3].astype(np.float32)
    # Of a colour that these weights know as water: at 40, 70, 90 they waver, and noise decides.
    water = np.array([[[70]], [[100]], [[110]]]) + generator.normal(0, 2, town.shape)
    town[:, :, 1024:] = np.clip(water, 0, 255)[:, :, 1024:]
    places = [(row, col) for row in range(0, 2048, 512) for col in (256, 768, 1280)]
    windows = [town[None, :, r : r + 512, c : c + 512].copy() for r, c in places[:count]]
    return [torch.from_numpy(window) for window in windows]


def real_windows(args: argparse.Namespace) -> list[Tensor]:
    """Read a window of 512 pixels of each of some real pictures."""
    found = (p for p in pictures(args.data / "seg/dubai_landcover") if min(p.shape[1:]) >= 512)
    windows = [torch.from_numpy(p[None, :, -512:, -512:].copy()).float() for p in found]
    return windows[-args.windows :]


def pictures(data: Path) -> Iterator[np.ndarray[Any, Any]]:
    """Yield the pictures of a set's validation part, ``(bands, H, W)``."""
    for path in sorted((data / "val" / "images").iterdir()):
        with open_scene(str(path)) as scene:
            yield scene.read(scene.window)[0][:3]


if __name__ == "__main__":
    main()
