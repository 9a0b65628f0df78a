"""What libraries say on stderr by themselves, said as the program says things.

GDAL, PROJ, libtiff and SQLite have ways of their own to stderr, and Python's warnings and logs
another: a script that reads ``lemevit: ...`` would find all of them in between.
"""

from __future__ import annotations

import logging
import os
import re
import sys
import warnings
from typing import Any

from lemevit_cli.commands.console import say

_GDAL = ("rasterio", "pyogrio")
_told: set[str] = set()


def install() -> None:
    """Take over warnings, logs, and what is raised where nobody can catch it, for the process."""
    # What GDAL says where no Python listens is heard as an error of the call, too.
    os.environ.setdefault("CPL_LOG", os.devnull)
    logging.getLogger().addHandler(_Telling(logging.WARNING))
    warnings.showwarning = _tell_warning
    sys.unraisablehook, sys.excepthook = _tell_unraisable, _tell_exception


class _Telling(logging.Handler):
    """Tells a record in a line.

    Errors of GDAL are exceptions, too, which the command tells of.
    """

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno < logging.ERROR or record.name.split(".")[0] not in _GDAL:
            _warn_once(record.getMessage())


def _tell_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    _warn_once(str(message))


def _warn_once(text: str) -> None:
    """Tell a warning, that two libraries with a GDAL each may have, once."""
    line = re.sub(r"^CPLE_\w+( in |:)", "", " ".join(text.split()))
    if line not in _told:
        _told.add(line)
        say(f"warning: {line}")


# A message of GDAL that is not UTF-8 breaks where rasterio's callback hears it, and Cython prints
# that by both hooks, without a traceback. The error itself is raised later.
def _tell_unraisable(unraisable: Any) -> None:
    if not isinstance(unraisable.exc_value, UnicodeDecodeError):
        sys.__unraisablehook__(unraisable)


def _tell_exception(kind: Any, error: BaseException, trace: Any) -> None:
    if not (isinstance(error, UnicodeDecodeError) and trace is None):
        sys.__excepthook__(kind, error, trace)
