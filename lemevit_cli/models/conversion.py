"""From a module of torch to a graph that OpenVINO compiles.

The module is traced on a window of zeros, and the trace is read by OpenVINO's own front end. What
``torch.export`` gives is as fast, and takes as long to convert.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import Model, serialize
from openvino._offline_transformations import apply_moc_transformations
from openvino.frontend import FrontEndManager
from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder
from torch import nn

from lemevit_cli.atomic import temporary_folder
from lemevit_cli.models.converted import Converted, core

Floats = NDArray[np.float32]
Distance = Callable[[Floats, Floats], float]

_BEST = 100  # candidates of a window that are compared
_BOX = 4  # numbers of a box that do not jump: the angle of a square does
_SCORES = 5  # a candidate's first
_PIXELS_A_SCORE = 500.0  # half a pixel is as far as 0.001 of a score
_ALIKE = 0.9  # of the best candidates: suppression may take the other one of two as good


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
    # A trace that meets the first use of torchvision cannot load it.
    import_module("torchvision.ops")
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
    with temporary_folder() as folder:
        file = folder / "graph.xml"
        serialize(graph, file)
        constants = np.fromfile(file.with_suffix(".bin"), np.uint8)
        return Converted(file.read_bytes(), constants, size, arithmetic)


def check_answers(
    model: nn.Module,
    network: Converted,
    bands: int,
    *,
    farthest: float,
    distance: Distance,
) -> None:
    """Compare a module and what was converted of it on a random window, on one stream of two.

    Args:
        distance: of two answers, see :func:`compare`.

    Raises:
        RuntimeError: with the largest difference.
    """
    graph = core().read_model(network.graph, openvino.Tensor(network.constants))
    # More streams than one share what they compute of constants, as those of a run do.
    configuration = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": 2}
    compiled = core().compile_model(graph, "CPU", {**configuration, "INFERENCE_NUM_THREADS": 2})
    shape = (1, bands, *network.size)
    compare(model, lambda pixels: compiled(pixels)[0], shape, farthest, distance)


def compare(
    model: nn.Module,
    other: Callable[[Floats], Floats],
    shape: tuple[int, ...],
    farthest: float,
    distance: Distance,
) -> float:
    """Return the largest difference of two networks' answers on random windows of a shape.

    Args:
        distance: of torch's answer and the other, one of ``DISTANCES``.

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
    difference = distance(expected, found)
    if not difference <= farthest:  # NaN is not
        raise RuntimeError(f"its scores differ by {difference:.3g} from torch's")
    return difference


def of_scores(expected: Floats, found: Floats) -> float:
    """Return the largest difference of any two scores of the same place."""
    return float(np.abs(expected - found).max())


def of_candidates(expected: Floats, found: Floats) -> float:
    """Return how far the best candidates of a detector lie from their likes among others.

    Order says nothing: candidates of nearly the same score may change places. The farthest tenth is
    left out, for of two boxes that nearly cover each other suppression may take either.

    Args:
        expected: ``(B, N, 5 + classes)``, the box of each first.
    """
    farthest = [_of_window(*pair) for pair in zip(expected, found, strict=True)]
    return max(farthest)


def _of_window(expected: Floats, found: Floats) -> float:
    best = np.argsort(-expected[:, _SCORES:].max(axis=1), kind="stable")[:_BEST]
    numbers = (_compared(expected[best])[:, None], _compared(found)[None])
    nearest = np.abs(numbers[0] - numbers[1]).max(axis=2).min(axis=1)
    return float(np.quantile(nearest, _ALIKE))


def _compared(candidates: Floats) -> Floats:
    boxes, scores = candidates[:, :_BOX] / _PIXELS_A_SCORE, candidates[:, _SCORES:]
    return np.concatenate([boxes, scores], axis=1)


# By what a network answers.
DISTANCES: dict[str, Distance] = {"scores": of_scores, "candidates": of_candidates}
