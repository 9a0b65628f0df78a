"""From colour and height to what a sensor sees: sun, shadows, haze, blur and noise."""

from __future__ import annotations

from math import ceil

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.simulation.canvas import WATER, Canvas
from lemevit_cli.simulation.texture import Floats, hash_bits
from lemevit_cli.simulation.town import MAX_SHADOW_M, Light

_FIRST_STEP_PX = 8
_SHADOW_EDGE_M = np.float32(0.35)


def shadow_reach_px(gsd_m: float) -> int:
    """Count the pixels beyond a block that may throw a shadow into it."""
    return _FIRST_STEP_PX * 2 ** _doublings(gsd_m)


def render(canvas: Canvas, light: Light) -> NDArray[np.float32]:
    """Light the canvas.

    Returns:
        ``(3, H, W)`` display values, 0 to 255 before noise and rounding.
    """
    lit = _slope_light(canvas.height, light, canvas.gsd_m)
    lit *= 1 - _shadow(canvas.height, light, canvas.gsd_m)
    _glint(canvas, lit, light.glint)
    picture = canvas.albedo
    for band, sun, sky, haze, gain in zip(
        picture, light.sun, light.sky, light.haze_colour, light.gain, strict=True
    ):
        band *= lit * sun + sky
        band *= np.float32(1 - light.haze)
        band += np.float32(light.haze) * haze
        np.clip(band * gain, 0, None, out=band)
        np.sqrt(band, out=band)  # the sensor's gamma of 2
        band -= np.float32(0.45)
        band *= np.float32(255 * light.contrast)
        band += np.float32(255 * 0.45)
    grey = (picture[0] + picture[1] + picture[2]) * np.float32((1 - light.saturation) / 3)
    picture *= np.float32(light.saturation)
    picture += grey
    return picture


def expose(
    picture: NDArray[np.float32],
    *,
    cols: NDArray[np.int64],
    rows: NDArray[np.int64],
    light: Light,
    salt: int,
) -> NDArray[np.uint8]:
    """Blur, add the sensor's noise, round: ``(3, H, W)`` uint8.

    ``picture`` is one pixel larger on each side than ``rows`` and ``cols``.
    """
    side = np.float32(light.blur)
    middle = np.float32(1 - 2 * light.blur)
    rows_done = picture[:, 1:-1] * middle + (picture[:, :-2] + picture[:, 2:]) * side
    soft = rows_done[..., 1:-1] * middle + (rows_done[..., :-2] + rows_done[..., 2:]) * side
    bits = hash_bits(cols[None, :], rows[:, None], salt)
    bytes_ = [((bits >> np.uint32(8 * k)) & np.uint32(255)).astype(np.float32) for k in range(4)]
    # A byte's standard deviation is 74; the sum of four is nearly Gaussian.
    grain = (sum(bytes_[1:], bytes_[0]) - np.float32(510)) * np.float32(light.noise / 148)
    chroma = np.float32(0.35 * light.noise / 74)
    for band, own in zip(soft, bytes_, strict=False):
        band += grain
        band += (own - np.float32(127.5)) * chroma
    soft += np.float32(0.5)
    return np.clip(soft, 0, 255, out=soft).astype(np.uint8)


def _slope_light(height: Floats, light: Light, gsd_m: float) -> Floats:
    """Return sunlight on the surface by its slope; 1 on flat ground."""
    scale = np.float32(0.5 / gsd_m)
    dx, dy = np.zeros_like(height), np.zeros_like(height)
    np.subtract(height[:, 2:], height[:, :-2], out=dx[:, 1:-1])
    np.subtract(height[2:], height[:-2], out=dy[1:-1])
    for slope in (dx, dy):
        slope *= scale
        np.clip(slope, -1.2, 1.2, out=slope)
    x, y, z = (np.float32(v) for v in light.towards_sun)
    facing = z - dx * x - dy * y
    facing /= np.sqrt(1 + dx * dx + dy * dy) * z
    return np.clip(facing, 0, 1.7, out=facing)


def _shadow(height: Floats, light: Light, gsd_m: float) -> Floats:
    """Return each pixel's share that something towards the sun hides, 0 to 1.

    The highest sight line is found by doubling: eight single steps, then jumps that each look
    twice as far, all by whole pixels.
    """
    x, y, z = light.towards_sun
    flat = float(np.hypot(x, y))
    east = round(_FIRST_STEP_PX * x / flat)
    south = round(_FIRST_STEP_PX * y / flat)
    drop = float(np.hypot(east, south)) * gsd_m * z / flat  # of the sun's ray over one full step
    hiding = np.full_like(height, -1e3)
    for step in range(1, _FIRST_STEP_PX + 1):
        part = step / _FIRST_STEP_PX
        _raise_by(hiding, height, round(east * part), round(south * part), drop * part)
    for double in range(_doublings(gsd_m)):
        far = 2**double
        _raise_by(hiding, hiding.copy(), east * far, south * far, drop * far)
    hiding -= height
    hiding *= 1 / _SHADOW_EDGE_M
    return np.clip(hiding, 0, 1, out=hiding)


def _raise_by(target: Floats, source: Floats, east: int, south: int, drop: float) -> None:
    rows, from_rows = _slices_after(target.shape[0], south)
    cols, from_cols = _slices_after(target.shape[1], east)
    here = target[rows, cols]
    np.maximum(here, source[from_rows, from_cols] - np.float32(drop), out=here)


def _slices_after(size: int, step: int) -> tuple[slice, slice]:
    """Return where to write and to read, so that each element sees the one ``step`` further."""
    if step >= 0:
        return slice(0, max(0, size - step)), slice(min(step, size), size)
    return slice(min(-step, size), size), slice(0, max(0, size + step))


def _glint(canvas: Canvas, lit: Floats, glint: float) -> None:
    """Add ripples to water: small facets brighter and darker than the mean."""
    water = (canvas.class_ids == WATER) & (canvas.height == 0)  # ships do not ripple
    if water.any():
        ripples = (canvas.fields["fine"] - np.float32(0.5)) * np.float32(0.3)
        ripples += (canvas.fields["mid"] - np.float32(0.5)) * np.float32(0.15)
        sparkle = np.maximum(canvas.fields["fine"] - np.float32(0.82), 0) * np.float32(glint)
        np.add(lit, ripples + sparkle, out=lit, where=water)


def _doublings(gsd_m: float) -> int:
    steps = MAX_SHADOW_M / gsd_m / _FIRST_STEP_PX
    return max(0, ceil(np.log2(max(1.0, steps))))
