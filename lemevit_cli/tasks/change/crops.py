"""Training windows of two dates; sample ``i`` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lemevit_cli.models.two_dates import DATES
from lemevit_cli.tasks.change.classes import ids_of_swapped_dates
from lemevit_cli.training.augmentation import uniform, vary_pixels
from lemevit_cli.training.crops import WindowDraw, finished_sample, place_of, square_of
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions

_SWAPPED = 0.5  # share of the windows
_SHIFTED = 0.5


class PairCrops(Dataset[dict[str, Tensor]]):
    """Sample ``i``: augmented pixels ``(2 * bands, crop, crop)`` float32, ids, groups.

    Ids ``(crop, crop)`` are those of the source, which the groups bring to the model's classes.
    What changes geometry is done to both dates and the ids in step; light, colour, sharpness and a
    small shift are drawn for each date by itself. Nodata pixels hold ``fill``.

    Args:
        draw: gives windows by number.
        value_range: of the pixels, for the augmentation.
        fill: what nodata pixels hold, a value a band: the card's mean, once for each date.
    """

    def __init__(
        self,
        draw: WindowDraw,
        options: TrainingOptions,
        *,
        value_range: tuple[float, float],
        fill: Sequence[float],
    ) -> None:
        self._draw = draw
        self._options = options
        self._value_range = value_range
        self._fill = tuple(fill)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        drawn = self._draw(index)
        augmentation, generator = self._options.augmentation, drawn.generator
        pixels, maps = square_of(drawn, self._options, self._fill)
        swapped = ids_of_swapped_dates(drawn.source.source.classes) if augmentation.swap else None
        if swapped is not None and uniform(generator, 0.0, 1.0) < _SWAPPED:
            pixels = torch.cat(pixels.chunk(DATES)[::-1])
            maps[0] = swapped[maps[0].long()]
        pixels = vary_dates(pixels, augmentation, generator, value_range=self._value_range)
        return finished_sample(pixels, maps, drawn, self._fill)

    def origin(self, index: int) -> str:
        """Say where sample ``index`` is from, for messages."""
        return place_of(self._draw(index))


def vary_dates(
    pixels: Tensor,
    options: AugmentationOptions,
    generator: Generator,
    *,
    value_range: tuple[float, float],
) -> Tensor:
    """Vary both dates of ``(2 * bands, H, W)``, each by itself; one of them may be shifted."""
    dates = list(pixels.chunk(DATES))
    if options.shift_px and uniform(generator, 0.0, 1.0) < _SHIFTED:
        moved = int(torch.randint(DATES, (), generator=generator))
        right, down = (uniform(generator, -options.shift_px, options.shift_px) for _ in "xy")
        dates[moved] = shifted(dates[moved], right=right, down=down)
    varied = [vary_pixels(date, options, generator, value_range=value_range) for date in dates]
    return torch.cat(varied)


def shifted(pixels: Tensor, *, right: float, down: float) -> Tensor:
    """Move what ``(bands, H, W)`` shows, by parts of a pixel too; the rim is repeated."""
    height, width = pixels.shape[-2:]
    # From where each pixel is taken, in units of half the picture.
    theta = torch.tensor([[[1.0, 0.0, -2 * right / width], [0.0, 1.0, -2 * down / height]]])
    grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
    return F.grid_sample(
        pixels[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
