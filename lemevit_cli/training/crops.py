"""Training windows, drawn from several sources; sample ``i`` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.class_groups import groups_of
from lemevit_cli.raster.view import filled
from lemevit_cli.training.augmentation import (
    draw_zoom,
    resize_pair,
    uniform,
    vary_geometry,
    vary_pixels,
)
from lemevit_cli.training.datasets.source import Cells, Site, Source
from lemevit_cli.training.options import TrainingOptions

_TRIES = 10  # for a window with labels


@dataclass(frozen=True)
class SourceOfCrops:
    """A source with what is needed to draw from it.

    Args:
        places: of the cells, as in :class:`Cells`.
        groups: the source's class of every class of the model (see ``class_groups``).
        class_shares: cumulated chance of each class, the last is 1.
        cell_counts: ``(classes, cells)``, cumulated pixels of that class over the cells.
    """

    source: Source
    places: NDArray[np.int64]
    groups: Tensor
    class_shares: NDArray[np.float64]
    cell_counts: NDArray[np.int64]


def source_of_crops(
    source: Source,
    cells: Cells,
    model_classes: Sequence[str],
    *,
    balance: float,
    groups: Callable[[Sequence[str], Sequence[str]], tuple[int, ...]] = groups_of,
) -> SourceOfCrops:
    """Prepare a source.

    A class with the share ``f`` of the labelled pixels is aimed at with a chance in proportion to
    ``f ** (1 - balance)``, and its cell by the pixels of the class in it: with 0 windows are drawn
    evenly over the labelled pixels, with 1 evenly over the classes.

    Args:
        groups: says which class of the source every class of the model belongs to.

    Raises:
        DataError: if no pixel is labelled.
    """
    totals = cells.counts.sum(axis=0)
    if totals.sum() == 0:
        raise DataError(f"{source.name}/{source.split}: no pixel of its labels has a class")
    chances = np.where(totals > 0, (totals / totals.sum()) ** (1.0 - balance), 0.0)
    shares = np.cumsum(chances) / chances.sum()
    shares[-1] = 1.0
    return SourceOfCrops(
        source=source,
        places=cells.places,
        groups=torch.tensor(groups(model_classes, source.classes)),
        class_shares=shares,
        cell_counts=np.cumsum(cells.counts.T, axis=1),
    )


@dataclass(frozen=True)
class DrawnWindow:
    """A window as it was drawn and read, before any variation.

    Args:
        side: of the square that the window becomes; the window is smaller where its extent is.
        pixels, valid, ids: as :meth:`Source.read` gives them.
        generator: for what is drawn next.
    """

    source: SourceOfCrops
    site: Site
    window: Window
    side: int
    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    ids: NDArray[np.uint8]
    generator: Generator

    @property
    def dates(self) -> tuple[str, ...]:
        """Return the paths of its raster, or of both dates."""
        return self.site.dates


def generator_of(seed: int, index: int) -> Generator:
    """Seed a generator for each sample: neither workers nor a resume change the draws."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


class WindowDraw:
    """Draws windows with labels; number ``i`` of a seed is always the same.

    Args:
        weights: how often each source is drawn from; in any unit.
    """

    def __init__(
        self, sources: Sequence[SourceOfCrops], weights: Sequence[float], options: TrainingOptions
    ) -> None:
        self._sources = list(sources)
        self._shares = np.cumsum(weights) / np.sum(weights)
        self._options = options

    def __call__(self, index: int) -> DrawnWindow:
        """Draw number ``index``; a window without a labelled pixel is drawn again."""
        generator = generator_of(self._options.seed, index)
        source = self._sources[pick(self._shares, generator)]
        for _ in range(_TRIES):
            wanted = round(self._options.crop / draw_zoom(self._options.augmentation, generator))
            site, window, side = draw_window(source, wanted, self._options.crop, generator)
            pixels, valid, ids = source.source.read(site, window)
            if (ids != NODATA_CLASS).any():
                break
        return DrawnWindow(source, site, window, side, pixels, valid, ids, generator)


