"""Pictures of a detector's training: what it is shown, how it went, what it finds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.legend import ClassInfo
from lemevit_cli.pictures.training_picture import (
    draw_groups,
    draw_loss,
    draw_scores,
    figure_with_legend,
    finish_curve,
    groups_of_axes,
    write_sheet,
)

_SAMPLES_A_ROW = 4
_EXAMPLES_A_ROW = 2
_SAMPLE, _EXAMPLE = 3.0, 3.2  # inches
_IGNORED_COLOR = (1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class BoxesShown:
    """Boxes of a picture.

    Args:
        boxes: ``(N, 5)`` in its pixels, see ``geometry/oriented_boxes.py``.
        class_ids: ``(N,)``; what is below 0 is ignored, and drawn white and dotted.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]


def write_box_sheet(
    path: str | Path,
    samples: Sequence[tuple[NDArray[np.uint8], BoxesShown]],
    classes: Sequence[ClassInfo],
) -> None:
    """Draw training windows ``(H, W, 3)`` with their boxes, and save a PNG.

    Raises:
        ValueError: if there is no sample.
    """
    show = partial(draw_boxes, classes=classes)
    shown = [(sample,) for sample in samples]
    write_sheet(path, shown, classes, per_row=_SAMPLES_A_ROW, side=_SAMPLE, show=show)


def write_detector_report(
    path: str | Path,
    metrics: Sequence[Mapping[str, Any]],
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    average_precisions: Mapping[str, float | None],
    classes: Sequence[ClassInfo],
    examples: Sequence[tuple[NDArray[np.uint8], BoxesShown, BoxesShown]],
) -> None:
    """Draw how a training went, and save a PNG.

    Args:
        metrics: lines of the training's log, as of a report on classes; figures have ``ap50``.
        curves: recall and precision of each class at the last validation.
        average_precisions: AP50 of each class; None where it has no object.
        examples: validation windows with their truth and what the model found.
    """
    per_row = min(max(len(examples), 1), _EXAMPLES_A_ROW)
    rows = math.ceil(len(examples) / per_row)
    top_height = max(3.6, 1.0 + 0.24 * len(average_precisions))
    figure, body = figure_with_legend(13.2, top_height + rows * _EXAMPLE, classes)
    heights = [top_height, *([rows * _EXAMPLE] if rows else [])]
    parts: Any = body.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    columns = 4 if average_precisions else 2
    top = parts[0].subplots(1, columns, squeeze=False)[0]
    parts[0].subplots_adjust(left=0.05, right=0.98, top=0.91, bottom=0.14, wspace=0.2)
    draw_loss(top[0], metrics)
    draw_scores(top[1], metrics, figure="ap50", label="AP50")
    if average_precisions:
        colors = {info.name: _unit_color(info) for info in classes}
        _draw_curves(top[2], curves, colors)
        _draw_bars(top[3], average_precisions, colors)
    if rows:
        shown = [((rgb, truth), (rgb, found)) for rgb, truth, found in examples]
        groups = groups_of_axes(parts[1], rows, per_row, size=2, top=0.95)
        show, titles = partial(draw_boxes, classes=classes), ("truth", "result")
        draw_groups(groups, shown, show, titles=titles, per_row=per_row)
    figure.savefig(path, format="png")


def draw_boxes(
    axes: Axes, picture: tuple[NDArray[np.uint8], BoxesShown], *, classes: Sequence[ClassInfo]
) -> None:
    """Draw a picture, and outlines of boxes in their classes' colours; its edges stay the edges."""
    rgb, shown = picture
    axes.imshow(rgb)
    corners = corners_of(shown.boxes)
    is_class = shown.class_ids >= 0
    colors = [_unit_color(classes[i]) for i in shown.class_ids[is_class]]
    limits = axes.get_xlim(), axes.get_ylim()
    # Pictures have the middle of their first pixel at 0, boxes its corner.
    for polygons, edges, style in (
        (corners[is_class], colors, "solid"),
        (corners[~is_class], _IGNORED_COLOR, "dotted"),
    ):
        outlines = PolyCollection(
            list(polygons - 0.5),
            facecolors="none",
            edgecolors=edges,
            linewidths=1.2,
            linestyles=style,
        )
        axes.add_collection(outlines)
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])


def _draw_curves(
    axes: Axes,
    curves: Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]],
    colors: Mapping[str, tuple[float, ...]],
) -> None:
    for name, (recall, precision) in curves.items():
        axes.plot(recall, precision, color=colors[name], linewidth=1.2)
    axes.set_title("precision over recall, IoU 0.5", fontsize=11)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    finish_curve(axes, "recall")


def _draw_bars(
    axes: Axes, values: Mapping[str, float | None], colors: Mapping[str, tuple[float, ...]]
) -> None:
    known = {name: value for name, value in values.items() if value is not None}
    colored = [(*colors[name], 0.6) for name in known]
    axes.barh(range(len(known)), list(known.values()), color=colored)
    for place, (name, value) in enumerate(known.items()):
        axes.text(0.02, place, f"{name} {value:.2f}", va="center", fontsize=8)
    axes.invert_yaxis()
    axes.set_yticks([])
    axes.set_title("AP50", fontsize=11)
    axes.set_xlim(0, 1)
    finish_curve(axes, "")


def _unit_color(info: ClassInfo) -> tuple[float, ...]:
    return tuple(part / 255 for part in info.color)
