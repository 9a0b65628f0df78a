"""``lemevit score``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json
from lemevit_cli.commands.figures import print_scores
from lemevit_cli.commands.groups import Labelling, Reporting, spread_groups


@spread_groups
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
        options.option(
            "--classes NAME,NAME", "Names of the ids 0, 1, ... of a raster that does not name them."
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        options.option(
            "--tolerance METRES",
            "How far a boundary may be off; default: two pixels of the prediction.",
            min=0.0,
        ),
    ] = None,
    min_score: Annotated[
        float,
        options.option(
            "--score SCORE",
            "Precision and recall of the boxes with at least this score.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.0,
    skip_bad_labels: options.SkipBadBoxes = False,
    *,
    labelling: Labelling,
    png: Annotated[
        str | None, options.option("--png FILE", "Draw maps, errors and the confusion matrix.")
    ] = None,
    overwrite: options.Overwrite = False,
    reporting: Reporting,
) -> None:
    """Compare a result with the truth, where both have data.

    The truth may lie on another grid and in another CRS. Classes are matched by name; figures are
    pooled over all pixels. Boundary F1 counts outlines that lie within the tolerance.

    Change, as a mask or as polygons, is compared with either: pixels are pooled, and polygons are
    found where their IoU with true ones is 0.5 or more.

    Boxes are layers of four-cornered polygons, CSV, COCO's JSON (labels or results), or texts of
    DOTA, YOLO or Pascal VOC (two folders of them): average precision by the overlap of turned
    boxes; difficult objects, crowds and ignored areas are neither missed nor wrong to find.

    Two layers of other polygons are compared by area, and one by one at IoU 0.5 and 0.75.
    """
    from lemevit_cli.analysis.scoring import score as compare
    from lemevit_cli.tasks.scoring import ScoreOptions

    figures = compare(
        prediction,
        truth,
        ScoreOptions(
            classes=options.parse_names(classes),
            tolerance_m=tolerance,
            labels=labelling.labels(),
            min_score=min_score,
            skip_bad_labels=skip_bad_labels,
            picture=png,
            overwrite=overwrite,
        ),
        reporting.console,
    )
    if reporting.json:
        print_json(figures)
    else:
        title = f"{figures['prediction']} against {figures['truth']}"
        print_scores(title, figures, to_stderr=False)
