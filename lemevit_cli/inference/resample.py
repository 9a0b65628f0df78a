"""From the model's grid back to the scene's own, row by row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.packed_mask import PackedMask
from lemevit_cli.geometry.triangle_filter import AxisFilter
from lemevit_cli.geometry.window import Window

_ROWS_AT_ONCE = 64  # scene rows made in one go: bounds memory where a scene is much finer


class RowResampler:
    """Turns rows of the model's grid into rows of the scene's, as soon as they are known.

    Model rows come from top to bottom, from ``rows.start`` on, and span the columns
    ``cols.start .. cols.stop``.

    Args:
        rows, cols: filters from the model's grid to the scene rows and columns that are wanted.
    """

    def __init__(self, rows: AxisFilter, cols: AxisFilter) -> None:
        self._first = rows.first
        self._taps, self._weights = rows.taps + rows.start, rows.weights
        self._needed = self._taps.max(axis=1)
        self._col_taps, self._col_weights = cols.taps, cols.weights
        self._done = 0
        self._kept: NDArray[np.float32] | None = None
        self._kept_top = rows.start

    def add(self, scores: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """Take the next model rows ``(C, H, W)``; yield scene rows that they complete.

        Each is given as its first row and ``(C, rows, columns)``.
        """
        self._kept = scores if self._kept is None else np.concatenate([self._kept, scores], axis=1)
        bottom = self._kept_top + self._kept.shape[1]
        ready = int(np.searchsorted(self._needed, bottom))
        while self._done < ready:
            stop = min(ready, self._done + _ROWS_AT_ONCE)
            taps = self._taps[self._done : stop] - self._kept_top
            rows = _gather(self._kept, taps, self._weights[self._done : stop, :, None], axis=1)
            yield self._first + self._done, _gather(rows, self._col_taps, self._col_weights, axis=2)
            self._done = stop
        self._forget()

    def _forget(self) -> None:
        if self._kept is None or self._done == len(self._taps):
            return
        first = int(self._taps[self._done].min())
        drop = min(max(first - self._kept_top, 0), self._kept.shape[1])
        # A copy: what came was a view of rows that will change.
        self._kept, self._kept_top = self._kept[:, drop:].copy(), self._kept_top + drop


class MaskRows:
    """Puts masks of windows together to masks of rows, which are taken from top to bottom.

    What no mask covers is False.
    """

    def __init__(self) -> None:
        self._masks: list[PackedMask] = []

    def add(self, mask: PackedMask) -> None:
        """Keep a mask until all its rows are taken."""
        if mask.bits is not False:
            self._masks.append(mask)

    def take(self, rows: Window) -> NDArray[np.bool_]:
        """Return the mask ``(H, W)`` of a window, true where any is, and forget what is above."""
        taken = np.zeros((rows.height, rows.width), bool)
        for mask in self._masks:
            part = mask.window.intersection(rows)
            if part is not None:
                taken[part.relative_to(rows).slices] |= mask.part(part)
        self._masks = [mask for mask in self._masks if mask.window.bottom > rows.bottom]
        return taken


def _gather(
    values: NDArray[np.float32],
    taps: NDArray[np.intp],
    weights: NDArray[np.float32],
    *,
    axis: int,
) -> NDArray[np.float32]:
    """Sum taps by weight, tap by tap: ``(C, H, W)`` along ``axis`` to ``len(taps)`` pixels."""
    shape = list(values.shape)
    shape[axis] = len(taps)
    totals = np.empty(shape, np.float32)
    share = np.empty(shape[1:], np.float32)
    columns = np.ascontiguousarray(taps.T)
    # Class by class, so that what is made of one stays in the processor's cache; "clip" (no tap
    # lies outside) writes where it is told to, without a copy between.
    for total, of_class in zip(totals, values, strict=True):
        np.take(of_class, columns[0], axis - 1, out=total, mode="clip")
        total *= weights[:, 0]
        for tap, column in enumerate(columns[1:], start=1):
            np.take(of_class, column, axis - 1, out=share, mode="clip")
            share *= weights[:, tap]
            total += share
    return totals
