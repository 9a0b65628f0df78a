"""Pairs to train on: how they are opened, and what is varied of each date by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from lemevit_cli.errors import DataError
from lemevit_cli.models.two_dates import DATES
from lemevit_cli.tasks.change.classes import UNCHANGED, classes_of_all, ids_of_swapped_dates
from lemevit_cli.tasks.change.datasets.folders import open_pair_folder
from lemevit_cli.tasks.change.datasets.scenes import open_labelled_pair
from lemevit_cli.training.augmentation import uniform, vary_pixels
from lemevit_cli.training.datasets.folders import PictureReader, open_splits
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.source import Parts, Source
from lemevit_cli.training.draw import DrawnWindow
from lemevit_cli.training.frames import Crop
from lemevit_cli.training.options import AugmentationOptions
from lemevit_cli.training.sources import Openers

_SWAPPED = 0.5  # share of the windows
_SHIFTED = 0.5


def merge_change_classes(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the classes of a model that learns the changes of all sources.

    Raises:
        DataError: if two of them tell different kinds apart.
    """
    return classes_of_all([(source.name, source.classes) for source in sources])


def _open_folder(entry: LabelledFolder, reader: PictureReader, division: Division) -> Parts:
    parts = open_splits(open_pair_folder, entry, reader, division)
    for source in (parts.training, parts.validation):
        if source is not None and source.classes[0] != UNCHANGED:
            raise DataError(
                f"{entry.path}: {source.classes[0]!r} would be what stayed as it was; rename, drop "
                f"and classes of a list keep {UNCHANGED} first"
            )
    return parts


PAIRS = Openers(_open_folder, open_labelled_pair, merge_change_classes)


def vary_pair(
    crop: Crop,
    drawn: DrawnWindow,
    options: AugmentationOptions,
    value_range: tuple[float, float],
) -> Crop:
    """Swap the dates of a window with what has changed, where that has a name; vary each date."""
    generator = drawn.generator
    swapped = ids_of_swapped_dates(drawn.source.classes) if options.swap else None
    pixels, ids = crop.pixels, crop.ids
    if swapped is not None and uniform(generator, 0.0, 1.0) < _SWAPPED:
        pixels = torch.cat(pixels.chunk(DATES)[::-1])
        ids = torch.from_numpy(swapped)[ids.long()]
    pixels = vary_dates(pixels, options, generator, value_range=value_range)
    return replace(crop, pixels=pixels, ids=ids)


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
        dates[moved] = shift_pixels(dates[moved], right=right, down=down)
    varied = [vary_pixels(date, options, generator, value_range=value_range) for date in dates]
    return torch.cat(varied)


def shift_pixels(pixels: Tensor, *, right: float, down: float) -> Tensor:
    """Move what ``(bands, H, W)`` shows, by parts of a pixel too; the rim is repeated."""
    height, width = pixels.shape[-2:]
    # From where each pixel is taken, in units of half the picture.
    theta = torch.tensor([[[1.0, 0.0, -2 * right / width], [0.0, 1.0, -2 * down / height]]])
    grid = F.affine_grid(theta, [1, 1, height, width], align_corners=False)
    return F.grid_sample(
        pixels[None], grid, mode="bilinear", padding_mode="border", align_corners=False
    )[0]
