"""The tables of the papers behind this toolkit, ours beside what they published.

    python benchmarks/paper_tables.py cost
    python benchmarks/paper_tables.py tokens [--data CLASSES_FOLDER --val-fraction 0.2 --steps 400]
    python benchmarks/paper_tables.py speed --sizes 224 512 1024 --repeats 5

`cost` counts parameters and multiply-adds: LeMeViT's variants as classifier, segmenter, detector
and change detector; DeiT with fewer tokens. `tokens` is LeMeViT's ablation over meta tokens; with
`--data` each is trained for as many steps from the same start. `speed` compares throughput with the
papers' rivals that timm holds. On a GPU as LeMeViT's paper: batches of 256 at 224 (as many pixels
at other sizes), half precision, channels_last. On a CPU one image at a time and one thread, models
by turns, so that a busy machine slows all; the figures are medians.

Published figures are quoted with their source. Published accuracies are the authors', never ours:
no weights were released, and nothing here was trained as they did.
"""

from __future__ import annotations

import argparse
import importlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.backbone import any_size
from lemevit_cli.models.change import build_change_detector
from lemevit_cli.models.cost import Cost, count
from lemevit_cli.models.lemevit_inference import optimise_for_inference
from lemevit_cli.models.oriented_rcnn.build import PAPER_HEAD, build_detector
from lemevit_cli.models.segmenter import PAPER_DECODER, build_segmenter
from lemevit_cli.models.weights import Card

VARIANTS = ("lemevit_tiny", "lemevit_small", "lemevit_base")
LEMEVIT = "LeMeViT (IJCAI 2024, arXiv 2405.09789)"
# Parameters (M) and multiply-adds (G) as published, and the score.
IMAGENET = ((8.64, 1.78, "79.07"), (16.40, 3.74, "81.88"), (53.10, 11.06, "84.35"))
MILLIONAID = ((8.33, 1.78, "98.80"), (16.04, 3.74, "99.00"), (52.61, 11.06, "99.17"))
DOTA = ((25.37, 154.12, "76.63"), (33.15, 193.91, "77.58"), (69.76, 335.53, "78.00"))
POTSDAM = ((37.05, 217.88, "90.55"), (45.59, 228.16, "90.62"), (83.19, 263.75, "90.85"))
CDD = ((8.56, 5.75, "95.56"), (16.75, 10.71, "96.64"), (53.34, 28.47, "97.32"))
IMAGES_A_SECOND = {"lemevit_tiny": 5316.58, "lemevit_small": 3608.12, "lemevit_base": 1482.70}
META_TOKENS = {8: 3.63, 16: 3.74, 32: 3.95, 64: 4.39}  # Table 6: small, 51 classes
DEIT = {  # MCTF (CVPR 2024, arXiv 2403.10030): multiply-adds and top-1 of plain, r = 16, Fast
    "deit_tiny_patch16_224": ((1.26, "72.2"), (0.71, "72.7"), (0.75, "72.7")),
    "deit_small_patch16_224": ((4.61, "79.8"), (2.60, "80.1"), (2.76, "80.1")),
}
MCTF = (("r = 16", {"r": 16}), ("Fast", {"r": 0.35, "blocks": (3, 6, 9)}))
# LTM-Transformer (arXiv 2407.15219): M, G before and after, top-1 before and after.
LTM = {
    "mobilevit_s": (5.6, 1.4, 1.17, "78.4 to 79.7"),
    "vit_small_patch16_224": (22.1, 4.3, 3.7, "81.2 to 81.8"),
    "swin_tiny_patch4_window7_224": (29.0, 4.5, 3.8, "81.3 to 81.8"),
}
# LWGANet (AAAI 2026, arXiv 2501.10040): M, G, top-1 of NWPU-RESISC45, images a second (RTX 3090),
# Table 1; with Oriented R-CNN on DOTA-v1.0 and with CLAFA on CDD, Tables 2 and 5.
LWGANET = {
    "L0": (1.72, 0.186, "95.49", 13234),
    "L1": (5.90, 0.709, "95.70", 6418),
    "L2": (13.0, 1.87, "96.17", 3308),
}
LWGANET_L2_ELSEWHERE = "DOTA 29.2 M, 159.1 G, mAP 79.02; CDD 16.1 M, 22.1 G, F1 93.77"
RIVALS = (
    "swin_tiny_patch4_window7_224",
    "pvt_v2_b1",
    "pvt_v2_b2",
    "efficientvit_b1",
    "efficientvit_b2",
    "efficientvit_m5",
    "resnet50",
)
PAPERS_BATCH = 256  # of 224 x 224 pixels


