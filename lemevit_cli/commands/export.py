"""``lemevit export``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json


def export(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A name or a file.")],
    output: Annotated[str, options.option("-o --output", "The .onnx or .xml file to write.")],
    window: options.Window = None,
    batch: Annotated[
        int, options.option("--batch", "Windows of a pass; 0: any number.", min=0)
    ] = 1,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Write weights as a network for other programs: ONNX, or OpenVINO's .xml and .bin.

    Normalisation is inside, the card in the metadata. The file appears once it has answered a
    random window as torch does. Prints its path.
    """
    from lemevit_cli.analysis.exporting import export as export_weights

    record = export_weights(weights, output, window=window, batch=batch, overwrite=overwrite)
    if json:
        print_json(record)
    else:
        typer.echo(output)
