"""The file behind a scene: opened by GDAL once a thread, every failure told in one line."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import sys
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal
from urllib.parse import urlsplit

import rasterio
from affine import Affine
from rasterio.enums import ColorInterp, Resampling
from rasterio.errors import NotGeoreferencedWarning
from rasterio.vrt import WarpedVRT

from lemevit_cli.atomic import temporary_prefix
from lemevit_cli.errors import SceneError, cause_of, reading
from lemevit_cli.inputs import local_path
from lemevit_cli.raster.network import give_up_silent_servers, is_remote, open_remote, patience_s

STDIN = "-"
# What a folder or a pattern stands for; any other file can be named itself.
_RASTER_SUFFIXES = {
    ".tif", ".tiff", ".vrt", ".jp2", ".j2k", ".img", ".png", ".jpg", ".jpeg", ".bmp", ".webp",
    ".ecw", ".sid", ".ntf", ".nitf", ".asc", ".dem", ".bil", ".bip", ".bsq", ".grd", ".nc",
    ".hdf", ".h5", ".mbtiles", ".kea", ".pix",
}  # fmt: skip
_RASTER_FOLDERS = {".safe", ".zarr"}

WarpResampling = Literal["average", "cubic", "nearest"]
# In source pixels; GDAL takes no zero. Its own 0.125 shows in a difference of two dates, an exact
# one costs a third more. What is nearest has to be exact.
_WARP_TOLERANCE = {"average": 0.01, "cubic": 0.01, "nearest": 1e-6}

_EDGE_PX = 8  # of the source, read around what GDAL asks for

# Python's filters of warnings are shared by all threads: one at a time changes them.
WARNINGS_LOCK = threading.Lock()


@dataclass(frozen=True)
class Warp:
    """Resampling of a file by GDAL onto another grid, as windows of it are read.

    Args:
        transform, crs_wkt, width, height: the other grid.
        resampling: ``average`` over what lies under a pixel, ``cubic`` between pixels, or the
            ``nearest`` to the centre.
        src_crs_wkt: CRS of the file, as it states it or as the user does.
        src_nodata: nodata value of the file, None where no value is.
        src_vrt: text of a VRT that is warped instead of the file, None to warp the file.
        src_transform: taken for the file's own, on a grid across the edge of the world; None takes
            that.
    """

    transform: Affine
    crs_wkt: str | None
    width: int
    height: int
    resampling: WarpResampling
    src_crs_wkt: str | None
    src_nodata: float | None
    src_vrt: str | None = None
    src_transform: Affine | None = None

    def over(self, dataset: Any) -> Any:
        """Return the warped view of a rasterio dataset: its bands, and in alpha what is valid."""
        has_alpha = ColorInterp.alpha in dataset.colorinterp
        return WarpedVRT(
            dataset,
            src_crs=self.src_crs_wkt,
            src_nodata=self.src_nodata,
            src_transform=self.src_transform,
            crs=self.crs_wkt,
            transform=self.transform,
            width=self.width,
            height=self.height,
            resampling=Resampling[self.resampling],
            tolerance=_WARP_TOLERANCE[self.resampling],
            # GDAL guesses what it has to read from points around a block. At the edge of the world
            # they miss a pixel.
            **({} if self.src_transform is None else {"SOURCE_EXTRA": _EDGE_PX}),
            # Not a nodata value: pixels between two others may come to equal it.
            nodata=None,
            add_alpha=not has_alpha,
        )


FileStates = dict[str, tuple[int, ...]]  # by name


def state_of(name: str) -> tuple[int, ...] | None:
    """Return device, inode, size and time of a file of this machine; None of anything else."""
    path = local_path(name)
    try:
        state = None if path is None else path.stat()
    except OSError:
        return None
    if state is None:
        return None
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns


class Source:
    """Gives every thread a GDAL handle of its own, since GDAL's handles are not thread safe.

    Handles open when a thread first asks and stay open until :meth:`close`. A pickled source
    opens the file anew where it is unpickled; only the original removes what stdin was spooled to.

    Attributes:
        path: as the user gave it.
        name: what messages call it.
        file: what is opened: ``path``, what stdin was spooled to, or a name by which no file beside
            it is looked for.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.name = "stdin" if path == STDIN else path or "''"
        self._owner_pid = os.getpid()
        self._remove_spool = None
        self._warp: tuple[Source, Warp] | None = None
        self.file = path
        if path == STDIN:
            self.file = _spool_stdin()
            self._remove_spool = weakref.finalize(self, _remove, self.file, self._owner_pid)
        self._states: FileStates = {}
        self._prepare()

    def _prepare(self) -> None:
        self._lock = threading.Lock()
        self._of_thread = threading.local()
        self._handles: list[Any] = []
        self._closed = False
        self._opened_in = os.getpid()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("path", "name", "file", "_warp", "_states")
        return {name: self.__dict__[name] for name in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._owner_pid, self._remove_spool = 0, None
        self._prepare()

    def on_grid(self, warp: Warp) -> Source:
        """Return the file on another grid, through the handles of this source: close it last."""
        other = copy(self)
        other._warp = self, warp
        return other

    @property
    def stem(self) -> str:
        """Return the file's name without folder and suffix, fit for names of results."""
        return stem_of(self.path)

    def handle(self) -> Any:
        """Return the calling thread's rasterio dataset.

        Raises:
            SceneError: if GDAL cannot open the file.
            ValueError: after :meth:`close`.
        """
        if self._opened_in != os.getpid():
            # A forked child must not share file offsets with its parent.
            self._prepare()
        handle = getattr(self._of_thread, "handle", None)
        if handle is not None and not self._closed:
            return handle
        if self._closed:
            raise ValueError(f"{self.name} is closed")
        if self._warp is None:
            with self.failures("cannot be opened as a raster"):
                handle = self._open()
        else:
            source, warp = self._warp
            with self.failures("cannot be read on another grid"):
                vrt = warp.src_vrt
                dataset = source.handle() if vrt is None else self._keep(_open(vrt)[0])
                handle = self._keep(warp.over(dataset))
        self._of_thread.handle = handle
        return handle

    def _open(self) -> Any:
        """Open the file; what it consists of is the same at each opening."""
        before = state_of(self.file)
        handle, self.file = _open(self.file)
        self._keep(handle)
        with self._lock:
            if not self._states:
                # A file that changes while it is opened: what was there before is compared, too.
                states = {name: state_of(name) for name in handle.files} | {self.file: before}
                self._states |= {name: state for name, state in states.items() if state}
        self.check_unchanged()
        return handle

    def check_unchanged(self) -> None:
        """Refuse files of this machine that are no longer those that were opened first.

        Raises:
            SceneError: naming the first of them.
        """
        for name, state in self._states.items():
            if state_of(name) != state:
                of = "" if name == self.file else f" (its {name})"
                raise SceneError(
                    f"{self.name}: was changed or replaced while it was read{of}; "
                    "run again when it is finished"
                )

    def _keep(self, handle: Any) -> Any:
        with self._lock:
            self._handles.append(handle)
        return handle

    @contextlib.contextmanager
    def failures(self, what: str) -> Iterator[None]:
        """Turn an error of GDAL into a :class:`SceneError`: ``<name>: <what> (<cause>)``."""
        started = time.monotonic()

        def cause(error: BaseException) -> str:
            waited = time.monotonic() - started
            # GDAL tells of what it makes of the silence: of a format that it does not know.
            if is_remote(self.file) and waited >= patience_s():
                return f"the server was silent for {waited:.0f} s; --timeout waits longer"
            return self._cause(error)

        with reading(self.name, what, cause=cause):
            yield

    def _cause(self, error: BaseException) -> str:
        """Return what GDAL said first worth reading, in one line."""
        if "previous exception" in str(error) and error.__cause__ is not None:
            error = error.__cause__
        text = cause_of(error).removeprefix(f"{self.file}: ")
        if text.startswith(": "):
            text = text[2:]
        return text.replace(self.file, self.name) if self.path == STDIN else text

    def close(self) -> None:
        """Close the handles of all threads and remove what stdin was spooled to."""
        self._closed = True
        with self._lock:
            for handle in reversed(self._handles):  # a view before what it looks at
                handle.close()
            self._handles.clear()
        if self._remove_spool is not None:
            self._remove_spool()


def _open(file: str) -> tuple[Any, str]:
    """Open a file, or the text of a VRT; return also the name by which it was opened."""
    give_up_silent_servers()  # which a VRT of this machine may name
    with WARNINGS_LOCK, warnings.catch_warnings():
        # A missing georeference is told once, in our words.
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return open_remote(file) if is_remote(file) else (rasterio.open(file), file)


def _spool_stdin() -> str:
    if sys.stdin is None or sys.stdin.closed or sys.stdin.isatty():
        raise SceneError("stdin: no raster arrives there; pipe one in or name a file")
    descriptor, path = tempfile.mkstemp(prefix=temporary_prefix(), suffix="-stdin")
    try:
        with os.fdopen(descriptor, "wb") as spool:
            # What has arrived, not a whole piece: a signal is heard between two reads.
            arriving: Any = sys.stdin.buffer
            while part := arriving.read1(1 << 20):
                spool.write(part)
            size = spool.tell()
        if size == 0:
            raise SceneError("stdin: is empty, not a raster")
    except OSError as error:
        Path(path).unlink(missing_ok=True)
        raise SceneError(
            f"stdin: cannot be spooled to {path} ({error.strerror}); TMPDIR names another folder"
        ) from error
    except BaseException:
        Path(path).unlink(missing_ok=True)
        raise
    return path


def _remove(path: str, owner_pid: int) -> None:
    # A forked worker inherits the finalizer; the file is still its parent's.
    if os.getpid() == owner_pid:
        Path(path).unlink(missing_ok=True)


def stem_of(path: str) -> str:
    """Return the name for results of the raster at ``path``: no folder, no suffix, no query.

    ``NETCDF:/data/era5.nc:t2m`` is ``era5_t2m``; ``https://host/a.tif?key=1`` is ``a``.
    """
    if path == STDIN:
        return "stdin"
    if "://" in path and not Path(path).exists():
        subdataset = re.fullmatch(r"\w{2,}:(?!//)(.+?):(/*.+)", path)
        if subdataset is None:
            return PurePosixPath(urlsplit(path).path).stem or "scene"
    else:
        subdataset = None if Path(path).exists() else re.fullmatch(r"\w{2,}:(.+):(.+)", path)
    if subdataset is None:
        return Path(path).stem or "scene"
    file, variable = (part.strip('"') for part in subdataset.groups())
    return f"{Path(file).stem}_" + re.sub(r"[^\w-]+", "_", variable).strip("_")


def expand_scenes(scenes: Sequence[str], note: Callable[[str], None]) -> list[str]:
    """Replace folders and patterns (``*?[``) by the rasters that they hold, sorted by name.

    What GDAL opens as it is, is left as it is: files of such names, subdatasets, addresses, and
    folders that are a raster themselves (``.SAFE``, ``.zarr``, Esri grids).

    Args:
        note: hears of each how many there are.

    Raises:
        SceneError: if there is none.
    """
    expanded: list[str] = []
    for scene in scenes:
        found = _rasters_of(scene)
        if found is None:
            expanded.append(scene)
            continue
        if not found:
            raise SceneError(f"{scene}: no raster is there; a raster has a suffix such as .tif")
        note(f"{scene}: {len(found)} {'raster' if len(found) == 1 else 'rasters'}")
        expanded += found
    return expanded


def _rasters_of(scene: str) -> list[str] | None:
    """List the rasters of a folder or a pattern; None for anything else."""
    path = Path(scene)
    if path.is_dir():
        if _is_raster_itself(path):
            return None
        files = [str(path / name.name) for name in path.iterdir()]
    elif glob.has_magic(scene) and "://" not in scene and not path.exists():
        files = glob.glob(scene)  # noqa: PTH207  Path.glob takes no absolute one
    else:
        return None
    return sorted(file for file in files if Path(file).is_file() and _is_raster_name(Path(file)))


def _is_raster_name(path: Path) -> bool:
    return path.suffix.lower() in _RASTER_SUFFIXES and not path.name.startswith(".")


def _is_raster_itself(folder: Path) -> bool:
    return folder.suffix.lower() in _RASTER_FOLDERS or (folder / "hdr.adf").is_file()
