"""What commands over several scenes tell at their end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json

if TYPE_CHECKING:
    from lemevit_cli.pipelines.scene_runs import Report


def check_folder(scenes: Sequence[str], output: str | None) -> None:
    """Several results go into a folder; wrong usage if anything else is named."""
    from lemevit_cli.pipelines.scene_runs import is_folder

    if len(scenes) > 1 and output is not None and not is_folder(output):
        raise typer.BadParameter(
            f"{len(scenes)} scenes need a folder, such as results/", param_hint="-o"
        )


def tell_results(report: Report, *, as_json: bool, to_stdout: bool) -> None:
    """Paths or JSON on stdout; JSON on stderr, if the data itself went to stdout."""
    if as_json and len(report.results) + len(report.failures) > 1:
        failures = {scene: failure.message for scene, failure in report.failures.items()}
        print_json({"results": report.results, "failures": failures})
    elif as_json:
        print_json(report.results[0], to_stderr=to_stdout)
    elif not to_stdout:
        for result in report.results:
            typer.echo(result["path"])


def tell_failures(report: Report) -> None:
    """A line for every scene that failed, and exit 1 if there is any.

    Above the line of a bug stands its traceback, with ``--debug`` those of all.
    """
    for scene, failure in report.failures.items():
        if failure.is_bug or options.debugging():
            typer.echo(failure.traceback, err=True, nl=False)
        typer.echo(f"lemevit: failed: {scene}: {failure.message}", err=True)
    if report.failures:
        raise typer.Exit(1)
