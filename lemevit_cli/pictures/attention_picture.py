"""A sheet of maps over their scene: where each meta token looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from numpy.typing import NDArray

_SIDE = 3.2  # inches of the longer side of a panel
_TITLE, _FOOT = 0.3, 0.6  # inches above each panel, and below all
_BRIGHTEST = 99.0  # percentile of all maps that the scale of colours ends at
_COLOURS = "inferno"
_OPACITY = 0.75  # of the largest values; nothing is laid over zero


def write_attention_sheet(
    path: str | Path,
    rgb: NDArray[np.uint8],
    maps: NDArray[np.floating],
    names: Sequence[str],
    *,
    even: float,
    caption: str = "",
) -> None:
    """Draw the scene, then each map over it in grey, all in one scale of colours; save a PNG.

    Args:
        rgb: ``(H, W, 3)``.
        maps: ``(N, H, W)`` from 0 on, NaN where nothing is known.
        names: of the maps.
        even: the value of a map that shows no place more than another; never at the scale's end.
    """
    panels = 1 + len(maps)
    columns = math.ceil(math.sqrt(panels))
    rows = math.ceil(panels / columns)
    panel_width, panel_height = (_SIDE * side / max(rgb.shape[:2]) for side in rgb.shape[1::-1])
    width = max(columns * panel_width, _SIDE)
    height = rows * (panel_height + _TITLE) + _FOOT
    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    grid: Any = figure.subplots(rows, columns, squeeze=False)
    figure.subplots_adjust(left=0.005, right=0.995, bottom=_FOOT / height, top=1 - _TITLE / height)
    figure.subplots_adjust(wspace=0.02, hspace=_TITLE / panel_height)
    for axes in grid.flat:
        axes.set_axis_off()
    first, *others = grid.flat
    first.imshow(rgb)
    first.set_title("scene", fontsize=9)
    known = maps[np.isfinite(maps)]
    largest = max(float(np.percentile(known, _BRIGHTEST)) if known.size else 0.0, 2 * even)
    grey = rgb.mean(axis=2).astype(np.uint8)
    for axes, name, values in zip(others, names, maps, strict=False):
        opacity = _OPACITY * np.nan_to_num(values / largest).clip(0, 1)
        axes.imshow(grey, cmap="gray", vmin=0, vmax=255)
        axes.imshow(values, cmap=_COLOURS, vmin=0, vmax=largest, alpha=opacity)
        axes.set_title(name, fontsize=9)
    scale = ScalarMappable(Normalize(0, largest), _COLOURS)
    bar = figure.add_axes((0.3, 0.7 * _FOOT / height, 0.4, 0.15 * _FOOT / height))
    figure.colorbar(scale, cax=bar, orientation="horizontal").ax.tick_params(labelsize=7)
    figure.text(0.5, 0.005, caption, ha="center", va="bottom", fontsize=7, color="0.35")
    figure.savefig(path, format="png")
