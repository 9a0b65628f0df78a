"""The learning rate over a training."""

from __future__ import annotations

from math import cos, pi

_LOWEST = 0.01  # of the peak, at the end


def rate_factor(progress: float, *, warmup: float) -> float:
    """Part of the peak learning rate: a linear warm-up, then half a cosine.

    Args:
        progress: 0 at the first step, 1 at the end, in steps or in time.
        warmup: part of the training that warms up, in [0, 1).
    """
    if progress < warmup:
        return max(progress / warmup, _LOWEST)
    after = min((progress - warmup) / (1.0 - warmup), 1.0)
    return _LOWEST + (1.0 - _LOWEST) * 0.5 * (1.0 + cos(pi * after))
