"""Variations of a training window; the same draws for any number of workers.

Everything random comes from the generator that is passed in. What changes geometry is applied to
pixels and labels in step; what changes pixels never touches the labels.
"""

from __future__ import annotations

from collections.abc import Callable
from math import exp, log

import torch
import torch.nn.functional as F
from affine import Affine
from torch import Generator, Tensor
from torchvision.transforms.v2 import functional as v2

from lemevit_cli.training.options import AugmentationOptions

NUM_SYMMETRIES = 8


def uniform(generator: Generator, low: float, high: float) -> float:
    """Draw a number evenly from [low, high)."""
    return low + (high - low) * float(torch.rand((), generator=generator))


def draw_zoom(options: AugmentationOptions, generator: Generator) -> float:
    """Draw a magnification evenly in its logarithm."""
    low, high = options.zoom
    return exp(uniform(generator, log(low), log(high)))


def symmetry(values: Tensor, index: int) -> Tensor:
    """Apply one of the eight symmetries of the square to the last two axes.

    Args:
        index: 0 to 7: quarter turns, from 4 on mirrored first; 0 changes nothing.
    """
    mirrored = values.flip(-1) if index >= 4 else values
    return torch.rot90(mirrored, index % 4, dims=(-2, -1))


def symmetry_transform(index: int, size: int) -> Affine:
    """Return where :func:`symmetry` brings a point ``(x, y)`` of a square of ``size`` pixels."""
    transform = Affine(-1, 0, size, 0, 1, 0) if index >= 4 else Affine.identity()
    for _ in range(index % 4):
        transform = Affine(0, 1, 0, -1, 0, size) @ transform
    return transform


def resize_pair(pixels: Tensor, ids: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Bring pixels ``(bands, H, W)`` and maps of ids ``(..., H, W)`` to ``size`` x ``size``.

    Pixels are interpolated (averaged where they shrink), ids take the nearest.
    """
    if tuple(pixels.shape[-2:]) == (size, size):
        return pixels, ids
    shrinks = pixels.shape[-1] > size
    resized = F.interpolate(
        pixels[None], size=(size, size), mode="bilinear", align_corners=False, antialias=shrinks
    )[0]
    stacked = ids.reshape(1, -1, *ids.shape[-2:]).float()
    nearest = F.interpolate(stacked, size=(size, size), mode="nearest-exact")
    return resized, nearest.reshape(*ids.shape[:-2], size, size).to(ids.dtype)


def draw_symmetry(options: AugmentationOptions, generator: Generator) -> int:
    """Draw one of the eight symmetries; 0, which changes nothing, where none are asked for."""
    if not options.symmetries:
        return 0
    return int(torch.randint(NUM_SYMMETRIES, (), generator=generator))


def vary_pixels(
    pixels: Tensor,
    options: AugmentationOptions,
    generator: Generator,
    *,
    value_range: tuple[float, float],
) -> Tensor:
    """Change light, colour and sharpness of pixels ``(bands, H, W)``, float, kept in their range.

    Saturation and hue are changed where there are three bands.
    """
    low, high = value_range
    x = (pixels - low) / (high - low)
    for change in _changes(options, bands=len(pixels), generator=generator):
        x = change(x).clamp(0.0, 1.0)
    return x * (high - low) + low


def _changes(
    options: AugmentationOptions, *, bands: int, generator: Generator
) -> list[Callable[[Tensor], Tensor]]:
    def factor(strength: float) -> float:
        return uniform(generator, 1.0 - strength, 1.0 + strength)

    def happens(probability: float) -> bool:
        return uniform(generator, 0.0, 1.0) < probability

    changes: list[Callable[[Tensor], Tensor]] = []
    if options.gain:
        gains = torch.tensor([factor(options.gain) for _ in range(bands)]).view(-1, 1, 1)
        changes.append(lambda x: x * gains)
    if options.brightness:
        brightness = factor(options.brightness)
        changes.append(lambda x: x * brightness)
    if options.contrast:
        contrast = factor(options.contrast)
        changes.append(lambda x: (x - x.mean()) * contrast + x.mean())
    if options.saturation and bands == 3:
        saturation = factor(options.saturation)
        changes.append(lambda x: v2.adjust_saturation(x, saturation))
    if options.hue and bands == 3:
        hue = uniform(generator, -options.hue, options.hue)
        changes.append(lambda x: v2.adjust_hue(x, hue))
    if happens(options.haze):
        haze = uniform(generator, 0.05, 0.4)
        changes.append(lambda x: x * (1.0 - haze) + 0.8 * haze)
    if happens(options.blur):
        sigma = uniform(generator, 0.4, 1.5)
        changes.append(lambda x: v2.gaussian_blur(x, [7, 7], [sigma, sigma]))
    if happens(options.noise):
        strength = uniform(generator, 0.01, 0.05)
        changes.append(lambda x: x + strength * torch.randn(x.shape, generator=generator))
    return changes
