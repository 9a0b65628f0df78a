"""LeMeViT on this CPU beside a plain formulation of the same arithmetic, in one process.

    python benchmarks/model.py --threads 1 --repeats 15
    python benchmarks/model.py --ablate

The plain formulation runs the same parameters as a paper's reader would write them: maps in NCHW,
tokens by flatten and transpose, batch norms apart from convolutions, one packed projection of all
tokens, SDPA, and in dense mode the meta-token MLPs of stages 3 and 4, whose result nothing reads.
Repeats are interleaved, so that a busy machine slows all; the figures are medians and their ratio.
`--ablate` leaves out one step of the folded model at a time: what is above 1 is what it saves.
On a machine with other work, `--threads 1 --clock cpu` counts only the time that we computed.
"""

from __future__ import annotations

import argparse
import copy
import math
import statistics
import time
from collections.abc import Callable

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.models import lemevit_inference
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.lemevit_inference import optimise_for_inference

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="lemevit_tiny")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--ablate", action="store_true", help="one step of the folding at a time")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    if args.ablate:
        ablate(args)
        return
    classifier = timm.create_model(args.model).eval()
    dense = timm.create_model(args.model, features_only=True).eval()
    fast_classifier, fast_dense = optimise_for_inference(classifier), optimise_for_inference(dense)
    uses: dict[str, tuple[Callable[[Tensor], object], ...]] = {
        "classifier": (lambda x: plain_logits(classifier, x), classifier, fast_classifier),
        "dense": (lambda x: plain_maps(classifier, x), dense, fast_dense),
    }
    print(f"{args.model}, torch {torch.__version__}, {args.threads} thread(s)")
    print(f"milliseconds ({args.clock}), median of {args.repeats}")
    print("use         size batch     plain     model   ratio     folded   ratio")
    for use, runs in uses.items():
        for size in args.sizes:
            for batch in args.batches:
                plain, model, folded = medians(
                    runs, torch.randn(batch, 3, size, size), args.repeats, CLOCKS[args.clock]
                )
                print(
                    f"{use:<11} {size:>4} {batch:>5} {plain:>9.1f} {model:>9.1f} "
                    f"{plain / model:>6.2f}x {folded:>10.1f} {plain / folded:>6.2f}x",
                    flush=True,
                )


def ablate(args: argparse.Namespace) -> None:
    """Print the time of the folded dense model without one of its steps, over that with all."""
    model = timm.create_model(args.model, features_only=True).eval()
    whole = optimise_for_inference(model)
    without = {name: leave_out(model) for name, leave_out in STEPS.items()}
    print(f"{args.model}, torch {torch.__version__}, {args.threads} thread(s), dense, {args.clock}")
    print("size batch  " + "  ".join(f"without {name}" for name in [*STEPS, "fused linear"]))
    for size in args.sizes:
        for batch in args.batches:
            images = torch.randn(batch, 3, size, size)
            runs = (whole, *without.values(), lambda x: unfused(whole, x))
            times = medians(runs, images, args.repeats, CLOCKS[args.clock])
            ratios = "  ".join(f"{time / times[0]:>20.2f}x" for time in times[1:])
            print(f"{size:>4} {batch:>5}  {ratios}", flush=True)


def without_moved_projections(model: nn.Module) -> nn.Module:
    """Leave out the image's projections on the side of the meta tokens."""

    class Unmoved(nn.Module):
        def __init__(self, attn: nn.Module) -> None:
            super().__init__()
            self.attn = attn

        def forward(self, t: Tensor, c: Tensor, norm: nn.Module, update_meta: bool):
            x_update, c_update = self.attn(norm(t), norm(c), update_meta)
            return (
                None if x_update is None else t + x_update,
                None if c_update is None else c + c_update,
            )

    whole = optimise_for_inference(model)
    for folded, stage in zip(stages_of(whole)[:3], stages_of(model)[:3], strict=True):
        for fast, block in zip(folded.blocks, stage.blocks, strict=True):
            fast.attn = Unmoved(copy.deepcopy(block.attn))
    return whole.requires_grad_(False)


