"""A prediction beside the truth: maps, where it errs, and what is taken for what."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lemevit_cli.legend import NODATA_CLASS, ClassInfo
from lemevit_cli.pictures.picture import colorize, legend_patches

_RIGHT, _WRONG = ClassInfo("right", (200, 214, 200)), ClassInfo("wrong", (178, 24, 43))
_MOST_NUMBERED_CLASSES = 15  # beyond, the numbers of a confusion matrix cannot be read
_SIDE = 4.4  # inches of the longer side of a map
_LEGEND_COLUMNS = 8


def write_score_picture(
    path: str | Path,
    truth: NDArray[np.uint8],
    found: NDArray[np.uint8],
    confusion: NDArray[Any],
    classes: Sequence[ClassInfo],
    *,
    caption: str = "",
) -> None:
    """Draw truth, prediction, errors and the confusion matrix, and save a PNG.

    Args:
        truth, found: class ids ``(H, W)``, ``NODATA_CLASS`` where they are not compared.
        confusion: pixels ``(classes, classes)`` by true (rows) and found class; more columns count
            in the rows' sums.
    """
    height, width = truth.shape
    scale = _SIDE / max(height, width)
    legend_rows = -(-(len(classes) + 2) // _LEGEND_COLUMNS)
    legend = 0.3 + 0.26 * legend_rows
    map_height = max(height * scale, 3.4)
    figure = Figure(figsize=(3 * max(width * scale, 2.4) + 5.2, map_height + 0.5 + legend), dpi=120)
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[map_height + 0.5, legend])
    body, below = parts
    left, right = body.subfigures(1, 2, width_ratios=[3 * max(width * scale, 2.4), 5.2])
    maps = left.subplots(1, 3)
    left.subplots_adjust(left=0.01, right=0.99, top=0.9, bottom=0.02, wspace=0.03)
    wrong = np.where(truth == found, np.uint8(0), np.uint8(1))
    wrong[truth == NODATA_CLASS] = NODATA_CLASS
    pictures = (colorize(truth, classes), colorize(found, classes))
    for axes, title, rgb in zip(
        maps,
        ("truth", "prediction", "errors"),
        (*pictures, colorize(wrong, (_RIGHT, _WRONG))),
        strict=True,
    ):
        axes.imshow(rgb, interpolation="nearest")
        axes.set_title(title, fontsize=11)
        axes.set_axis_off()
    axes = right.subplots()
    right.subplots_adjust(left=0.24, right=0.97, top=0.9, bottom=0.2)
    draw_confusion(axes, confusion, [info.name for info in classes])
    handles = legend_patches([*classes, _RIGHT, _WRONG])
    below.legend(handles=handles, loc="center", ncols=_LEGEND_COLUMNS, frameon=False)
    figure.text(0.5, 0.005, caption, ha="center", va="bottom", fontsize=8, color="0.35")
    figure.savefig(path, format="png")


def draw_confusion(axes: Axes, counts: NDArray[Any], names: Sequence[str]) -> None:
    """Draw rows in parts of the true class; a class that never occurs has an empty row."""
    shares = row_shares(counts)[:, : len(names)]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    size = 9 if len(names) <= 8 else 6 if len(names) <= _MOST_NUMBERED_CLASSES else 4
    axes.set_xticks(range(len(names)), names, rotation=90 if len(names) > 5 else 30, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.set_title("truth in rows, found in columns", fontsize=11)
    if len(names) > _MOST_NUMBERED_CLASSES:
        return
    for (row, column), share in np.ndenumerate(shares):
        if np.isfinite(share):
            color = "white" if share > 0.6 else "black"
            text = f"{share:.2f}"
            axes.text(column, row, text, ha="center", va="center", fontsize=size, color=color)


def row_shares(counts: NDArray[Any]) -> NDArray[np.float64]:
    """Divide every row by its sum; NaN where a row is empty."""
    totals = counts.sum(axis=1, keepdims=True).astype(float)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)
