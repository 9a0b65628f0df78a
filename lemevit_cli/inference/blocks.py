"""Blocks of the output, and what each of them gives."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.settings import InferenceSettings

# From a quarter of a gigapixel on, a scene is cut into blocks that a restart need not repeat: of
# fewer pixels, a kill costs less than the windows on the edges of blocks, which are seen twice.
_LARGE_SCENE = 2**28
_LARGE_BLOCK = 2**26
# Of blocks that are spread over processes: small enough that all have work to the end, large enough
# that few windows lie on the edge of two.
_SPREAD_BLOCK_SIZE = 4096


@dataclass(frozen=True)
class Piece:
    """Some of what a block gives: arrays alone, so that it may be sent, or kept in a file.

    Args:
        window: of the scene.
        arrays: by name; a task knows its own.
    """

    window: Window
    arrays: Mapping[str, NDArray[Any]]


# What a block gives, as a stream of what can be sent or kept: its rows need never all be in memory.
Part = Iterable[Piece]


@dataclass(frozen=True)
class Plan:
    """The work on a scene.

    Args:
        blocks: each gives a part.
        windows: of the model, in all of them.
        band_bytes: what a block holds in memory beside its windows.
    """

    blocks: tuple[Window, ...]
    windows: int
    band_bytes: int = 0


def block_size_of(settings: InferenceSettings) -> int | None:
    """Return the side of blocks that was asked for, or suits several processes; None for none."""
    if settings.tiling.block_size is None and settings.cluster.is_used:
        return _SPREAD_BLOCK_SIZE
    return settings.tiling.block_size


def large_block_size(area: Window) -> int | None:
    """Return the side of blocks of a scene that is too large to be lost; None for others."""
    is_large = area.width * area.height >= _LARGE_SCENE
    return math.isqrt(_LARGE_BLOCK) if is_large else None


def large_block_height(area: Window, width: int, *, step: int) -> int:
    """Return how tall blocks of a width are, in whole steps; of a small scene, as tall as it."""
    if large_block_size(area) is None:
        return area.height
    return -(-_LARGE_BLOCK // min(width, area.width) // step) * step


def blocks_of(area: Window, block_size: int | None) -> Iterator[Window]:
    """Cut the output's area into blocks, row by row; None makes one block of it.

    Blocks lie on multiples of ``block_size`` in the scene's frame, so that the blocks of a part
    are those of the whole.
    """
    if block_size is None:
        yield area
        return
    for row_off in range(area.row_off // block_size * block_size, area.bottom, block_size):
        for col_off in range(area.col_off // block_size * block_size, area.right, block_size):
            square = Window(col_off=col_off, row_off=row_off, width=block_size, height=block_size)
            block = square.intersection(area)
            if block is not None:
                yield block


def aligned_blocks(area: Window, *, width: int, height: int) -> Iterator[Window]:
    """Cut an area into blocks of one size, row by row, counted from its own corner.

    A file of the area begins there, and so do its tiles: blocks of whole tiles share none.
    """
    for row_off in range(area.row_off, area.bottom, height):
        for col_off in range(area.col_off, area.right, width):
            yield Window(
                col_off=col_off,
                row_off=row_off,
                width=min(width, area.right - col_off),
                height=min(height, area.bottom - row_off),
            )
