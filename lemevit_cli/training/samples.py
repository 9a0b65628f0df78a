"""Samples of a training: drawn windows, varied; sample ``i`` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

import torch
from torch import Tensor
from torch.utils.data import Dataset

from lemevit_cli.metrics.class_groups import groups_of
from lemevit_cli.raster.view import fill_nodata
from lemevit_cli.training.augmentation import draw_symmetry, vary_pixels
from lemevit_cli.training.datasets.source import Source
from lemevit_cli.training.draw import DrawnWindow, WindowDraw, place_of
from lemevit_cli.training.frames import Crop, nodata_values
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions

ValueRange = tuple[float, float]
Vary = Callable[[Crop, DrawnWindow, AugmentationOptions, ValueRange], Crop]
Groups = Callable[[Sequence[str], Sequence[str]], tuple[int, ...]]
Targets = Callable[[Crop, Source], dict[str, Tensor]]


def vary_window(
    crop: Crop, drawn: DrawnWindow, options: AugmentationOptions, value_range: ValueRange
) -> Crop:
    """Vary what a single date shows; labels stay."""
    pixels = vary_pixels(crop.pixels, options, drawn.generator, value_range=value_range)
    return replace(crop, pixels=pixels)


@dataclass(frozen=True)
class PixelTargets:
    """Targets of a loss over pixels: ``ids`` ``(crop, crop)`` of the source, and ``groups``.

    Args:
        classes: of the model.
        groups: says which class of the source every class of the model belongs to.
    """

    classes: tuple[str, ...]
    groups: Groups = groups_of

    def __call__(self, crop: Crop, source: Source) -> dict[str, Tensor]:
        groups = torch.tensor(self.groups(self.classes, source.classes))
        return {"ids": crop.ids.long(), "groups": groups}


class TrainingSamples(Dataset[dict[str, Tensor]]):
    """Samples of augmented ``pixels`` ``(bands, crop, crop)`` float32, with their targets.

    What changes geometry is done to pixels and labels in step. Nodata pixels hold ``fill``, as
    where a scene is predicted; no augmentation touches them.

    Args:
        draw: gives windows by number.
        value_range: of the pixels, for the augmentation.
        fill: what nodata pixels hold, a value a band: the card's mean, once for each date.
        targets: what the loss is given beside the pixels, of constant shape.
        vary: changes pixels, or labels too, after all that changes geometry.
    """

    def __init__(
        self,
        draw: WindowDraw,
        options: TrainingOptions,
        *,
        value_range: ValueRange,
        fill: Sequence[float],
        targets: Targets,
        vary: Vary = vary_window,
    ) -> None:
        self._draw = draw
        self._options = options
        self._value_range = value_range
        self._fill = tuple(fill)
        self._targets = targets
        self._vary = vary

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        drawn = self._draw(index)
        augmentation = self._options.augmentation
        turn = draw_symmetry(augmentation, drawn.generator)
        crop = drawn.crop(self._options.crop, fill=self._fill, turn=turn)
        crop = self._vary(crop, drawn, augmentation, self._value_range)
        nodata = nodata_values(self._fill, drawn.sample.pixels.dtype)
        pixels = fill_nodata(crop.pixels.numpy(), crop.valid.numpy(), nodata)
        return {"pixels": torch.from_numpy(pixels), **self._targets(crop, drawn.source)}

    def origin(self, index: int) -> str:
        """Say where sample ``index`` is from, for messages."""
        return place_of(self._draw(index))


@dataclass(frozen=True)
class StepBatches:
    """Sample numbers of one process's batches, step by step and without an end.

    Step ``s`` of all processes together takes samples ``s * n`` to ``(s + 1) * n - 1``, so that two
    processes see in a step what one with twice the batch sees.
    """

    batch_size: int
    first_step: int = 0
    rank: int = 0
    num_processes: int = 1

    def __iter__(self) -> Iterator[list[int]]:
        for step in count(self.first_step):
            first = (step * self.num_processes + self.rank) * self.batch_size
            yield list(range(first, first + self.batch_size))
