"""What commands tell at their end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json, say
from lemevit_cli.commands.groups import Reporting

if TYPE_CHECKING:
    from lemevit_cli.inference.scenes import Failure, Report


_UNREADABLE = 3


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


@contextmanager
def telling_report(
    reporting: Reporting,
    summary: Callable[[dict[str, Any]], None] | None,
    *,
    several: bool,
    to_stdout: bool,
) -> Iterator[Report]:
    """Yield a report that tells of each scene as soon as it is done; exit 1 if one failed.

    Prints paths on stdout, all of a result (of one that is no file its ``line``), or at the end
    JSON; that goes to stderr if the data went to stdout. A failure is a line; above that of a bug
    stands its traceback, with ``--debug`` those of all.

    Args:
        summary: prints more of a result; None for nothing.
        several: scenes were asked for: their JSON is a list.
        to_stdout: a result goes there itself.
    """
    from lemevit_cli.inference.scenes import Failure, Report

    def tell(scene: str, outcome: dict[str, Any] | Failure) -> None:
        if isinstance(outcome, Failure):
            _tell_failure(scene, outcome)
            return
        if "dry_run" in outcome:
            if not reporting.json:
                typer.echo(outcome["line"])
            return
        if not (reporting.json or to_stdout):
            for line in outcome.get("paths") or (outcome.get("line") or outcome["path"],):
                typer.echo(line)
        if summary is not None:
            summary(outcome)

    report = Report(tell=tell)
    try:
        yield report
    finally:
        if reporting.json and several and (report.results or report.failures):
            failures = {scene: failure.message for scene, failure in report.failures.items()}
            print_json({"results": report.results, "failures": failures})
        elif reporting.json and not several and report.results:
            print_json(report.results[0], to_stderr=to_stdout)
    if report.failures:
        raise typer.Exit(1)
    exit_if_unreadable(report.results)


def tell_runtime(result: dict[str, Any]) -> None:
    """Say on stderr what computed a result, and why it was not what was to."""
    line = f"{result['runtime']} on {result['device']} in {result['arithmetic']}"
    if result["fallback"] is not None:
        line += f"; {result['fallback']}"
    typer.echo(line, err=True)


def exit_if_unreadable(results: Sequence[dict[str, Any]]) -> None:
    """End with 3 if windows of a scene could not be read, and its result is without them."""
    if any(result.get("unreadable") for result in results):
        raise typer.Exit(_UNREADABLE)


def _tell_failure(scene: str, failure: Failure) -> None:
    if failure.is_bug or options.is_debugging():
        typer.echo(failure.traceback, err=True, nl=False)
    message = failure.message.removeprefix(f"{scene}: ")
    say(f"failed: {scene}: {message}")


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
