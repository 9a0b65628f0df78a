"""What the pixels of a scene say that its file does not: borders, gaps of bands, offsets.

Nothing is guessed: each finding is a line for the user, with the option that mends it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import suppress

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import Scene, open_ground
from lemevit_cli.raster.validity import is_colour

# For those who read scenes without an option for it.
STATE_NODATA = "gdal_edit.py -a_nodata"

_SIDE = 512  # of the decimated read
_READ_WHOLE = 64_000_000  # pixels: more of them without overviews are asked in their corners
_WORTH_TELLING = 0.01  # share of the pixels
_SWEEPS = 64
_PICTURES = 24  # of many that are looked at
_FEWEST_OTHERS = 8  # values beside one that may stand for no data
_FAR_AWAY = 2.0  # of the span of all others
# Sentinel-2 since processing baseline 04.00: 0 is nodata, and reflectances begin at 1000.
_S2_OFFSET = 1000
_S2_DARKEST = (950, 1800)
_S2_BRIGHTEST = 20_000
_S2_PIXELS_M = (5.0, 70.0)


def value_warnings(
    scene: Scene, *, option: str = "--nodata", window: Window | None = None
) -> tuple[str, ...]:
    """Tell what is likely to be read wrongly of a scene's pixels, a line each.

    Args:
        option: that states the nodata value of this scene.
        window: the part that is asked; None is all of it.

    What cannot be read is told where windows are read.
    """
    return tuple(_findings(scene, option, window).values())


def picture_warnings(paths: Sequence[str]) -> tuple[str, ...]:
    """Tell what is likely to be read wrongly of many pictures, a line for each kind of finding.

    Of many some are looked at, evenly spread; the first of a kind stands for all.
    """
    count = min(len(paths), _PICTURES)
    looked_at = [paths[i * len(paths) // count] for i in range(count)]
    first_of: dict[str, str] = {}
    numbers = Counter[str]()
    for path in looked_at:
        with suppress(SceneError), open_ground(path) as scene:
            for kind, line in _findings(scene, STATE_NODATA, None).items():
                first_of.setdefault(kind, f"{path}: {line}")
                numbers[kind] += 1
    asked = f"{count} that were looked at" if count < len(paths) else str(count)
    return tuple(
        f"{line} (so in {numbers[kind]} of {asked})" if count > 1 else line
        for kind, line in first_of.items()
    )


def _findings(scene: Scene, option: str, window: Window | None) -> dict[str, str]:
    """Return lines by the kind of what was found."""
    try:
        parts = _read(scene, window)
    except SceneError:
        return {}
    place = "" if len(parts) == 1 else " of its corners"
    border = _border_line(scene, parts, option, place)
    lines = {
        "border": border,
        "filler": None if border else _filler_line(scene, parts, option, place),
        "gap": _gap_line(scene, parts, place),
        "offset": _offset_line(scene, parts),
    }
    return {kind: line for kind, line in lines.items() if line}


_Parts = list[tuple[NDArray, NDArray[np.bool_]]]  # pixels, valid by band


def _read(scene: Scene, window: Window | None) -> _Parts:
    return [scene.read_overview_by_band(_SIDE, window=part) for part in _asked(scene, window)]


def _asked(scene: Scene, window: Window | None) -> list[Window]:
    """Return the scene, or its corners where a decimated read would decode a huge file."""
    whole = window or scene.window
    has_overviews = bool(scene.dataset().overviews(scene.bidx[0]))
    if has_overviews or whole.width * whole.height <= _READ_WHOLE:
        return [whole]
    width, height = min(_SIDE, whole.width // 2), min(_SIDE, whole.height // 2)
    return [
        Window(col_off=col, row_off=row, width=width, height=height)
        for col in (whole.col_off, whole.right - width)
        for row in (whole.row_off, whole.bottom - height)
    ]


def _border_line(scene: Scene, parts: _Parts, option: str, place: str) -> str | None:
    """Tell of valid pixels of pure black or white that reach the edge in one piece."""
    if "alpha" in scene.mask_kind or "mask" in scene.mask_kind:
        return None
    dtype = np.dtype(scene.dtype)
    whites = [255] if dtype.itemsize == 1 else [65535] if dtype == np.uint16 else []
    for value, name in [(0, "black"), *((white, "white") for white in whites)]:
        borders = [
            _reaching_the_edge((pixels == value).all(axis=0) & valid.all(axis=0))
            for pixels, valid in parts
        ]
        share = sum(int(border.sum()) for border in borders) / sum(b.size for b in borders)
        if share >= _WORTH_TELLING:
            return (
                f"{share:.1%} of the pixels{place} are pure {name} ({value}) in one piece with the "
                f"edge and are read as ground; if they hold no data, {option} {value} leaves them "
                "out"
            )
    return None


def _reaching_the_edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return the part of a mask that is connected to the edge, by sides of pixels."""
    reached = np.zeros_like(mask)
    for edge in (np.s_[0], np.s_[-1], np.s_[:, 0], np.s_[:, -1]):
        reached[edge] = mask[edge]
    for _ in range(_SWEEPS):
        before = int(reached.sum())
        reached = _sweep(_sweep(reached, mask).T, mask.T).T
        if int(reached.sum()) == before:
            break
    return reached


