"""``lemevit score``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json, print_table
from lemevit_cli.commands.figures import print_box_figures, print_change_figures, share
from lemevit_cli.commands.groups import Labelling, Reporting, grouped


@grouped
def score(
    prediction: Annotated[
        str,
        typer.Argument(
            metavar="PREDICTION",
            help="A raster of classes, - for stdin; or a file of change or boxes.",
        ),
    ],
    truth: Annotated[
        str,
        typer.Argument(
            metavar="TRUTH", help="A raster of classes, or polygons; or boxes. Any CRS."
        ),
    ],
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            metavar="NAME,NAME",
            help="Names of the ids 0, 1, ... of a raster that does not name them.",
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0.0,
            metavar="METRES",
            help="How far a boundary may be off; default: two pixels of the prediction.",
        ),
    ] = None,
    min_score: Annotated[
        float,
        typer.Option(
            "--score",
            min=0.0,
            max=1.0,
            metavar="SCORE",
            help="Precision and recall of the boxes with at least this score.",
        ),
    ] = 0.0,
    *,
    labelling: Labelling,
    png: Annotated[
        str | None,
        typer.Option("--png", metavar="FILE", help="Draw maps, errors and the confusion matrix."),
    ] = None,
    overwrite: options.Overwrite = False,
    reporting: Reporting,
) -> None:
    """Compare a result with the truth, where both have data.

    The truth may lie on another grid and in another CRS. Classes are matched by name; figures are
    pooled over all pixels. Boundary F1 counts outlines that lie within the tolerance.

    Change, as a mask or as polygons, is compared with either: pixels are pooled, and polygons are
    found where their IoU with true ones is 0.5 or more.

    Boxes are layers of polygons, CSV, or DOTA texts (also two folders of them): average precision
    by the overlap of turned boxes, objects with the field difficult left out.
    """
    from lemevit_cli.analysis.scoring import ScoreOptions
    from lemevit_cli.analysis.scoring import score as compare

    figures = compare(
        prediction,
        truth,
        ScoreOptions(
            classes=options.parse_names(classes),
            tolerance_m=tolerance,
            labels=labelling.labels(),
            min_score=min_score,
            picture=png,
            overwrite=overwrite,
        ),
        reporting.console,
    )
    if reporting.json:
        print_json(figures)
    elif "ap50" in figures:
        at_score = f", counted from a score of {figures['score']:g}" if figures["score"] else ""
        title = f"{figures['prediction']} against {figures['truth']}{at_score}"
        print_box_figures(title, figures, to_stderr=False)
    elif "objects" in figures:
        title = f"{figures['prediction']} against {figures['truth']}"
        print_change_figures(title, figures, to_stderr=False)
    else:
        _print_classes(figures)


def _print_classes(figures: dict[str, Any]) -> None:
    columns = ["iou", "f1", "precision", "recall", "boundary_f1"]
    rows = [
        [name, *(share(record[column]) for column in columns)]
        for name, record in figures["classes"].items()
    ]
    means = [share(figures[name]) for name in ("miou", "f1", "boundary_f1")]
    rows.append(["mean", means[0], means[1], "", "", means[2]])
    rows.append(["accuracy", share(figures["accuracy"]), "", "", "", ""])
    metres = figures["tolerance_m"]
    tolerance = "2 pixels" if metres is None else f"{metres:.3g} m"
    print_table(
        f"{figures['prediction']} against {figures['truth']}: {figures['pixels']:,} pixels, "
        f"boundaries within {tolerance}",
        ["class", "IoU", "F1", "precision", "recall", "boundary F1"],
        rows,
        to_stderr=False,
    )
