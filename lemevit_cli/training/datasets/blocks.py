"""Blocks of a scene: which are held back for validation, and how far training windows reach.

Pure arithmetic on windows and counts. A scene is cut into blocks of nearly equal sides; a block is
a training block, a validation block, or has no labels. The extent of a training block is
its rectangle, grown over neighbours that are no validation blocks: a window inside the extent
shares no pixel with any validation block.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window

_ENOUGH_BLOCKS = 24
_PASSES = 3
_REACH = 8  # blocks, of at least half a crop: no window is as wide


@dataclass(frozen=True)
class BlockGrid:
    """Blocks of a scene in rows and columns.

    Args:
        col_edges, row_edges: ascending, from 0 to the scene's width and height.
    """

    col_edges: tuple[int, ...]
    row_edges: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """Count the rows and columns of blocks."""
        return len(self.row_edges) - 1, len(self.col_edges) - 1

    def window(self, rows: slice, cols: slice) -> Window:
        """Return the rectangle of a range of blocks."""
        top, left = self.row_edges[rows.start], self.col_edges[cols.start]
        return Window(
            col_off=left,
            row_off=top,
            width=self.col_edges[cols.stop] - left,
            height=self.row_edges[rows.stop] - top,
        )

    def block(self, row: int, col: int) -> Window:
        """Return the rectangle of one block."""
        return self.window(slice(row, row + 1), slice(col, col + 1))


def block_grid(width: int, height: int, *, crop: int) -> BlockGrid:
    """Cut a scene into blocks of about two crops; of a small scene, down to half a crop.

    The side is halved until there are 24 blocks, so that some can be held back without losing
    much; it is never below half a crop.
    """
    side = 2 * crop
    while _count(width, side) * _count(height, side) < _ENOUGH_BLOCKS and side > crop // 2:
        side //= 2
    return BlockGrid(_edges(width, side), _edges(height, side))


def _count(length: int, side: int) -> int:
    return max(1, round(length / side))


def _edges(length: int, side: int) -> tuple[int, ...]:
    # Equal parts instead of a last one that may be a sliver.
    parts = _count(length, side)
    return tuple(round(i * length / parts) for i in range(parts + 1))


def choose_held_back(
    counts: NDArray[np.int64], places: Sequence[tuple[int, int]], fraction: float, *, seed: int
) -> NDArray[np.bool_]:
    """Choose blocks for validation so that about ``fraction`` of every class is in them.

    The blocks are gone through three times in an order drawn from the seed; one is held back, or
    given back, if this brings the classes' shares, by the sum of their squared distances, closer
    to the fraction. At least half of each class (``1 - fraction`` of it, if that is less) and one
    block stay for training. Two by two neighbours follow each other in the order: single blocks
    here and there would leave the training windows little space between them.

    Args:
        counts: ``(N, classes)`` labelled pixels of each block, none without any.
        places: row and column of each block.

    Returns:
        ``(N,)`` bool.
    """
    totals = counts.sum(axis=0)
    shares = counts[:, totals > 0] / totals[totals > 0]
    random = np.random.default_rng(seed)
    quads = [(row // 2, col // 2) for row, col in places]
    turns = random.permutation(sorted(set(quads))).tolist()
    turn_of = {tuple(quad): turn for turn, quad in enumerate(turns)}
    order = sorted(random.permutation(len(counts)), key=lambda i: turn_of[quads[i]])
    most = max(fraction, 0.5)
    held = np.zeros(len(counts), dtype=bool)
    reached = np.zeros(shares.shape[1])
    for i in order * _PASSES:
        changed = reached - shares[i] if held[i] else reached + shares[i]
        is_closer = ((changed - fraction) ** 2).sum() < ((reached - fraction) ** 2).sum()
        if is_closer and changed.max() <= most and (held[i] or held.sum() + 1 < len(counts)):
            held[i], reached = not held[i], changed
    return held


def extent_of(row: int, col: int, grid: BlockGrid, held_back: NDArray[np.bool_]) -> Window:
    """Grow a training block's extent to all sides in turn, by at most eight blocks to each.

    Args:
        held_back: ``(rows, cols)`` of the grid, the validation blocks.
    """
    first = np.array([row, row + 1, col, col + 1])  # top, bottom, left, right
    last = np.repeat(grid.shape, 2)
    edges, is_growing = first, True
    while is_growing:
        is_growing = False
        for side, step in enumerate((-1, 1, -1, 1)):
            wider = edges.copy()
            wider[side] += step
            top, bottom, left, right = wider
            is_near = 0 <= wider[side] <= last[side] and abs(wider[side] - first[side]) <= _REACH
            if is_near and not held_back[top:bottom, left:right].any():
                edges, is_growing = wider, True
    top, bottom, left, right = edges.tolist()
    return grid.window(slice(top, bottom), slice(left, right))
