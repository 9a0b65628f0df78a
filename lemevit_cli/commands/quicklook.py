"""``lemevit quicklook``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json


def quicklook(
    result: Annotated[
        str,
        typer.Argument(metavar="RESULT", help="A raster of classes, polygons, or any scene."),
    ],
    over: Annotated[
        str | None, typer.Option("--over", metavar="SCENE", help="The scene under the result.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", help="The PNG; default: RESULT_quicklook.png here."),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", min=0.0, max=1.0, help="Opacity of the result.")
    ] = 0.5,
    size: Annotated[
        int, typer.Option("--size", min=16, max=16384, help="Longest side of the map in pixels.")
    ] = 1600,
    bounds: options.Bounds = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Draw a result over its scene, with legend, scale bar and north.

    Prints the path of the picture. It is made from overviews: large scenes take no longer.
    """
    from lemevit_cli.pipelines.quicklook import QuicklookOptions
    from lemevit_cli.pipelines.quicklook import quicklook as draw

    record = draw(
        result,
        output,
        QuicklookOptions(over=over, alpha=alpha, size=size, bounds=bounds, overwrite=overwrite),
        Console(quiet=quiet),
    )
    if json:
        print_json(record)
    else:
        typer.echo(record["path"])
