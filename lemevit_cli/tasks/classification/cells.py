"""The grid of cells over a scene: squares of a window's stride, each seen amid its window."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window


@dataclass(frozen=True, kw_only=True)
class CellGrid:
    """Cells of ``stride`` pixels over a grid of ``width`` x ``height``, from its upper left corner.

    Which cells exist, and what window each has, depends on the whole grid alone. The last ones may
    reach over the right and the lower edge.

    Args:
        size: side of a window, at least the stride.
    """

    width: int
    height: int
    size: int
    stride: int

    @property
    def whole(self) -> Window:
        """Return all cells, counted in cells as everywhere here."""
        return self.cells_over(Window(col_off=0, row_off=0, width=self.width, height=self.height))

    def cells_over(self, area: Window) -> Window:
        """Return the cells that share a pixel with an area of the grid."""
        left, top = area.col_off // self.stride, area.row_off // self.stride
        return Window(
            col_off=left,
            row_off=top,
            width=-(-area.right // self.stride) - left,
            height=-(-area.bottom // self.stride) - top,
        )

    def core(self, col: int, row: int) -> Window:
        """Return the pixels of a cell."""
        left, top = col * self.stride, row * self.stride
        return Window(
            col_off=left,
            row_off=top,
            width=min(self.stride, self.width - left),
            height=min(self.stride, self.height - top),
        )

    def shares_within(self, area: Window, cells: Window) -> NDArray[np.float64]:
        """Return how much of each of some cells ``(H, W)`` lies in an area of the grid."""
        shares = []
        for first, last, low, high in (
            (cells.row_off, cells.bottom, area.row_off, area.bottom),
            (cells.col_off, cells.right, area.col_off, area.right),
        ):
            edges = np.arange(first, last + 1) * self.stride
            lengths = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
            shares.append(np.clip(lengths, 0, None) / self.stride)
        return np.outer(*shares)

    def window(self, col: int, row: int) -> Window:
        """Return the window that a cell lies amid, shifted inwards at the grid's edges."""
        return Window(
            col_off=self._offset(col, self.width),
            row_off=self._offset(row, self.height),
            width=min(self.size, self.width),
            height=min(self.size, self.height),
        )

    def count_windows(self, cells: Window) -> int:
        """Count the different windows of some cells: at an edge several may share one."""
        cols = {self._offset(col, self.width) for col in range(cells.col_off, cells.right)}
        rows = {self._offset(row, self.height) for row in range(cells.row_off, cells.bottom)}
        return len(cols) * len(rows)

    def _offset(self, cell: int, length: int) -> int:
        offset = cell * self.stride - (self.size - self.stride) // 2
        return max(0, min(offset, length - self.size))
