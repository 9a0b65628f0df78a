"""``lemevit attention``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json
from lemevit_cli.commands.groups import Reporting, Scenes, spread_groups
from lemevit_cli.commands.reporting import exit_if_unreadable
from lemevit_cli.settings import OutputOptions


@spread_groups
def attention(
    scene: Annotated[
        str, typer.Argument(metavar="SCENE", help="A raster that GDAL opens, or - for stdin.")
    ],
    output: options.Output = None,
    weights: options.Weights = None,
    stage: Annotated[
        int, options.option("--stage", "Whose attention: 0, 1 or 2, of strides 4, 4 and 8.")
    ] = 1,
    block: Annotated[
        int | None, options.option("--block", "Of the stage, from 0; default: the last.")
    ] = None,
    tokens: Annotated[
        str, options.option("--tokens N,N,...", "Meta tokens, from 0, or all.")
    ] = "all",
    png: Annotated[
        str | None, options.option("--png FILE", "Also a sheet of the maps over the scene.")
    ] = None,
    *,
    reading: Scenes,
    format: options.Format = None,
    co: options.CreationOptions = None,
    overwrite: options.Overwrite = False,
    reporting: Reporting,
) -> None:
    """Show what each meta token of a LeMeViT takes from every pixel of a scene.

    Prints the path of the raster: a band a token, 1 where a token looks as much as an even look
    would. Weights of any task will do; those of change see the scene as their earlier date.
    """
    settings = reading.settings(
        output=OutputOptions(
            format=format,
            creation_options=options.parse_creation_options(co),
            overwrite=overwrite,
        ),
    )
    chosen = None
    if tokens != "all":
        chosen = options.parse_numbers(tokens, "--tokens", kind="meta tokens", first=0)
    from lemevit_cli.analysis.attention import AttentionOptions
    from lemevit_cli.analysis.attention import attention as show

    record = show(
        scene,
        output,
        AttentionOptions(stage=stage, block=block, tokens=chosen, png=png),
        weights=weights,
        settings=settings,
        progress=reporting.console,
    )
    to_stdout = output == "-"
    if reporting.json:
        print_json(record, to_stderr=to_stdout)
    elif not to_stdout:
        typer.echo(record["path"])
        if png is not None:
            typer.echo(png)
    exit_if_unreadable([record])
