"""A module of torch that takes a batch of windows and answers scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from lemevit_cli.errors import DeviceError
from lemevit_cli.inference.network import Decode
from lemevit_cli.models.device import choose_device, choose_dtype, use_threads
from lemevit_cli.settings import RuntimeOptions


class TorchRuntime:
    """Runs a module with torch: one device, one precision, no gradients.

    Args:
        model: pixels to scores or candidates, a tensor.
        decode: these to scores or boxes (a task's).
    """

    def __init__(self, model: nn.Module, decode: Decode, options: RuntimeOptions) -> None:
        use_threads(options.threads)
        self._device = choose_device(options.device)
        self._dtype = choose_dtype(options.precision, self._device, for_inference=True)
        self._decode = decode
        self._model = model.eval().to(self._device).to(memory_format=torch.channels_last)

    @property
    def version(self) -> str:
        """Name torch with its version."""
        return f"torch {torch.__version__}"

    @property
    def device(self) -> str:
        """Name the device."""
        return str(self._device)

    @property
    def arithmetic(self) -> str:
        """Name what the model computes in."""
        return str(self._dtype).removeprefix("torch.")

    @property
    def threads(self) -> int:
        """Count torch's threads."""
        return torch.get_num_threads()

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        batch = torch.from_numpy(as_torch_dtype(pixels)).to(self._device, non_blocking=True)
        lowered = self._dtype != torch.float32
        with torch.autocast(self._device.type, dtype=self._dtype, enabled=lowered):
            outputs = self._model(batch)
        answers = self._decode(outputs.float().cpu().numpy())
        if not np.isfinite(answers.sum()):
            raise DeviceError(
                f"the model answers what is no number in {self._dtype} on {self._device}; "
                "try --precision fp32"
            )
        return answers


def check_options(options: RuntimeOptions) -> None:
    """Refuse a device or a precision that this machine has not.

    Raises:
        DeviceError: naming it.
    """
    choose_dtype(options.precision, choose_device(options.device))


def as_torch_dtype(pixels: NDArray[Any]) -> NDArray[Any]:
    """Cast values to a dtype that torch computes with: uint8 and float32 stay, others widen."""
    return pixels if pixels.dtype in (np.uint8, np.float32) else pixels.astype(np.float32)
