"""Blocks of the output: what one pass finishes, and all that it holds in memory."""

from __future__ import annotations

from collections.abc import Iterator

from lemevit_cli.geometry.window import Window


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
