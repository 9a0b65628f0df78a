"""How figures of change are printed: of change, by kind, over batches, and as polygons."""

from __future__ import annotations

from lemevit_cli.tasks.figure_table import PIXEL_COLUMNS, FigureTable, Row

TABLES = (
    FigureTable(
        headline="batch_f1",
        columns=PIXEL_COLUMNS,
        above=(Row("change", {column: column for column in PIXEL_COLUMNS}),),
        below=(
            Row("mean of batches", {column: f"batch_{column}" for column in PIXEL_COLUMNS}),
            Row("polygons", {column: f"objects.{column}" for column in PIXEL_COLUMNS}),
        ),
    ),
)
