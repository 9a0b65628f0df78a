"""How far two dates lie off one another, measured from what both show.

Windows spread over the overlap are compared by phase correlation (Kuglin and Hines, The phase
correlation image alignment method, 1975) of the directions of their edges (Fitch et al.,
Orientation correlation, BMVC 2002), which last when light, season and sensor change. Peaks are
refined below the pixel by a matrix Fourier transform around them (Guizar-Sicairos et al.,
Efficient subpixel image registration algorithms, Optics Letters 33, 2008). Windows without texture
or with too much change have no clear peak and are left out; the median of the others is the shift.
Every second window along each axis is looked at first; where most of these agree, they are enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.ground import pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.joined import JoinedScenes
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.scene_pair import ScenePair

_WINDOWS_A_SIDE = 7
_LARGEST, _SMALLEST = 512, 64  # sides of a window
_MAX_SHIFT_PX = 32
_VALID_SHARE = 0.6
_CLEAR_PEAK = 6.0  # times the noise of the correlation; noise alone comes to 4 or 5
_LOWPASS = 0.5  # cycles a pixel: what is finer is noise and what sampling made of edges
_UPSAMPLING = 25
# Windows that tell another shift than most have matched something else.
_AGREEMENT_PX = 3.0
_ENOUGH_SHARE = 1 / 4
_ENOUGH_WINDOWS = 3  # one of many may show a peak by chance
_PLENTY_WINDOWS, _PLENTY_SHARE = 8, 2 / 3  # of every second: the others would tell the same
_THREADS = 2  # one reads while the other transforms


@dataclass(frozen=True)
class Shift:
    """Shift of ``after`` against ``before``.

    What ``before`` shows at ``(col, row)``, ``after`` (on the grid of ``before``) shows at
    ``(col + dx_px, row + dy_px)``. ``pair.shift(dx_px=..., dy_px=...)`` undoes it.

    Args:
        dx_px, dy_px: in pixels of ``before``, along rows and down columns.
        length_m: on the ground; None where the pair is not tied to the earth.
        spread_px: median distance of the windows' own shifts from this one.
        windows: how many agreed.
    """

    dx_px: float
    dy_px: float
    length_m: float | None
    spread_px: float
    windows: int

    @property
    def length_px(self) -> float:
        """Return the length in pixels of ``before``."""
        return float(np.hypot(self.dx_px, self.dy_px))


def estimate_shift(pair: ScenePair) -> Shift | None:
    """Measure the shift between the dates of a pair, up to 32 pixels along each axis.

    None where too little can be matched: water, fog, everything changed, or fewer than 64 pixels
    in common. A shift that differs over the scene, as relief leaves it, shows in ``spread_px``.

    Raises:
        SceneError: if a file cannot be read.
    """
    coarse = _find_agreement(_measure_windows(pair, cols=0, rows=0))
    if coarse is None:
        return None
    cols, rows = (round(float(d)) for d in np.median(coarse, axis=0))
    agreed = coarse
    if cols or rows:
        # Windows that show the same ground share all of it: the second estimate is sharper.
        fine = _find_agreement(_measure_windows(pair, cols=cols, rows=rows))
        agreed = coarse if fine is None else fine
    dx_px, dy_px = (float(d) for d in np.median(agreed, axis=0))
    return Shift(
        dx_px=dx_px,
        dy_px=dy_px,
        length_m=_length_m(pair, dx_px, dy_px),
        spread_px=float(np.median(np.hypot(*(agreed - (dx_px, dy_px)).T))),
        windows=len(agreed),
    )


def _measure_windows(pair: ScenePair, *, cols: int, rows: int) -> list[tuple[float, float] | None]:
    """Measure the shift in windows all over the overlap, ``after`` lying ``cols, rows`` off."""
    area = pair.overlap.intersection(pair.overlap.shift(cols=-cols, rows=-rows))
    if area is None:
        return []
    first, others = _spread_windows(area)
    shifts = _shifts_in(pair, first, cols=cols, rows=rows)
    agreed = _find_agreement(shifts)
    plenty = max(_PLENTY_WINDOWS, _PLENTY_SHARE * len(first))
    if agreed is None or len(agreed) < plenty:
        shifts += _shifts_in(pair, others, cols=cols, rows=rows)
    return shifts


def _shifts_in(
    pair: ScenePair, windows: Sequence[Window], *, cols: int, rows: int
) -> list[tuple[float, float] | None]:
    with ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(lambda w: _shift_in(pair, w, cols=cols, rows=rows), windows))


def _shift_in(
    pair: ScenePair, window: Window, *, cols: int, rows: int
) -> tuple[float, float] | None:
    before = _edges(pair.before, window)
    after = _edges(pair.after_on_grid, window.shift(cols=cols, rows=rows))
    shift = None if before is None or after is None else displacement(before, after)
    return None if shift is None else (shift[0] + cols, shift[1] + rows)


def _spread_windows(area: Window) -> tuple[list[Window], list[Window]]:
    """Spread squares, a power of two wide, evenly over an area; none if it is too small.

    Returns:
        Every second of them along both axes, and the others.
    """
    shorter = min(area.width, area.height)
    if shorter < _SMALLEST:
        return [], []
    # Half the area leaves several windows to a small one, whose median is worth more.
    side = 2 ** int(np.log2(shorter))
    side = min(side, _LARGEST, max(side // 2, 2 * _SMALLEST))
    first: list[Window] = []
    others: list[Window] = []
    for i, top in enumerate(_offsets(area.height, side)):
        for j, left in enumerate(_offsets(area.width, side)):
            (others if i % 2 or j % 2 else first).append(
                Window(
                    col_off=area.col_off + left, row_off=area.row_off + top, width=side, height=side
                )
            )
    return first, others


def _offsets(length: int, side: int) -> list[int]:
    count = min(_WINDOWS_A_SIDE, 1 + (length - side) // (side // 2))
    return [int(offset) for offset in np.linspace(0, length - side, count)]


def _edges(scene: Scene | JoinedScenes, window: Window) -> NDArray[np.complex64] | None:
    """Find edges in a window ``(H, W)``, tapered to its rim; None where there are none.

    Each points along its gradient, columns real and rows imaginary. Its length tells a strong edge
    from a weak one but not from a stronger one: glare and shadows, which move with the sun, would
    drown all others. Edges at the rim of nodata pixels are not the ground's and count nothing.
    """
    pixels, valid = scene.read(window)
    if valid.mean() < _VALID_SHARE:
        return None
    grey = pixels.mean(axis=0, dtype=np.float32)
    down, right = np.gradient(np.where(valid, grey, np.float32(0)))
    inside = valid.copy()
    for axis in (0, 1):
        inside &= np.roll(valid, 1, axis) & np.roll(valid, -1, axis)
    edges = np.where(inside, right + 1j * down, 0).astype(np.complex64)
    lengths = np.abs(edges)
    mean = lengths.mean()
    if not np.isfinite(mean) or mean <= 0:
        return None
    taper = np.hanning(window.width + 2)[1:-1].astype(np.float32)
    tapered: NDArray[np.complex64] = edges / (lengths + mean) * taper * taper[:, None]
    return tapered


def displacement(
    before: NDArray[np.complex64], after: NDArray[np.complex64]
) -> tuple[float, float] | None:
    """Measure the shift between two squares of one size, tapered to their rims: phase correlation.

    Returns:
        ``(dx, dy)``: what is at ``(col, row)`` of the first is at ``(col + dx, row + dy)`` of the
        second; to 1/25 pixel. None without a clear peak within 32 pixels and a quarter of a side.
    """
    side = len(before)
    frequencies = np.fft.fftfreq(side).astype(np.float32)
    cross = np.fft.fft2(before).conj() * np.fft.fft2(after)
    strength = np.abs(cross)
    np.divide(cross, strength, out=cross, where=strength > 0)
    along = np.exp(-0.5 * (frequencies / _LOWPASS) ** 2)
    cross *= along * along[:, None]

    reach = min(_MAX_SHIFT_PX, side // 4)
    steps = np.arange(-reach, reach + 1)
    near = np.fft.ifft2(cross).real[np.ix_(steps, steps)]
    row, col = np.unravel_index(near.argmax(), near.shape)
    if not _is_clear(near, int(row), int(col)):
        return None
    fine = np.arange(-_UPSAMPLING, _UPSAMPLING + 1) / _UPSAMPLING
    rows, cols = fine + steps[row], fine + steps[col]
    to_rows = np.exp(2j * np.pi * np.outer(rows, frequencies)).astype(np.complex64)
    to_cols = np.exp(2j * np.pi * np.outer(frequencies, cols)).astype(np.complex64)
    peak = (to_rows @ cross @ to_cols).real
    row, col = np.unravel_index(peak.argmax(), peak.shape)
    return float(cols[col]), float(rows[row])


def _is_clear(near: NDArray, row: int, col: int) -> bool:
    """Say whether the highest value stands out from all that is not beside it."""
    if row in (0, len(near) - 1) or col in (0, len(near) - 1):
        return False  # the top may lie beyond
    away = np.ones(near.shape, bool)
    away[max(0, row - 4) : row + 5, max(0, col - 4) : col + 5] = False
    noise = near[away]
    return bool(near[row, col] - noise.mean() > _CLEAR_PEAK * noise.std())


def _find_agreement(measured: list[tuple[float, float] | None]) -> NDArray[np.float64] | None:
    """Return the shifts ``(N, 2)`` near the median of all; None where too few windows told one."""
    shifts = np.array([shift for shift in measured if shift is not None]).reshape(-1, 2)
    if not len(shifts):
        return None
    near = np.hypot(*(shifts - np.median(shifts, axis=0)).T) < _AGREEMENT_PX
    agreed = shifts[near]
    enough = max(min(_ENOUGH_WINDOWS, len(measured)), _ENOUGH_SHARE * len(shifts))
    return agreed if len(agreed) >= enough else None


def _length_m(pair: ScenePair, dx_px: float, dy_px: float) -> float | None:
    metric = pixel_metric_m2(pair.georeference, col=pair.width / 2, row=pair.height / 2)
    if metric is None:
        return None
    step = np.array([dx_px, dy_px])
    return float(np.sqrt(step @ metric @ step))
