"""Weights that let neighbouring windows fade into each other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def axis_weights(
    offsets: Sequence[int], *, length: int, size: int
) -> dict[int, NDArray[np.float32]]:
    """Weigh every window along one axis, by its offset; weights sum to one in every pixel.

    A window's weight rises linearly over the pixels that it shares with its left neighbour and
    falls over those shared with its right one; at the scene's edge, where no neighbour exists,
    it does not taper. In two dimensions the weight is the product of both axes', which sums to
    one as well: no sum of weights has to be kept, and a constant comes out as that constant.

    Args:
        offsets: increasing starts of the windows.
        length: pixels of the axis; a window that is longer is cut there.
        size: pixels of a window.
    """
    raw = {}
    for i, offset in enumerate(offsets):
        pixels = np.arange(min(size, length), dtype=np.float64) + 0.5  # centres: never zero
        weight = np.ones_like(pixels)
        if i > 0:
            weight = np.minimum(weight, pixels / max(offsets[i - 1] + size - offset, 1))
        if i + 1 < len(offsets):
            shared = max(offset + size - offsets[i + 1], 1)
            weight = np.minimum(weight, pixels[::-1] / shared)
        raw[offset] = weight
    total = np.zeros(length)
    for offset, weight in raw.items():
        total[offset : offset + len(weight)] += weight
    return {
        offset: (weight / total[offset : offset + len(weight)]).astype(np.float32)
        for offset, weight in raw.items()
    }
