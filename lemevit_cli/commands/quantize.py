"""``lemevit quantize``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json
from lemevit_cli.commands.groups import Reporting, spread_groups
from lemevit_cli.settings import InferenceSettings, ReadingOptions, SceneOptions


@spread_groups
def quantize(
    weights: Annotated[str, typer.Argument(metavar="WEIGHTS", help="A name or a file.")],
    calibrate: Annotated[
        list[str],
        options.option(
            "--calibrate SCENE|FOLDER",
            "Scenes like those to come, repeatable; of change BEFORE and AFTER by turns.",
        ),
    ],
    output: Annotated[str, options.option("-o --output", "The .safetensors file to write.")],
    windows: Annotated[
        int, options.option("--windows", "To calibrate on, of all scenes together.", min=1)
    ] = 64,
    bidx: options.Bidx = None,
    nodata: options.Nodata = None,
    stretch: options.Stretch = "auto",
    gsd: options.Gsd = "auto",
    overwrite: options.Overwrite = False,
    *,
    reporting: Reporting,
) -> None:
    """Write weights as a network of 8-bit integers, which OpenVINO runs on a CPU.

    Ranges of values are watched on windows of your scenes. The file goes to --weights of predict,
    detect, change and eval. Prints its path, and on stderr how many answers stay as they were.
    """
    from lemevit_cli.analysis.quantizing import quantize as quantize_weights

    console = reporting.console
    record = quantize_weights(
        weights,
        calibrate,
        output,
        windows=windows,
        settings=InferenceSettings(
            scene=SceneOptions(bidx=options.parse_bands(bidx), nodata=nodata),
            reading=ReadingOptions(stretch=stretch, gsd=gsd),
        ),
        overwrite=overwrite,
        progress=console,
    )
    if reporting.json:
        print_json(record)
        return
    console.note(record["summary"])
    typer.echo(output)
