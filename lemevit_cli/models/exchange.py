"""Networks written for other programs: ONNX, and OpenVINO's pair of files.

Both take ``pixels``, float32 ``(N, bands, H, W)`` in the values of the card, and answer ``scores``,
or ``candidates`` of a detector; normalisation is inside, the card in the metadata.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import openvino
import torch
from torch import nn

from lemevit_cli.models.conversion import Floats, graph_of
from lemevit_cli.models.converted import core
from lemevit_cli.models.weights import CARD_KEY, Card

_OPSET = 17
_INPUT = "pixels"
Shape = tuple[int, int, int, int]  # of a batch; 0 windows stand for any number
Answer = Callable[[Floats], Floats]


def write_onnx(file: Path, model: nn.Module, card: Card, shape: Shape, output: str) -> Answer:
    """Write a module as ONNX; return what onnxruntime makes of the file."""
    import onnx
    import onnxruntime

    # A trace that meets the first use of torchvision, by detectors, cannot load it.
    import_module("torchvision.ops")
    batch, *window = shape
    axes = None if batch else {_INPUT: {0: "batch"}, output: {0: "batch"}}
    with torch.inference_mode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.register_custom_op_symbolic("aten::sort", _stable_sort, _OPSET)
        torch.onnx.export(
            model,
            (torch.zeros(batch or 2, *window),),
            file,
            input_names=[_INPUT],
            output_names=[output],
            dynamic_axes=axes,
            opset_version=_OPSET,
            dynamo=False,  # the trace, which OpenVINO reads as well; the other needs onnxscript
        )
    written = onnx.load(file)
    onnx.helper.set_model_props(written, {CARD_KEY: card.to_json()})
    onnx.save(written, file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(None, {_INPUT: pixels})[0]


def _stable_sort(graph: Any, values: Any, *order: Any) -> Any:
    """Write torch's stable sort, which the exporter lacks: that of ONNX is one."""
    return import_module("torch.onnx.symbolic_opset11").sort(graph, values, *order[-2:])


def write_openvino(file: Path, model: nn.Module, card: Card, shape: Shape, output: str) -> Answer:
    """Write a module as XML with its constants beside it; return what OpenVINO makes of both."""
    batch, bands, height, width = shape
    graph = graph_of(model, bands, (height, width), batch)
    graph.inputs[0].set_names({_INPUT})
    graph.outputs[0].set_names({output})
    graph.set_rt_info(card.to_json(), CARD_KEY)
    openvino.serialize(graph, file)
    configuration = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core().compile_model(str(file), "CPU", configuration)
    return lambda pixels: compiled(pixels)[0]


FORMATS = {".onnx": write_onnx, ".xml": write_openvino}
