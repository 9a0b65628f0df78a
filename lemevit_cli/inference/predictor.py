"""Weights, made ready to answer: found, checked, loaded once for any number of scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.inference.network import Network
from lemevit_cli.inference.runtime import Answer, Runtime
from lemevit_cli.models.variants import check_fusion
from lemevit_cli.models.weights import Card, Weights, open_weights
from lemevit_cli.settings import RuntimeOptions

if TYPE_CHECKING:
    from torch import nn

_TORCH = "lemevit_cli.inference.runtimes.torch"

# How weights of a task are used: for those who took them for another's.
COMMAND_OF = {
    "seg": "lemevit predict",
    "det": "lemevit detect",
    "change": "lemevit change",
    "cls": "lemevit predict --task cls",
}


@dataclass(frozen=True)
class Predictor:
    """A model with its contract.

    Args:
        name: as the user gave it, for reports and tags.
        digest: first 16 hexadecimal digits of the file's SHA-256.
        runtime: answers windows.
        device, arithmetic, version, threads: of the runtime, as it calls them.
        fuse_tokens: what is fused, as tags tell it.
    """

    name: str
    digest: str
    card: Card
    runtime: Answer
    device: str
    fuse_tokens: str = "0"
    arithmetic: str = "float32"
    version: str = "unknown"
    threads: int = 1


def open_weights_for(task: str, name_or_file: str | None) -> Weights:
    """Open weights, and refuse those of another task; it takes milliseconds.

    Raises:
        WeightsError: if there are none, or they were trained for another task.
    """
    if name_or_file is None:
        raise WeightsError(f"no starter weights for task {task}; give some by --weights FILE")
    weights = open_weights(name_or_file)
    if weights.card.task != task:
        raise WeightsError(
            f"{weights.name}: weights for task {weights.card.task}, asked for {task}; "
            f"{_advice(weights.card.task)}give others by --weights"
        )
    return weights


def _advice(task: str) -> str:
    """Name the command that takes weights of a task, if one does."""
    command = COMMAND_OF.get(task)
    return f"{command} takes these, or " if command else ""


def load_model(weights: Weights, network: Network) -> nn.Module:
    """Build the network of a card and load its tensors.

    Raises:
        WeightsError: if tensors and card do not fit each other.
    """
    model = network.build_model(weights.card)
    try:
        model.load_state_dict(weights.state())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{weights.name}: its tensors do not fit its card ({reason})") from error
    return model


def load_predictor(
    weights: Weights, network: Network, options: RuntimeOptions, **decided: Any
) -> Predictor:
    """Load weights onto a device.

    Args:
        decided: fields of the options that another process has decided, and that replace theirs.

    Raises:
        WeightsError: if tensors and card do not fit each other, or tokens cannot be fused.
        DeviceError: if the machine lacks the device.
    """
    card, options = weights.card, replace(options, **decided)
    check_fusion(card.backbone, card.backbone_args, options.fuse_tokens)
    model = load_model(weights, network)
    fused = _fuse(model, card, options)
    make = import_module(_TORCH).TorchRuntime
    plain: Runtime = make(network.for_inference(model), network.decode, options)
    runtime = network.over_symmetries(plain) if options.tta else plain
    return Predictor(
        weights.name,
        weights.digest,
        card,
        runtime,
        plain.device,
        fused,
        plain.arithmetic,
        plain.version,
        plain.threads,
    )


def check_runtime(options: RuntimeOptions) -> None:
    """Refuse options that no model could be run with on this machine, before one is loaded.

    Raises:
        DeviceError: naming the device or the precision.
    """
    import_module(_TORCH).check_options(options)


def _fuse(model: nn.Module, card: Card, options: RuntimeOptions) -> str:
    """Let a network fuse what is asked for, and tell in a word what it fuses."""
    trained, blocks = card.backbone_args.get("fuse_tokens", "0"), options.fuse_blocks
    if options.fuse_tokens:
        fusion = import_module("lemevit_cli.models.lemevit_fusion")  # most runs fuse nothing
        return str(fusion.fuse_tokens(model, options.fuse_tokens, card.fuse_threshold))
    if blocks is None or (blocks == "r=0" and trained == "0"):
        return str(trained)
    fusion = import_module("lemevit_cli.models.token_fusion")
    fusion.apply_mctf(getattr(model, "encoder", model), fusion.parse_fusion(blocks))
    return "0" if blocks == "r=0" else blocks
