"""A model as block inference sees it, whatever library computes it: arrays in, arrays out."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# Answers a batch of pixels; see :meth:`Runtime.__call__`.
Answer = Callable[[NDArray[Any]], NDArray[np.float32]]
Wait = Callable[[], NDArray[np.float32]]  # for the answers to a batch that was begun with


class Runtime(Protocol):
    """A model that a library runs on a device, and what decides the digits of its answers."""

    @property
    def version(self) -> str:
        """Name the library with its version."""
        ...

    @property
    def device(self) -> str:
        """Name the device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
        ...

    @property
    def arithmetic(self) -> str:
        """Name what the model computes in."""
        ...

    @property
    def threads(self) -> int:
        """Count the threads of the processor that it computes with."""
        ...

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Answer a batch.

        Args:
            pixels: ``(N, bands, H, W)``, any real dtype, in the values of the card.

        Returns:
            Scores ``(N, classes, H, W)``, or a detector's boxes ``(N, K, 7)`` as ``cx, cy, w, h,
            angle_rad, score, class id`` in pixels of the window, best first; rows of class -1 are
            empty, and the last one is no answer (see ``tasks/detection/decoding.py``).
        """
        ...


def begin(runtime: Answer, pixels: NDArray[Any]) -> Wait:
    """Begin with a batch; return what gives its answers.

    Of a runtime that computes on the processor all is done when they are asked for.
    """
    if batches_in_flight(runtime):
        return runtime.begin(pixels)  # type: ignore[attr-defined]
    return partial(runtime, pixels)


def batches_in_flight(runtime: Answer) -> int:
    """Count the batches that are worth beginning before the answers to one are taken.

    Of a GPU one: it computes while this process blends and writes.
    """
    return int(getattr(runtime, "in_flight", 0))


class SymmetricRuntime:
    """Answers with the mean of another runtime's scores over the eight symmetries of the square.

    The windows are turned and mirrored, the scores turned back. One symmetry runs after the other:
    eight times the work, the memory of one. A window that is turned gives the turned scores, to
    the rounding of a sum.

    Args:
        runtime: answers one orientation; its windows should be square.
    """

    def __init__(self, runtime: Answer) -> None:
        self._runtime = runtime

    def __call__(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        total = self._both_sides(pixels)
        for turns in (1, 2, 3):
            turned = self._both_sides(np.rot90(pixels, turns, axes=(2, 3)))
            total += np.rot90(turned, -turns, axes=(2, 3))
        total /= 8
        return total

    def _both_sides(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        mirrored = self._runtime(np.ascontiguousarray(pixels[..., ::-1]))[..., ::-1]
        return self._runtime(np.ascontiguousarray(pixels)) + mirrored


def count_cores() -> int:
    """Count the cores that this process may use: a batch system may have left it some of them."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