def _sweep(reached: NDArray[np.bool_], mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Spread what is reached along the runs of a mask in each row, both ways."""
    places = np.arange(mask.shape[1])
    for way in (1, -1):
        ahead, runs = reached[:, ::way], mask[:, ::way]
        last_reached = np.maximum.accumulate(np.where(ahead, places, -1), axis=1)
        last_gap = np.maximum.accumulate(np.where(runs, -1, places), axis=1)
        reached = ((last_reached > last_gap) & runs)[:, ::way]
    return reached


def _gap_line(scene: Scene, parts: _Parts, place: str) -> str | None:
    """Tell of pixels that lack some bands and not all, and what becomes of them."""
    numbers = np.array([np.nan if v is None else v for v in scene.nodata_as_read])
    holes = [~np.isfinite(p) | (p == numbers[:, None, None]) for p, _ in parts]
    gaps = [hole.any(axis=0) & ~hole.all(axis=0) for hole in holes]
    share = sum(int(gap.sum()) for gap in gaps) / sum(gap.size for gap in gaps)
    stated = {value for value in scene.nodata if value is not None and np.isfinite(value)}
    may_be_colours = bool(stated) and all(is_colour(value) for value in stated)
    if share == 0 or (may_be_colours and share < _WORTH_TELLING):
        return None
    lacking = np.any(
        [(hole & gap).any(axis=(1, 2)) for hole, gap in zip(holes, gaps, strict=True)], axis=0
    )
    bands = ", ".join(str(b) for b, lacks in zip(scene.bidx, lacking, strict=True) if lacks)
    values = ", ".join(f"{value:g}" for value in sorted(stated)) or "NaN"
    what_becomes = (
        "and are read as ground, for it may be a colour" if may_be_colours else "and are left out"
    )
    return (
        f"{share:.1%} of the pixels{place} hold nodata ({values}) in some of their bands ({bands}) "
        f"{what_becomes}"
    )


def _filler_line(scene: Scene, parts: _Parts, option: str, place: str) -> str | None:
    """Tell of a single value far beyond all others, such as -9999, that is not stated as nodata."""
    if np.dtype(scene.dtype).itemsize == 1:
        return None
    for i in range(scene.num_bands):
        values = np.concatenate([p[i][v[i] & np.isfinite(p[i])] for p, v in parts])
        values = values.astype(np.float64)
        for extreme in {values.min(), values.max()} - {0.0} if len(values) else ():
            others = values[values != extreme]
            if len(np.unique(others)) < _FEWEST_OTHERS:
                continue
            away = np.abs(others - extreme).min()
            num_pixels = sum(pixels[i].size for pixels, _ in parts)
            share = (len(values) - len(others)) / num_pixels
            if share >= _WORTH_TELLING and away > _FAR_AWAY * np.ptp(others):
                text = f"{extreme:.9g}"  # exact for 32 bits: the option has to meet it
                return (
                    f"{share:.1%} of the pixels{place} hold {text} in band {scene.bidx[i]}, far "
                    f"beyond the others ({others.min():g} to {others.max():g}), and are read as "
                    f"ground; if they hold no data, {option} {text} leaves them out"
                )
    return None


def _offset_line(scene: Scene, parts: _Parts) -> str | None:
    """Tell of a picture that looks like Sentinel-2's with an offset that its tags do not state."""
    dtype = np.dtype(scene.dtype)
    is_known = scene.gsd_m is None or _S2_PIXELS_M[0] <= scene.gsd_m <= _S2_PIXELS_M[1]
    if dtype.kind not in "iu" or dtype.itemsize < 2 or not is_known:
        return None
    values = np.concatenate([pixels[valid & (pixels != 0)] for pixels, valid in parts])
    if len(values) == 0:
        return None
    darkest, brightest = np.percentile(values, (0.5, 99.5))
    if not _S2_DARKEST[0] <= darkest <= _S2_DARKEST[1] or brightest > _S2_BRIGHTEST:
        return None
    return (
        f"hardly a value lies below {_S2_OFFSET}: if this is Sentinel-2 since baseline 04.00 "
        f"(2022), {_S2_OFFSET} is an offset that its tags do not state; "
        f"gdal_edit.py -offset -{_S2_OFFSET} {scene.path} states it"
    )
