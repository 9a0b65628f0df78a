"""A model that takes a batch of windows and answers scores."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from lemevit_cli.errors import DeviceError
from lemevit_cli.geometry.oriented_boxes import canonical
from lemevit_cli.geometry.rotated_nms import rotated_nms
from lemevit_cli.models.device import choose_device, choose_dtype, use_threads
from lemevit_cli.settings import RuntimeOptions


class Runtime(Protocol):
    """What block inference needs of a model."""

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
        model: pixels to logits, in eval mode.
        decode: logits to scores (a task's).
    """

    def __init__(
        self, model: nn.Module, decode: Callable[[Tensor], Tensor], options: RuntimeOptions
    ) -> None:
        use_threads(options.threads)
        self.device = choose_device(options.device)
        self.dtype = choose_dtype(options.precision, self.device)
        self._decode = decode
        self._model = model.eval().to(self.device).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def __call__(self, pixels: NDArray[Any]) -> Tensor:
        batch = torch.from_numpy(as_torch_dtype(pixels)).to(self.device, non_blocking=True)
        lowered = self.dtype != torch.float32
        with torch.autocast(self.device.type, dtype=self.dtype, enabled=lowered):
            logits = self._model(batch)
        scores = self._decode(logits.float()).cpu()
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


class SymmetricDetector:
    """Answers with the boxes that another runtime finds in the eight symmetries of a window.

    The windows are turned and mirrored, the boxes turned back; of those that overlap the best one
    stays. A window that is turned gives the turned boxes.

    Args:
        runtime: answers ``(N, K, 7)``; its windows are square.
        nms_iou: boxes of one class that overlap by more are one.
        max_per_window: rows of the answer, the best ones.
    """

    def __init__(self, runtime: Runtime, *, nms_iou: float, max_per_window: int) -> None:
        self._runtime = runtime
        self._nms_iou = nms_iou
        self._max_per_window = max_per_window

    def __call__(self, pixels: NDArray[Any]) -> Tensor:
        side = pixels.shape[-1]
        found = []
        for turns in range(4):
            turned = np.rot90(pixels, turns, axes=(2, 3))
            for mirrored in (False, True):
                seen = np.ascontiguousarray(turned[..., ::-1] if mirrored else turned)
                rows = self._runtime(seen).double().numpy()
                found.append(_turned_back(rows, turns, side=side, mirrored=mirrored))
        answers = [self._best(rows) for rows in np.concatenate(found, axis=1)]
        return torch.from_numpy(np.stack(answers).astype(np.float32))

    def _best(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Keep the rows ``(max_per_window, 7)`` that no better one of ``(8 K, 7)`` covers."""
        rows = rows[rows[:, 6] >= 0]
        rows[:, :5] = canonical(rows[:, :5])
        kept = rotated_nms(rows[:, :5], rows[:, 5], rows[:, 6].astype(np.int64), self._nms_iou)
        best = np.zeros((self._max_per_window, 7))
        best[:, 6] = -1
        kept = kept[: self._max_per_window]
        best[: len(kept)] = rows[kept]
        return best


def _turned_back(
    rows: NDArray[np.float64], turns: int, *, side: int, mirrored: bool
) -> NDArray[np.float64]:
    """Turn back boxes ``(..., 7)`` of a window turned by ``np.rot90``, then mirrored."""
    cx, cy, angle = rows[..., 0], rows[..., 1], rows[..., 4]
    if mirrored:
        cx, angle = side - cx, -angle
    for _ in range(turns):
        # What stands at (x, y) after a quarter turn counter-clockwise stood at (side - y, x).
        cx, cy, angle = side - cy, cx, angle + np.pi / 2
    turned = rows.copy()
    turned[..., 0], turned[..., 1], turned[..., 4] = cx, cy, angle
    return turned


def as_torch_dtype(pixels: NDArray[Any]) -> NDArray[Any]:
    """Cast values to a dtype that torch computes with: uint8 and float32 stay, others widen."""
    return pixels if pixels.dtype in (np.uint8, np.float32) else pixels.astype(np.float32)
