"""Views: the windows that a teacher and a student look at, without labels.

View ``n`` of a seed is always the same piece of the same picture, so that what a teacher says of it
can be kept. The teacher sees it as it was read, the student turned and in other colours.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lemevit_cli.raster.view import fill_nodata
from lemevit_cli.training.augmentation import draw_symmetry, symmetry, uniform, vary_pixels
from lemevit_cli.training.datasets.source import Site, Source
from lemevit_cli.training.draw import (
    DrawnWindow,
    generator_of,
    pick,
    place_of,
    read_frame,
    share_sites,
)
from lemevit_cli.training.frames import Frame
from lemevit_cli.training.options import TrainingOptions

_TRIES = 10  # for a window with a valid pixel
_OF_VARIATIONS = 7_919  # away from the seeds that views are drawn with
_COARSE_GSD_M = 0.5  # from here on a teacher sees more in a picture that is doubled first


class ViewDraw:
    """Draws windows evenly over the area of each set; number ``n`` of a seed is always the same."""

    def __init__(
        self, sources: Sequence[Source], weights: Sequence[float], options: TrainingOptions
    ) -> None:
        self._sources = list(sources)
        self._shares = np.cumsum(weights) / sum(weights)
        self._site_shares = [share_sites(source) for source in sources]
        self._options = options

    def __call__(self, number: int) -> DrawnWindow:
        """Draw view ``number``; a window without a valid pixel is drawn again."""
        generator = generator_of(self._options.seed, number)
        for _ in range(_TRIES):
            index = pick(self._shares, generator)
            source = self._sources[index]
            site = source.sites[pick(self._site_shares[index], generator)]
            drawn = read_frame(
                source, site, aim_anywhere(site, self._options, generator), generator
            )
            if drawn.sample.valid.any():
                break
        return drawn


def aim_anywhere(site: Site, options: TrainingOptions, generator: Generator) -> Frame:
    """Draw a frame anywhere in a picture, as large as the zoom allows.

    A small picture is magnified as far as the zoom allows before it is mirrored to the size.
    """
    crop, (low, high) = options.crop, options.augmentation.zoom
    extent = site.extent
    most = max(crop / low, 1.0)
    least = max(crop / high, 1.0)
    largest = min(most, max(min(extent.width, extent.height), least))
    side = max(round(float(np.exp(uniform(generator, log(least), log(largest))))), 1)
    left = int(uniform(generator, 0, extent.width - min(side, extent.width) + 1))
    top = int(uniform(generator, 0, extent.height - min(side, extent.height) + 1))
    return Frame(left + side / 2, top + side / 2, side)


class Views(Dataset[dict[str, Tensor]]):
    """Pairs of views: one for the teacher, and the same one varied for the student.

    A dict of ``view`` (its number), ``symmetry`` (by which the student's is turned), ``zoom`` (of
    the teacher), ``shown`` uint8 ``(3, crop, crop)`` and ``valid`` uint8 ``(crop, crop)`` as read,
    and ``pixels`` float32 ``(bands, crop, crop)`` turned and varied. All views come once in a pass,
    each pass in an order of its own.

    Args:
        count: of views; None draws new ones without an end.
        zoom: of the teacher; None doubles what has pixels of half a metre and more.
        value_range, fill: as of :class:`lemevit_cli.training.samples.TrainingSamples`.
    """

    def __init__(
        self,
        draw: ViewDraw,
        options: TrainingOptions,
        *,
        count: int | None,
        zoom: float | None,
        value_range: tuple[float, float],
        fill: Sequence[float],
    ) -> None:
        self._draw, self._options = draw, options
        self.count, self._zoom = count, zoom
        self._value_range, self._fill = value_range, tuple(fill)
        self._order: tuple[int, NDArray[np.int64]] | None = None

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        number = self._number(index)
        generator = generator_of(self._options.seed + _OF_VARIATIONS, index)
        sample = self.read_view(number)
        options = self._options.augmentation
        turn = draw_symmetry(options, generator)
        pixels = symmetry(sample["pixels"], turn).contiguous()
        varied = vary_pixels(pixels, options, generator, value_range=self._value_range)
        valid = symmetry(sample["valid"], turn).numpy() > 0
        return sample | {
            "symmetry": torch.tensor(turn),
            "pixels": torch.from_numpy(fill_nodata(varied.numpy(), valid, self._fill)),
        }

    def draw(self, number: int) -> DrawnWindow:
        """Draw the window that view ``number`` is made of."""
        return self._draw(number)

    def read_view(self, number: int) -> dict[str, Tensor]:
        """Read view ``number`` without any variation."""
        drawn = self.draw(number)
        crop = drawn.crop(self._options.crop, fill=self._fill)
        return {
            "view": torch.tensor(number),
            "symmetry": torch.tensor(0),
            "zoom": torch.tensor(self._zoom_of(drawn)),
            "shown": as_shown(crop.pixels, self._value_range),
            "valid": crop.valid.to(torch.uint8),
            "pixels": crop.pixels,
        }

    def origin(self, index: int) -> str:
        """Say where sample ``index`` is from, for messages."""
        return place_of(self.draw(self._number(index)))

    def _zoom_of(self, drawn: DrawnWindow) -> float:
        if self._zoom is not None:
            return self._zoom
        stated = self._options.gsd_m
        size = drawn.site.gsd_m or (None if stated is None else stated[0])
        if size is None:
            return 1.0
        return 2.0 if size * drawn.frame.side / self._options.crop >= _COARSE_GSD_M else 1.0

    def _number(self, index: int) -> int:
        if self.count is None:
            return index
        turn, place = divmod(index, self.count)
        if self._order is None or self._order[0] != turn:
            random = np.random.default_rng((abs(self._options.seed), turn))
            self._order = turn, random.permutation(self.count)
        return int(self._order[1][place])


def as_shown(pixels: Tensor, value_range: tuple[float, float]) -> Tensor:
    """Return pixels ``(bands, H, W)`` as a teacher of photographs knows them: uint8 ``(3, H, W)``.

    The first three bands, or one in grey.
    """
    low, high = value_range
    bands = pixels[:3] if len(pixels) >= 3 else pixels[[0, 0, 0]]
    scaled = (bands - low) / (high - low)
    return (scaled.clamp(0.0, 1.0) * 255.0).round().to(torch.uint8)
