"""Where a window of pixels means something: nodata, NaN, alpha and mask bands in one mask.

A pixel is nodata where any of these says so:

* nodata: every chosen band that declares a nodata value equals it, on the raw number. White (255)
  in one band of a picture with nodata 255 is not a hole, white in all three is. A value that is no
  colour of a byte (-9999, 65535) is one in any band: a pixel that lacks a band is no pixel;
* a NaN or an infinite value in any chosen band;
* alpha 0, whatever its range (0/255 in a uint16 file as well);
* the file's mask band or .msk file, where all chosen bands are masked.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

_BRIGHTEST = 255  # of a byte


def valid_pixels(
    pixels: NDArray, nodata: Sequence[float | None], *, complete: bool = True
) -> NDArray[np.bool_] | None:
    """Mark where the numbers themselves say that a pixel is valid; None where all do.

    Args:
        pixels: ``(bands, H, W)``, raw.
        nodata: a value a band, None for a band that declares none.
        complete: whether a pixel that lacks one band, by a value that is no colour, is nodata.
    """
    valid = _not_nodata(pixels, nodata)
    for band, value in zip(pixels, nodata, strict=True) if complete else ():
        number = None if value is None or is_colour(value) else as_dtype(value, pixels.dtype)
        if number is not None:
            differs = _differs(band, number)
            valid = differs if valid is None else valid & differs
    if not np.issubdtype(pixels.dtype, np.floating):
        return valid
    # One sum finds the usual case, a window of finite numbers, without a mask for each band.
    with np.errstate(invalid="ignore", over="ignore"):
        total = pixels.sum(dtype=np.float64)
    if np.isfinite(total):
        return valid
    finite = np.isfinite(pixels).all(axis=0)
    return finite if valid is None else valid & finite


def is_colour(value: float) -> bool:
    """Say whether a nodata value may as well be a brightness of one band: 0 to 255."""
    return 0 <= value <= _BRIGHTEST


def nodata_by_band(pixels: NDArray, nodata: Sequence[float | None]) -> NDArray[np.bool_]:
    """Return where a band holds its nodata value, whatever the others hold: ``(bands, H, W)``.

    Args:
        pixels, nodata: as of :func:`valid_pixels`.
    """
    is_nodata = np.zeros(pixels.shape, bool)
    for place, band, value in zip(is_nodata, pixels, nodata, strict=True):
        number = None if value is None else as_dtype(value, pixels.dtype)
        if number is not None:
            place[:] = ~_differs(band, number)
    return is_nodata


def _not_nodata(pixels: NDArray, nodata: Sequence[float | None]) -> NDArray[np.bool_] | None:
    declared = [
        (band, value) for band, value in zip(pixels, nodata, strict=True) if value is not None
    ]
    if not declared:
        return None
    valid: NDArray[np.bool_] | None = None
    for band, value in declared:
        number = as_dtype(value, pixels.dtype)
        if number is None:  # a value that the band cannot hold marks no pixel
            return None
        differs = _differs(band, number)
        valid = differs if valid is None else np.logical_or(valid, differs, out=valid)
    return valid


def _differs(band: NDArray, number: np.generic) -> NDArray[np.bool_]:
    return ~np.isnan(band) if np.isnan(number) else band != number


def as_dtype(value: float, dtype: np.dtype) -> np.generic | None:
    """Return ``value`` as a number of ``dtype``; None where an integer type cannot hold it."""
    if np.issubdtype(dtype, np.floating):
        with np.errstate(over="ignore"):
            return dtype.type(value)
    if not np.isfinite(value) or value != int(value):
        return None
    limits = np.iinfo(dtype)
    return dtype.type(int(value)) if limits.min <= int(value) <= limits.max else None
