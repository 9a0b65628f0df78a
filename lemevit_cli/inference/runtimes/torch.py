"""A model that takes a batch of windows and answers scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lemevit_cli.errors import DeviceError
from lemevit_cli.models.device import choose_device, choose_dtype, use_threads
from lemevit_cli.settings import RuntimeOptions


class Runtime(Protocol):
    """A model as block inference sees it."""

    def __call__(self, pixels: NDArray[Any]) -> Tensor:
        """Answer a batch.

        Args:
            pixels: ``(N, bands, H, W)``, any real dtype, in the values of the card.

        Returns:
            float32 on the CPU: scores ``(N, classes, H, W)``, or a detector's boxes ``(N, K, 7)``
            as ``cx, cy, w, h, angle_rad, score, class id`` in pixels of the window, best first;
            rows of class -1 are empty.
        """
        ...


class TorchRuntime:
    """Runs a module with torch: one device, one precision, no gradients.

    Args:
        model: pixels to logits or candidates, a tensor.
        decode: these to scores or boxes (a task's).
    """

    def __init__(
        self, model: nn.Module, decode: Callable[[Tensor], Tensor], options: RuntimeOptions
    ) -> None:
        use_threads(options.threads)
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.precision, self.device, for_inference=True)
        self._decode = decode
        self._model = model.eval().to(self.device).to(memory_format=torch.channels_last)

    @property
    def arithmetic(self) -> str:
        """Name what the model computes in."""
        return str(self.dtype).removeprefix("torch.")

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any]) -> Tensor:
        batch = torch.from_numpy(as_torch_dtype(pixels)).to(self.device, non_blocking=True)
        lowered = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=lowered):
            outputs = self._model(batch)
        scores = self._decode(outputs.float()).cpu()
        if not torch.isfinite(scores.sum()):
            raise DeviceError(
                f"the model answers what is no number in {self.dtype} on {self.device}; "
                "try --precision fp32"
            )
        return scores


class SymmetricRuntime:
    """Answers with the mean of another runtime's scores over the eight symmetries of the square.

    The windows are turned and mirrored, the scores turned back. One symmetry runs after the other:
    eight times the work, the memory of one. A window that is turned gives the turned scores, to
    the rounding of a sum.

    Args:
        runtime: answers one orientation; its windows should be square.
    """

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def __call__(self, pixels: NDArray[Any]) -> Tensor:
        total = self._both_sides(pixels)
        for turns in (1, 2, 3):
            turned = self._both_sides(np.rot90(pixels, turns, axes=(2, 3)))
            total += turned.rot90(-turns, (2, 3))
        return total / 8

    def _both_sides(self, pixels: NDArray[Any]) -> Tensor:
        mirrored = self._runtime(np.ascontiguousarray(pixels[..., ::-1])).flip(3)
        return self._runtime(np.ascontiguousarray(pixels)) + mirrored


def as_torch_dtype(pixels: NDArray[Any]) -> NDArray[Any]:
    """Cast values to a dtype that torch computes with: uint8 and float32 stay, others widen."""
    return pixels if pixels.dtype in (np.uint8, np.float32) else pixels.astype(np.float32)
