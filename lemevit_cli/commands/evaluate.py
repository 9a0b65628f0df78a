"""``lemevit eval``."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json, print_table


class Split(StrEnum):
    """Parts of a data set."""

    train = "train"
    val = "val"


def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A name or a file.")],
    data: Annotated[
        str, typer.Argument(metavar="DATA", help="A folder with {train,val}/{images,masks}.")
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
    """Score weights on labelled pictures: figures pooled over all pixels.

    Classes are matched by name. On data that know only some of the weights' classes, the others
    count as background.
    """
    from lemevit_cli.pipelines.evaluation import evaluate as evaluate_weights
    from lemevit_cli.settings import RuntimeOptions

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
    """IoU, F1, precision and recall by class, then the means."""
    columns = ["iou", "f1", "precision", "recall"]
    rows = [
        [name, *(_percent(record.get(column)) for column in columns)]
        for name, record in figures["classes"].items()
    ]
    rows.append(["mean IoU", _percent(figures["miou"]), "", "", ""])
    rows.append(["accuracy", _percent(figures["accuracy"]), "", "", ""])
    print_table(title, ["class", "IoU", "F1", "precision", "recall"], rows, to_stderr=to_stderr)


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
