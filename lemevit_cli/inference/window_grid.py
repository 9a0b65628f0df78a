"""The one grid of windows that lies over a whole scene."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blend import axis_weights


def window_offsets(length: int, *, size: int, overlap: int) -> tuple[int, ...]:
    """Return the starts of the windows that cover ``length`` pixels.

    The last window is shifted inwards to end on the edge: padding there would lower the scores
    of everything near it. A length of at most ``size`` has one window, at 0.

    Raises:
        ValueError: unless ``0 <= overlap < size`` and ``length >= 1``.
    """
    if length < 1 or not 0 <= overlap < size:
        raise ValueError(f"no windows of {size} with overlap {overlap} over {length} pixels")
    if length <= size:
        return (0,)
    last = length - size
    return (*range(0, last, size - overlap), last)


@dataclass(frozen=True, kw_only=True)
class WindowGrid:
    """Windows of one size over a grid of ``width`` x ``height`` pixels, in row-major order.

    Which windows exist depends on the whole grid alone, so any block of the output is computed
    from the same windows as the whole.
    """

    width: int
    height: int
    size: int
    overlap: int

    @cached_property
    def col_offs(self) -> tuple[int, ...]:
        return window_offsets(self.width, size=self.size, overlap=self.overlap)

    @cached_property
    def row_offs(self) -> tuple[int, ...]:
        return window_offsets(self.height, size=self.size, overlap=self.overlap)

    @cached_property
    def col_weights(self) -> dict[int, NDArray[np.float32]]:
        """Return blending weights along a row of pixels, by the window's ``col_off``."""
        return axis_weights(self.col_offs, length=self.width, size=self.size)

    @cached_property
    def row_weights(self) -> dict[int, NDArray[np.float32]]:
        """Return blending weights along a column of pixels, by the window's ``row_off``."""
        return axis_weights(self.row_offs, length=self.height, size=self.size)

    def windows_over(self, area: Window) -> Iterator[Window]:
        """Yield windows that share a pixel with ``area``, clipped to the grid, row by row."""
        cols = _touching(self.col_offs, self.size, area.col_off, area.right)
        for row_off in _touching(self.row_offs, self.size, area.row_off, area.bottom):
            for col_off in cols:
                yield self._window(col_off=col_off, row_off=row_off)

    def windows_from(self, block: Window, *, area: Window) -> Iterator[Window]:
        """Yield windows over ``area`` whose first pixel in it lies in ``block``, row by row.

        Blocks that cut the area up share no window, and leave none out.
        """
        for window in self.windows_over(block):
            first_col = max(window.col_off, area.col_off)
            first_row = max(window.row_off, area.row_off)
            if first_col >= block.col_off and first_row >= block.row_off:
                yield window

    def count_over(self, area: Window) -> int:
        """Count the windows that :meth:`windows_over` yields."""
        cols = _touching(self.col_offs, self.size, area.col_off, area.right)
        rows = _touching(self.row_offs, self.size, area.row_off, area.bottom)
        return len(cols) * len(rows)

    def _window(self, *, col_off: int, row_off: int) -> Window:
        return Window(
            col_off=col_off,
            row_off=row_off,
            width=min(self.size, self.width),
            height=min(self.size, self.height),
        )


def _touching(offsets: tuple[int, ...], size: int, start: int, stop: int) -> tuple[int, ...]:
    first = bisect_right(offsets, start - size)
    return tuple(offset for offset in offsets[first:] if offset < stop)
