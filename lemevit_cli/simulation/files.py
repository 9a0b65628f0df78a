"""Files of a simulated scene, each whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.atomic import replacing
from lemevit_cli.errors import OutputError
from lemevit_cli.gdal_refusals import gdal_refusals
from lemevit_cli.geometry.window import Window
from lemevit_cli.geopackage import count_features
from lemevit_cli.inputs import companions_of
from lemevit_cli.simulation.world import World, WorldSpec
from lemevit_cli.whole_files import IncompleteFileError

if TYPE_CHECKING:
    import geopandas

_BLOCK = 1024


class SceneFiles:
    """Writes files, and remembers them.

    Args:
        tick: called after every block that is drawn.
        overwrite: replace what is there.
    """

    def __init__(self, *, tick: Callable[[], None], overwrite: bool) -> None:
        self.tick = tick
        self._overwrite = overwrite
        self.written: list[Path] = []

    def blocks(self, spec: WorldSpec) -> Iterator[Window]:
        """Yield windows that cover a scene, and tell of each when its files have it."""
        for block in blocks_of(spec):
            yield block
            self.tick()

    def write_text(self, target: Path, content: str) -> None:
        """Write a text, and a line's end."""
        with self._beside(target) as path:
            path.write_text(content + "\n", encoding="utf-8")

    def write_layer(self, target: Path, frame: geopandas.GeoDataFrame) -> None:
        """Write a layer of a GeoPackage, called as its file, and count its features.

        Raises:
            OutputError: if the disk is full.
        """
        with self._beside(target) as path:
            try:
                frame.to_file(path, driver="GPKG", engine="pyogrio", layer=target.stem)
                is_whole = count_features(path, target.stem) == len(frame)
            except RuntimeError as error:  # pyogrio's
                raise OSError(errno.EIO, " ".join(str(error).split())) from error
            if not is_whole:
                raise IncompleteFileError("features are missing")

    @contextmanager
    def raster(
        self, target: Path, world: World, *, bands: int = 1, classes: Sequence[str] = ()
    ) -> Iterator[rasterio.io.DatasetWriter]:
        """Open a GeoTIFF of bytes on a world's grid, tiled and deflated.

        ``classes`` names its ids, in the band's tags as predict does.

        Raises:
            OutputError: if the disk is full.
        """
        spec, place = world.spec, world.georeference
        profile: dict[str, Any] = {
            "driver": "GTiff", "width": spec.width, "height": spec.height, "count": bands,
            "dtype": "uint8", "crs": place.crs_wkt, "transform": place.transform,
            "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate",
            "zlevel": 4, "predictor": 2 if bands == 3 else 1, "bigtiff": "if_safer",
        }  # fmt: skip
        if bands == 3:
            profile |= {"photometric": "rgb", "interleave": "pixel"}
        with (
            self._beside(target) as path,
            gdal_refusals(_blame(target)),
            rasterio.open(path, "w", **profile) as raster,
        ):
            raster.update_tags(SOFTWARE="lemevit simulate", SEED=str(spec.seed))
            raster.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(classes)})
            yield raster

    @contextmanager
    def _beside(self, target: Path) -> Iterator[Path]:
        companions = companions_of(target)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with replacing(target, overwrite=self._overwrite, companions=companions) as path:
                yield path
        except OSError as error:
            raise OutputError(f"{_blame(target)}: {error.strerror}") from error
        self.written.append(target)


def _blame(target: Path) -> str:
    return f"{target} cannot be written (is the disk full?)"


def blocks_of(spec: WorldSpec) -> Iterator[Window]:
    """Yield windows that cover a scene, row by row."""
    for row_off in range(0, spec.height, _BLOCK):
        for col_off in range(0, spec.width, _BLOCK):
            yield Window(
                col_off=col_off, row_off=row_off,
                width=min(_BLOCK, spec.width - col_off), height=min(_BLOCK, spec.height - row_off),
            )  # fmt: skip


def put(raster: rasterio.io.DatasetWriter, window: Window, values: NDArray[np.uint8]) -> None:
    """Write pixels ``(bands, H, W)`` or ``(H, W)`` of a window."""
    values = values[None] if values.ndim == 2 else values
    place = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
    raster.write(values, window=place)
