"""Multiply-adds and real time of vision transformers that fuse tokens (MCTF), side by side.

    python benchmarks/token_fusion.py --repeats 15

The plain network is timm's own, with PyTorch's fused attention. `r=16` and `ratio=0.35@3,6,9` are
the paper's two schedules; `r=1` fuses next to nothing and so shows what the fusing itself costs.
In every round each network runs once, so that a busy machine slows all; time is the median of the
rounds, and "faster" the median of the rounds' own ratios to the plain network. Weights are random,
which changes neither figure. On a machine with other work, `--clock cpu` counts only our own time.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import timm
import torch
from torch import Tensor, nn

from lemevit_cli.models.cost import count
from lemevit_cli.models.token_fusion import apply_mctf, parse_fusion

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
FUSIONS = ["r=0", "r=1", "r=16", "ratio=0.35@3,6,9"]


def main() -> None:
    """Print a table of networks, batches and schedules."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--models", nargs="+", default=["deit_tiny_patch16_224", "deit_small_patch16_224"]
    )
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} thread(s), {args.clock} clock")
    print("| network | batch | fusion | G multiply-adds | fewer | ms an image | faster |")
    print("|---|---|---|---|---|---|---|")
    for name in args.models:
        costs = [count(build(name, fusion, "meta"), size=224).macs for fusion in FUSIONS]
        networks = [build(name, fusion, "cpu") for fusion in FUSIONS]
        for batch in args.batches:
            images = torch.randn(batch, 3, 224, 224)
            times = rounds(networks, images, args.repeats, CLOCKS[args.clock])
            for fusion, macs, taken in zip(FUSIONS, costs, times, strict=True):
                faster = statistics.median(p / t for p, t in zip(times[0], taken, strict=True))
                label = "plain" if fusion == "r=0" else f"`{fusion}`"
                print(
                    f"| {name} | {batch} | {label} | {macs / 1e9:.3f} | {costs[0] / macs:.2f}x | "
                    f"{1000 * statistics.median(taken) / batch:.1f} | {faster:.2f}x |",
                    flush=True,
                )


def build(name: str, fusion: str, device: str) -> nn.Module:
    """Build a network; where nothing fuses, it is timm's own."""
    with torch.device(device):
        model = timm.create_model(name).eval()
    return model if fusion == "r=0" else apply_mctf(model, parse_fusion(fusion))


@torch.inference_mode()
def rounds(
    networks: list[nn.Module], images: Tensor, repeats: int, clock: Callable[[], float]
) -> list[list[float]]:
    """Seconds of each network in each round; a first round warms up."""
    times: list[list[float]] = [[] for _ in networks]
    for repeat in range(repeats + 1):
        for network, taken in zip(networks, times, strict=True):
            start = clock()
            network(images)
            if repeat > 0:
                taken.append(clock() - start)
    return times


if __name__ == "__main__":
    main()
