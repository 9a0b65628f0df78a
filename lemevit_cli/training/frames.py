"""Frames: the squares of rasters that become training windows, turned and scaled as they may be.

A frame may be turned by any angle, is wider than the window where that shrinks, and may reach over
the edge of what is read. One affine says where each pixel of the window comes from, and its inverse
brings the boxes: whatever is done to the pixels is done to class ids and boxes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil, cos, degrees, floor, sin
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from affine import Affine
from numpy.typing import NDArray
from torch import Tensor

from lemevit_cli.geometry.oriented_boxes import corners_of, map_boxes
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.raster.view import fill_nodata
from lemevit_cli.training.augmentation import resize_pair, symmetry, symmetry_transform
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.datasets.source import Sample


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
    angle_rad: float = 0.0

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


@dataclass(frozen=True, eq=False)
class Crop:
    """The square of ``size`` pixels that a frame became.

    Args:
        pixels: ``(bands, size, size)`` float32, in the values that a model sees.
        valid: ``(size, size)`` bool.
        ids: ``(size, size)`` uint8, as of a :class:`Sample`.
        objects: in pixels of the square; difficult, if less than 0.7 is inside.
    """

    pixels: Tensor
    valid: Tensor
    ids: Tensor
    objects: Objects | None


def crop_frame(
    frame: Frame,
    sample: Sample,
    part: Window,
    extent: Window,
    *,
    size: int,
    fill: Sequence[float],
    turn: int = 0,
) -> Crop:
    """Make a square of a frame, with its labels.

    Args:
        sample: what was read of it.
        part: the part of the frame's window that was read.
        extent: of the site, that objects are seen in.
        fill: what nodata pixels hold before they are interpolated.
        turn: one of the eight symmetries, applied last.
    """
    pixels, maps = _pad(sample, part, frame.window, fill)
    if frame.angle_rad == 0.0:
        pixels, maps = resize_pair(pixels, maps, size)
    else:
        pixels, maps = _sample_turned(pixels, maps, frame, size)
    pixels, maps = (symmetry(values, turn).contiguous() for values in (pixels, maps))
    objects = sample.objects
    if objects is not None:
        to_crop = symmetry_transform(turn, size) @ ~frame.to_raster(size)
        cut = objects.cut(frame.corners, extent)
        objects = Objects(map_boxes(cut.boxes, to_crop), cut.class_ids, cut.difficult)
    return Crop(pixels, maps[1] > 0, maps[0], objects)


def _pad(
    sample: Sample, part: Window, whole: Window, fill: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Grow what was read to the window of its frame.

    Labelled pixels are mirrored and ignored there; around objects there is fill, as nobody would
    know of their mirrored twins.

    Returns:
        Pixels ``(bands, H, W)`` float32; and ``(2, H, W)`` uint8, class ids and where the pixels
        are valid, which are turned and resized alike.
    """
    values = model_values(sample.pixels, sample.valid, fill)
    place = part.relative_to(whole)
    rows = (place.row_off, whole.height - place.bottom)
    cols = (place.col_off, whole.width - place.right)
    ids = np.pad(sample.ids, (rows, cols), constant_values=NODATA_CLASS)
    if sample.objects is None:
        pixels = np.pad(values, ((0, 0), rows, cols), mode="symmetric")
        valid = np.pad(sample.valid, (rows, cols), mode="symmetric")
    else:
        pixels = np.empty((len(values), *ids.shape), dtype=np.float32)
        pixels[:] = np.asarray(fill, dtype=np.float32)[:, None, None]
        pixels[:, *place.slices] = values
        valid = np.pad(sample.valid, (rows, cols))
    return torch.from_numpy(pixels), torch.from_numpy(np.stack([ids, valid.astype(np.uint8)]))


def _sample_turned(pixels: Tensor, maps: Tensor, frame: Frame, size: int) -> tuple[Tensor, Tensor]:
    """Sample a turned frame from its window; what shrinks is averaged first, or it would alias."""
    height, width = maps.shape[-2:]
    shrink = min(1.0, size / frame.side)
    if shrink < 1.0:
        smaller = (max(1, round(height * shrink)), max(1, round(width * shrink)))
        pixels = F.interpolate(
            pixels[None], size=smaller, mode="bilinear", align_corners=False, antialias=True
        )[0]
    grid = _grid(frame, size)[None]
    sampled, nearest = (
        F.grid_sample(
            values[None].float(), grid, mode=mode, padding_mode="border", align_corners=False
        )[0]
        for values, mode in ((pixels, "bilinear"), (maps, "nearest"))
    )
    return sampled, nearest.to(maps.dtype)


def _grid(frame: Frame, size: int) -> Tensor:
    """Locate each pixel of a window in the frame's window, ``(size, size, 2)`` in [-1, 1]."""
    window = frame.window
    to_unit = (
        Affine.translation(-1, -1)
        @ Affine.scale(2 / window.width, 2 / window.height)
        @ Affine.translation(-window.col_off, -window.row_off)
    )
    from_unit = Affine.scale(size / 2) @ Affine.translation(1, 1)
    a, b, c, d, e, f = (to_unit @ frame.to_raster(size) @ from_unit)[:6]
    theta = torch.tensor([[[a, b, c], [d, e, f]]], dtype=torch.float64)
    return F.affine_grid(theta, [1, 1, size, size], align_corners=False)[0].float()


def model_values(
    pixels: NDArray[Any], valid: NDArray[np.bool_], fill: Sequence[float]
) -> NDArray[np.float32]:
    """Fill nodata in pixels ``(bands, H, W)``, as for a model that predicts."""
    read = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return fill_nodata(read, valid, fill).astype(np.float32)


def nodata_values(fill: Sequence[float], dtype: np.dtype[Any]) -> NDArray[np.float32]:
    """Return what nodata pixels of a raster hold, a value a band: whole numbers in 8 bits."""
    exact = np.asarray(fill, dtype=np.float32)
    return np.trunc(exact) if dtype == np.uint8 else exact
