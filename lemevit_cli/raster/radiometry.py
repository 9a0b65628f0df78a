"""The range of a scene's values brought to the range that the weights learned.

The rule is one for the whole scene, never one a window: neighbouring windows must not differ in
contrast.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import LemevitError
from lemevit_cli.geometry.window import Window
from lemevit_cli.progress import Progress
from lemevit_cli.raster.scene import Scene

_DEFAULT_PERCENTILES = (2.0, 98.0)
# Sides of the decimated read; the second is for scenes with data in a corner that the first misses.
_OVERVIEW_SIDES = (1024, 4096)
_ENOUGH_PIXELS = 1000

_FILLED_SHARE = 0.25  # of the weights' range that values of it reach
_DARK_BYTE = 16
_ONE_COVER = 0.5  # limits that differ by less, of the larger: what is stretched is noise

_NUMBER = r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)"
_PERCENTILES = re.compile(rf"\s*{_NUMBER}\s*,\s*{_NUMBER}\s*")
_LIMITS = re.compile(rf"\s*min\s*=\s*{_NUMBER}\s*,\s*max\s*=\s*{_NUMBER}\s*")


@dataclass(frozen=True)
class Stretch:
    """A linear map of each band, ``low`` to ``high``, onto ``value_range``; clipped at its ends.

    A band whose ``low`` equals its ``high`` says nothing: it becomes the middle of the range.

    Args:
        low, high: a value a band, in the scene's numbers.
        value_range: lowest and highest value of the weights' training pictures.
        origin: where the limits come from, for people.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    value_range: tuple[float, float]
    origin: str = "given"

    def apply(self, pixels: NDArray) -> NDArray[np.float32]:
        """Map pixels ``(bands, H, W)``; the result is new and lies in :attr:`value_range`.

        Nodata pixels must hold finite numbers or be replaced afterwards; a NaN stays one.
        """
        bottom, top = self.value_range
        low = np.array(self.low, np.float64)
        extent = np.array(self.high, np.float64) - low
        is_flat = extent <= 0
        gain = np.divide(top - bottom, extent, out=np.zeros_like(extent), where=~is_flat)
        offset = np.where(is_flat, (bottom + top) / 2, bottom)
        # 24 bits of a float32 hold a uint16 exactly, not what is wider.
        wide = pixels.dtype.itemsize > 2
        dtype = np.float64 if wide else np.float32
        out = np.subtract(pixels, low.astype(dtype)[:, None, None], dtype=dtype)
        out *= gain.astype(dtype)[:, None, None]
        out += offset.astype(dtype)[:, None, None]
        return np.clip(out, bottom, top, out=out).astype(np.float32, copy=False)

    @property
    def is_of_one_cover(self) -> bool:
        """Say whether percentiles lie so near in every band that they are those of one cover."""
        if not self.origin.startswith("percentiles"):
            return False
        limits = zip(self.low, self.high, strict=True)
        return all(h - low < _ONE_COVER * max(abs(low), abs(h)) for low, h in limits)

    def describe(self) -> str:
        """Describe the stretch in one line, for people and for the result's tags."""
        limits = ", ".join(
            f"{low:g}..{high:g}" for low, high in zip(self.low, self.high, strict=True)
        )
        bottom, top = self.value_range
        return f"values {limits} to {bottom:g}..{top:g} ({self.origin})"


def tell_stretch(
    stretch: Stretch | None, scene: Scene, *, spec: str, dtype: str, progress: Progress
) -> None:
    """Tell how a scene's values are read, and warn where its own percentiles mislead."""
    if stretch is None:
        if spec == "auto" and scene.dtype != dtype:
            progress.note(
                f"{scene.name}: values lie within those that the weights know, and are read as "
                "they are; --stretch 2,98 stretches them"
            )
        return
    progress.note(f"{scene.name}: {stretch.describe()}")
    if stretch.is_of_one_cover:
        progress.warn(
            f"{scene.name}: its values differ little ({stretch.describe()}), as those of one cover "
            "do: its noise is stretched to full contrast; --stretch min=A,max=B states limits of "
            "the sensor or of a wider scene"
        )


