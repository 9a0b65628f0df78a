"""``lemevit simulate``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json


def simulate(
    context: typer.Context,
    folder: Annotated[str, typer.Argument(metavar="DIR", help="Where the scenes go.")],
    task: Annotated[
        options.SimulatedTaskName | None,
        typer.Option("--task", help="Layout to train from; without it, two dates and all truth."),
    ] = None,
    size: Annotated[int, typer.Option("--size", min=64, help="Side of a scene, pixels.")] = 1024,
    scenes: Annotated[int, typer.Option("--scenes", min=1, help="Number, with --task.")] = 4,
    gsd: Annotated[float, typer.Option("--gsd", min=0.05, max=5.0, help="Metres a pixel.")] = 0.3,
    crs: Annotated[str, typer.Option("--crs", help="CRS of the scenes.")] = "EPSG:32633",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Another seed, another town.")] = 0,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """Draw towns with exact truth: simulated scenes to try, test and train with.

    Prints the folder.
    """
    if task is None and "scenes" in options.names_given(context):
        raise typer.BadParameter(
            "is for a --task; without one a single pair is drawn", param_hint="--scenes"
        )
    from lemevit_cli.simulation.pair import simulate_pair
    from lemevit_cli.simulation.scenes import simulate_dataset
    from lemevit_cli.tasks import load_simulation

    if task is None:
        draw: Callable[..., dict[str, Any]] = simulate_pair
    else:
        draw = partial(simulate_dataset, layout=load_simulation(task), scenes=scenes)
    report = draw(
        folder,
        size=size,
        gsd_m=gsd,
        crs=crs,
        seed=seed,
        overwrite=overwrite,
        progress=Console(quiet=quiet, show_progress=not no_progress),
    )
    report["task"] = task
    if json:
        print_json(report)
    else:
        typer.echo(folder)
