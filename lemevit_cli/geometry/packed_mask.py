"""Masks that wait in numbers: a bit a pixel, or none at all where all pixels say the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window


@dataclass(frozen=True)
class PackedMask:
    """A mask of a window.

    Args:
        window: its place.
        bits: ``(H, ceil(W / 8))``, as ``np.packbits`` leaves them, or what all pixels hold.
    """

    window: Window
    bits: NDArray[np.uint8] | bool

    @classmethod
    def of(cls, window: Window, mask: NDArray[np.bool_]) -> PackedMask:
        """Pack a mask ``(H, W)`` of a window."""
        if mask.all():
            return cls(window, True)
        return cls(window, np.packbits(mask, axis=1) if mask.any() else False)

    def part(self, window: Window) -> NDArray[np.bool_]:
        """Unpack the mask ``(H, W)`` of a window that lies within; it may be a read-only view."""
        if isinstance(self.bits, bool):
            return np.broadcast_to(np.bool_(self.bits), (window.height, window.width))
        rows, cols = window.relative_to(self.window).slices
        return np.unpackbits(self.bits[rows], axis=1, count=cols.stop).astype(bool)[:, cols]
