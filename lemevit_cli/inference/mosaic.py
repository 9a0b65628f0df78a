"""Scores of overlapping windows, blended while they stream by."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.window_grid import WindowGrid

_ROWS_AT_ONCE = 64  # taken together: what is made of them stays in the processor's cache


@dataclass(frozen=True)
class Rows:
    """Finished rows of an area: a view that is valid until the mosaic is used again.

    Args:
        window: the rows' place in the frame of the grid.
        scores: ``(classes, H, W)`` float32.
        valid: ``(H, W)`` bool; scores of other pixels mean nothing.
    """

    window: Window
    scores: NDArray[np.float32]
    valid: NDArray[np.bool_]


class Mosaic:
    """Blends windows over ``area``; holds a band of it as tall as one window.

    Windows come in the grid's order, row by row. Before a window is added, the rows above it
    are finished and have to be taken::

        for window, scores, valid in predictions:
            for rows in mosaic.rows_above(window.row_off):
                ...
            mosaic.add(window, scores, valid)
        for rows in mosaic.rows_above(area.bottom):
            ...

    A window without a valid pixel may be left out: weights are those of the whole grid, so
    every valid pixel still gets all its shares.
    """

    def __init__(self, grid: WindowGrid, area: Window, *, num_classes: int) -> None:
        self._grid = grid
        self._area = area
        height = min(grid.size, area.height)
        self._scores = np.zeros((num_classes, height, area.width), np.float32)
        self._valid = np.zeros((height, area.width), dtype=bool)
        self._top = area.row_off

    def add(self, window: Window, scores: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Add a window's share.

        Args:
            window: one of the grid's; what lies outside the area is ignored.
            scores: ``(classes, H, W)``, of the window's size.
            valid: ``(H, W)``.

        Raises:
            ValueError: if the window begins below rows that were not taken, or above the band.
        """
        part = window.intersection(self._area)
        if part is None:
            return
        band = Window(
            col_off=self._area.col_off,
            row_off=self._top,
            width=self._area.width,
            height=self._scores.shape[1],
        )
        if part.row_off < band.row_off or part.bottom > band.bottom:
            raise ValueError(f"{window} does not fit the band at row {self._top}")
        inside, place = part.relative_to(window).slices, part.relative_to(band).slices
        weights = np.outer(
            self._grid.row_weights[window.row_off][inside[0]],
            self._grid.col_weights[window.col_off][inside[1]],
        )
        share = np.empty_like(weights)
        # Class by class: what is made of one stays in the processor's cache.
        for total, of_class in zip(self._scores, scores, strict=True):
            np.multiply(of_class[inside], weights, out=share)
            total[place] += share
        self._valid[place] |= valid[inside]

    def rows_above(self, row: int) -> Iterator[Rows]:
        """Yield, once, the rows above ``row`` that were not yet taken, a few at a time."""
        row = min(row, self._area.bottom)
        while self._top < row:
            count = min(row - self._top, self._scores.shape[1])
            for first in range(0, count, _ROWS_AT_ONCE):
                yield self._rows(first, min(first + _ROWS_AT_ONCE, count))
            self._drop(count)

    def _rows(self, first: int, stop: int) -> Rows:
        window = Window(
            col_off=self._area.col_off,
            row_off=self._top + first,
            width=self._area.width,
            height=stop - first,
        )
        return Rows(window, self._scores[:, first:stop], self._valid[first:stop])

    def _drop(self, count: int) -> None:
        kept = self._scores.shape[1] - count
        # The rows move onto themselves when the overlap exceeds half a window: a part at a time,
        # and no copy of them all is needed.
        for first in range(0, kept, count):
            stop = min(first + count, kept)
            self._scores[:, first:stop] = self._scores[:, first + count : stop + count]
            self._valid[first:stop] = self._valid[first + count : stop + count]
        self._scores[:, kept:] = 0.0
        self._valid[kept:] = False
        self._top += count
