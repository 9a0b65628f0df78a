"""Whatever GDAL refuses while it writes, as errors of one line."""

from __future__ import annotations

import ctypes
import logging
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import rasterio
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from lemevit_cli.errors import OutputError

# What a call of rasterio may raise: GDAL's own errors, which pass through it in places, have no
# public name there.
GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)


@contextmanager
def gdal_refusals(blame: str, *, warnings_too: bool = False) -> Iterator[None]:
    """Turn whatever GDAL refuses in the block into ``OutputError("BLAME: REASON")``.

    GDAL and rasterio tell of a disk that fills up while tiles are flushed, or of an unknown
    creation option, only through the log; it is read too, so that a broken file is never
    taken for a result.
    """
    _silence_libtiff()
    logger = logging.getLogger("rasterio._env")
    heard = _HeardFromGdal(logger.getEffectiveLevel(), warnings_too=warnings_too)
    level = logger.level
    logger.addFilter(heard)
    logger.setLevel(min(logging.INFO, logger.getEffectiveLevel()))
    try:
        yield
    except GDAL_ERRORS as error:
        raise OutputError(f"{blame}: {heard.first or _one_line(error)}") from error
    finally:
        logger.setLevel(level)
        logger.removeFilter(heard)
    if heard.first:
        raise OutputError(f"{blame}: {heard.first}")


@cache
def _silence_libtiff() -> None:
    """Keep libtiff's own lines off stderr; GDAL raises what they say.

    Of a write that the disk refuses it tells by a handler of the process, which GDAL leaves as it
    is. A libtiff is found in the wheels of Linux and macOS; elsewhere the lines stay.
    """
    package = Path(rasterio.__file__).parent
    for folder in (package.with_name("rasterio.libs"), package / ".dylibs"):
        for library in folder.glob("libtiff*"):
            ctypes.CDLL(str(library)).TIFFSetErrorHandler(None)


class _HeardFromGdal(logging.Filter):
    """Keeps the first complaint that GDAL has for this thread; others are reading the scene."""

    def __init__(self, usual_level: int, *, warnings_too: bool) -> None:
        super().__init__()
        self.first = ""
        self._usual_level = usual_level
        self._warnings_too = warnings_too
        self._thread = threading.get_ident()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.thread == self._thread and not self.first:
            self.first = self._complaint(record)
        return record.levelno >= self._usual_level

    def _complaint(self, record: logging.LogRecord) -> str:
        message = _one_line(record.getMessage())
        # rasterio logs every error of GDAL at the level of information.
        error = re.fullmatch(r"GDAL signalled an error: err_no=\d+, msg=['\"](.*)['\"]", message)
        if error:
            # A second PROJ on the machine complains at each CRS, and files are none the worse.
            return "" if error[1].startswith("PROJ") else error[1]
        is_complaint = record.levelno >= (logging.WARNING if self._warnings_too else logging.ERROR)
        return re.sub(r"^CPLE_\w+ in ", "", message) if is_complaint else ""


def _one_line(message: object) -> str:
    return " ".join(str(message).split())
