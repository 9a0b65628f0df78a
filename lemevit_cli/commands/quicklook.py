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
    after: Annotated[
        str | None,
        typer.Argument(
            metavar="[AFTER]", help="A second date: RESULT is the first, both are drawn."
        ),
    ] = None,
    over: Annotated[
        str | None, options.option("--over SCENE", "The scene under the result.")
    ] = None,
    beside: Annotated[
        list[str] | None,
        options.option(
            "--beside OTHER", "Left of it: SCENE as it is, or another result over it (repeat)."
        ),
    ] = None,
    change: Annotated[
        str | None,
        options.option(
            "--change CHANGES",
            "What changed between two dates; default: AFTER_changes.shp here, if it is there.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        options.option("-o --output", "A .png or .jpg; default: RESULT_quicklook.png."),
    ] = None,
    alpha: Annotated[
        float, options.option("--alpha", "Opacity of the result.", min=0.0, max=1.0)
    ] = 0.5,
    size: Annotated[
        int, options.option("--size", "Longest side of the map in pixels.", min=16, max=16384)
    ] = 1600,
    bounds: options.Bounds = None,
    overwrite: options.Overwrite = False,
    no_remote: options.NoRemote = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    timeout: options.Timeout = None,
    debug: options.Debug = False,
) -> None:
    """Draw a result over its scene, or two dates side by side, with legend, scale bar and north.

    Prints the path of the picture, which names whom the scene is owed to where its file does
    (TIFFTAG_COPYRIGHT). It is made from overviews: large scenes take no longer.
    """
    if after is None and change is not None:
        raise typer.BadParameter("needs two dates, BEFORE and AFTER", param_hint="--change")
    if after is not None and over is not None:
        raise typer.BadParameter("two dates lie over nothing", param_hint="--over")
    if beside and over is None:
        raise typer.BadParameter("needs --over SCENE", param_hint="--beside")
    from lemevit_cli.analysis.pair_quicklook import pair_quicklook
    from lemevit_cli.analysis.quicklook import QuicklookOptions
    from lemevit_cli.analysis.quicklook import quicklook as draw

    chosen = QuicklookOptions(
        over=over,
        beside=tuple(beside or ()),
        alpha=alpha,
        size=size,
        bounds=bounds,
        overwrite=overwrite,
    )
    console = Console(quiet=quiet)
    if after is None:
        record = draw(result, output, chosen, console)
    else:
        record = pair_quicklook(
            result, after, output, change=change, options=chosen, progress=console
        )
    if json:
        print_json(record)
    else:
        typer.echo(record["path"])