def main() -> None:
    """Print one kind of table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=("cost", "tokens", "speed"))
    parser.add_argument("--sizes", type=int, nargs="+", default=[224, 512, 1024])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", help="tokens: a set for `train --task cls`")
    parser.add_argument("--steps", type=int, default=400, help="tokens: of each training")
    parser.add_argument("--crop", type=int, default=224, help="tokens: side of its windows")
    parser.add_argument("--val-fraction", type=float, help="tokens: held back, where --data is not")
    options = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(1)
    {"cost": tell_costs, "tokens": tell_tokens, "speed": tell_speed}[options.table](options)


# --- Parameters and multiply-adds ---------------------------------------------------------------


def tell_costs(options: argparse.Namespace) -> None:
    """Print Tables 3 to 5 of LeMeViT, and what fewer tokens cost in DeiT."""
    print(f"### {LEMEVIT}, and its README @1b48783\n")
    print("M parameters: as published; of the authors' net, with parts that no answer depends on;")
    print(
        "of ours. G multiply-adds: as published; convolutions and linear layers; with attention.\n"
    )
    head("use", "variant", "M publ.", "M all", "M ours", "G publ.", "G layers", "G all", "publ.")
    for use, make, size, score, published in USES:
        for variant, (parameters, macs, value) in zip(VARIANTS, published, strict=True):
            with torch.device("meta"):
                model, unread = make(variant)
            cost = count(model, size=size)
            row(
                use,
                variant,
                f"{parameters:.2f}",
                f"{(cost.parameters + unread) / 1e6:.2f}",
                f"{cost.parameters / 1e6:.2f}",
                f"{macs:.2f}",
                f"{cost.macs_as_reported / 1e9:.2f}",
                f"{cost.macs / 1e9:.2f}",
                f"{value} {score}",
            )
    tell_deit()
    tell_ltm()
    tell_lwganet()


def classifier(num_classes: int) -> Callable[[str], tuple[nn.Module, int]]:
    """Make a function that builds a classifier; nothing in it is unread."""
    return lambda variant: (timm.create_model(variant, num_classes=num_classes), 0)


def segmenter(variant: str) -> tuple[nn.Module, int]:
    model = build_segmenter(card_of("seg", variant, 5, PAPER_DECODER, {"decoder_channels": 512}))
    return model, unread_in(variant, model.encoder)


def detector(variant: str) -> tuple[nn.Module, int]:
    model = build_detector(card_of("det", variant, 15, "oriented_rcnn", PAPER_HEAD))
    widths = timm.create_model(variant, features_only=True).feature_info.channels()
    return ThousandProposals(model), unread_in(variant, model.encoder) + 2 * sum(widths)


def change_detector(variant: str) -> tuple[nn.Module, int]:
    model: Any = build_change_detector(card_of("change", variant, 2, "bit", {}))
    return model, unread_in(variant, model.encoder)


class ThousandProposals(nn.Module):
    """A detector without what depends on the picture, as counters see it: proposals of no place."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, image: Tensor) -> Any:
        self.model.rpn(self.model.levels(image))
        return self.model.roi_head(torch.empty(1000, 49, 256, device=image.device))


def card_of(task: str, backbone: str, classes: int, head: str, head_args: dict[str, Any]) -> Card:
    names = classes_from_names([f"class {i}" for i in range(classes)])
    return Card(task=task, backbone=backbone, head=head, head_args=head_args, classes=names)


def unread_in(variant: str, encoder: nn.Module) -> int:
    """Count what the authors' dense backbone holds and no map depends on."""
    return parameters_of(timm.create_model(variant, num_classes=0)) - parameters_of(encoder)


