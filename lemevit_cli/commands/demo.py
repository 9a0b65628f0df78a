"""``lemevit demo``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json
from lemevit_cli.commands.figures import print_scores
from lemevit_cli.settings import RuntimeOptions


def demo(
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="Where scene, result and picture go.")
    ] = "lemevit_demo",
    size: Annotated[int, typer.Option("--size", min=256, help="Side of the scene, pixels.")] = 1024,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another town.")] = 3,
    device: options.Device = "auto",
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """See it work: draw a town, predict its land cover, score it against the truth.

    Objects and changes are found too. Needs no data and no network. Figures are of a simulated
    scene. Prints the path of a picture.
    """
    from lemevit_cli.analysis.demo import run_demo

    record = run_demo(
        folder,
        size=size,
        seed=seed,
        overwrite=overwrite,
        runtime=RuntimeOptions(device=device, threads=threads),
        progress=Console(quiet=quiet, show_progress=not no_progress),
    )
    if json:
        print_json(record)
        return
    if not quiet:
        print_scores("Simulated scene, against its truth", record["scores"], to_stderr=True)
        _tell_objects(record["objects"])
        _tell_changes(record["changes"])
        typer.echo(
            f"\nLook at {record['picture']}\n"
            f"Open in QGIS: {record['scene']} and, over it, {record['result']}\n"
            f"As polygons: lemevit predict {record['scene']} -o {folder}/landcover.gpkg\n",
            err=True,
        )
    typer.echo(record["picture"])


def _tell_objects(objects: dict[str, Any]) -> None:
    judged = 0
    if objects["scores"] is not None:
        print_scores("\nIts objects, against their truth", objects["scores"], to_stderr=True)
        judged = sum(figures["found"] for figures in objects["scores"]["classes"].values())
    typer.echo(
        f"\n{objects['found']} objects are in {objects['result']}, drawn in {objects['picture']}; "
        f"{objects['found'] - judged} are of classes that the truth has none of",
        err=True,
    )


def _tell_changes(changes: dict[str, Any]) -> None:
    print_scores("\nWhat changed in it, against its truth", changes["scores"], to_stderr=True)
    typer.echo(
        f"\n{changes['found']} changes are in {changes['result']}, drawn in {changes['picture']}",
        err=True,
    )
