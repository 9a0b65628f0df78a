"""From a module of torch to a graph that OpenVINO compiles.

The module is traced on a window of zeros, and the trace is read by OpenVINO's own front end. What
``torch.export`` gives is as fast, and takes as long to convert.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import Model, serialize
from openvino._offline_transformations import apply_moc_transformations
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import nn

from lemevit_cli.models.converted import Converted

Floats = NDArray[np.float32]


def convert(model: nn.Module, bands: int, size: tuple[int, int]) -> Converted:
    """Convert a module that takes pixels ``(1, bands, H, W)`` and answers one tensor.

    Raises:
        RuntimeError: if there is an operation that cannot be converted.
    """
    return packed(graph_of(model, bands, size), size)


def graph_of(model: nn.Module, bands: int, size: tuple[int, int], batch: int = 1) -> Model:
    """Return OpenVINO's graph of a module, of float32 pixels.

    Args:
        batch: windows of a pass; 0 leaves their number open.

    Raises:
        RuntimeError: if there is an operation that cannot be converted.
    """
    example = torch.zeros(batch or 2, bands, *size)
    # Not by openvino.convert_model, which sends its maker what was converted.
    front_end = FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode(), warnings.catch_warnings():
        # Of branches that the trace does not follow: the shape is fixed, and so are they.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(model.eval(), example_input=(example,))
        graph = front_end.convert(front_end.load(decoder))
    graph.reshape([batch or -1, bands, *size])
    # As convert_model does: constants are folded once, not in each run.
    apply_moc_transformations(graph, cf=True)
    return graph


def packed(graph: Model, size: tuple[int, int], arithmetic: str | None = None) -> Converted:
    """Return a graph as bytes."""
    with tempfile.TemporaryDirectory(prefix="lemevit-") as folder:
        file = Path(folder) / "graph.xml"
        serialize(graph, file)
        constants = np.fromfile(file.with_suffix(".bin"), np.uint8)
        return Converted(file.read_bytes(), constants, size, arithmetic)


def check_answers(model: nn.Module, network: Converted, bands: int, *, farthest: float) -> None:
    """Compare a module and what was converted of it on a random window.

    Raises:
        RuntimeError: with the largest difference.
    """
    core = openvino.Core()
    graph = core.read_model(network.graph, openvino.Tensor(network.constants))
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    compare(model, lambda pixels: compiled(pixels)[0], (1, bands, *network.size), farthest)


def compare(
    model: nn.Module, other: Callable[[Floats], Floats], shape: tuple[int, ...], farthest: float
) -> float:
    """Return the largest difference of two networks' scores on random windows of a shape.

    Raises:
        RuntimeError: if it is larger than the farthest that is allowed, or the shapes differ.
    """
    values = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    pixels = (values * 255).round()
    with torch.inference_mode():
        expected = model(pixels).numpy()
    found = other(pixels.numpy())
    if expected.shape != found.shape:
        raise RuntimeError(f"its answers are of shape {found.shape}, torch's of {expected.shape}")
    difference = float(np.abs(expected - found).max())
    if not difference <= farthest:  # NaN is not
        raise RuntimeError(f"its scores differ by {difference:.3g} from torch's")
    return difference
