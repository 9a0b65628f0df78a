"""What a user can cause, in one tree.

    LemevitError            one line on stderr, exit 1
    ├── SceneError          a raster that cannot be opened, read or understood
    ├── WeightsError        weights that are missing, foreign, or do not fit the scene or task
    ├── DataError           training data: layout, masks, classes
    ├── OutputError         a target that exists, a folder that is missing, a full disk
    └── DeviceError         a device or precision that this machine does not have

Every message says what is wrong, where, and what to do. A caller's mistake in Python is a
``ValueError``; anything else is a bug and keeps its traceback. What libraries raise while they read
a file of the user's is neither: :func:`reading` makes one line of it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # EFBIG: a limit on the size of files
_OURS = __name__.partition(".")[0]


class LemevitError(Exception):
    """A mistake that the user can mend; its text is the whole message."""


class SceneError(LemevitError):
    """A raster that cannot be opened, read or understood."""


class WeightsError(LemevitError):
    """Weights that are missing, not ours, or do not fit the scene or the task."""


class DataError(LemevitError):
    """Training data whose layout, masks or classes are wrong."""


class OutputError(LemevitError):
    """A target that cannot be written."""


class DeviceError(LemevitError):
    """A device or a precision that this machine does not offer."""


@contextmanager
def reading(
    name: str | os.PathLike[str],
    what: str = "cannot be read",
    *,
    raises: type[LemevitError] = SceneError,
    cause: Callable[[BaseException], str] | None = None,
) -> Iterator[None]:
    """Turn whatever a library raises in the block into ``NAME: WHAT (CAUSE)``.

    The block reads a file that we did not write. No list of what GDAL, PROJ, GEOS, SQLite and their
    Pythons raise at a broken one is ever complete, so it goes by who raised: an error out of our
    own code is our bug and passes as it is, like those of memory and of readers that have gone.

    Args:
        name: of the file, as the user knows it.
        raises: the kind of error that comes of it.
        cause: says in a line what was wrong; None is :func:`cause_of`.
    """
    try:
        yield
    except (LemevitError, MemoryError, BrokenPipeError):
        raise
    except BaseException as error:
        if not _is_of_library(error):
            raise
        raise raises(f"{os.fspath(name)}: {what} ({(cause or cause_of)(error)})") from error


def cause_of(error: BaseException) -> str:
    """Return what an error of a library says, in one line."""
    if isinstance(error, UnicodeEncodeError):
        return "its name is not UTF-8; rename it, or link it under another name"
    if isinstance(error, UnicodeDecodeError):
        return "what it says is not UTF-8"
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, KeyError):  # its text is the key alone
        return f"no {error.args[0]!r}" if error.args else "a key is missing"
    text = " ".join(str(error).split())
    return text or type(error).__name__


def _is_of_library(error: BaseException) -> bool:
    if not isinstance(error, Exception):  # a panic of Rust; Ctrl-C is nobody's
        return type(error).__module__ == "pyo3_runtime"
    if isinstance(error, OSError | UnicodeError):
        return True
    if type(error).__module__.partition(".")[0] not in ("builtins", _OURS):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    return module.partition(".")[0] != _OURS
