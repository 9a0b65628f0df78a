"""From a graph of OpenVINO to one that multiplies 8-bit integers, by nncf.

What layers give is watched on pictures: from the range of each follows what one step of an integer
stands for. Matrices and convolutions are quantized, the rest computes as before.
"""

from __future__ import annotations

import io
import logging
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from importlib import import_module
from typing import Any

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import Model
from torch import nn

from lemevit_cli.models.converted import Converted, core

Floats = NDArray[np.float32]

PASSES = 2  # over all windows: to even out channels of activations, and for ranges


def quantize(
    graph: Model,
    windows: Sequence[NDArray[Any]],
    tell: Callable[[], None] = lambda: None,
    *,
    kept: Sequence[str] = (),
) -> Model:
    """Quantize a graph that takes one window a pass.

    Args:
        windows: pixels ``(bands, H, W)`` that it will be like in use.
        tell: called for each window of each of ``PASSES``; a network without attention needs one.
        kept: regular expressions of the names of what is computed as before.

    Raises:
        ImportError: if nncf is not installed.
    """
    nncf = import_nncf()

    def feed(window: NDArray[Any]) -> NDArray[np.float32]:
        tell()
        return window[None].astype(np.float32)

    # nncf draws its bars on stdout, where data go.
    with redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return nncf.quantize(
            graph,
            nncf.Dataset(windows, feed),
            # Symmetric. The preset MIXED of nncf 3.4.0 stops at our pyramid: inputs of one
            # concatenation get symmetric and asymmetric integers, "QConfigs ... are not equal".
            preset=nncf.QuantizationPreset.PERFORMANCE,
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(windows),
            ignored_scope=nncf.IgnoredScope(patterns=list(kept), validate=False),
        )


def compare(
    model: nn.Module,
    network: Converted,
    windows: Sequence[NDArray[Any]],
    share_of_equal: Callable[[Floats, Floats], float],
) -> float:
    """Return the share of answers that are those of a module of torch, in [0, 1].

    Args:
        share_of_equal: of all outputs of both.

    Raises:
        RuntimeError: if a score of either is no finite number.
    """
    graph = core().read_model(network.graph, openvino.Tensor(network.constants))
    compiled = core().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    expected, found = [], []
    for window in windows:
        pixels = window[None].astype(np.float32)
        with torch.inference_mode():
            expected.append(model(torch.from_numpy(pixels)).numpy())
        found.append(compiled(pixels)[0])
        # The sum of all: comparing finds nothing where neither knows a class.
        if not np.isfinite(found[-1].sum() + expected[-1].sum()):
            raise RuntimeError("its scores are no finite numbers")
    return share_of_equal(np.concatenate(expected), np.concatenate(found))


def import_nncf() -> Any:
    """Import nncf so that it prints nothing and tells its maker of no run."""
    # It reports by this package where it can be imported, and makes up an identity in the home.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    nncf = import_module("nncf")
    nncf.set_log_level(logging.CRITICAL)
    # It looks for compilers of CUDA, which are not asked for.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    return nncf
