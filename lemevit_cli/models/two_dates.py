"""What networks of two dates share: their pixels as one batch, and the difference of its halves."""

from __future__ import annotations

import torch
from torch import Tensor

DATES = 2


def one_batch(pixels: Tensor) -> Tensor:
    """Return ``(2B, bands, H, W)``, the earlier date first, of ``(B, 2 * bands, H, W)``."""
    return torch.cat(pixels.chunk(DATES, dim=1))


def difference(both: Tensor, *, signed: bool) -> Tensor:
    """Subtract the earlier half of a batch ``(2B, ...)`` from the later: ``(B, ...)``.

    Not ``signed``: how much they differ, the same for either order of the dates.
    """
    before, after = both.chunk(DATES)
    return after - before if signed else (after - before).abs()
