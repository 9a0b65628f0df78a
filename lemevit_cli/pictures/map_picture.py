"""A map for people: pixels with a legend, a scale bar and an arrow to the north."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch
from numpy.typing import NDArray

from lemevit_cli.legend import ClassInfo
from lemevit_cli.pictures.picture import legend_patches

TITLE_HEIGHT = 26  # pixels above the map, which begins at the picture's left edge
JPEG_SUFFIXES = (".jpg", ".jpeg")
_JPEG_QUALITY = 85
_LEGEND_ROW, _LEGEND_COLUMN = 24, 150  # pixels
_SMALLEST_SIDE = 480  # pixels: a smaller map is enlarged, so that there is room to write on it
_USUAL_SIDE = 900  # pixels of a map whose bar and arrow have their plain size
_DPI = 100


@dataclass(frozen=True)
class ScaleBar:
    """A length on the ground: in pixels of the map, and as people read it."""

    length_px: float
    label: str


def round_scale_bar(metres_per_pixel: float, *, most_px: float) -> ScaleBar:
    """Return the longest bar of 1, 2 or 5 times a power of ten metres within ``most_px``."""
    most = metres_per_pixel * most_px
    power = 10.0 ** math.floor(math.log10(most))
    metres = max(f * power for f in (1, 2, 5) if f * power <= most * (1 + 1e-9))
    if metres >= 1000:
        label = f"{metres / 1000:g} km"
    else:
        label = f"{metres:g} m" if metres >= 1 else f"{metres * 100:g} cm"
    return ScaleBar(metres / metres_per_pixel, label)


def write_map(
    path: str | Path,
    rgb: NDArray[np.uint8],
    *,
    title: str | Sequence[str],
    legend: Sequence[ClassInfo],
    scale_bar: ScaleBar | None,
    north: tuple[float, float] | None,
    credit: str = "",
) -> None:
    """Save a PNG, or by suffix a JPEG, that shows every pixel of ``rgb`` as one, or as a square.

    Args:
        rgb: ``(H, W, 3)``.
        title: one of the map, or one of each of the panels that it has side by side.
        scale_bar: None draws none; its pixels are those of ``rgb``.
        north: direction ``(cols, rows)`` of length 1, rows down; None draws no arrow.
        credit: drawn in the lower right corner of the map.
    """
    titles = [title] if isinstance(title, str) else title
    zoom = max(1, math.ceil(_SMALLEST_SIDE / max(rgb.shape[:2])))
    shown = rgb.repeat(zoom, axis=0).repeat(zoom, axis=1)
    height, width = shown.shape[:2]
    columns = max(1, min(len(legend), width // _LEGEND_COLUMN))
    legend_height = 12 + _LEGEND_ROW * math.ceil(len(legend) / columns) if legend else 0
    full = height + TITLE_HEIGHT + legend_height
    # A hundredth more than whole pixels: the size in inches must not be rounded down.
    figure = Figure(figsize=((width + 0.01) / _DPI, (full + 0.01) / _DPI), dpi=_DPI)
    FigureCanvasAgg(figure)
    figure.figimage(shown, 0, legend_height, origin="upper", zorder=-1)
    axes = figure.add_axes((0, legend_height / full, 1, height / full))
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.set_axis_off()
    axes.patch.set_alpha(0)
    # What is written on a large map is seen from farther away.
    unit = max(1.0, max(height, width / len(titles)) / _USUAL_SIDE)
    if scale_bar is not None:
        _draw_bar(axes, zoom * scale_bar.length_px, scale_bar.label, height, unit=unit)
    if north is not None:
        _draw_north(axes, north, width, unit=unit)
    if credit:
        _draw_credit(axes, credit, width, height, unit=unit)
    for number, text in enumerate(titles):
        left = 6 / width + number / len(titles)
        figure.text(left, 1 - TITLE_HEIGHT / 2 / full, text, va="center", fontsize=9)
    if legend:
        handles = legend_patches(legend)
        figure.legend(handles=handles, loc="lower center", ncols=columns, frameon=False, fontsize=9)
    is_jpeg = Path(path).suffix.lower() in JPEG_SUFFIXES
    if is_jpeg:
        figure.savefig(path, format="jpeg", dpi=_DPI, pil_kwargs={"quality": _JPEG_QUALITY})
    else:
        figure.savefig(path, format="png", dpi=_DPI)


def _draw_bar(axes: Axes, length: float, label: str, height: int, *, unit: float) -> None:
    left, row = 18 * unit, height - 18 * unit
    for color, thickness in (("white", 6), ("black", 3)):
        axes.plot(
            [left, left + length],
            [row, row],
            color=color,
            linewidth=thickness * unit,
            solid_capstyle="butt",
        )
    text = axes.text(left + length / 2, row - 6 * unit, label, ha="center", va="bottom")
    text.set_fontsize(10 * unit)
    text.set_path_effects(_halo(unit))


def _draw_credit(axes: Axes, credit: str, width: int, height: int, *, unit: float) -> None:
    text = axes.text(width - 6 * unit, height - 6 * unit, credit, ha="right", va="bottom")
    text.set_fontsize(7 * unit)
    text.set_path_effects(_halo(unit * 0.6))


def _draw_north(axes: Axes, direction: tuple[float, float], width: int, *, unit: float) -> None:
    cols, rows = direction
    centre_col, centre_row, half = width - 42 * unit, 42 * unit, 18 * unit
    arrow = FancyArrowPatch(
        (centre_col - half * cols, centre_row - half * rows),
        (centre_col + half * cols, centre_row + half * rows),
        arrowstyle="-|>",
        mutation_scale=14 * unit,
        linewidth=2 * unit,
        color="black",
        shrinkA=0,
        shrinkB=0,
    )
    arrow.set_path_effects(_halo(unit))
    axes.add_patch(arrow)
    beyond = half + 10 * unit
    text = axes.text(
        centre_col + beyond * cols,
        centre_row + beyond * rows,
        "N",
        ha="center",
        va="center",
        fontsize=11 * unit,
        fontweight="bold",
    )
    text.set_path_effects(_halo(unit))


def _halo(unit: float) -> list[patheffects.AbstractPathEffect]:
    """Return a white rim: black is read on any scene then."""
    return [patheffects.withStroke(linewidth=4 * unit, foreground="white")]
