"""Scenes on a network: servers that are silent, hang up, or answer to any name; none at all."""

from __future__ import annotations

import math
import os
import threading
from queue import Empty, Queue
from typing import Any
from urllib.parse import quote

import rasterio
from rasterio.errors import RasterioIOError

# For scenes on a network: a server that hangs up is asked again, one that is silent, or drips, is
# given up. The environment reaches all threads and processes; what a user has set there wins.
_RETRIES = {
    "GDAL_HTTP_MAX_RETRY": "3",
    "GDAL_HTTP_RETRY_DELAY": "1",  # seconds, growing
}
_PATIENCE_S = 30.0
_MOST_SILENCES = 4  # until a file is open
_REMOTE = ("/vsicurl", "/vsis3", "/vsigs", "/vsiaz", "/vsiadls", "/vsioss", "/vsiswift", "/vsihdfs")
_NOBODYS_NAME = ".ovr.ovr.nobody"
_ALONE = "/vsicurl?empty_dir=yes&url="
_LOWEST_SPEED = 500  # bytes a second
_LONGEST_ANSWER = 20  # times the patience: what is slow all the time ends, too

# Two locks, since each alone leaves a door open: of files on a network GDAL opens those of this
# name alone, whatever proxy a file may state for itself; drivers that fetch without GDAL's file
# systems (WMS, STAC, GeoJSON, tokens of clouds) all go by a proxy, and none can be at this port.
_NO_NETWORK = {
    "CPL_VSIL_CURL_ALLOWED_FILENAME": "none",
    "GDAL_HTTP_PROXY": "http://127.0.0.1:0",
    "GDAL_HTTPS_PROXY": "http://127.0.0.1:0",
    "NO_PROXY": "",  # hosts that the proxy would not be asked for
    "no_proxy": "",
    "PROJ_NETWORK": "OFF",
    "GDAL_VRT_ENABLE_PYTHON": "NO",
}


def is_remote(file: str) -> bool:
    """Say whether a server has to be asked for a file."""
    return "://" in file or any(name in file for name in _REMOTE)


def open_remote(file: str) -> tuple[Any, str]:
    """Open a file on a network, and wait for a few silences of its server alone.

    GDAL looks for files beside it, too, each of which may stall: forty of them.

    Returns:
        The dataset of rasterio, and the name by which it was opened: where the server answers to
        any name, one by which GDAL looks for no file beside it.

    Raises:
        TimeoutError: if it takes longer.
    """
    opened: Queue[Any] = Queue()

    def open_it() -> None:
        try:
            name = _name_alone(file)
            opened.put((rasterio.open(name), name))
        except BaseException as error:
            opened.put(error)

    # One that waits for ever must not be waited for at the program's end.
    threading.Thread(target=open_it, daemon=True).start()
    try:
        result = opened.get(timeout=_MOST_SILENCES * patience_s())
    except Empty:
        raise TimeoutError from None
    if isinstance(result, BaseException):
        raise result
    return result


def is_alone(file: str) -> bool:
    """Say whether GDAL looks for no file beside this one."""
    return file.startswith(_ALONE)


def _name_alone(file: str) -> str:
    """Change the name of a file whose server has one of a name that nobody can have given.

    What GDAL gets as NAME.ovr it takes for the scene's overviews, what it gets as NAME.ovr.ovr for
    those of these, and it would never end.
    """
    address = file.removeprefix("/vsicurl/")
    if not address.startswith(("http://", "https://")) or not _exists(file + _NOBODYS_NAME):
        return file
    return _ALONE + quote(address, safe="")


def _exists(file: str) -> bool:
    try:
        rasterio.open(file).close()
    except RasterioIOError:
        return False
    return True


def give_up_silent_servers() -> None:
    """Set what GDAL waits for, unless the user has; before it is asked for the first file."""
    for name, value in {**_RETRIES, **_limits(_PATIENCE_S)}.items():
        os.environ.setdefault(name, value)


def patience_s() -> float:
    """Return for how long a silent server is waited for."""
    try:
        return float(os.environ["GDAL_HTTP_LOW_SPEED_TIME"])
    except (KeyError, ValueError):  # a user's
        return _PATIENCE_S


def limit_waiting(seconds: float) -> None:
    """Have servers given up that are silent for so long, in this process and those it starts.

    Of a connection, the first byte, and each pause; a whole answer may take twenty times as long.
    """
    os.environ.update(_limits(seconds))


def _limits(seconds: float) -> dict[str, str]:
    patience = max(1, math.ceil(seconds))  # GDAL takes whole seconds, and 0 for none
    return {
        "GDAL_HTTP_CONNECTTIMEOUT": str(patience),
        "GDAL_HTTP_LOW_SPEED_TIME": str(patience),
        "GDAL_HTTP_LOW_SPEED_LIMIT": str(_LOWEST_SPEED),
        "GDAL_HTTP_TIMEOUT": str(_LONGEST_ANSWER * patience),
    }


def shut_network() -> None:
    """Let GDAL ask no server for anything, in this process and those that it starts."""
    os.environ.update(_NO_NETWORK)