class TrainingCrops(Dataset[dict[str, Tensor]]):
    """Sample ``i``: augmented pixels ``(bands, crop, crop)`` float32, ids ``(crop, crop)``, groups.

    Nodata pixels hold ``fill``, as where a scene is predicted; no augmentation touches them.

    Args:
        draw: gives windows by number.
        value_range: of the pixels, for the augmentation.
        fill: what nodata pixels hold, a value a band: the card's mean.
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
        pixels, maps = square_of(drawn, self._options, self._fill)
        pixels = vary_pixels(
            pixels, self._options.augmentation, drawn.generator, value_range=self._value_range
        )
        return finished_sample(pixels, maps, drawn, self._fill)

    def origin(self, index: int) -> str:
        """Say where sample ``index`` is from, for messages."""
        return place_of(self._draw(index))


def square_of(
    drawn: DrawnWindow, options: TrainingOptions, fill: Sequence[float]
) -> tuple[Tensor, Tensor]:
    """Make a drawn window a square of ``crop`` pixels, turned or mirrored as may be.

    Returns:
        Pixels ``(bands, crop, crop)`` float32; and ``(2, crop, crop)`` uint8, class ids and where
        the pixels are valid.
    """
    pixels, ids, valid = _pad_to_square(
        model_values(drawn.pixels, drawn.valid, fill), drawn.ids, drawn.valid, drawn.side
    )
    # Validity rides with the ids as a second map: it is turned and resized as they are.
    pixels, maps = resize_pair(pixels, torch.stack([ids, valid]), options.crop)
    return vary_geometry(pixels, maps, options.augmentation, drawn.generator)


def finished_sample(
    pixels: Tensor, maps: Tensor, drawn: DrawnWindow, fill: Sequence[float]
) -> dict[str, Tensor]:
    """Return what the loss is given, from the maps of :func:`square_of`; nodata filled again."""
    void = void_values(fill, drawn.pixels.dtype)
    values = filled(pixels.numpy(), maps[1].numpy() > 0, void)
    return {
        "pixels": torch.from_numpy(values),
        "ids": maps[0].long(),
        "groups": drawn.source.groups,
    }


def place_of(drawn: DrawnWindow) -> str:
    """Say where a window is from, for messages."""
    window = drawn.window
    return (
        f"{drawn.site.scene}, window {window.col_off},{window.row_off} "
        f"of {window.width} x {window.height}"
    )


def model_values(
    pixels: NDArray[Any], valid: NDArray[np.bool_], fill: Sequence[float]
) -> NDArray[np.float32]:
    """Give pixels ``(bands, H, W)`` as a :class:`SceneView` does to a model, nodata filled."""
    read = pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)
    return filled(read, valid, fill).astype(np.float32)


def void_values(fill: Sequence[float], dtype: np.dtype) -> NDArray[np.float32]:
    """Return what nodata pixels of a raster hold, a value a band: whole numbers in 8 bits."""
    exact = np.asarray(fill, dtype=np.float32)
    return np.trunc(exact) if dtype == np.uint8 else exact


def pick(shares: NDArray[np.float64], generator: Generator) -> int:
    """Draw a number from 0 on, by the cumulated chances of all."""
    drawn = np.searchsorted(shares, uniform(generator, 0.0, 1.0), side="right")
    return min(int(drawn), len(shares) - 1)


def draw_window(
    source: SourceOfCrops, side: int, crop: int, generator: Generator
) -> tuple[Site, Window, int]:
    """Draw a site and a window in its extent, around a pixel of the class that was drawn.

    Returns:
        Site, window, and the side of the square that the window becomes: ``side``, less in a
        smaller extent, but not below ``crop``, so that nothing is magnified for want of it. The
        window is as wide and high as that, or as the extent.
    """
    class_id = pick(source.class_shares, generator)
    cumulated = source.cell_counts[class_id]
    target = int(uniform(generator, 0.0, 1.0) * cumulated[-1])
    number = min(int(np.searchsorted(cumulated, target, side="right")), len(cumulated) - 1)
    index, left, top, width, height = (int(v) for v in source.places[number])
    site = source.source.sites[index]
    cell = Window(col_off=left, row_off=top, width=width, height=height)
    row, col = _pixel_of_class(source.source.read_truth(site, cell), class_id, generator)
    room = site.room
    side = min(side, max(crop, min(room.width, room.height)))
    x = left + col - int(uniform(generator, 0.0, side))
    y = top + row - int(uniform(generator, 0.0, side))
    width, height = min(side, room.width), min(side, room.height)
    window = Window(
        col_off=min(max(x, room.col_off), room.right - width),
        row_off=min(max(y, room.row_off), room.bottom - height),
        width=width,
        height=height,
    )
    return site, window, side


def _pixel_of_class(ids: NDArray[np.uint8], class_id: int, generator: Generator) -> tuple[int, int]:
    """Draw row and column of a pixel of a class; the middle where the class is not found.

    It was counted there, but in a larger window: a pixel whose centre an edge hits may have the
    class in that one alone. One number is drawn either way.
    """
    rows, cols = np.nonzero(ids == class_id)
    chosen = int(uniform(generator, 0.0, 1.0) * len(rows))
    if len(rows) == 0:
        return ids.shape[0] // 2, ids.shape[1] // 2
    return int(rows[chosen]), int(cols[chosen])


def _pad_to_square(
    pixels: NDArray[np.float32], ids: NDArray[np.uint8], valid: NDArray[np.bool_], side: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Grow a window to ``side`` pixels: mirrored, and ignored there."""
    height, width = ids.shape
    below, right = side - height, side - width
    if below or right:
        pixels = np.pad(pixels, ((0, 0), (0, below), (0, right)), mode="symmetric")
        valid = np.pad(valid, ((0, below), (0, right)), mode="symmetric")
        ids = np.pad(ids, ((0, below), (0, right)), constant_values=NODATA_CLASS)
    return (
        torch.from_numpy(np.ascontiguousarray(pixels)),
        torch.from_numpy(np.ascontiguousarray(ids)),
        torch.from_numpy(np.array(valid, dtype=np.uint8)),
    )


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
