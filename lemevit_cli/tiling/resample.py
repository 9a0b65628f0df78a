"""From the model's grid back to the scene's own, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil

import numpy as np
import torch
from torch import Tensor

_ROWS_AT_ONCE = 64  # scene rows made in one go: bounds memory where a scene is much finer


class AxisFilter:
    """A triangle filter from ``source`` pixels to ``target`` pixels of the same extent.

    Linear interpolation where the target is finer, an average over two target pixels' width
    where it is coarser; weights beyond the edge are given to the pixels inside.
    """

    def __init__(
        self, source: int, target: int, *, start: int = 0, stop: int | None = None
    ) -> None:
        ratio = source / target
        support = max(1.0, ratio)
        pixels = np.arange(start, target if stop is None else stop)
        centres = (pixels + 0.5) * ratio - 0.5
        first = np.floor(centres - support).astype(np.int64) + 1
        taps = np.arange(2 * ceil(support))
        index = first[:, None] + taps
        weights = np.clip(1.0 - np.abs(index - centres[:, None]) / support, 0.0, None)
        weights[(index < 0) | (index >= source)] = 0.0
        self.index = torch.from_numpy(index.clip(0, source - 1))  # (pixels, taps)
        self.weights = torch.from_numpy(weights / weights.sum(1, keepdims=True)).float()

    @property
    def source_range(self) -> tuple[int, int]:
        """First source pixel that is needed, and the one after the last."""
        return int(self.index.min()), int(self.index.max()) + 1

    def along_rows(self, values: Tensor, *, top: int, start: int, stop: int) -> Tensor:
        """Combine rows of ``values`` (``(C, H, W)``, first row ``top``) to targets start..stop."""
        result = torch.zeros(())
        for tap in range(self.index.shape[1]):
            rows = values[:, self.index[start:stop, tap] - top]
            result = result + rows * self.weights[start:stop, tap, None]
        return result

    def along_cols(self, values: Tensor, *, left: int) -> Tensor:
        """Combine columns of ``values`` (``(C, H, W)``, first column ``left``)."""
        result = torch.zeros(())
        for tap in range(self.index.shape[1]):
            result = result + values[:, :, self.index[:, tap] - left] * self.weights[:, tap]
        return result


class RowResampler:
    """Turns rows of the model's grid into rows of the scene's, as soon as they are known.

    Args:
        source_height: rows of the whole model grid.
        target_height: rows of the whole scene.
        rows: half-open range of scene rows that are wanted.
        cols: filter of the columns.
        left: first model column of the rows that will come.
    """

    def __init__(
        self,
        *,
        source_height: int,
        target_height: int,
        rows: tuple[int, int],
        cols: AxisFilter,
        left: int,
    ) -> None:
        self._filter = AxisFilter(source_height, target_height, start=rows[0], stop=rows[1])
        self._first, self._count = rows[0], rows[1] - rows[0]
        self._cols, self._left = cols, left
        self._done = 0
        self._kept: Tensor | None = None
        self._kept_top = 0

    def add(self, scores: Tensor, *, top: int) -> Iterator[tuple[int, Tensor]]:
        """Take model rows ``(C, H, W)`` from ``top`` on; yield tops and scene rows."""
        if self._kept is None:
            self._kept, self._kept_top = scores.clone(), top
        else:
            self._kept = torch.cat([self._kept, scores], dim=1)
        bottom = self._kept_top + self._kept.shape[1]
        needed = self._filter.index.max(dim=1).values
        ready = int(torch.searchsorted(needed, bottom, right=False))
        while self._done < ready:
            stop = min(ready, self._done + _ROWS_AT_ONCE)
            rows = self._filter.along_rows(
                self._kept, top=self._kept_top, start=self._done, stop=stop
            )
            yield self._first + self._done, self._cols.along_cols(rows, left=self._left)
            self._done = stop
        self._forget()

    def _forget(self) -> None:
        if self._kept is None or self._done >= self._count:
            return
        first = int(self._filter.index[self._done].min())
        drop = max(0, min(first - self._kept_top, self._kept.shape[1]))
        self._kept, self._kept_top = self._kept[:, drop:].clone(), self._kept_top + drop
