"""From the model's grid back to the scene's own, row by row."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
        self._taps = torch.from_numpy(rows.taps) + rows.start
        self._weights = torch.from_numpy(rows.weights)
        self._needed = self._taps.max(dim=1).values
        self._col_taps = torch.from_numpy(cols.taps)
        self._col_weights = torch.from_numpy(cols.weights)
        self._done = 0
        self._kept: Tensor | None = None
        self._kept_top = rows.start

    def add(self, scores: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Take the next model rows ``(C, H, W)``; yield scene rows that they complete.

        Each is given as its first row and ``(C, rows, columns)``.
        """
        self._kept = scores if self._kept is None else torch.cat([self._kept, scores], dim=1)
        bottom = self._kept_top + self._kept.shape[1]
        ready = int(torch.searchsorted(self._needed, bottom))
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
        self._kept, self._kept_top = self._kept[:, drop:].clone(), self._kept_top + drop


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


def _gather(values: Tensor, taps: Tensor, weights: Tensor, *, axis: int) -> Tensor:
    """Sum taps by weight, tap by tap: ``values`` along ``axis`` to ``len(taps)`` pixels."""
    total = values.index_select(axis, taps[:, 0]) * weights[:, 0]
    for tap in range(1, taps.shape[1]):
        total += values.index_select(axis, taps[:, tap]) * weights[:, tap]
    return total
