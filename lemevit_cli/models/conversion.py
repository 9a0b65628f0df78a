"""From a module of torch to a graph that OpenVINO compiles.

The module is traced on a window of zeros, and the trace is read by OpenVINO's own front end. Of the
ways there are (trace, ``torch.export``, ONNX) this is the one that reads a detector, whose number
of operations ``torch.export`` needs many minutes for; of a segmenter all give the same speed.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import openvino
import torch
from openvino import Model, serialize
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import nn

from lemevit_cli.models.converted import Converted

CANDIDATES = 3  # dimensions of a detector's answer, ``(B, N, 5 + classes)``
BOX = 5


def convert(model: nn.Module, bands: int, size: tuple[int, int]) -> Converted:
    """Convert a module that takes pixels ``(1, bands, H, W)`` and answers one tensor.

    Raises:
        RuntimeError: if there is an operation that cannot be converted.
    """
    return packed(graph_of(model, bands, size), size)


def graph_of(model: nn.Module, bands: int, size: tuple[int, int]) -> Model:
    """Return OpenVINO's graph of a module, of float32 pixels of one fixed shape.

    Raises:
        RuntimeError: if there is an operation that cannot be converted.
    """
    example = torch.zeros(1, bands, *size)
    # Not by openvino.convert_model, which sends its maker what was converted.
    front_end = FrontEndManager().load_by_framework("pytorch")
    with torch.inference_mode(), warnings.catch_warnings():
        # Of branches that the trace does not follow: the shape is fixed, and so are they.
        warnings.simplefilter("ignore")
        decoder = TorchScriptPythonDecoder(model.eval(), example_input=(example,))
        graph = front_end.convert(front_end.load(decoder))
    graph.reshape([1, bands, *size])
    return graph


def packed(graph: Model, size: tuple[int, int], arithmetic: str | None = None) -> Converted:
    """Return a graph as bytes."""
    with tempfile.TemporaryDirectory(prefix="lemevit-") as folder:
        file = Path(folder) / "graph.xml"
        serialize(graph, file)
        constants = np.fromfile(file.with_suffix(".bin"), np.uint8)
        return Converted(file.read_bytes(), constants, size, arithmetic)


def check_answers(model: nn.Module, network: Converted, bands: int, *, farthest: float) -> None:
    """Compare both on a random window.

    Rows of candidates may change places where scores are nearly equal: scores are compared in their
    order.

    Raises:
        RuntimeError: with the largest difference.
    """
    values = torch.rand(1, bands, *network.size, generator=torch.Generator().manual_seed(0))
    pixels = (values * 255).round()
    with torch.inference_mode():
        expected = model(pixels).numpy()
    core = openvino.Core()
    graph = core.read_model(network.graph, openvino.Tensor(network.constants))
    compiled = core.compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled(pixels.numpy())[0]
    if expected.shape != found.shape:
        raise RuntimeError(f"answers of shape {found.shape}, torch's are {expected.shape}")
    if expected.ndim == CANDIDATES:
        expected, found = (np.sort(a[..., BOX:], axis=None) for a in (expected, found))
    difference = float(np.abs(expected - found).max())
    if not difference <= farthest:  # NaN is not
        raise RuntimeError(f"scores differ by {difference:.3g} from torch's")
