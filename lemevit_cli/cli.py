"""The program: its table of commands, and how errors leave it.

A ``LemevitError`` is one line on stderr and exit 1, wrong usage a line and exit 2, Ctrl-C exit 130,
SIGTERM 143, SIGHUP 129, a reader that closed the pipe 141. Everything else is a bug and keeps its
traceback; ``--debug`` shows the traceback of the others too.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

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
    labels,
    lifetime,
    options,
    predict,
    pretrain,
    probe,
    quantize,
    quicklook,
    remarks,
    score,
    simulate,
    train,
)
from lemevit_cli.commands.console import say
from lemevit_cli.errors import DISK_FULL, LemevitError

# Names on a network, and of files that may lead there.
_ON_A_NETWORK = re.compile(
    r"://|/vsi(curl|s3|gs|az|adls|oss|swift|webhdfs|hdfs)|via 127\.0\.0\.1|\.(vrt|xml|wms)\b", re.I
)
_WrongUsage: Any = typer.BadParameter.__base__
_BOUNDS = "--bounds"


class _Command(TyperCommand):
    """Shows flags in its help without a type, for they take no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _Program(TyperGroup):
    """Turns what a command raises into one line and an exit status."""

    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, _split_bounds(args))
        except _WrongUsage as error:
            raise _wrong_usage(error) from error

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except _WrongUsage as error:
            raise _wrong_usage(error) from error
        except LemevitError as error:
            if options.is_debugging():
                raise
            raise _failure(_say_why(str(error))) from error
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
            raise _lost_output(error) from error


def _say_why(message: str) -> str:
    """Name ``--no-remote`` where it may be the cause: GDAL says that there is no such file."""
    if options.is_offline() and _ON_A_NETWORK.search(message):
        return f"{message}; --no-remote: nothing is read over a network"
    return message


def _without_types(params: list[Any]) -> list[Any]:
    for param in params:
        if getattr(param, "is_flag", False):
            param.metavar = ""
    return params


def _split_bounds(args: list[str]) -> list[str]:
    """Read ``--bounds W,S,E,N`` and ``--bounds=W,S,E,N`` as ``--bounds W S E N``."""
    split: list[str] = []
    for arg in args:
        value = arg.removeprefix(f"{_BOUNDS}=")
        follows = bool(split) and split[-1] == _BOUNDS
        if value != arg or (follows and "," in arg):
            split += [*([] if follows else [_BOUNDS]), *value.replace(",", " ").split()]
        else:
            split.append(arg)
    return split


def _wrong_usage(error: Any) -> Any:
    """Say in a line what was wrongly put, and where help is; without a command that is all."""
    if type(error).__name__ == "NoArgsIsHelpError":
        return error
    message = error.format_message().rstrip(".")
    if _BOUNDS in message:
        message += f", such as {_BOUNDS} 458000,5547900,458100,5548000"
    path = error.ctx.command_path.split() if error.ctx is not None else []
    command = path[-1] if path and path[-1] in _COMMANDS else ""
    _failure(f"{message}; see {' '.join(['lemevit', command])} --help".replace("  ", " "))
    return typer.Exit(error.exit_code)


def _lost_output(error: OSError) -> typer.Exit:
    """Say what the system refused; of stdout, which has no name, that it was stdout."""
    printer = [frame.name for frame in traceback.extract_tb(error.__traceback__)][-1:]
    is_stdout = error.filename is None and printer in (["echo"], ["write"], ["_write_buffer"])
    try:
        sys.stdout.flush()
    except OSError:
        is_stdout = True
    if not is_stdout and error.filename is not None and error.errno in DISK_FULL:
        why = f"cannot be written (is the disk full?): {error.strerror}"
        return _failure(f"{os.fsdecode(error.filename)} {why}")
    if not is_stdout:
        return _failure(str(error))
    _abandon_stdout()
    return _failure(f"stdout cannot be written: {error.strerror}")


def _abandon_stdout() -> None:
    # It takes no more; Python would complain once again when it flushes at exit.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _failure(message: str) -> typer.Exit:
    """Say what is wrong in one line, whatever a library's message looks like."""
    say(message)
    return typer.Exit(1)