def unfused(model: nn.Module, images: Tensor) -> object:
    """Run all steps but oneDNN's linear layers with GELU and residual."""
    lemevit_inference._HAS_FUSED_LINEAR = False
    try:
        return model(images)
    finally:
        lemevit_inference._HAS_FUSED_LINEAR = True


def stages_of(model: nn.Module) -> nn.ModuleList:
    return next(module for module in model.modules() if isinstance(module, LeMeViT)).stages


STEPS = {
    "moved projections": without_moved_projections,
}


@torch.inference_mode()
def medians(
    runs: tuple[Callable[[Tensor], object], ...],
    images: Tensor,
    repeats: int,
    clock: Callable[[], float],
) -> list[float]:
    """Return the median milliseconds of each, called in turn."""
    times: list[list[float]] = [[] for _ in runs]
    for repeat in range(repeats + 1):
        for run, record in zip(runs, times, strict=True):
            start = clock()
            run(images)
            if repeat > 0:  # the first warms up
                record.append(1000 * (clock() - start))
    return [statistics.median(record) for record in times]


def plain_logits(model: LeMeViT, images: Tensor) -> Tensor:
    maps, c = plain_stages(model, images, dense=False)
    return model.head(model.norm(maps[-1]).mean((2, 3)) + model.norm_meta(c).mean(1))


def plain_maps(model: LeMeViT, images: Tensor) -> list[Tensor]:
    return plain_stages(model, images, dense=True)[0]


def plain_stages(model: LeMeViT, x: Tensor, *, dense: bool) -> tuple[list[Tensor], Tensor]:
    maps = []
    c = model.meta_tokens.repeat(x.shape[0], 1, 1)
    for kind, stage in zip("CDDSS", model.stages, strict=True):
        x = stage.downsample(x)
        c = stage.meta_mlp(c)
        for block in stage.blocks:
            x, c = plain_block(kind, block, x, c, dense)
        maps.append(x)
    return maps[1:], c


def plain_block(kind: str, block, x: Tensor, c: Tensor, dense: bool) -> tuple[Tensor, Tensor]:
    B, C, H, W = x.shape
    attn, heads = block.attn, block.attn.num_heads
    t = (x + block.cpe(x)).flatten(2).transpose(1, 2)

    def split(tokens: Tensor, parts: int) -> Tensor:
        return tokens.reshape(B, -1, parts, heads, C // heads).permute(2, 0, 3, 1, 4)

    def attend(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, scale=scale).transpose(1, 2).flatten(2)

    def feed_forward(tokens: Tensor) -> Tensor:
        return tokens + block.mlp(block.norm2(tokens))

    if kind == "C":
        (q,), (k, v) = split(attn.q(block.norm1(c)), 1), split(attn.kv(block.norm1(t)), 2)
        return x, feed_forward(c + attn.proj(attend(q, k, v)))
    if kind == "D":
        qx, kx, vx = split(attn.qkv_x(block.norm1(t)), 3)
        qc, kc, vc = split(attn.qkv_meta(block.norm1(c)), 3)
        scale = math.log(c.shape[1]) / math.log(H * W) / math.sqrt(C)
        t, c = (
            t + attn.proj_x(attend(qx, kc, vc, scale)),
            c + attn.proj_meta(attend(qc, kx, vx, C**-0.5)),
        )
        c = feed_forward(c)
    else:
        t = t + attn.proj(attend(*split(attn.qkv(block.norm1(t)), 3)))
        if not dense:
            c = feed_forward(c + attn.proj(attend(*split(attn.qkv(block.norm1(c)), 3))))
    return feed_forward(t).transpose(1, 2).reshape(B, C, H, W), c


if __name__ == "__main__":
    main()
