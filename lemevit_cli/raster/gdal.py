"""What both kinds of writers ask of GDAL: a bounded cache, and tiles."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.gdal_refusals import GDAL_ERRORS as GDAL_ERRORS
from lemevit_cli.gdal_refusals import gdal_refusals as gdal_refusals
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.spec import RasterSpec
from lemevit_cli.settings import OutputOptions

TILE_SIZE = 512  # pixels; blocks of the output are aligned to it
_SMALLEST_CACHE = 64 * 2**20  # bytes
_LARGEST_CACHE = 256 * 2**20  # a row of windows of 100,000 columns, five bytes a pixel
_FEW_TILES = 12  # what GDAL has in work at once: sources of a tile of an overview, and that itself


def gdal_cache(spec: RasterSpec) -> rasterio.Env:
    """Size GDAL's cache, which is the process's, for windows that end inside a tile."""
    return rasterio.Env(GDAL_CACHEMAX=cache_bytes(spec))


def cache_bytes(spec: RasterSpec) -> int:
    """Return the bytes of cache that GDAL needs while a scene is read and its result written.

    Room for two rows of the result's tiles, so that none is compressed before it is full, and
    for the scene's windows that are read in between (four bytes a pixel); GDAL's own choice,
    5 % of the memory, would let a tall scene fill a gigabyte. For a wide result a few tiles have
    to do: :class:`TileRows` fills them one after the other.
    """
    row_of_tiles = TILE_SIZE * spec.width
    wanted = max(_SMALLEST_CACHE, row_of_tiles * (2 * spec.bytes_per_pixel + 4))
    return min(wanted, max(_LARGEST_CACHE, _FEW_TILES * TILE_SIZE**2 * spec.bytes_per_pixel))


def overview_cache_bytes(spec: RasterSpec) -> int:
    """Return those that it needs for overviews: few tiles of scores, two rows of tiles of ids."""
    tiles = max(_FEW_TILES * TILE_SIZE**2 * spec.bytes_per_pixel, 2 * TILE_SIZE * spec.width)
    return min(cache_bytes(spec), max(_SMALLEST_CACHE, tiles))


def plain_tiles(width: int, height: int) -> dict[str, Any]:
    """Return creation options of a tiled file; a raster narrower than a tile keeps GDAL's strips.

    Tiles of a lower one are as tall as it is, in steps of 16 rows as TIFF wants them.
    """
    if width < TILE_SIZE:
        return {}
    tile_height = min(TILE_SIZE, -(-height // 16) * 16)
    return {"TILED": "YES", "BLOCKXSIZE": TILE_SIZE, "BLOCKYSIZE": tile_height}


def tile_width(spec: RasterSpec, options: OutputOptions) -> int:
    """Return the columns of a tile of the result, or of the draft that is outlined for polygons.

    All of them where the raster is narrower than a tile, or the user asks for strips.
    """
    profile = plain_tiles(spec.width, spec.height) | options.creation_options
    is_tiled = str(profile.get("TILED", "NO")).upper() in ("YES", "TRUE", "ON", "1")
    return int(profile.get("BLOCKXSIZE", TILE_SIZE)) if is_tiled else spec.width


@contextmanager
def tile_rows(dataset: DatasetWriter, blame: str) -> Iterator[TileRows]:
    """Hand windows to a dataset in rows as tall as its tiles, and close it.

    Raises:
        OutputError: if GDAL refuses the last rows, or to close it; ``blame`` says of what.
    """
    rows = TileRows(dataset)
    try:
        yield rows
        with gdal_refusals(blame):
            rows.flush()
    except BaseException:
        with suppress(*GDAL_ERRORS):  # what went wrong before is what counts
            dataset.close()
        raise
    with gdal_refusals(blame):
        dataset.close()


class TileRows:
    """Hands windows to a dataset in rows that are as tall as its tiles.

    GDAL keeps tiles that are not full in its cache, or else compresses them, reads them back and
    compresses them again when their rest comes. Instead, rows that end inside a tile wait here
    for those right below them, of the same columns.
    """

    def __init__(self, dataset: DatasetWriter) -> None:
        self._dataset = dataset
        tile_height = dataset.block_shapes[0][0]
        self._height = -(-TILE_SIZE // tile_height) * tile_height  # of strips, many at once
        self._rows: NDArray[Any] | None = None  # that wait, on top of a row of tiles
        self._place: Window | None = None

    def write(self, window: Window, bands: NDArray[Any]) -> None:
        """Take pixels ``(bands, H, W)`` of a window; they may come in any order."""
        first = window.row_off
        while first < window.bottom:
            edge = min((first // self._height + 1) * self._height, self._dataset.height)
            stop = min(edge, window.bottom)
            part = replace(window, row_off=first, height=stop - first)
            self._gather(part, bands[:, part.relative_to(window).slices[0]])
            if stop == edge:
                self.flush()
            first = stop

    def flush(self) -> None:
        """Write the rows that wait; after the last window there may be some."""
        if self._rows is None or self._place is None:
            return
        rows, place = self._rows, self._place
        self._rows, self._place = None, None
        where = RasterioWindow(place.col_off, place.row_off, place.width, place.height)
        self._dataset.write(rows[:, : place.height], window=where)

    def _gather(self, window: Window, bands: NDArray[Any]) -> None:
        if self._place is not None and not _is_right_below(window, self._place):
            self.flush()
        if self._rows is None or self._place is None:
            height = min(self._height, self._dataset.height)
            self._rows = np.empty((len(bands), height, window.width), bands.dtype)
            self._place, filled = window, 0
        else:
            filled = self._place.height
            self._place = replace(self._place, height=filled + window.height)
        self._rows[:, filled : filled + window.height] = bands


def _is_right_below(window: Window, other: Window) -> bool:
    return window == replace(other, row_off=other.bottom, height=window.height)


@contextmanager
def quiet_without_georeference() -> Iterator[None]:
    # A scene without a georeference gives a result without one; the scene has said so.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield
