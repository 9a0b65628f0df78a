"""The authors' LeMeViT checkpoints: which variant one holds, and loading it under our names.

Source: the key lists of ViTAE-Transformer/LeMeViT @1b48783 (tests/fixtures/state_dict_keys_*.json).
The mappings come from ``weights.load_checkpoint``; nothing is unpickled here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.lemevit import STAGE_KINDS, LeMeViT
from lemevit_cli.models.variants import VARIANTS

_LONGEST_SIDE = 65_536  # of what a checkpoint may choose: classes, bands, meta tokens
_LAYOUTS = ("state_dict_ema", "state_dict", "model")  # of files; the first that there is
_OFFICIAL_TO_OURS = (
    (r"^downsample_layers\.(\d)\.", r"stages.\1.downsample."),
    (r"^meta_token_downsample\.(\d)\.", r"stages.\1.meta_mlp."),
    (r"^stages\.(\d)\.(\d+)\.", r"stages.\1.blocks.\2."),
    (r"\.pos_embed\.", ".cpe."),
    (r"\.mlp\.0\.", ".mlp.fc1."),
    (r"\.mlp\.3\.", ".mlp.fc2."),
    (r"\.qkv1\.", ".qkv_x."),
    (r"\.qkv2\.", ".qkv_meta."),
    (r"\.proj_c\.", ".proj_meta."),
    (r"^norm_c\.", "norm_meta."),
)

_OFFICIAL_BIT_TO_OURS = (
    (r"^pos_embedding$", "position"),
    (r"^conv_pred\.", "project."),
    (r"^conv_a\.", "tokenize."),
    (r"^classifier\.3\.", "classify."),
    (r"^classifier\.", "refine."),
    (r"^transformer\.layers\.", "encoder."),
    (r"^transformer_decoder\.layers\.", "decoder."),
    (r"\.0\.fn\.norm\.", ".norm1."),
    (r"\.1\.fn\.norm\.", ".norm2."),
    (r"\.0\.fn\.fn\.to_out\.0\.", ".attn.proj."),
    (r"\.0\.fn\.fn\.to_(q|k|v|qkv)\.", r".attn.\1."),
    (r"\.1\.fn\.fn\.net\.0\.", ".mlp.0."),
    (r"\.1\.fn\.fn\.net\.3\.", ".mlp.2."),
)


def our_key(official: str) -> str:
    """Return the name in this file of a tensor of the authors' state dict."""
    return _rename_key(official, _OFFICIAL_TO_OURS)