def parameters_of(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


Uses = tuple[tuple[str, Callable[[str], tuple[nn.Module, int]], int, str, Any], ...]
USES: Uses = (
    ("ImageNet-1K, 224", classifier(1000), 224, "top-1", IMAGENET),
    ("MillionAID, 224", classifier(51), 224, "top-1", MILLIONAID),
    ("DOTA, Oriented R-CNN, 1024", detector, 1024, "mAP", DOTA),
    ("Potsdam, UPerNet, 512", segmenter, 512, "mF1", POTSDAM),
    ("CDD, BIT, 256, a pair", change_detector, 256, "F1", CDD),
)


def tell_deit() -> None:
    """Print what MCTF makes of DeiT."""
    print("\n### MCTF (CVPR 2024, arXiv 2403.10030)\n")
    head("model", "M", "G publ.", "G all", "of plain", "top-1 publ.")
    fusion = optional("lemevit_cli.models.token_fusion")
    for name, (plain, *fused) in DEIT.items():
        before = costs_of(lambda vit: vit, name)
        tell_against(name, before, before, *plain)
        for (label, settings), published in zip(MCTF, fused, strict=True):
            after = fusion and costs_of(
                lambda vit, s=settings: fusion.apply_mctf(vit, fusion.FusionOptions(**s)), name
            )
            tell_against(f"{name}, {label}", after, before, *published)


def tell_ltm() -> None:
    """Print what learned merging makes of a ViT; the released code holds no block to compare."""
    print("\n### LTM-Transformer (arXiv 2407.15219); ours is in its spirit, not its network\n")
    head("model", "M publ.", "M", "G publ.", "G plain", "G merged", "top-1 publ.")
    merging = optional("lemevit_cli.models.token_merging")
    for name, (parameters, before, after, score) in LTM.items():
        plain, merged = costs_of(lambda vit: vit, name), None
        if merging and name.startswith("vit"):
            merged = costs_of(lambda vit: merging.apply_ltm(vit, merging.MergingOptions()), name)
        row(
            name,
            parameters,
            f"{plain.parameters / 1e6:.1f}",
            f"{before} to {after}",
            f"{plain.macs / 1e9:.2f}",
            "not built" if merged is None else f"{merged.macs / 1e9:.2f}",
            score,
        )


def tell_lwganet() -> None:
    """Quote the nearest rival, which timm does not hold."""
    print("\n### LWGANet (AAAI 2026, arXiv 2501.10040): the nearest rival, as published\n")
    head("variant", "M", "G", "NWPU top-1", "images/s, RTX 3090")
    for name, figures in LWGANET.items():
        row(name, *figures)
    print(f"\nL2 with heads: {LWGANET_L2_ELSEWHERE}.")
    found = timm.list_models("*lwga*")
    print(f"In timm {timm.__version__}: {', '.join(found) or 'no'}.")


def costs_of(change: Callable[[Any], nn.Module], name: str) -> Cost:
    """Count a model that something has been done to."""
    return count_all(change(timm.create_model(name).eval()), 256 if "mobile" in name else 224)


def count_all(model: nn.Module, size: int) -> Cost:
    """Count a model on the CPU, whose fused attention torch's counter does not see."""
    with sdpa_kernel(SDPBackend.MATH):
        return count(model, size=size)


def tell_against(
    name: str, cost: Cost | None, plain: Cost, published: float, accuracy: str
) -> None:
    if cost is None:
        row(name, "not built", f"{published:.2f}", "not built", "-", accuracy)
        return
    share = f"{cost.macs / plain.macs:.1%}"
    figures = f"{cost.parameters / 1e6:.2f}", f"{published:.2f}", f"{cost.macs / 1e9:.4f}"
    row(name, *figures, share, accuracy)


def optional(module: str) -> Any:
    """Import a module that may not be there."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError:
        return None


# --- How many meta tokens -----------------------------------------------------------------------


def tell_tokens(options: argparse.Namespace) -> None:
    """Print Table 6 of LeMeViT: parameters, multiply-adds, seconds, and what training came to."""
    print(f"### {LEMEVIT}, Table 6: LeMeViT-Small with 51 classes, 224\n")
    models = {
        m: timm.create_model("lemevit_small", num_classes=51, num_meta_tokens=m).eval()
        for m in META_TOKENS
    }
    seconds = interleaved({str(m): model for m, model in models.items()}, 224, options.repeats)
    head("meta tokens", "M", "G publ.", "G layers", "G all", "ms an image", "top-1 after training")
    for m, model in models.items():
        cost = count_all(model, 224)
        row(
            m,
            f"{cost.parameters / 1e6:.2f}",
            f"{META_TOKENS[m]:.2f}",
            f"{cost.macs_as_reported / 1e9:.3f}",
            f"{cost.macs / 1e9:.3f}",
            f"{1e3 * seconds[str(m)]:.1f}",
            accuracy_after_training(m, options) if options.data else "-",
        )


def accuracy_after_training(meta_tokens: int, options: argparse.Namespace) -> str:
    """Train LeMeViT-Tiny with so many meta tokens; its score on the validation part."""
    from backbones import trained  # beside this file

    from lemevit_cli.training.options import DataOptions, TrainingOptions

    recipe = TrainingOptions(
        backbone="lemevit_tiny",
        backbone_args={"num_meta_tokens": meta_tokens},
        steps=options.steps,
        crop=options.crop,
        precision="bf16",
        threads=1,
        # The average of few steps, as of many: a part of them.
        ema_decay=0.98,
        validate_every=1_000_000,
    )
    data = DataOptions(paths=(options.data,), val_fraction=options.val_fraction)
    model = trained("cls", data, recipe)
    return f"{model.score:.3f} (tiny, {options.steps} steps)"


# --- Throughput ---------------------------------------------------------------------------------


def tell_speed(options: argparse.Namespace) -> None:
    """Print images a second of all models and their ratios to LeMeViT-Small."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    how = "half precision, channels_last" if device == "cuda" else "fp32, one image, one thread"
    print(
        f"### Throughput on {device}, {how}, torch {torch.__version__}, timm {timm.__version__}\n"
    )
    published = ", ".join(f"{name} {value:,.0f}" for name, value in IMAGES_A_SECOND.items())
    print(f"Published (README @1b48783, RTX 4090, 224): {published} images/s.\n")
    for size in options.sizes:
        models = {name: model_of(name, size) for name in (*VARIANTS, *RIVALS)}
        models |= {f"{name}, folded": optimise_for_inference(models[name]) for name in VARIANTS}
        seconds = interleaved(models, size, options.repeats, device=device)
        small = seconds["lemevit_small"]
        head(f"{size} x {size}", "M", "images/s", "lemevit_small : it")
        for name, needed in seconds.items():
            millions = f"{parameters_of(models[name]) / 1e6:.1f}"
            row(name, millions, f"{1 / needed:.3g}", f"{needed / small:.2f}")
        for rival in ("swin_tiny_patch4_window7_224", "pvt_v2_b2"):
            ratio = seconds[rival] / small
            verdict = "shown" if ratio >= 1.7 else "contradicted"
            print(f"\nThe paper's 1.7 times, small against {rival}: {ratio:.2f}, {verdict} here.")
        print(flush=True)


def model_of(name: str, size: int) -> nn.Module:
    further = {"img_size": size} if name.startswith("swin") else any_size(name)
    return timm.create_model(name, **further).eval()


@torch.inference_mode()
def interleaved(
    models: dict[str, nn.Module], size: int, repeats: int, *, device: str = "cpu"
) -> dict[str, float]:
    """Return median seconds an image; each round runs every model once, after one that counts not.

    On a GPU a run is ten batches, and a model is there only while it runs.
    """
    taken: dict[str, list[float]] = {name: [] for name in models}
    for round_ in range(repeats + 1):
        for name, model in models.items():
            run = on_gpu if device == "cuda" else on_cpu
            seconds = run(model, size)
            if round_ > 0:
                taken[name].append(seconds)
    return {name: statistics.median(values) for name, values in taken.items()}


def on_cpu(model: nn.Module, size: int) -> float:
    image = torch.randn(1, 3, size, size)
    started = time.perf_counter()
    model(image)
    return time.perf_counter() - started


def on_gpu(model: nn.Module, size: int, batches: int = 10) -> float:
    batch = max(1, PAPERS_BATCH * 224**2 // size**2)
    there = model.to("cuda", memory_format=torch.channels_last)
    images = torch.randn(batch, 3, size, size, device="cuda")
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cuda", dtype=torch.float16):
        there(images)
        torch.cuda.synchronize()
        started = time.perf_counter()
        for _ in range(batches):
            there(images)
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - started) / batches / batch
    model.to("cpu")
    return seconds


# --- Tables -------------------------------------------------------------------------------------


def head(*columns: object) -> None:
    row(*columns)
    print("|---|" + "---:|" * (len(columns) - 1))


def row(*cells: object) -> None:
    print("| " + " | ".join(str(cell) for cell in cells) + " |", flush=True)


if __name__ == "__main__":
    main()
