"""What libraries say on stderr by themselves, said as the program says things.

GDAL, PROJ, libtiff and SQLite have ways of their own to stderr, and Python's warnings and logs
another: a script that reads ``lemevit: ...`` would find all of them in between.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from lemevit_cli.commands.console import say

_GDAL = ("rasterio", "pyogrio")


def install() -> None:
    """Take over warnings, logs, and what is raised where nobody can catch it, for the process."""
    # What GDAL says where no Python listens is heard as an error of the call, too.
    os.environ.setdefault("CPL_LOG", os.devnull)
    logging.getLogger().addHandler(_Telling(logging.WARNING))
    warnings.showwarning = _tell_warning
    sys.unraisablehook = _tell_unraisable


class _Telling(logging.Handler):
    """Tells a record in a line, each once.

    Errors of GDAL are exceptions, too, which the command tells of.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        is_raised = record.levelno >= logging.ERROR and record.name.split(".")[0] in _GDAL
        if not is_raised and text not in self._told:
            self._told.add(text)
            say(f"warning: {text}")


def _tell_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    say(f"warning: {message}")


def _tell_unraisable(unraisable: Any) -> None:
    # A message of GDAL that is not UTF-8 breaks where rasterio hears it; the error itself arrives.
    if not isinstance(unraisable.exc_value, UnicodeDecodeError):
        sys.__unraisablehook__(unraisable)
