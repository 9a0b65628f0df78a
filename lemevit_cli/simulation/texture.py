"""Noise that is a function of seed and position, so that any block can be drawn alone.

Only additions, products and table look-ups touch whole pictures here: they round alike at any
array size, which sines and matrix products do not promise.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.floating]


def hash_bits(ix: ArrayLike, iy: ArrayLike, salt: int) -> NDArray[np.uint32]:
    """Hash every pair of integers to thirty-two well-mixed bits (broadcast; at least 1-D)."""
    h = np.atleast_1d(np.asarray(ix, dtype=np.int64)).astype(np.uint32) * np.uint32(0x9E3779B1)
    k = np.atleast_1d(np.asarray(iy, dtype=np.int64)).astype(np.uint32) * np.uint32(0x85EBCA77)
    mixed = (h ^ (h >> np.uint32(15))) + (k ^ (k >> np.uint32(13))) + np.uint32(salt & 0xFFFFFFFF)
    mixed ^= mixed >> np.uint32(16)
    mixed *= np.uint32(0x7FEB352D)
    mixed ^= mixed >> np.uint32(15)
    mixed *= np.uint32(0x846CA68B)
    mixed ^= mixed >> np.uint32(16)
    return mixed


def hash_unit(ix: ArrayLike, iy: ArrayLike, salt: int) -> NDArray[np.float32]:
    """Hash every pair of integers to a number in [0, 1) (broadcast)."""
    return (hash_bits(ix, iy, salt) >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24)


def grid_noise(x: Floats, y: Floats, *, wavelength: float, salt: int) -> NDArray[np.float32]:
    """Make smooth value noise on a grid of pixels.

    Args:
        x: ``(W,)`` positions in metres, float64. y: ``(H,)``, likewise.
        wavelength: metres between two independent values.

    Returns:
        ``(H, W)`` in [0, 1).
    """
    ix, fx = _cell_and_fade(x, wavelength)
    iy, fy = _cell_and_fade(y, wavelength)
    columns = np.arange(ix[0], ix[-1] + 2)
    lattice = hash_unit(columns[None, :], np.arange(iy[0], iy[-1] + 2)[:, None], salt)
    iy, ix = iy - iy[0], ix - ix[0]
    rows = lattice[iy] + (lattice[iy + 1] - lattice[iy]) * fy[:, None]
    steps = rows[:, 1:] - rows[:, :-1]
    noise = steps.take(ix, axis=1)
    noise *= fx
    noise += rows.take(ix, axis=1)
    return noise


def point_noise(x: Floats, y: Floats, *, wavelength: float, salt: int) -> NDArray[np.float32]:
    """Make the same noise at scattered points ``x, y`` of equal shape; they should lie together."""
    ix, fx = _cell_and_fade(x, wavelength)
    iy, fy = _cell_and_fade(y, wavelength)
    columns = np.arange(ix.min(), ix.max() + 2)
    lattice = hash_unit(columns[None, :], np.arange(iy.min(), iy.max() + 2)[:, None], salt)
    at = (iy - iy.min()) * len(columns) + (ix - ix.min())
    flat = lattice.reshape(-1)
    top = flat.take(at) * (1 - fx) + flat.take(at + 1) * fx
    bottom = flat.take(at + len(columns)) * (1 - fx) + flat.take(at + len(columns) + 1) * fx
    return top + (bottom - top) * fy


def octaves(
    x: Floats, y: Floats, *, wavelengths: tuple[float, ...], gsd_m: float, salt: int
) -> NDArray[np.float32]:
    """Sum noises on a grid, spread over [0, 1]; what a pixel cannot resolve is left out.

    A longer wavelength weighs more. Without any resolvable wavelength the answer is 0.5.
    """
    total = np.full((len(y), len(x)), 0.5, dtype=np.float32)
    power = sum(w**0.6 for w in wavelengths)
    for number, wavelength in enumerate(wavelengths):
        visible = min(1.0, max(0.0, wavelength / gsd_m - 1.0))
        weight = np.float32(1.5 * visible * wavelength**0.6 / power)
        if weight > 0:
            noise = grid_noise(x, y, wavelength=wavelength, salt=salt + 977 * number)
            noise -= np.float32(0.5)
            noise *= weight
            total += noise
    return np.clip(total, 0, 1, out=total)


def _cell_and_fade(values: Floats, wavelength: float) -> tuple[NDArray[np.int64], Floats]:
    scaled = values / wavelength
    cell = np.floor(scaled)
    fraction = (scaled - cell).astype(np.float32)
    return cell.astype(np.int64), fraction * fraction * (3 - 2 * fraction)