def check_stretch(spec: str) -> None:
    """Refuse a malformed ``--stretch`` before any work.

    Raises:
        LemevitError: naming the value and the forms that are understood.
    """
    if spec not in ("auto", "none"):
        _parse(spec)


def choose_stretch(
    scene: Scene,
    *,
    spec: str,
    dtype: str,
    value_range: tuple[float, float],
    window: Window | None = None,
) -> Stretch | None:
    """Decide how the scene's values become those of the weights; None reads them as they are.

    Args:
        spec: ``auto`` (none if the scene has the weights' dtype or, in another one, numbers of
            their range; else percentiles 2 and 98), ``none``, ``LOW,HIGH`` in percent, or
            ``min=A,max=B`` in the scene's values.
        dtype: numpy name of the weights' training pictures.
        value_range: their lowest and highest value.
        window: the part of the scene that is measured; None measures all of it.

    Percentiles are of each band's valid pixels in one decimated read, without those that are
    nodata in that band alone.

    Raises:
        LemevitError: if ``spec`` is none of these.
        SceneError: if the scene cannot be read.
    """
    if spec == "none" or (spec == "auto" and scene.dtype == dtype):
        return None
    if spec == "auto":
        bands = _sample(scene, window or scene.window)
        if are_known(bands, dtype, value_range):
            return None
        return _percentile_stretch(bands, _DEFAULT_PERCENTILES, value_range)
    kind, low, high = _parse(spec)
    if kind == "percentiles":
        bands = _sample(scene, window or scene.window)
        return _percentile_stretch(bands, (low, high), value_range)
    n = scene.num_bands
    return Stretch((low,) * n, (high,) * n, value_range, origin="given limits")


def _parse(spec: str) -> tuple[str, float, float]:
    for kind, pattern in (("percentiles", _PERCENTILES), ("limits", _LIMITS)):
        match = pattern.fullmatch(spec)
        if match is None:
            continue
        low, high = float(match[1]), float(match[2])
        fits = 0 <= low < high <= 100 if kind == "percentiles" else low < high < math.inf
        if not fits:
            rule = "0 <= LOW < HIGH <= 100" if kind == "percentiles" else "min below max"
            raise LemevitError(f"--stretch {spec}: needs {rule}")
        return kind, low, high
    raise LemevitError(
        f"--stretch {spec}: not understood; write auto, none, LOW,HIGH in percent (2,98) "
        "or min=A,max=B in the scene's values"
    )


def are_known(
    bands: Sequence[NDArray[np.float64]], dtype: str, value_range: tuple[float, float]
) -> bool:
    """Say whether values are, in whatever dtype, the numbers that the weights learned.

    They lie within the range and fill a part of it: reflectances of 0 to 1 lie within that of
    bytes, too. Bytes are whole, and may be dark.
    """
    values = np.concatenate(bands)
    if len(values) == 0:
        return False
    bottom, top = value_range
    if values.min() < bottom or values.max() > top:
        return False
    if values.max() - bottom >= _FILLED_SHARE * (top - bottom):
        return True
    return dtype == "uint8" and values.max() >= _DARK_BYTE and not (values % 1).any()


def _percentile_stretch(
    bands: Sequence[NDArray[np.float64]],
    percentiles: tuple[float, float],
    value_range: tuple[float, float],
) -> Stretch:
    # A band without a valid pixel is read as it is, over the weights' own range.
    limits = [np.percentile(b, percentiles).tolist() if b.size else value_range for b in bands]
    origin = f"percentiles {percentiles[0]:g} and {percentiles[1]:g} of the scene"
    if not any(band.size for band in bands):
        origin = "no valid pixel to measure"
    return Stretch(
        tuple(low for low, _ in limits), tuple(high for _, high in limits), value_range, origin
    )


def _sample(scene: Scene, window: Window) -> list[NDArray[np.float64]]:
    """Read valid values of each band, spread over a window of the scene."""
    for side in _OVERVIEW_SIDES:
        pixels, valid = scene.read_overview_by_band(side, window=window)
        fewest = np.count_nonzero(valid, axis=(1, 2)).min()
        if fewest >= _ENOUGH_PIXELS or max(window.width, window.height) <= side:
            break
    return [band[there].astype(np.float64) for band, there in zip(pixels, valid, strict=True)]
