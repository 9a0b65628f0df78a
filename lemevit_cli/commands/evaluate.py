"""``lemevit eval``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json
from lemevit_cli.commands.figures import (
    print_box_figures,
    print_change_figures,
    print_pixel_figures,
)


class Split(StrEnum):
    """Parts of a data set."""

    train = "train"
    val = "val"


def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A name or a file.")],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A folder as `train` takes it, with its labels."),
    ],
    split: Annotated[Split, typer.Option("--split", help="Which part.")] = Split.val,
    batch_size: options.BatchSize = None,
    device: options.Device = "auto",
    precision: options.Precision = options.PrecisionName.auto,
    threads: options.Threads = None,
    tta: options.Tta = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """Score weights on labelled pictures or pairs: figures pooled over all pixels, or all boxes.

    Classes are matched by name. On data that know only some of the weights' classes, the others
    count as background; a detector is judged by those that both know. Of change, batch figures are
    means over batches of 16 windows of 256 pixels in the files' order, as its authors report them.
    """
    from lemevit_cli.settings import RuntimeOptions
    from lemevit_cli.tasks.evaluation import evaluate as evaluate_weights

    figures = evaluate_weights(
        weights,
        data,
        split=split.value,
        runtime=RuntimeOptions(device=device, precision=precision.value, threads=threads, tta=tta),
        batch_size=batch_size,
        progress=Console(quiet=quiet, show_progress=not no_progress),
    )
    if json:
        print_json(figures)
    else:
        print_scores(f"{weights} on {data} ({split.value})", figures, to_stderr=False)


def print_scores(title: str, figures: dict[str, Any], *, to_stderr: bool) -> None:
    """Figures by class, then the means: of pixels, of boxes, or of change."""
    telling = {"ap50": print_box_figures, "batch_f1": print_change_figures}
    print_figures = next((telling[key] for key in telling if key in figures), print_pixel_figures)
    print_figures(title, figures, to_stderr=to_stderr)
