"""Tables of figures that several commands print."""

from __future__ import annotations

from typing import Any

from lemevit_cli.commands.console import print_table

_PIXELS = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}
_AVERAGES = {"ap50": "AP50", "ap75": "AP75", "ap50_95": "AP50:95", "ap50_voc07": "VOC07"}
_SHARES = {"precision": "precision", "recall": "recall"}
_COUNTS = {"truths": "objects", "found": "found"}


def print_pixel_figures(title: str, figures: dict[str, Any], *, to_stderr: bool) -> None:
    """Print IoU, F1, precision and recall by class, then the means."""
    rows = [
        [name, *(share(record.get(column)) for column in _PIXELS)]
        for name, record in figures["classes"].items()
    ]
    rows.append(["mean IoU", share(figures["miou"]), "", "", ""])
    rows.append(["accuracy", share(figures["accuracy"]), "", "", ""])
    print_table(title, ["class", *_PIXELS.values()], rows, to_stderr=to_stderr)


def print_change_figures(title: str, figures: dict[str, Any], *, to_stderr: bool) -> None:
    """Print IoU, F1, precision and recall of change, by kind, over batches, and as polygons."""
    records = {"change": figures, **figures.get("classes", {})}
    records["mean of batches"] = {
        column: figures[f"batch_{column}"] for column in ("f1", "precision", "recall")
    }
    if "objects" in figures:
        records["polygons"] = figures["objects"]
    rows = [
        [name, *(share(record.get(column)) for column in _PIXELS)]
        for name, record in records.items()
    ]
    print_table(title, ["class", *_PIXELS.values()], rows, to_stderr=to_stderr)


def print_box_figures(title: str, figures: dict[str, Any], *, to_stderr: bool) -> None:
    """Print average precision, precision and recall by class, means, and errors where measured."""
    rows = [
        [
            name,
            *(share(record[column]) for column in (*_AVERAGES, *_SHARES)),
            *(str(record[column]) for column in _COUNTS),
        ]
        for name, record in figures["classes"].items()
    ]
    rows.append(["mean", *(share(figures[column]) for column in _AVERAGES)])
    rows.append(["all boxes", *[""] * len(_AVERAGES), *(share(figures[c]) for c in _SHARES)])
    if figures.get("length_error") is not None:
        rows.append(["median error of length", f"{figures['length_error']:.1%}"])
        rows.append(["median error of bearing", f"{figures['bearing_error_deg']:.1f}°"])
    columns = ["class", *(_AVERAGES | _SHARES | _COUNTS).values()]
    print_table(title, columns, rows, to_stderr=to_stderr)


def share(value: float | None) -> str:
    """Format a share, or a dash where there is none."""
    return "-" if value is None else f"{value:.3f}"
