"""How figures of classes, pixel by pixel, are printed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemevit_cli.tasks.figure_table import PIXEL_COLUMNS, FigureTable, Row


def _describe_extent(figures: Mapping[str, Any]) -> str:
    metres = figures["tolerance_m"]
    tolerance = "2 pixels" if metres is None else f"{metres:.3g} m"
    return f": {figures['pixels']:,} pixels, boundaries within {tolerance}"


_ACCURACY = Row("accuracy", {"iou": "accuracy"})
TABLES = (
    FigureTable(
        headline="boundary_f1",
        columns={**PIXEL_COLUMNS, "boundary_f1": "boundary F1"},
        below=(
            Row("mean", {"iou": "miou", "f1": "f1", "boundary_f1": "boundary_f1"}),
            _ACCURACY,
        ),
        remark=_describe_extent,
    ),
    FigureTable(
        headline="miou",
        columns=PIXEL_COLUMNS,
        below=(
            Row("mean IoU", {"iou": "miou"}),
            _ACCURACY,
            Row("calibration error", {"iou": "calibration_error"}, is_optional=True),
        ),
    ),
    FigureTable(
        headline="labelled_share",
        columns={
            "polygons": "polygons",
            "labels": "labels",
            "train": "train",
            "val": "val",
            "others": "other splits",
            "percent": "%",
            "hectares": "hectares",
        },
        below=(Row("all", {"labels": "labels"}),),
        form="{:.2f}",
    ),
)
