"""Networks in OpenVINO's form, with their card: one safetensors file, like weights.

Two byte arrays stand where weights have their tensors: the graph (XML) and its constants. So a
quantized network is opened, checked and described as any weights are, without torch.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.weights import CARD_KEY, CONVERTED_KEY, Card

_GRAPH, _CONSTANTS = "openvino.xml", "openvino.bin"


@dataclass(frozen=True)
class Converted:
    """A network that OpenVINO compiles.

    Args:
        size: height and width of the windows that it takes, one a pass.
        arithmetic: ``int8`` where it was quantized; None leaves it to the run.
        digest: of graph and constants.
    """

    graph: bytes = field(repr=False)
    constants: NDArray[np.uint8] = field(repr=False)
    size: tuple[int, int]
    arithmetic: str | None = None

    @cached_property
    def digest(self) -> str:
        """Return 16 hexadecimal digits of what is computed."""
        found = hashlib.sha256(self.graph)
        found.update(self.constants.data)
        return found.hexdigest()[:16]


@cache
def core() -> Any:
    """Return the only core of OpenVINO that this process makes; it ends with the process.

    Each has signals handled on a stack of its own, and gives back the one before when it ends. Of
    two that end in the order in which they began that is one which is gone: the next signal, Ctrl-C
    or the end of a child, is a segmentation fault.
    """
    return import_module("openvino").Core()


def save_converted(path: str | os.PathLike[str], network: Converted, card: Card) -> None:
    """Write a network with its card, whole or not at all.

    Raises:
        OSError: if it cannot be written.
    """
    facts = {
        "size": network.size,
        "arithmetic": network.arithmetic,
        "digest": network.digest,
    }
    metadata = {CARD_KEY: card.to_json(), CONVERTED_KEY: json.dumps(facts)}
    arrays = {
        _GRAPH: np.frombuffer(network.graph, np.uint8),
        _CONSTANTS: network.constants,
    }
    with written_whole(Path(path)) as temporary:
        temporary.write_bytes(save(arrays, metadata=metadata))


def converted_in(content: bytes, name: str) -> Converted:
    """Read the network of a file's bytes.

    Raises:
        WeightsError: if it is broken.
    """
    try:
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        facts, arrays = json.loads(header["__metadata__"][CONVERTED_KEY]), load(content)
        height, width = facts["size"]
        network = Converted(
            arrays[_GRAPH].tobytes(), arrays[_CONSTANTS], (height, width), facts["arithmetic"]
        )
        is_whole = network.digest == facts["digest"]
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise WeightsError(f"{name}: a converted network that cannot be read ({error})") from error
    if not is_whole:
        raise WeightsError(f"{name}: a converted network whose bytes have changed; make it anew")
    return network
