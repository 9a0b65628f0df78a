"""``lemevit info``."""

from __future__ import annotations

from typing import Annotated

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import flatten, print_json, print_record


def info(
    subject: Annotated[
        str | None,
        typer.Argument(
            metavar="[SUBJECT]",
            help="A scene, weights, a model's timm name, or an unfinished result.",
        ),
    ] = None,
    size: Annotated[
        int, options.option("--size", "Input side for a model's multiply-adds.", min=33, max=4096)
    ] = 224,
    no_remote: options.NoRemote = False,
    json: options.Json = False,
    timeout: options.Timeout = None,
    debug: options.Debug = False,
) -> None:
    """Describe a scene, weights or a model; without a subject, this installation."""
    from lemevit_cli.analysis.information import describe

    record = describe(subject, size=size)
    if json:
        print_json(record)
    else:
        print_record(flatten(record))
