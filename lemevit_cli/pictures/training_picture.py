"""Pictures of a training: what the model is shown, how it went, what it finds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure, SubFigure
from numpy.typing import NDArray

from lemevit_cli.legend import ClassInfo
from lemevit_cli.pictures.picture import colorize, legend_patches
from lemevit_cli.pictures.score_picture import draw_confusion

# Pictures (H, W, 3), one of each date, and class ids (H, W): of an example truth, then found.
Sample = tuple[NDArray[np.uint8], ...]
Example = tuple[NDArray[np.uint8], ...]

_PICTURES_A_ROW = 8
_EXAMPLES_A_ROW = 2
_LABEL_OPACITY = 0.55
_TILE = 2.2  # inches
_GAP = 0.04  # of a tile, between groups
_LEGEND_ROW = 0.26
_LEGEND_COLUMNS = 7
_MANY_CLASSES = 15


def write_sample_sheet(
    path: str | Path, samples: Sequence[Sample], classes: Sequence[ClassInfo]
) -> None:
    """Draw training windows, each beside itself with its labels over it, and save a PNG.

    Of several dates the labels lie over the last.

    Pixels without a label (``NODATA_CLASS``) are light grey in the labels.

    Raises:
        ValueError: if there is no sample.
    """
    shown = [(*dates, _over(dates[-1], colorize(ids, classes))) for *dates, ids in samples]
    write_sheet(path, shown, classes, per_row=_PICTURES_A_ROW, side=_TILE)


def write_sheet(
    path: str | Path,
    samples: Sequence[tuple[Any, ...]],
    classes: Sequence[ClassInfo],
    *,
    per_row: int,
    side: float,
    show: Callable[[Axes, Any], Any] = Axes.imshow,
) -> None:
    """Draw groups of pictures with a legend, and save a PNG.

    Args:
        samples: as many pictures each, in whatever form ``show`` draws them.
        per_row: pictures, at most.
        side: of a picture, in inches.

    Raises:
        ValueError: if there is no sample.
    """
    if not samples:
        raise ValueError("a sheet needs at least one sample")
    size = len(samples[0])
    across = min(len(samples), per_row // size)
    down = math.ceil(len(samples) / across)
    figure, body = figure_with_legend(size * across * side, down * side, classes)
    draw_groups(groups_of_axes(body, down, across, size=size), samples, show)
    figure.savefig(path, format="png")


def write_titled_sheet(
    path: str | Path, pictures: Sequence[NDArray[np.uint8]], titles: Sequence[str]
) -> None:
    """Draw pictures ``(H, W, 3)``, each with its title in it, and save a PNG."""

    def show(axes: Axes, picture: tuple[NDArray[np.uint8], str]) -> None:
        pixels, title = picture
        axes.imshow(pixels)
        box = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5}
        inside = axes.transAxes
        axes.text(0.02, 0.98, title, fontsize=8, va="top", transform=inside, bbox=box)

    groups = [(picture,) for picture in zip(pictures, titles, strict=True)]
    write_sheet(path, groups, [], per_row=_PICTURES_A_ROW, side=_TILE, show=show)


def draw_groups(
    groups: NDArray[Any],
    samples: Sequence[tuple[Any, ...]],
    show: Callable[[Axes, Any], Any] = Axes.imshow,
    *,
    titles: Sequence[str] = (),
    per_row: int = 0,
) -> None:
    """Draw groups of pictures into axes ``(groups, size)``, with titles above the first row."""
    for axes in groups[:per_row]:
        for place, title in zip(axes, titles, strict=True):
            place.set_title(title, fontsize=10)
    for axes, pictures in zip(groups, samples, strict=False):
        for place, picture in zip(axes, pictures, strict=True):
            show(place, picture)


def write_training_report(
    path: str | Path,
    metrics: Sequence[Mapping[str, Any]],
    confusion: NDArray[Any] | None,
    classes: Sequence[ClassInfo],
    examples: Sequence[Example],
    *,
    score: tuple[str, str] = ("miou", "mean IoU"),
    titles: Sequence[str] = ("window", "truth", "result"),
) -> None:
    """Draw how a training went, and save a PNG.

    Args:
        metrics: lines of the training's log: those with ``step`` and ``loss``, and those with
            ``step``, ``score`` and ``validation`` (figures by data set). None and NaN leave a gap.
        confusion: validation pixels ``(classes, classes)`` by true (rows) and found class; more
            columns, for what is none of the classes, count in the rows' sums. None leaves the
            matrix out, as without a validation.
        classes: of the matrix and of all ids.
        examples: validation windows with their truth and what the model found.
        score: key and name of the figure by data set that is drawn.
        titles: of an example's pictures.
    """
    per_row = min(max(len(examples), 1), _EXAMPLES_A_ROW)
    rows = math.ceil(len(examples) / per_row)
    top_height = 3.6 if len(classes) <= _MANY_CLASSES else 5.0
    figure, body = figure_with_legend(13.2, top_height + rows * _TILE * 1.05, classes)
    heights = [top_height, *([rows * _TILE * 1.05] if rows else [])]
    parts: Any = body.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    columns = 2 if confusion is None else 3
    top = parts[0].subplots(1, columns, squeeze=False, width_ratios=[1, 1, 1.15][:columns])[0]
    parts[0].subplots_adjust(left=0.06, right=0.97, top=0.91, bottom=0.14, wspace=0.32)
    draw_loss(top[0], metrics)
    draw_scores(top[1], metrics, figure=score[0], label=score[1])
    if confusion is not None:
        draw_confusion(top[2], np.asarray(confusion), [info.name for info in classes])
    if rows:
        shown = [
            (*dates, *(colorize(ids, classes) for ids in (truth, found)))
            for *dates, truth, found in examples
        ]
        groups = groups_of_axes(parts[1], rows, per_row, size=len(titles), top=0.93)
        draw_groups(groups, shown, titles=titles, per_row=per_row)
    figure.savefig(path, format="png")


def write_feature_report(
    path: str | Path,
    metrics: Sequence[Mapping[str, Any]],
    rows: Sequence[Sequence[NDArray[np.uint8]]],
    titles: Sequence[str],
) -> None:
    """Draw how a distillation went, and save a PNG.

    Args:
        metrics: as of :func:`write_training_report`.
        rows: pictures ``(H, W, 3)``, as many as ``titles``: a view and features as colours.
    """
    width, below = len(titles) * _TILE, len(rows) * _TILE
    figure = Figure(figsize=(width, 3.2 + below), dpi=110)
    FigureCanvasAgg(figure)
    heights = [3.2, *([below] if rows else [])]
    parts: Any = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    top = parts[0].subplots(1, 2)
    parts[0].subplots_adjust(left=0.06, right=0.97, top=0.88, bottom=0.18, wspace=0.2)
    draw_loss(top[0], metrics)
    draw_scores(top[1], metrics, figure="cosine", label="cosine")
    if rows:
        groups = groups_of_axes(parts[-1], len(rows), 1, size=len(titles), top=0.95)
        show = partial(Axes.imshow, interpolation="nearest")
        draw_groups(groups, [tuple(row) for row in rows], show, titles=titles, per_row=1)
    figure.savefig(path, format="png")


def groups_of_axes(
    figure: Figure | SubFigure, rows: int, per_row: int, *, size: int, top: float = 0.995
) -> NDArray[Any]:
    """Make axes for groups of pictures that belong together: ``(rows * per_row, size)``."""
    grid = figure.subplots(
        rows,
        per_row * (size + 1),
        squeeze=False,
        width_ratios=[*[1.0] * size, _GAP] * per_row,
        gridspec_kw={
            "left": 0.005,
            "right": 0.999,
            "top": top,
            "bottom": 0.005,
            "wspace": 0.03,
            "hspace": 0.03,
        },
    )
    for axes in grid.flat:
        axes.set_axis_off()
    return grid.reshape(rows * per_row, size + 1)[:, :size]


def figure_with_legend(
    width: float, height: float, classes: Sequence[ClassInfo]
) -> tuple[Figure, Figure | SubFigure]:
    """Make a figure, sides in inches, with a legend; return it and its part above the legend."""
    columns = max(1, min(len(classes), _LEGEND_COLUMNS, int(width / 1.5)))
    legend = 0.2 + _LEGEND_ROW * math.ceil(len(classes) / columns)
    figure = Figure(figsize=(width, height + legend), dpi=110)
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[height, legend])
    body, below = parts
    below.legend(handles=legend_patches(classes), loc="center", ncols=columns, frameon=False)
    return figure, body


def _over(rgb: NDArray[np.uint8], colors: NDArray[np.uint8]) -> NDArray[np.uint8]:
    mixed = (1 - _LABEL_OPACITY) * rgb + _LABEL_OPACITY * colors
    return mixed.round().astype(np.uint8)


def _curve(metrics: Sequence[Mapping[str, Any]], value_of: Any) -> tuple[list[float], list[float]]:
    """Return steps and values; what is None or missing becomes NaN, a gap in the curve."""
    pairs = [(line["step"], value_of(line)) for line in metrics]
    return [s for s, _ in pairs], [math.nan if v is None else float(v) for _, v in pairs]


def draw_loss(axes: Axes, metrics: Sequence[Mapping[str, Any]]) -> None:
    """Draw the loss over the steps."""
    steps, losses = _curve([m for m in metrics if "loss" in m], lambda line: line["loss"])
    axes.plot(steps, losses, color="tab:blue", linewidth=1.2, marker="." * (len(steps) < 3))
    axes.set_title("training loss", fontsize=11)
    finish_curve(axes)


def draw_scores(
    axes: Axes,
    metrics: Sequence[Mapping[str, Any]],
    *,
    figure: str = "miou",
    label: str = "mean IoU",
) -> None:
    """Draw the validations' scores over the steps, and of several data sets each one's figure."""
    lines = [m for m in metrics if "score" in m]
    axes.set_title("validation", fontsize=11)
    if not lines:
        axes.text(0.5, 0.5, "no validation", ha="center", transform=axes.transAxes, color="0.5")
        axes.set_axis_off()
        return
    names = list(dict.fromkeys(name for m in lines for name in m.get("validation") or {}))
    for name in names if len(names) > 1 else []:
        steps, values = _curve(lines, lambda m, n=name: _of_data(m.get("validation"), n, figure))
        axes.plot(steps, values, linewidth=1, marker=".", label=f"{label}, {name}")
    steps, values = _curve(lines, lambda m: m["score"])
    shown = "score" if len(names) != 1 else f"{label}, {names[0]}"
    axes.plot(steps, values, color="black", linewidth=1.6, marker=".", label=shown)
    axes.set_ylim(0, 1)
    axes.legend(fontsize=8, frameon=False, loc="best")
    finish_curve(axes)


def _of_data(validation: Mapping[str, Any] | None, name: str, figure: str) -> float | None:
    figures = (validation or {}).get(name)
    return figures.get(figure) if isinstance(figures, Mapping) else None


def finish_curve(axes: Axes, label: str = "step") -> None:
    """Give a curve the looks that all share; ``label`` names the axis below."""
    axes.set_xlabel(label, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