app = typer.Typer(
    name="lemevit",
    cls=_Program,
    epilog="Start with: lemevit demo",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Of every command: what it does, and two ways to call it.
_COMMANDS: dict[str, tuple[Callable[..., None], str, str]] = {
    "predict": (
        predict.predict,
        "lemevit predict scene.tif -o landcover.tif -v",
        "lemevit predict scene.tif -o buildings.gpkg --classes building --min-area 20",
    ),
    "detect": (
        detect.detect,
        "lemevit detect scene.tif -o boxes.gpkg -v",
        "lemevit detect scenes/ -o boxes/ --classes ship,plane --score 0.5",
    ),
    "change": (
        change.change,
        "lemevit change before.tif after.tif -o changes.gpkg -v",
        "lemevit change 2019/ 2021/ -o results/ --coregister",
    ),
    "train": (
        train.train,
        "lemevit train DATA -o weights.safetensors --time-budget 40m",
        "lemevit train --scene scene.tif --labels fields.gpkg --label-field crop "
        "-o weights.safetensors --init landcover",
    ),
    "labels": (
        labels.labels,
        "lemevit labels DATA",
        "lemevit labels dota/ -o yolo/ --format YOLO --png samples.png",
    ),
    "pretrain": (
        pretrain.pretrain,
        "lemevit pretrain pictures/ --teacher TIMM_NAME -o backbone.safetensors",
        "lemevit pretrain scene.tif --teacher TIMM_NAME -o backbone.safetensors --time-budget 2h",
    ),
    "probe": (
        probe.probe,
        "lemevit probe landcover DATA",
        "lemevit probe backbone.safetensors DATA --json",
    ),
    "eval": (
        evaluate.evaluate,
        "lemevit eval landcover DATA",
        "lemevit eval weights.safetensors DATA --split test --tta",
    ),
    "score": (
        score.score,
        "lemevit score landcover.tif truth.tif",
        "lemevit score boxes.gpkg truth.gpkg --json",
    ),
    "quicklook": (
        quicklook.quicklook,
        "lemevit quicklook landcover.tif --over scene.tif -o picture.png",
        "lemevit quicklook boxes.gpkg --over scene.tif -o picture.png --overwrite",
    ),
    "attention": (
        attention.attention,
        "lemevit attention scene.tif -o attention.tif",
        "lemevit attention scene.tif --stage 1 --tokens 0,3 --png sheet.png",
    ),
    "info": (info.info, "lemevit info", "lemevit info scene.tif"),
    "import": (
        import_weights.import_weights,
        "lemevit import checkpoint.pth -o weights.safetensors",
        "lemevit import checkpoint.pth -o weights.safetensors --overwrite --json",
    ),
    "export": (
        export.export,
        "lemevit export landcover -o landcover.onnx",
        "lemevit export weights.safetensors -o model.xml --window 768 --batch 0",
    ),
    "quantize": (
        quantize.quantize,
        "lemevit quantize landcover --calibrate scenes/ -o landcover-int8.safetensors",
        "lemevit quantize landcover --calibrate a.tif --calibrate b.tif --windows 32 "
        "-o small.safetensors",
    ),
    "simulate": (
        simulate.simulate,
        "lemevit simulate town",
        "lemevit simulate data --task det --scenes 8 --size 512",
    ),
    "demo": (demo.demo, "lemevit demo", "lemevit demo tour"),
}
for _name, (_run, *_examples) in _COMMANDS.items():
    _lines = "\n\n".join(["Examples:", *_examples])
    app.command(_name, cls=_Command, epilog=_lines)(_run)


@app.callback()
def _program(version: options.Version = False) -> None:
    """Deep learning on large georeferenced scenes."""


def main() -> None:
    """Run the program on ``sys.argv``, and end the process."""
    lifetime.begin()
    interruption.install()
    remarks.install()
    try:
        app()
    except BrokenPipeError:  # of help and the version, which no command prints
        _abandon_stdout()
        lifetime.end(lifetime.BROKEN_PIPE)
    except OSError as error:
        lifetime.end(_lost_output(error).exit_code)
    except SystemExit as leaving:
        if isinstance(leaving.__context__, BrokenPipeError):  # Rich and Click make a 1 of it
            _abandon_stdout()
            lifetime.end(lifetime.BROKEN_PIPE)
        if leaving.code in interruption.STATUSES:
            sys.stderr.flush()
            interruption.leave(leaving.code)
        lifetime.end(leaving.code)
