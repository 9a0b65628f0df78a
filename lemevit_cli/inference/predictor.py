"""Weights, made ready to answer: found, checked, loaded once for any number of scenes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.inference.conversions import (
    UnfitError,
    chosen_runtime,
    networks_of,
)
from lemevit_cli.inference.network import Network
from lemevit_cli.inference.runtime import Answer, Runtime
from lemevit_cli.models.variants import check_fusion, is_of_usual_size
from lemevit_cli.models.weights import Card, Weights, open_weights
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import RuntimeOptions

if TYPE_CHECKING:
    from torch import nn

_TORCH = "lemevit_cli.inference.runtimes.torch"
_OPENVINO = "lemevit_cli.inference.runtimes.openvino"

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
        fallback: why torch answers where OpenVINO was to; None if nothing stood in its way.
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
    fallback: str | None = None

    def figures(self) -> dict[str, Any]:
        """Return what computed, and how, for the record of a result."""
        return {
            "device": self.device,
            "runtime": self.version,
            "arithmetic": self.arithmetic,
            "fallback": self.fallback,
            "fuse_tokens": self.fuse_tokens,
        }


def open_weights_for(task: str, name_or_file: str) -> Weights:
    """Open weights, and refuse those of another task; it takes milliseconds.

    Raises:
        WeightsError: if they were trained for another task.
    """
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
    if not is_of_usual_size(weights.card):
        _check_sizes(weights, network)
    model = network.build_model(weights.card)
    try:
        model.load_state_dict(weights.state())
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{weights.name}: its tensors do not fit its card ({reason})") from error
    return model


def _check_sizes(weights: Weights, network: Network) -> None:
    """Refuse a card whose network is larger than its tensors, before memory is taken for it."""
    torch = import_module("torch")
    with torch.device("meta"):
        expected = network.build_model(weights.card).state_dict()
    given = weights.shapes()
    for key, tensor in expected.items():
        if given.get(key) != tuple(tensor.shape):
            raise WeightsError(
                f"{weights.name}: its tensors do not fit its card ({key} is "
                f"{given.get(key, 'not there')}, the card builds {tuple(tensor.shape)})"
            )


def load_predictor(
    weights: Weights,
    network: Network,
    options: RuntimeOptions,
    *,
    window: int | None = None,
    progress: Progress | None = None,
    **decided: Any,
) -> Predictor:
    """Load weights into a runtime.

    Args:
        window: side of the windows to come; None takes the card's.
        progress: told what takes seconds.
        decided: fields of the options that another process has decided, and that replace theirs.

    Raises:
        WeightsError: if tensors and card do not fit each other, tokens cannot be fused, or a
            network is to run where it cannot.
        DeviceError: if the machine lacks the device.
    """
    card, options = weights.card, replace(options, **decided)
    if options.precision == "auto":
        options = replace(options, precision=network.auto_precision)
    check_fusion(card.backbone, card.backbone_args, options.fuse_tokens)
    fused, fallback = str(card.backbone_args.get("fuse_tokens", "0")), None
    plain: Runtime | None = None
    if chosen_runtime(weights, options) == "openvino":
        try:
            plain = _openvino_runtime(
                weights, network, options, window or card.window, progress or Silent()
            )
        except UnfitError as unfit:
            if options.runtime == "openvino":
                raise
            fallback = str(unfit)
    if plain is None:
        plain, fused = _torch_runtime(weights, network, options, progress or Silent())
    return Predictor(
        weights.name,
        weights.digest,
        card,
        network.over_symmetries(plain) if options.tta else plain,
        plain.device,
        fused,
        plain.arithmetic,
        plain.version,
        plain.threads,
        fallback,
    )


def check_runtime(weights: Weights, options: RuntimeOptions) -> None:
    """Refuse options that no model could be run with on this machine, before one is loaded.

    Raises:
        DeviceError: naming the device, the precision or the runtime.
        WeightsError: if the weights are for another runtime.
    """
    if chosen_runtime(weights, options) == "openvino":
        import_module(_OPENVINO).choose_arithmetic(options.precision)
    else:
        import_module(_TORCH).check_options(options)


def _torch_runtime(
    weights: Weights, network: Network, options: RuntimeOptions, progress: Progress
) -> tuple[Runtime, str]:
    """Return a runtime of torch, and what it fuses."""
    model = load_model(weights, network)
    fused = _fuse(model, weights.card, options)
    make = import_module(_TORCH).TorchRuntime
    runtime: Runtime = make(network.for_inference(model), network.decode, options, progress)
    return runtime, fused


def _openvino_runtime(
    weights: Weights,
    network: Network,
    options: RuntimeOptions,
    window: int,
    progress: Progress,
) -> Runtime:
    """Return a runtime of OpenVINO; what it is converted from is loaded if none is kept.

    Raises:
        UnfitError: if it cannot run this network.
    """
    networks = networks_of(
        weights,
        network,
        lambda: network.for_inference(load_model(weights, network)),
        options,
        progress,
    )
    is_quantized = networks((window, window)).arithmetic == "int8"
    make = import_module(_OPENVINO).OpenVINORuntime
    runtime: Runtime = make(networks, network.decode, options, quantized=is_quantized)
    return runtime


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
