"""Parameters and multiply-adds of a timm model, counted on the meta device: no weight is made.

Papers, LeMeViT's among them, report what common counters see: convolutions and linear layers. The
two products of attention are missing there, and grow with the square of the image's area in
self-attention. Both figures are given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Any

import timm
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError

_LAYERS = (torch.ops.aten.convolution, torch.ops.aten.addmm, torch.ops.aten.mm)


@dataclass(frozen=True)
class Cost:
    """Cost of one image.

    Args:
        parameters: learnable numbers.
        macs_as_reported: multiply-adds of convolutions and linear layers.
        macs: multiply-adds of these and of attention's matrix products.
    """

    parameters: int
    macs_as_reported: int
    macs: int


def cost_of(name: str, *, size: int, num_classes: int = 1000) -> dict[str, dict[str, int]]:
    """Count a timm model's cost as a ``classifier`` and as a ``dense_backbone`` (if it can be one).

    Args:
        size: side of the square input, pixels.

    Raises:
        WeightsError: if the model does not take images of that size.
    """
    try:
        costs = {"classifier": count(_on_meta(name, num_classes=num_classes), size=size)}
    except (AssertionError, RuntimeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{name} does not run on {size} x {size} pixels: {reason}") from error
    # Some of timm's models have no maps to give; they are classifiers all the same.
    with suppress(AssertionError, AttributeError, RuntimeError, ValueError):
        costs["dense_backbone"] = count(_on_meta(name, features_only=True), size=size)
    return {use: asdict(cost) for use, cost in costs.items()}


def count(model: nn.Module, *, size: int) -> Cost:
    """Run one empty image through ``model`` on its device and count; it stays as it was."""
    parameter = next(model.parameters())
    parameters = sum(p.numel() for p in model.parameters())
    bands = getattr(model, "in_chans", 3)
    image = torch.empty(1, bands, size, size, device=parameter.device, dtype=parameter.dtype)
    with _frozen_in_evaluation(model), FlopCounterMode(display=False) as counter:
        model(image)
    flops: Mapping[Any, int] = counter.get_flop_counts()["Global"]
    layers = sum(flops.get(operation, 0) for operation in _LAYERS)
    return Cost(parameters, layers // 2, sum(flops.values()) // 2)


@contextmanager
def _frozen_in_evaluation(model: nn.Module) -> Iterator[None]:
    """Freeze a model in evaluation mode, and bring all its parts back to what they were."""
    modes = {module: module.training for module in model.modules()}
    trainable = {parameter: parameter.requires_grad for parameter in model.parameters()}
    # Not by ``no_grad``: views of trainable parameters stay trainable there, without a graph, and
    # torch's counter fails on them.
    model.eval().requires_grad_(False)
    try:
        yield
    finally:
        # Not by ``train``, which would carry a part's mode to all that is inside it.
        for module, mode in modes.items():
            module.training = mode
        for parameter, is_trainable in trainable.items():
            parameter.requires_grad_(is_trainable)


def _on_meta(name: str, **arguments: Any) -> nn.Module:
    with torch.device("meta"):
        return timm.create_model(name, **arguments)
