"""How figures of classes, window by window, are printed."""

from __future__ import annotations

from lemevit_cli.tasks.figure_table import FigureTable, Row

TABLES = (
    FigureTable(
        headline="top1",
        columns={
            "f1": "F1",
            "precision": "precision",
            "recall": "recall",
            "windows": "windows",
            "taken_for": "taken for",
        },
        below=(
            Row("mean", {"f1": "f1"}),
            Row("top-1", {"recall": "top1", "windows": "windows"}),
            Row("top-5", {"recall": "top5"}),
        ),
    ),
)
