"""The beginning and the end of the program's process, each without a second of nothing.

Imports make half a million objects that live until the end: the garbage collector looks them
through again and again while they come, and the interpreter takes each apart when it leaves. Here
it hardly looks until the work begins, and the process ends as soon as nothing is left to lose.
"""

from __future__ import annotations

import atexit
import gc
import os
import platform
import sys
import threading
from typing import NoReturn

import typer

BROKEN_PIPE = 141
# A user who has set one of these has decided how OpenMP's threads wait.
_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
_INTEL = ("x86_64", "AMD64")  # elsewhere torch multiplies by OpenBLAS, too
_OBJECTS_WHILE_IMPORTING = 50_000  # between two looks of the collector

_thresholds: tuple[int, int, int] | None = None  # to go back to; None where nothing was changed


def begin() -> None:
    """Prepare the process, before torch and numpy are imported.

    Streams that are closed are opened, for the next file to be opened would take their place.
    Threads of OpenMP then sleep while they wait for one another. By default they spin, which makes
    a run beside one busy process four times as long. Those of numpy's OpenBLAS can only spin: with
    two, its small products cost 2.4 times the processor's time of one.
    """
    global _thresholds
    _open_closed_streams()
    if not any(name in os.environ for name in _WAITING):
        os.environ["OMP_WAIT_POLICY"] = "passive"
    if platform.machine() in _INTEL:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _thresholds = gc.get_threshold()
    gc.set_threshold(_OBJECTS_WHILE_IMPORTING, *_thresholds[1:])


def _open_closed_streams() -> None:
    """Fill the places of closed streams: stdin is empty, stdout refuses, stderr goes nowhere."""
    ways = {"stdin": os.O_RDONLY, "stdout": os.O_RDONLY, "stderr": os.O_WRONLY}
    for number, (name, way) in enumerate(ways.items()):
        if getattr(sys, name) is not None:
            continue
        place = os.open(os.devnull, way)
        if place != number:  # a file has it already
            os.dup2(place, number)
            os.close(place)
        os.set_inheritable(number, True)
        stream = open(number, "r" if name == "stdin" else "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)


def settle() -> None:
    """Let the collector work as usual from here on, and leave what there is by now alone."""
    global _thresholds
    if _thresholds is not None:
        gc.freeze()
        gc.set_threshold(*_thresholds)
        _thresholds = None


def end(code: object) -> NoReturn:
    """End the process as the interpreter does with ``SystemExit(code)``, without its farewell.

    Threads are waited for, functions of ``atexit`` run (temporary files, logs, child processes),
    what was printed is flushed. Left out is to take apart modules and what they hold; a file that
    nobody closed would lose what was not flushed, and none of ours is open by now. Output that
    cannot be written is told in one line: exit 1, or 141 if its reader has gone.
    """
    status = _status(code)
    # Private, and what a child of multiprocessing ends by: there is no public name for either.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    os._exit(_flush(status))


def _status(code: object) -> int:
    if code is None:
        return 0
    if isinstance(code, int):
        return code & 0xFF
    typer.echo(code, err=True)
    return 1


def _flush(status: int) -> int:
    """Flush both streams; return the status, or that of output which was lost."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        status = status or BROKEN_PIPE
    except (OSError, ValueError) as error:  # ValueError: somebody closed it
        reason = getattr(error, "strerror", None) or error
        typer.echo(f"lemevit: stdout cannot be written: {reason}", err=True)
        status = status or 1
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except (OSError, ValueError):
        status = status or 1
    return status
