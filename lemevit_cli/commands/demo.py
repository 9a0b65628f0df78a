"""``lemevit demo``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json, print_table
from lemevit_cli.commands.figures import print_scores
from lemevit_cli.settings import RuntimeOptions


def demo(
    folder: Annotated[
        str, typer.Argument(metavar="[DIR]", help="Where scenes, results and pictures go.")
    ] = "lemevit_demo",
    size: Annotated[
        int, typer.Option("--size", min=256, help="Side of the drawn town, pixels.")
    ] = 1024,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another town.")] = 3,
    device: options.Device = "auto",
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """See it work: land cover and vehicles of a real scene, then a drawn town with its truth.

    Needs no data and no network: the scene comes with the package. Of the town the land cover and
    what has changed are scored against the exact truth. Prints the path of a picture.
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
        _tell_real(record["real"])
        _tell_town(record["town"])
        _tell_commands(record)
    typer.echo(record["picture"])


def _tell_real(real: dict[str, Any]) -> None:
    print_table(
        f"A real scene, {real['scene']} (Kampala, Uganda): look at {real['picture']}",
        ["class", "share"],
        [[name, f"{record['share']:.1%}"] for name, record in real["classes"].items()],
        to_stderr=True,
    )
    for name, share in real["mistaken"].items():
        typer.echo(f"{share:.1%} is taken for {name}: there is none", err=True)
    vehicles = real["vehicles"]
    typer.echo(
        f"{vehicles['found']} vehicles of score {vehicles['score']} or more: "
        f"look at {vehicles['picture']}\n{real['credit']}\n",
        err=True,
    )


def _tell_town(town: dict[str, Any]) -> None:
    cover, changes = town["landcover"], town["changes"]
    print_scores("A drawn town, against its exact truth", cover["scores"], to_stderr=True)
    typer.echo(f"look at {cover['picture']}", err=True)
    print_scores("\nWhat has changed in it", changes["scores"], to_stderr=True)
    typer.echo(f"look at {changes['picture']}\n", err=True)


def _tell_commands(record: dict[str, Any]) -> None:
    lines = [
        "The same by commands:",
        *(f"  {command}" for command in record["commands"]),
        "A better map, from twenty polygons that come with the scene, in some minutes:",
        f"  {record['next']}",
    ]
    typer.echo("\n".join(lines) + "\n", err=True)
