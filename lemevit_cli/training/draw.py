"""Which windows are drawn from several sources; window ``i`` of a seed is always the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator

from lemevit_cli.geometry.window import Window
from lemevit_cli.training.augmentation import draw_zoom, uniform
from lemevit_cli.training.datasets.source import Cells, Sample, Site, Source, Sources
from lemevit_cli.training.frames import Crop, Frame, crop_frame
from lemevit_cli.training.options import TrainingOptions

_TRIES = 10  # for a window with labels


@dataclass(frozen=True, eq=False)
class Aims:
    """A source with what is needed to draw from it.

    Args:
        places: of the cells, as in :class:`Cells`.
        class_shares: cumulated chance of each class, the last is 1; 0 where nothing is labelled.
        cell_counts: ``(classes, cells)``, cumulated counts of that class over the cells.
        site_shares: cumulated chance of each site, by the area of its core.
    """

    source: Source
    places: NDArray[np.int64]
    class_shares: NDArray[np.float64]
    cell_counts: NDArray[np.int64]
    site_shares: NDArray[np.float64]


def aims_of(source: Source, cells: Cells, *, balance: float, evenly: bool = False) -> Aims:
    """Prepare a source.

    A class with the share ``f`` of the counts is aimed at with a chance in proportion to
    ``f ** (1 - balance)``, and its cell by the counts of the class in it: with 0 windows are drawn
    evenly over the labels, with 1 evenly over the classes.

    Args:
        evenly: a cell counts once, however much of a class is in it: a harbour with a hundred
            boats as one with a single boat.
    """
    counts = cells.counts.clip(max=1) if evenly else cells.counts
    totals = counts.sum(axis=0)
    chances = np.where(totals > 0, (totals / max(totals.sum(), 1)) ** (1.0 - balance), 0.0)
    return Aims(
        source,
        cells.places,
        class_shares=np.cumsum(chances) / (chances.sum() or 1.0),
        cell_counts=np.cumsum(counts.T, axis=1),
        site_shares=share_sites(source),
    )


def share_sites(source: Source) -> NDArray[np.float64]:
    """Return the cumulated chance of each site, by the area of its core."""
    areas = np.cumsum([site.num_pixels for site in source.sites], dtype=np.float64)
    return areas / areas[-1]


Aim = Callable[[Aims, TrainingOptions, Generator], tuple[Site, Frame]]


@dataclass(frozen=True, eq=False)
class DrawnWindow:
    """A window as it was drawn and read, before any variation.

    Args:
        window: the part of the frame's window that lies in the site's extent.
        sample: what was read of it.
        generator: for what is drawn next.
    """

    source: Source
    site: Site
    frame: Frame
    window: Window
    sample: Sample
    generator: Generator

    def crop(self, size: int, *, fill: Sequence[float], turn: int = 0) -> Crop:
        """Make a square of ``size`` pixels of it, as :func:`crop_frame`."""
        return crop_frame(
            self.frame, self.sample, self.window, self.site.extent, size=size, fill=fill, turn=turn
        )


def generator_of(seed: int, index: int) -> Generator:
    """Seed a generator for each sample: neither workers nor a resume change the draws."""
    return torch.Generator().manual_seed(seed * 1_000_003 + index)


class WindowDraw:
    """Draws windows with labels; number ``i`` of a seed is always the same.

    Args:
        aim: draws a site and a frame in it; by default around a pixel of a class.
        evenly: as of :func:`aims_of`.
    """

    def __init__(
        self,
        sources: Sources,
        options: TrainingOptions,
        aim: Aim | None = None,
        *,
        evenly: bool = False,
    ) -> None:
        self._aims = [
            aims_of(source, cells, balance=options.balance, evenly=evenly)
            for source, cells in zip(sources.training, sources.cells, strict=True)
        ]
        self._shares = np.cumsum(sources.weights) / np.sum(sources.weights)
        self._options = options
        self._aim = aim or aim_at_pixels

    def __call__(self, index: int) -> DrawnWindow:
        """Draw number ``index``; a window without a label is drawn again."""
        generator = generator_of(self._options.seed, index)
        aims = self._aims[pick(self._shares, generator)]
        for _ in range(_TRIES):
            site, frame = self._aim(aims, self._options, generator)
            drawn = read_frame(aims.source, site, frame, generator)
            if drawn.sample.is_labelled:
                break
        return drawn


def read_frame(source: Source, site: Site, frame: Frame, generator: Generator) -> DrawnWindow:
    """Read what of a frame lies in its site's extent."""
    window = frame.window.intersection(site.extent)
    if window is None:
        raise ValueError(f"{frame} misses {site.extent}")
    return DrawnWindow(source, site, frame, window, source.read(site, window), generator)


