"""``lemevit import``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json, say


def import_weights(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="A checkpoint of the LeMeViT authors' code.")
    ],
    output: Annotated[str, options.option("-o --output", "The .safetensors file to write.")],
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Make our weights file of a LeMeViT classification checkpoint.

    Prints the path of the file. No pickled code is ever run.
    """
    from lemevit_cli.analysis.importing import import_checkpoint

    report = import_checkpoint(checkpoint, output, overwrite=overwrite)
    if report["left_out"]:
        say(f"{checkpoint}: {report['left_out']} tensors are no part of the backbone, and left out")
    if json:
        print_json(report)
    else:
        typer.echo(output)
