"""``lemevit export``: weights as a network that other programs run."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import LemevitError, OutputError, WeightsError
from lemevit_cli.inference.conversions import bands_of
from lemevit_cli.inference.predictor import load_model
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.models.weights import find_weights, open_weights
from lemevit_cli.tasks import TASKS, load_network

_NEEDED = {".onnx": ("onnx", "onnxruntime"), ".xml": ()}
SUFFIXES = tuple(_NEEDED)
_FARTHEST = 1e-3  # that scores may lie from torch's
_ANY_BATCH = 3  # windows to try where any number will do


def export(
    weights: str,
    target: str,
    *,
    window: int | None = None,
    batch: int = 1,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Write a network; it appears once it has answered a random window as torch does.

    Args:
        window: side in pixels; None takes the card's.
        batch: windows of a pass; 0 leaves their number open.

    Returns:
        The record that ``--json`` prints: ``path``, ``input`` (its shape), and the largest
        ``difference`` of scores from torch's.

    Raises:
        OutputError: for a suffix that is none of ``SUFFIXES``, or a target that exists.
        WeightsError: if the network cannot be written, or answers otherwise.
    """
    suffix = Path(target).suffix.lower()
    if suffix not in SUFFIXES:
        raise OutputError(f"{target}: name a file that ends in {' or '.join(SUFFIXES)}")
    check_inputs_kept([target], [str(find_weights(weights))])
    check_replaceable(target, overwrite=overwrite)
    opened = open_weights(weights)
    card, task = opened.card, opened.card.task
    if task not in TASKS or opened.is_converted:
        raise WeightsError(f"{weights}: export takes weights of {', '.join(TASKS)} as trained")
    network = load_network(task)
    model = network.for_inference(load_model(opened, network)).eval()
    side = window or card.window
    shape = (batch, bands_of(network, card), side, side)
    try:
        exchange: Any = import_module("lemevit_cli.models.exchange")
        conversion: Any = import_module("lemevit_cli.models.conversion")
        for needed in _NEEDED[suffix]:
            import_module(needed)
    except ImportError as error:
        raise LemevitError(
            f"export needs {error.name}; install it by `pip install lemevit[onnx,openvino]`"
        ) from error
    with replacing(target, overwrite=overwrite) as file:
        try:
            answer = exchange.FORMATS[suffix](file, model, card, shape, network.answers)
            windows = (batch or _ANY_BATCH, *shape[1:])
            distance = conversion.DISTANCES[network.answers]
            difference = conversion.compare(model, answer, windows, _FARTHEST, distance)
        except Exception as error:  # whatever a library finds that it cannot write or run
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise WeightsError(
                f"{weights} as {suffix}: {first[:300]}; nothing is written"
            ) from error
    return {
        "path": target,
        "input": list(shape),
        "difference": difference,
    }
