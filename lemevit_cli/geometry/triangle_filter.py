"""Resampling along one axis: which source pixels make a target pixel, and by what weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class AxisFilter:
    """Weights of the source pixels ``start .. stop`` in the target pixels from ``first`` on.

    Args:
        first: target pixel of the first row.
        shrink: source pixels a target pixel.
        start, stop: half-open range of the source pixels that are needed.
        taps: ``(n, most taps)``, increasing along the second axis, counted from ``start``.
        weights: ``(n, most taps)`` float32; they sum to 1, with 0 for taps that only fill a row.
    """

    first: int
    shrink: float
    start: int
    stop: int
    taps: NDArray[np.intp]
    weights: NDArray[np.float32]


def triangle_filter(first: int, stop: int, *, source: int, target: int) -> AxisFilter:
    """Make the filter for the target pixels ``first .. stop`` (exclusive) of an axis.

    ``source`` pixels and ``target`` pixels span the same extent. A target pixel is the mean under a
    triangle two target pixels wide, or two source pixels where that is wider: linear interpolation
    when enlarging, free of aliasing when shrinking, as ``torch.nn.functional.interpolate`` with
    ``mode="bilinear", antialias=True``. Weights beyond the ends go to the pixels inside.

    Each row is computed from its own index alone, so that it is the same in any range.
    """
    shrink = source / target
    reach = max(shrink, 1.0)
    centre = (np.arange(first, stop) + 0.5) * shrink
    low = np.maximum(np.floor(centre - reach + 0.5), 0).astype(np.intp)
    high = np.minimum(np.floor(centre + reach + 0.5), source).astype(np.intp)
    taps = low[:, None] + np.arange(int(np.ceil(2 * reach)))
    distance = np.abs(taps + 0.5 - centre[:, None]) / reach
    weights = np.where(taps < high[:, None], np.maximum(1 - distance, 0), 0)
    weights /= weights.sum(axis=1, keepdims=True)
    start, end = int(low.min()), int(high.max())
    taps = np.minimum(taps, end - 1) - start
    return AxisFilter(first, shrink, start, end, taps, weights.astype(np.float32))