def place_of(drawn: DrawnWindow) -> str:
    """Say where a window is from, for messages."""
    window = drawn.window
    return (
        f"{drawn.site.scene}, window {window.col_off},{window.row_off} "
        f"of {window.width} x {window.height}"
    )


def pick(shares: NDArray[np.float64], generator: Generator) -> int:
    """Draw a number from 0 on, by the cumulated chances of all."""
    drawn = np.searchsorted(shares, uniform(generator, 0.0, 1.0), side="right")
    return min(int(drawn), len(shares) - 1)


def pick_evenly(count: int, generator: Generator) -> int:
    """Draw a number from 0 to ``count - 1``, or 0."""
    return max(min(int(uniform(generator, 0.0, count)), count - 1), 0)


def draw_cell(aims: Aims, generator: Generator) -> tuple[int, Site, Window]:
    """Draw a class, and a site and cell where it was counted."""
    class_id = pick(aims.class_shares, generator)
    cumulated = aims.cell_counts[class_id]
    target = int(uniform(generator, 0.0, 1.0) * cumulated[-1])
    number = min(int(np.searchsorted(cumulated, target, side="right")), len(cumulated) - 1)
    index, left, top, width, height = (int(v) for v in aims.places[number])
    cell = Window(col_off=left, row_off=top, width=width, height=height)
    return class_id, aims.source.sites[index], cell


def aim_at_pixels(aims: Aims, options: TrainingOptions, generator: Generator) -> tuple[Site, Frame]:
    """Draw a site and a frame in its extent, around a pixel of the class that was drawn."""
    side = round(options.crop / draw_zoom(options.augmentation, generator))
    return draw_frame_around_pixel(aims, side, options.crop, generator)


def draw_frame_around_pixel(
    aims: Aims, side: int, crop: int, generator: Generator
) -> tuple[Site, Frame]:
    """Draw a site and a frame of ``side`` pixels around a pixel of the class that was drawn.

    The side is less in a smaller extent, but not below ``crop``, so that nothing is magnified for
    want of it: the frame then reaches over the right and lower edge.
    """
    class_id, site, cell = draw_cell(aims, generator)
    row, col = _pixel_of_class(aims.source.read_ids(site, cell), class_id, generator)
    extent = site.extent
    side = min(side, max(crop, min(extent.width, extent.height)))
    x = cell.col_off + col - int(uniform(generator, 0.0, side))
    y = cell.row_off + row - int(uniform(generator, 0.0, side))
    left = max(min(x, extent.right - side), extent.col_off)
    top = max(min(y, extent.bottom - side), extent.row_off)
    return site, Frame(left + side / 2, top + side / 2, side)


def _pixel_of_class(ids: NDArray[np.uint8], class_id: int, generator: Generator) -> tuple[int, int]:
    """Draw row and column of a pixel of a class; the middle where the class is not found.

    It was counted there, but in a larger window: a pixel whose centre an edge hits may have the
    class in that one alone. One number is drawn either way.
    """
    rows, cols = np.nonzero(ids == class_id)
    chosen = pick_evenly(len(rows), generator)
    if len(rows) == 0:
        return ids.shape[0] // 2, ids.shape[1] // 2
    return int(rows[chosen]), int(cols[chosen])
