"""Training windows, drawn from several sources; sample ``i`` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.training.augmentation import (
    draw_zoom,
    resize_pair,
    uniform,
    vary_geometry,
    vary_pixels,
)
from lemevit_cli.training.class_groups import groups_of
from lemevit_cli.training.datasets.folders import Cells, FolderSource, PictureReader
from lemevit_cli.training.options import TrainingOptions


@dataclass(frozen=True)
class SourceOfCrops:
    """A source with what is needed to draw from it.

    Args:
        groups: the source's class of every class of the model (see ``class_groups``).
        class_shares: cumulated chance of each class, the last is 1.
        cell_counts: ``(classes, cells)``, cumulated pixels of that class over the cells.
    """

    source: FolderSource
    places: NDArray[np.int64]
    groups: Tensor
    class_shares: NDArray[np.float64]
    cell_counts: NDArray[np.int64]


def source_of_crops(
    source: FolderSource, cells: Cells, model_classes: Sequence[str], *, balance: float
) -> SourceOfCrops:
    """Prepare a source.

    A class with the share ``f`` of the labelled pixels is aimed at with a chance in proportion to
    ``f ** (1 - balance)``, and its cell by the pixels of the class in it: with 0 windows are drawn
    evenly over the labelled pixels, with 1 evenly over the classes.

    Raises:
        DataError: if no pixel is labelled.
    """
    totals = cells.counts.sum(axis=0)
    if totals.sum() == 0:
        raise DataError(f"{source.name}/{source.split}: no pixel of its masks has a class")
    chances = np.where(totals > 0, (totals / totals.sum()) ** (1.0 - balance), 0.0)
    shares = np.cumsum(chances) / chances.sum()
    shares[-1] = 1.0
    return SourceOfCrops(
        source=source,
        places=cells.places,
        groups=torch.tensor(groups_of(model_classes, source.classes)),
        class_shares=shares,
        cell_counts=np.cumsum(cells.counts.T, axis=1),
    )


class TrainingCrops(Dataset[dict[str, Tensor]]):
    """Sample ``i``: augmented pixels ``(bands, crop, crop)`` float32, ids ``(crop, crop)``, groups.

    Args:
        weights: how often each source is drawn from; in any unit.
        value_range: of the pixels, for the augmentation.
    """

    def __init__(
        self,
        sources: Sequence[SourceOfCrops],
        weights: Sequence[float],
        options: TrainingOptions,
        *,
        value_range: tuple[float, float],
    ) -> None:
        self._sources = list(sources)
        self._shares = np.cumsum(weights) / np.sum(weights)
        self._options = options
        self._value_range = value_range
        self._reader = PictureReader()

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        # A generator of its own for every sample: neither workers nor a resume change the draws.
        generator = torch.Generator().manual_seed(self._options.seed * 1_000_003 + index)
        source = self._sources[_pick(self._shares, generator)]
        side = round(self._options.crop / draw_zoom(self._options.augmentation, generator))
        picture, window = draw_window(source, side, self._options.crop, generator)
        read = self._reader.read(source.source, source.source.pictures[picture], window)
        pixels, ids = _pad_to_square(*read)
        pixels, ids = resize_pair(pixels, ids, self._options.crop)
        pixels, ids = vary_geometry(pixels, ids, self._options.augmentation, generator)
        pixels = vary_pixels(
            pixels, self._options.augmentation, generator, value_range=self._value_range
        )
        return {"pixels": pixels, "ids": ids.long(), "groups": source.groups}


def _pick(shares: NDArray[np.float64], generator: Generator) -> int:
    drawn = np.searchsorted(shares, uniform(generator, 0.0, 1.0), side="right")
    return min(int(drawn), len(shares) - 1)


def draw_window(
    source: SourceOfCrops, side: int, crop: int, generator: Generator
) -> tuple[int, Window]:
    """Draw a picture's index and a window in it, around a pixel of the class that was drawn.

    The window is ``side`` pixels wide, less where the picture is smaller, but never so much less
    that it would be magnified beyond ``crop``; it lies inside the picture as far as it can.
    """
    cumulated = source.cell_counts[_pick(source.class_shares, generator)]
    target = int(uniform(generator, 0.0, 1.0) * cumulated[-1])
    cell = min(int(np.searchsorted(cumulated, target, side="right")), len(cumulated) - 1)
    index, col, row, width, height = (int(v) for v in source.places[cell])
    picture = source.source.pictures[index]
    side = min(side, max(crop, min(picture.width, picture.height)))
    x = col + uniform(generator, 0.0, width) - uniform(generator, 0.0, side)
    y = row + uniform(generator, 0.0, height) - uniform(generator, 0.0, side)
    width, height = min(side, picture.width), min(side, picture.height)
    return index, Window(
        col_off=min(max(round(x), 0), picture.width - width),
        row_off=min(max(round(y), 0), picture.height - height),
        width=width,
        height=height,
    )


def _pad_to_square(pixels: NDArray[np.generic], ids: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
    height, width = ids.shape
    side = max(height, width)
    below, right = side - height, side - width
    if below or right:
        pixels = np.pad(pixels, ((0, 0), (0, below), (0, right)), mode="symmetric")
        ids = np.pad(ids, ((0, below), (0, right)), constant_values=NODATA_CLASS)
    return torch.from_numpy(pixels.astype(np.float32)), torch.from_numpy(np.ascontiguousarray(ids))


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
