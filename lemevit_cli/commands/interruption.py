"""SIGTERM, SIGHUP and Ctrl-C, kept for a moment when nothing is half done.

Python runs a signal's handler between any two of its own steps, those among them that GDAL calls
back while it opens or writes a file; an exception from there is swallowed, or leaves GDAL with a
lock that nobody opens again. So while a command works through its windows (``hold`` to
``release``) the handler only takes note, and the loop raises at its next window (``check``). A
second signal acts at once, as does any signal at any other time.
"""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED, TERMINATED, HUNG_UP = STATUSES = 130, 143, 129

_held = False
_noted: int | None = None


def install() -> None:
    """Take over the signals, for the process. Without it, ``check`` never raises."""
    signal.signal(signal.SIGTERM, _note)
    signal.signal(signal.SIGINT, _note)
    # Of a terminal that is gone; nohup has it ignored, and Windows has none.
    hang_up = getattr(signal, "SIGHUP", None)
    if hang_up is not None and signal.getsignal(hang_up) != signal.SIG_IGN:
        signal.signal(hang_up, _note)


def hold() -> None:
    """Hold signals back from now on: the caller calls :func:`check` again and again."""
    global _held
    check()
    _held = True


def release() -> None:
    """Let signals act again: one noted since :func:`hold` now, later ones at once."""
    global _held
    _held = False
    check()


def check() -> None:
    """Raise for a signal that was noted.

    Raises:
        KeyboardInterrupt: after Ctrl-C.
        SystemExit: with 143 after SIGTERM, with 129 after SIGHUP.
    """
    global _noted
    number, _noted = _noted, None
    if number is not None:
        _raise(number)


def leave(status: int) -> None:
    """End the process with a status, without the farewell of its libraries.

    All of ours is cleaned up by now; what GDAL does with a half-open file when the process unloads
    it is to crash.
    """
    os._exit(status)


def _note(number: int, frame: FrameType | None) -> None:
    global _noted
    first, _noted = _noted is None, number
    if not (_held and first):
        _raise(number)


def _raise(number: int) -> None:
    # Exceptions, so that temporary files are removed on the way out.
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(TERMINATED if number == signal.SIGTERM else HUNG_UP)
