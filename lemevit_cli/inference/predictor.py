"""Weights, made ready to answer: found, checked, loaded once for any number of scenes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.inference.network import Network
from lemevit_cli.inference.runtimes.torch import Runtime, TorchRuntime
from lemevit_cli.models.weights import Card, find_weights, load_weights, read_card
from lemevit_cli.settings import DetectionOptions, RuntimeOptions


@dataclass(frozen=True)
class Predictor:
    """A model with its contract.

    Args:
        name: as the user gave it, for reports and tags.
        digest: first 16 hexadecimal digits of the file's SHA-256.
    """

    name: str
    digest: str
    card: Card
    runtime: Runtime
    device: str


def check_weights(
    name_or_file: str | None, task_name: str, *, starter: str | None = None
) -> tuple[str, Path, Card]:
    """Find weights and read their card, in milliseconds.

    Args:
        starter: the weights that are taken when none are named.

    Raises:
        WeightsError: if there are none, or they were trained for another task.
    """
    name = name_or_file or starter
    if name is None:
        raise WeightsError(f"no starter weights for task {task_name}; give some by --weights FILE")
    path = find_weights(name)
    card = read_card(path)
    if card.task != task_name:
        raise WeightsError(
            f"{name}: weights for task {card.task}, asked for {task_name}; give others by --weights"
        )
    return name, path, card


def load_predictor(
    name: str,
    network: Network,
    options: RuntimeOptions,
    detection: DetectionOptions | None = None,
) -> Predictor:
    """Load weights onto a device.

    Args:
        detection: which boxes of a window a detector answers; None leaves that to the network.

    Raises:
        WeightsError: as :func:`check_weights`, or if tensors and card do not fit each other.
        DeviceError: if the machine lacks the device.
    """
    _, path, _ = check_weights(name, network.task)
    state, card = load_weights(path)
    model: Any = network.build_model(card)
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise WeightsError(f"{name}: its tensors do not fit its card ({reason})") from error
    decode = partial(network.decode, options=detection)
    plain = TorchRuntime(network.for_inference(model), decode, options)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    runtime = network.over_symmetries(plain, detection) if options.tta else plain
    return Predictor(name, digest, card, runtime, str(plain.device))
