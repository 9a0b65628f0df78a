"""``lemevit probe``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json
from lemevit_cli.commands.figures import print_scores
from lemevit_cli.commands.groups import Reporting, Running, spread_groups


@spread_groups
def probe(
    backbone: Annotated[
        str,
        typer.Argument(
            metavar="BACKBONE",
            help="Weights of ours by name or file, a timm name with weights, or a file of a timm "
            "model's weights.",
        ),
    ],
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Labelled folders or .toml lists as `train --task seg` takes them; each data set "
            "is probed by itself.",
        ),
    ],
    model: Annotated[
        str | None, options.option("--model NAME", "The timm name of a file that does not say.")
    ] = None,
    layers: Annotated[
        str | None,
        options.option(
            "--layers N,N,...",
            "Layers of a timm model, from 1; default: three of a transformer, four levels of "
            "a pyramid.",
        ),
    ] = None,
    zoom: Annotated[
        float,
        options.option("--zoom", "How much larger the network sees windows.", min=0.1, max=8.0),
    ] = 1.0,
    windows: Annotated[
        int, options.option("--windows", "Windows that the layer is fitted on.", min=1)
    ] = 256,
    window: Annotated[
        int, options.option("--window", "Side of a window, in pixels.", min=32)
    ] = 512,
    seed: options.Seed = 0,
    *,
    running: Running,
    reporting: Reporting,
) -> None:
    """Fit a linear layer on frozen features and score it: how much a backbone knows of your data.

    Takes minutes. Nothing is trained but that layer, on the training part of each data set; the
    figures are of its whole validation part.
    """
    chosen = options.parse_numbers(layers, "--layers")
    from lemevit_cli.models.dense_features import FeatureSource
    from lemevit_cli.tasks.backbone import probing
    from lemevit_cli.training.options import DataOptions

    record = probing.probe(
        FeatureSource(backbone, model=model, layers=chosen),
        DataOptions(paths=tuple(data)),
        probing.ProbeOptions(windows=windows, side=window, zoom=zoom, seed=seed),
        running.runtime(),
        reporting.console,
    )
    if reporting.json:
        print_json(record)
        return
    for name, figures in record["figures"].items():
        title = f"{record['backbone']}, {record['channels']} channels, on {name} (val)"
        print_scores(title, figures, to_stderr=False)
