"""How figures of boxes are printed: by class, means, and errors where they were measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemevit_cli.tasks.figure_table import FigureTable, Row

_AVERAGES = {"ap50": "AP50", "ap75": "AP75", "ap50_95": "AP50:95", "ap50_voc07": "VOC07"}
_SHARES = {"precision": "precision", "recall": "recall"}
_COUNTS = {"truths": "objects", "found": "found"}


def _describe_score(figures: Mapping[str, Any]) -> str:
    if figures.get("score"):
        return f", counted from a score of {figures['score']:g}"
    own = {record.get("score") for record in figures.get("classes", {}).values()}
    return ", counted from the weights' score of each class" if len(own) > 1 else ""


_BY_AREA = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}
_BY_POLYGON = {"objects_50.f1": "F1 at IoU 0.5", "objects_75.f1": "at 0.75"}

_SPLITS = {"labels": "objects", "train": "train", "val": "val", "difficult": "difficult"}
_MEDIANS = {
    "length_px": "length, px",
    "width_px": "width, px",
    "length_m": "length, m",
    "width_m": "width, m",
}

TABLES = (
    FigureTable(
        headline="difficult",
        columns=_SPLITS | _MEDIANS,
        below=(Row("all", {"labels": "labels", "difficult": "difficult"}),),
        form="{:.1f}",
    ),
    FigureTable(
        headline="area_iou",
        columns=_BY_AREA | _BY_POLYGON | _COUNTS,
        below=(
            Row("mean by area", {"iou": "area_iou", "f1": "area_f1"}),
            Row("all polygons", {column: column for column in _BY_POLYGON}),
        ),
    ),
    FigureTable(
        headline="ap50",
        columns=_AVERAGES | _SHARES | _COUNTS,
        below=(
            Row("mean", {column: column for column in _AVERAGES}),
            Row("all boxes", {column: column for column in _SHARES}),
            Row("median error of length", {"ap50": "length_error"}, "{:.1%}", is_optional=True),
            Row(
                "median error of bearing",
                {"ap50": "bearing_error_deg"},
                "{:.1f}°",
                is_optional=True,
            ),
            Row(
                "false finds per km²", {"found": "false_finds_per_km2"}, "{:.1f}", is_optional=True
            ),
        ),
        remark=_describe_score,
    ),
)
