"""What commands tell at their end."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json
from lemevit_cli.commands.groups import Reporting

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import Report


def check_folder(scenes: Sequence[str], output: str | None, joint: tuple[str, ...] = ()) -> None:
    """Refuse to put several results anywhere but into a folder, as wrong usage.

    Args:
        joint: suffixes of files that hold the results of several scenes.
    """
    from lemevit_cli.inference.scenes import is_folder

    if len(scenes) > 1 and output is not None and not is_folder(output):
        if output.lower().endswith(joint):
            return
        raise typer.BadParameter(
            f"{len(scenes)} scenes need a folder, such as results/", param_hint="-o"
        )


def tell_results(report: Report, *, as_json: bool, to_stdout: bool) -> None:
    """Print paths or JSON on stdout; JSON on stderr, if the data itself went to stdout.

    A result that is no file has a ``line`` in place of its path.
    """
    if as_json and len(report.results) + len(report.failures) > 1:
        failures = {scene: failure.message for scene, failure in report.failures.items()}
        print_json({"results": report.results, "failures": failures})
    elif as_json:
        print_json(report.results[0], to_stderr=to_stdout)
    elif not to_stdout:
        for result in report.results:
            typer.echo(result.get("line", result["path"]))


def tell_failures(report: Report) -> None:
    """Print a line for every scene that failed, and exit 1 if there is any.

    Above the line of a bug stands its traceback, with ``--debug`` those of all.
    """
    for scene, failure in report.failures.items():
        if failure.is_bug or options.is_debugging():
            typer.echo(failure.traceback, err=True, nl=False)
        typer.echo(f"lemevit: failed: {scene}: {failure.message}", err=True)
    if report.failures:
        raise typer.Exit(1)


def tell_training(
    record: dict[str, Any], reporting: Reporting, summary: Callable[[dict[str, Any]], None]
) -> None:
    """Print the path of weights, or all of a training's record as JSON, and a summary on stderr.

    Of several processes the first one alone has figures to tell.
    """
    if "scores" not in record:
        return
    if reporting.json:
        print_json(record)
        return
    if not reporting.quiet:
        summary(record)
    typer.echo(record["path"])
