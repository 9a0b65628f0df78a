"""What the values of training windows are: their range, mean and deviation, for the card."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.raster.scene import open_ground
from lemevit_cli.raster.validity import nodata_by_band
from lemevit_cli.training.draw import DrawnWindow

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)
_WINDOWS = 64
_PIXELS_OF_WINDOW = 4096  # at most, spread evenly: hyperspectral windows fit into memory too


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """Statistics of the values as stored, before any normalisation.

    Args:
        value_range: between which nearly all values lie, of all bands together.
        mean, std: one a band.
    """

    value_range: tuple[float, float]
    mean: tuple[float, ...]
    std: tuple[float, ...]


def statistics_of(draw: Callable[[int], DrawnWindow], *, bands: int, dtype: str) -> Statistics:
    """Return ImageNet's mean and deviation for 8-bit RGB; else measure training windows.

    The windows are the first of the training itself, so that sources and classes weigh as they
    will. Nodata pixels do not count, nor what is nodata in a single band. The range leaves out a
    thousandth at either end. Two dates are measured as one.

    Raises:
        DataError: if the values have no range, or a band has none that is valid.
    """
    if dtype == "uint8" and bands == 3:
        return Statistics(value_range=(0.0, 255.0), mean=_IMAGENET_MEAN, std=_IMAGENET_STD)
    drawn = (draw(index) for index in range(_WINDOWS))
    measured = _values_of((d.sample.pixels, d.sample.valid, d.site.dates) for d in drawn)
    return Statistics(
        value_range=_range_of(measured),
        mean=tuple(float(band.mean()) for band in measured),
        std=tuple(float(max(band.std(), 1e-6)) for band in measured),
    )


# Pixels (dates * bands, H, W), where they are valid (H, W), and the rasters of their dates.
ReadWindow = tuple[NDArray[Any], NDArray[np.bool_], tuple[str, ...]]


def value_range_of(windows: Iterable[ReadWindow]) -> tuple[float, float]:
    """Return between which values nearly all pixels of some windows lie, as for the card.

    The first 64 windows are read.

    Raises:
        DataError: as :func:`statistics_of`.
    """
    return _range_of(_values_of(islice(windows, _WINDOWS)))


def _values_of(windows: Iterable[ReadWindow]) -> list[NDArray[np.float64]]:
    """Return some valid values of each band ``(N,)``, from every window."""
    parts: list[list[NDArray[np.float64]]] = []
    nodata_of = lru_cache(_nodata_of)  # a raster is asked once
    for pixels, valid, rasters in windows:
        dates = np.split(pixels, len(rasters))
        known = [
            valid & ~nodata_by_band(d, nodata_of(r)) for d, r in zip(dates, rasters, strict=True)
        ]
        bands = zip(np.concatenate(dates, axis=2), np.concatenate(known, axis=2), strict=True)
        parts.append([_spread(band[there]) for band, there in bands])
    measured = [np.concatenate(of_band) for of_band in zip(*parts, strict=True)]
    if not all(band.size for band in measured) or _is_single_value(measured):
        raise DataError("the training windows hold a single value, or none that is valid")
    return measured


def _spread(values: NDArray[Any]) -> NDArray[np.float64]:
    return values[:: max(1, len(values) // _PIXELS_OF_WINDOW)].astype(np.float64)


def _is_single_value(measured: list[NDArray[np.float64]]) -> bool:
    return min(band.min() for band in measured) == max(band.max() for band in measured)


def _nodata_of(raster: str) -> tuple[float | None, ...]:
    with open_ground(raster) as scene:
        return scene.nodata_as_read


def _range_of(measured: list[NDArray[np.float64]]) -> tuple[float, float]:
    low, high = np.percentile(np.concatenate(measured), (0.1, 99.9))
    return float(low), float(max(high, low + 1e-6))
