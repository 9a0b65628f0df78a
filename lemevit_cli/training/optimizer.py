"""The optimizer by its name in timm, with a group of its own for the backbone."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm.optim.muon
import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_info,
    list_optimizers,
    param_groups_weight_decay,
)
from torch import nn
from torch.optim import Optimizer

from lemevit_cli.errors import LemevitError
from lemevit_cli.models.device import choose_device
from lemevit_cli.models.processor import multiplies_bf16
from lemevit_cli.training.options import TrainingOptions

# What suits Muon's matrices, some five times AdamW's usual rate, is much for norms and biases.
_ARGUMENTS: dict[str, dict[str, Any]] = {"muon": {"fallback_lr_scale": 0.2}}
_ORTHOGONALISE = timm.optim.muon.zeropower_via_newtonschulz


def check_optimizer(name: str) -> None:
    """Refuse a name that timm does not know.

    Raises:
        LemevitError: with the names that are worth a try.
    """
    try:
        get_optimizer_info(name.lower().removeprefix("lookahead_"))
    except ValueError as error:
        raise LemevitError(
            f"no optimizer {name!r} in timm; use adamw, muon, lion, lamb, sgd or another of its "
            f"{len(list_optimizers())} (timm.optim.list_optimizers() has them)"
        ) from error


def make_optimizer(
    model: nn.Module, backbone: nn.Module | None, options: TrainingOptions
) -> Optimizer:
    """Make an optimizer of all parameters that require a gradient.

    Muon treats matrices and full convolutions, and falls back to AdamW for all else at a fifth of
    the rate.

    Args:
        backbone: the part of the model whose rate is ``options.backbone_lr`` times the others'.

    Raises:
        LemevitError: if timm has no such optimizer, or it needs what is not there.
    """
    check_optimizer(options.optimizer)
    if choose_device(options.device).type == "cpu" and not multiplies_bf16():
        _orthogonalise_in_fp32()
    groups = parameter_groups(model, backbone, options)
    try:
        return create_optimizer_v2(
            groups,
            opt=options.optimizer,
            lr=options.lr,
            **_moments(options),
            **_ARGUMENTS.get(options.optimizer.lower(), {}),
        )
    except (ImportError, AssertionError, RuntimeError, TypeError, ValueError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LemevitError(
            f"optimizer {options.optimizer!r} cannot be used here ({reason}); use adamw or muon"
        ) from error


def _orthogonalise_in_fp32() -> None:
    """Let timm's Muon multiply in fp32, for which it takes no argument.

    Where bf16 is emulated, a step would take ten times as long.
    """
    muon: Any = timm.optim.muon
    muon.zeropower_via_newtonschulz = partial(_ORTHOGONALISE, dtype=torch.float32)


def _moments(options: TrainingOptions) -> dict[str, Any]:
    """Return how gradients are averaged, where the options say it."""
    moments = {"betas": options.betas, "eps": options.eps}
    return {name: value for name, value in moments.items() if value is not None}


def parameter_groups(
    model: nn.Module, backbone: nn.Module | None, options: TrainingOptions
) -> list[dict[str, Any]]:
    """Divide timm's groups by ``part``: ``backbone`` with a rate of its own, and ``head``.

    Biases and what has one dimension (norms, scales) do not decay; all else does, LeMeViT's meta
    tokens too. Meta tokens and depthwise kernels are no matrices that Muon could make orthogonal.
    """
    of_backbone = {id(p) for p in backbone.parameters()} if backbone is not None else set()
    no_matrices = {id(p) for name, p in model.named_parameters() if not _is_matrix(name, p)}
    groups = []
    for group in param_groups_weight_decay(model, weight_decay=options.weight_decay):
        for part, scale in (("head", 1.0), ("backbone", options.backbone_lr)):
            own = [p for p in group["params"] if (id(p) in of_backbone) == (part == "backbone")]
            for use_fallback in (False, True):
                chosen = [p for p in own if (id(p) in no_matrices) == use_fallback]
                if chosen:
                    changes = {"part": part, "lr_scale": scale, "use_fallback": use_fallback}
                    groups.append({**group, "params": chosen, **changes})
    return groups


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    is_depthwise = parameter.ndim == 4 and parameter.shape[1] == 1
    return parameter.ndim >= 2 and not is_depthwise and "meta_token" not in name
