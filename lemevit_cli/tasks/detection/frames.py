"""Frames: the squares of rasters that become training windows, turned and scaled as they may be.

A frame may be turned by any angle, is wider than the window where that shrinks, and may reach over
the raster's edge. One affine says where each pixel of the window comes from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, degrees, floor, pi, sin
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray
from torch import Generator, Tensor

from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.training.augmentation import draw_zoom, resize_pair, uniform
from lemevit_cli.training.crops import model_values
from lemevit_cli.training.options import TrainingOptions

_TURNS = 0.5  # share of the frames that are turned by any angle, unless told


@dataclass(frozen=True)
class Frame:
    """The square of a raster that becomes a window.

    Args:
        x, y: its centre, in pixels of the raster.
        side: in pixels of the raster.
        angle_rad: by which it is turned, clockwise on screen; at 0 its edges are those of pixels.
    """

    x: float
    y: float
    side: int
    angle_rad: float

    def to_raster(self, size: int) -> Affine:
        """Map pixels of a window of ``size`` to those of the raster."""
        turned = Affine.translation(self.x, self.y) @ Affine.rotation(degrees(self.angle_rad))
        return turned @ Affine.scale(self.side / size) @ Affine.translation(-size / 2, -size / 2)

    @property
    def corners(self) -> NDArray[np.float64]:
        """Return the corners ``(4, 2)`` in pixels of the raster."""
        return corners_of([[self.x, self.y, self.side, self.side, self.angle_rad]])[0]

    @property
    def window(self) -> Window:
        """Return the pixels that the frame needs, beyond the raster's edges too."""
        half = self.side / 2
        if self.angle_rad == 0.0:
            left, top = round(self.x - half), round(self.y - half)
            return Window(col_off=left, row_off=top, width=self.side, height=self.side)
        # One more pixel on each side, to interpolate with.
        reach = half * (abs(cos(self.angle_rad)) + abs(sin(self.angle_rad))) + 1
        left, top = floor(self.x - reach), floor(self.y - reach)
        width, height = ceil(self.x + reach) - left, ceil(self.y + reach) - top
        return Window(col_off=left, row_off=top, width=width, height=height)


def draw_frame(
    extent: Window,
    target: tuple[float, float, float],
    options: TrainingOptions,
    generator: Generator,
) -> Frame:
    """Draw a frame with the target in it, whole if it fits, and inside the extent if that fits.

    A frame is not wider than the extent, unless that is smaller than a window: nothing is shrunk to
    leave the window empty, and nothing magnified for want of space.
    """
    augmentation, crop = options.augmentation, options.crop
    side = round(crop / draw_zoom(augmentation, generator))
    side = min(side, max(crop, extent.width, extent.height))
    turns = _TURNS if augmentation.turns is None else augmentation.turns
    is_turned = uniform(generator, 0.0, 1.0) < turns
    angle = uniform(generator, -pi, pi) if is_turned else 0.0
    x, y, width = target
    slack = max((side - width) / 2, side / 10)
    across, down = (uniform(generator, -slack, slack) for _ in range(2))
    drawn_x = x + across * cos(angle) - down * sin(angle)
    drawn_y = y + across * sin(angle) + down * cos(angle)
    moved_x = _moved_inside(drawn_x, extent.col_off, extent.right, side)
    moved_y = _moved_inside(drawn_y, extent.row_off, extent.bottom, side)
    if angle == 0.0:
        half = side / 2
        return Frame(round(moved_x - half) + half, round(moved_y - half) + half, side, 0.0)
    is_kept = _is_well_inside(x - moved_x, y - moved_y, angle, slack)
    return Frame(moved_x, moved_y, side, angle) if is_kept else Frame(drawn_x, drawn_y, side, angle)


def _moved_inside(centre: float, low: float, high: float, side: float) -> float:
    """Move an interval's centre so that one of it and ``low`` to ``high`` holds the other."""
    first, last = sorted((low + side / 2, high - side / 2))
    return min(max(centre, first), last)


def _is_well_inside(dx: float, dy: float, angle: float, slack: float) -> bool:
    """Say whether a place is no farther off a turned frame's centre than it may be drawn."""
    across, down = dx * cos(angle) + dy * sin(angle), dy * cos(angle) - dx * sin(angle)
    return max(abs(across), abs(down)) <= slack


def sample_frame(
    frame: Frame,
    seen: Window,
    pixels: NDArray[Any],
    valid: NDArray[np.bool_],
    *,
    crop: int,
    fill: Sequence[float],
) -> tuple[Tensor, Tensor]:
    """Sample pixels ``(bands, crop, crop)`` of a frame, and their validity ``(crop, crop)``.

    Args:
        seen: the part of the frame's window that was read.
        pixels, valid: of ``seen``.
        fill: what nodata pixels, and those not seen, hold before they are interpolated.
    """
    window = frame.window
    place = seen.relative_to(window).slices
    shape = (window.height, window.width)
    canvas = np.empty((len(pixels), *shape), dtype=np.float32)
    canvas[:] = np.asarray(fill, dtype=np.float32)[:, None, None]
    canvas[:, *place] = model_values(pixels, valid, fill)
    known = np.zeros(shape, dtype=np.uint8)
    known[place] = valid
    if frame.angle_rad == 0.0:
        resized, kept = resize_pair(torch.from_numpy(canvas), torch.from_numpy(known), crop)
        return resized, kept > 0
    return _turned(torch.from_numpy(canvas), torch.from_numpy(known), frame, crop)


def _turned(pixels: Tensor, valid: Tensor, frame: Frame, crop: int) -> tuple[Tensor, Tensor]:
    """Sample a turned frame from its window; what shrinks is averaged first, or it would alias."""
    height, width = valid.shape
    shrink = min(1.0, crop / frame.side)
    size = (max(1, round(height * shrink)), max(1, round(width * shrink)))
    if shrink < 1.0:
        pixels = F.interpolate(
            pixels[None], size=size, mode="bilinear", align_corners=False, antialias=True
        )[0]
    grid = _grid(frame, crop)[None]
    sampled = F.grid_sample(
        pixels[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
    kept = F.grid_sample(
        valid[None, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )[0, 0]
    return sampled, kept > 0.5


def _grid(frame: Frame, crop: int) -> Tensor:
    """Locate each pixel of a window in the frame's window, ``(crop, crop, 2)`` in [-1, 1]."""
    window = frame.window
    to_unit = (
        Affine.translation(-1, -1)
        @ Affine.scale(2 / window.width, 2 / window.height)
        @ Affine.translation(-window.col_off, -window.row_off)
    )
    from_unit = Affine.scale(crop / 2) @ Affine.translation(1, 1)
    a, b, c, d, e, f = (to_unit @ frame.to_raster(crop) @ from_unit)[:6]
    theta = torch.tensor([[[a, b, c], [d, e, f]]], dtype=torch.float64)
    return F.affine_grid(theta, [1, 1, crop, crop], align_corners=False)[0].float()
