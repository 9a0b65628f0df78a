"""The program: its table of commands, and how errors leave it.

A ``LemevitError`` is one line on stderr and exit 1, wrong usage exit 2, Ctrl-C exit 130,
SIGTERM 143, a reader that closed the pipe 141. Everything else is a bug and keeps its traceback;
``--debug`` shows the traceback of the others too.
"""

from __future__ import annotations

import os
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from lemevit_cli.commands import (
    attention,
    change,
    demo,
    detect,
    evaluate,
    export,
    import_weights,
    info,
    interruption,
    lifetime,
    options,
    predict,
    pretrain,
    probe,
    quantize,
    quicklook,
    score,
    simulate,
    train,
)
from lemevit_cli.errors import LemevitError


class _Program(TyperGroup):
    """Turns what a command raises into one line and an exit status."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except LemevitError as error:
            if options.is_debugging():
                raise
            raise _failure(str(error)) from error
        except KeyboardInterrupt as error:
            if options.is_debugging():
                raise
            typer.echo("lemevit: interrupted; no half-written result is left", err=True)
            raise typer.Exit(interruption.INTERRUPTED) from error
        except BrokenPipeError as error:
            _abandon_stdout()
            raise typer.Exit(lifetime.BROKEN_PIPE) from error
        except OSError as error:
            # A full disk, a folder that may not be written to: the system's word is the cause.
            if options.is_debugging():
                raise
            try:
                sys.stdout.flush()
            except OSError:
                _abandon_stdout()
            raise _failure(str(error)) from error


def _abandon_stdout() -> None:
    # It takes no more; Python would complain once again when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failure(message: str) -> typer.Exit:
    """Say what is wrong in one line, whatever a library's message looks like."""
    typer.echo(f"lemevit: {' '.join(message.split())}", err=True)
    return typer.Exit(1)


app = typer.Typer(
    name="lemevit",
    cls=_Program,
    epilog="Start with: lemevit demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)

app.command("predict")(predict.predict)
app.command("detect")(detect.detect)
app.command("change")(change.change)
app.command("train")(train.train)
app.command("pretrain")(pretrain.pretrain)
app.command("probe")(probe.probe)
app.command("eval")(evaluate.evaluate)
app.command("score")(score.score)
app.command("quicklook")(quicklook.quicklook)
app.command("attention")(attention.attention)
app.command("info")(info.info)
app.command("import")(import_weights.import_weights)
app.command("export")(export.export)
app.command("quantize")(quantize.quantize)
app.command("simulate")(simulate.simulate)
app.command("demo")(demo.demo)


@app.callback()
def _program(version: options.Version = False) -> None:
    """Deep learning on large georeferenced scenes."""


def main() -> None:
    """Run the program on ``sys.argv``, and end the process."""
    lifetime.begin()
    interruption.install()
    try:
        app()
    except SystemExit as leaving:
        if leaving.code in (interruption.INTERRUPTED, interruption.TERMINATED):
            sys.stderr.flush()
            interruption.leave(leaving.code)
        lifetime.end(leaving.code)
