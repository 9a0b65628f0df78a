"""What the values of training windows are: their range, mean and deviation, for the card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.training.datasets.source import Sample
from lemevit_cli.training.draw import DrawnWindow

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_WINDOWS = 64
_PIXELS_OF_WINDOW = 4096  # at most, spread evenly: hyperspectral windows fit into memory too


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Of the values as stored, before any normalisation.

    Args:
        value_range: between which nearly all values lie, of all bands together.
        mean, std: one a band.
    """

    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]


Windows = Iterable[tuple[NDArray[Any], NDArray[np.bool_]]]


def statistics_of(draw: Callable[[int], DrawnWindow], *, bands: int, dtype: str) -> Statistics:
    """Return ImageNet's mean and deviation for 8-bit RGB; else measure training windows.

    The windows are the first of the training itself, so that sources and classes weigh as they
    will. Nodata pixels do not count. The range leaves out a thousandth at either end.

    Args:
        bands: of one date; where windows show two, both count.

    Raises:
        DataError: if the values have no range, or none is valid.
    """
    if dtype == "uint8" and bands == 3:
        return Statistics(value_range=(0.0, 255.0), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    measured = _values_of(_dates_side_by_side(draw(i).sample, bands) for i in count())
    return Statistics(
        value_range=_range_of(measured),
        mean=tuple(float(v) for v in measured.mean(axis=1)),
        std=tuple(float(max(v, 1e-6)) for v in measured.std(axis=1)),
    )


def _dates_side_by_side(sample: Sample, bands: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    dates = np.split(sample.pixels, len(sample.pixels) // bands)
    return np.concatenate(dates, axis=2), np.concatenate([sample.valid] * len(dates), axis=1)


def value_range_of(windows: Windows) -> tuple[float, float]:
    """Return between which values nearly all pixels of some windows lie, as for the card.

    Args:
        windows: pixels ``(bands, H, W)`` and where they are valid; the first 64 are read.

    Raises:
        DataError: as :func:`statistics_of`.
    """
    return _range_of(_values_of(windows))


def _values_of(windows: Windows) -> NDArray[np.float64]:
    """Return some valid pixels of each of the first windows, ``(bands, N)``."""
    parts = []
    for pixels, valid in islice(windows, _WINDOWS):
        values = pixels[:, valid]
        parts.append(values[:, :: max(1, values.shape[1] // _PIXELS_OF_WINDOW)].astype(np.float64))
    measured = np.concatenate(parts, axis=1)
    if measured.shape[1] == 0 or measured.min() == measured.max():
        raise DataError("the training windows hold a single value, or none that is valid")
    return measured


def _range_of(measured: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(measured, (0.1, 99.9))
    return float(low), float(max(high, low + 1e-6))
