"""Masks as COCO writes them: lengths of runs along columns, as numbers or as text.

The runs are of pixels outside and inside in turn, the first outside, from the upper left corner
downwards, column by column. As text each number is cut into groups of 5 bits, the lowest first, a
character each from ``0`` on; a sixth bit says that the number goes on, the highest bit of the last
group is its sign. From the fourth run on the difference from the run before the last is written.

Source: the format as described in COCO's mask API; tests compare with pycocotools.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_FIRST_CHARACTER = 48
_GROUP_BITS, _GOES_ON, _SIGN = 5, 0x20, 0x10


def decode_runs(text: str) -> list[int]:
    """Return the lengths of runs that a text states.

    Raises:
        ValueError: if it is no such text.
    """
    runs: list[int] = []
    value, shift = 0, 0
    for character in text:
        group = ord(character) - _FIRST_CHARACTER
        if not 0 <= group < 2 * _GOES_ON:
            raise ValueError(f"its counts hold {character!r}")
        value |= (group & (_GOES_ON - 1)) << shift
        shift += _GROUP_BITS
        if not group & _GOES_ON:
            if group & _SIGN:
                value -= 1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value, shift = 0, 0
    if shift:
        raise ValueError("its counts end within a number")
    return runs


def mask_of_runs(runs: Sequence[int], *, width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask ``(height, width)`` that runs describe.

    Raises:
        ValueError: if they do not fill it exactly.
    """
    lengths = np.asarray(runs, dtype=np.int64)
    if (lengths < 0).any() or lengths.sum() != width * height:
        raise ValueError(f"its runs do not fill {width} x {height} pixels")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(width, height).T


def edge_points(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return corners ``(K, 2)`` of a mask's outermost pixels, whose hull is that of the mask."""
    cols = np.flatnonzero(mask.any(axis=0))
    inside = mask[:, cols]
    top = inside.argmax(axis=0)
    bottom = mask.shape[0] - inside[::-1].argmax(axis=0)
    sides = [np.column_stack([x, y]) for x in (cols, cols + 1) for y in (top, bottom)]
    return np.concatenate(sides).astype(np.float64)
