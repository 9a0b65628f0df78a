"""``lemevit eval``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json
from lemevit_cli.commands.figures import print_scores
from lemevit_cli.commands.groups import Reporting, Running, spread_groups


@spread_groups
def evaluate(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A name or a file.")],
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help="A folder as `train` takes it, with its labels."),
    ],
    split: Annotated[
        str, options.option("--split NAME", "Which part: train, val, or a folder such as test.")
    ] = "val",
    skip_bad_labels: options.SkipBadLabels = False,
    batch_size: options.BatchSize = None,
    *,
    running: Running,
    runtime: options.Runtime = options.RuntimeChoice.auto,
    tta: options.Tta = False,
    fuse_tokens: options.FuseTokens = None,
    reporting: Reporting,
) -> None:
    """Score weights on labelled pictures or pairs: figures pooled over all pixels, or all boxes.

    Classes are matched by name. On data that know only some of the weights' classes, the others
    count as background; a detector is judged by those that both know. Of change, batch figures are
    means over batches of 16 windows of 256 pixels in the files' order, as its authors report them.
    """
    from lemevit_cli.tasks.evaluation import evaluate as evaluate_weights

    figures = evaluate_weights(
        weights,
        data,
        split=split,
        runtime=running.runtime(runtime.value, tta=tta, fuse_tokens=fuse_tokens),
        skip_bad_labels=skip_bad_labels,
        batch_size=batch_size,
        progress=reporting.console,
    )
    if reporting.json:
        print_json(figures)
    else:
        print_scores(f"{weights} on {data} ({split})", figures, to_stderr=False)