def bit_head_state(official: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the tensors of the authors' change head to those of ``BitHead`` in ``bit.py``."""
    state = {_rename_key(key, _OFFICIAL_BIT_TO_OURS): tensor for key, tensor in official.items()}
    for key in [key for key in state if key.endswith(".qkv.weight")]:
        # The layers that tokens read each other in have one matrix for all three.
        for part, tensor in zip("qkv", state.pop(key).chunk(3), strict=True):
            state[key.replace(".qkv.", f".{part}.")] = tensor
    return state


def _rename_key(key: str, patterns: Iterable[tuple[str, str]]) -> str:
    for pattern, replacement in patterns:
        key = re.sub(pattern, replacement, key)
    return key


def identify_official(checkpoint: Mapping[str, Any]) -> tuple[str, dict[str, int]]:
    """Tell which variant a checkpoint of the authors holds.

    Returns:
        timm name, and the arguments in which it may differ from that variant's defaults.

    Raises:
        WeightsError: if it is none of the three.
    """
    state = _official_state(checkpoint)
    depths: dict[int, int] = {}
    dims: dict[int, int] = {}
    for key in state:
        if match := re.match(r"stages\.(\d)\.blocks\.(\d+)\.norm1\.weight$", key):
            stage, block = int(match[1]), int(match[2])
            depths[stage] = max(depths.get(stage, 0), block + 1)
            dims[stage] = _side(state, key)
    shape = tuple((dims[i], depths[i]) for i in sorted(dims))
    for name, args in VARIANTS.items():
        if shape == tuple(zip(args["embed_dims"], args["depths"], strict=True)):
            return name, {
                "num_classes": _side(state, "head.bias") if "head.bias" in state else 0,
                "in_chans": _side(state, "stages.0.downsample.0.weight", 1),
                "num_meta_tokens": _side(state, "meta_tokens"),
            }
    blocks = ", ".join(f"{dim}x{depth}" for dim, depth in shape) or "no block at all"
    raise WeightsError(
        f"this checkpoint has blocks (width x number) {blocks}; it is none of {', '.join(VARIANTS)}"
    )


def _side(state: Mapping[str, Tensor], key: str, axis: int = 0) -> int:
    """Return a side of a tensor of the authors' that a network is built by: not a billion."""
    shape = tuple(state[key].shape) if key in state else ()
    if len(shape) <= axis or not 0 < shape[axis] <= _LONGEST_SIDE:
        found = f"of shape {shape}" if key in state else "missing"
        raise WeightsError(f"this checkpoint is none of the authors': its {key} is {found}")
    return int(shape[axis])


def load_official_state_dict(model: nn.Module, checkpoint: Mapping[str, Any]) -> list[str]:
    """Load a checkpoint of the authors, as ``weights.load_checkpoint`` returned it.

    Averaged weights (``state_dict_ema``) are preferred. See :func:`load_backbone` for the rest.
    """
    return load_backbone(model, _official_state(checkpoint))


def load_backbone(model: nn.Module, state: Mapping[str, Tensor]) -> list[str]:
    """Load a classifier's tensors, under our names, into a classifier or a dense backbone.

    Args:
        model: a :class:`LeMeViT`, or what timm made of it with ``features_only``.

    Returns:
        Names of tensors left out, as this model has no part that uses them: in a dense backbone
        those that no map depends on; the head where ``num_classes`` is 0.

    Raises:
        WeightsError: naming the first tensors that are missing, unknown, or of another shape.
    """
    backbone = next(m for m in model.modules() if isinstance(m, LeMeViT))
    expected = backbone.state_dict()
    left_out = [key for key in state if _is_dropped(backbone, key)]
    reshaped = [
        f"{key} {tuple(state[key].shape)} for {tuple(tensor.shape)}"
        for key, tensor in expected.items()
        if key in state and state[key].shape != tensor.shape
    ]
    _refuse("lack", [key for key in expected if key not in state])
    _refuse("have unknown", [key for key in state if key not in expected and key not in left_out])
    _refuse("have other shapes:", reshaped)
    backbone.load_state_dict({key: state[key] for key in expected})
    return left_out


def _is_dropped(backbone: LeMeViT, key: str) -> bool:
    """Say whether ``features_only`` or ``num_classes=0`` took away the part of a tensor."""
    if match := re.match(r"stages\.(\d)\.", key):
        stage = int(match[1])
        if len(backbone.stages) <= stage < len(STAGE_KINDS):
            return True
    module: nn.Module | None = backbone
    for name in key.split(".")[:-1]:
        module = getattr(module, name, None)
        if isinstance(module, nn.Identity):
            return True
    return False


def _official_state(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the backbone's tensors under our names, from any layout that the authors write."""
    state = _tensors_of(checkpoint)
    if any(key.startswith("backbone.") for key in state):
        # A dense network: its decoder's tensors stand beside the backbone's.
        state = {k[len("backbone.") :]: v for k, v in state.items() if k.startswith("backbone.")}
    # As in the original's detector: norms that are never applied.
    state = {key: value for key, value in state.items() if not key.startswith("extra_norms.")}
    return {our_key(key): value for key, value in state.items()}


def tensors_left_out(checkpoint: Mapping[str, Any]) -> int:
    """Count tensors of a checkpoint that belong to no backbone, such as those of a decoder."""
    return len(_tensors_of(checkpoint)) - len(_official_state(checkpoint))


def _tensors_of(checkpoint: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of the first layout that a checkpoint has, by the authors' names."""
    states = (checkpoint.get(name) for name in _LAYOUTS)
    found = next((state for state in states if isinstance(state, Mapping) and state), checkpoint)
    return {
        str(key).removeprefix("module."): value
        for key, value in found.items()
        if isinstance(value, Tensor) and _holds_values(value)
    }


def _holds_values(tensor: Tensor) -> bool:
    # A pickle of plain tensors may hold sparse, quantised and empty ones, too.
    return tensor.layout == torch.strided and not tensor.is_meta and not tensor.is_quantized


def _refuse(what: str, keys: list[str]) -> None:
    if keys:
        more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
        raise WeightsError(
            f"the weights {what} {', '.join(keys[:3])}{more}; this model's variant and number of "
            "classes must be the checkpoint's"
        )
