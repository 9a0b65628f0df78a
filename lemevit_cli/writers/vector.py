"""Class polygons, outlined once from the finished class raster, through GDAL's vector drivers."""

from __future__ import annotations

import os
import tempfile
import warnings
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.features import shapes
from rasterio.io import DatasetWriter
from rasterio.transform import GCPTransformer
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, polygon_areas_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.settings import OutputOptions
from lemevit_cli.writers.atomic import replacing
from lemevit_cli.writers.gdal import (
    gdal_cache,
    gdal_refusals,
    plain_tiles,
    quiet_without_georeference,
)
from lemevit_cli.writers.spec import RasterSpec, Sink, Writer

NOT_KEPT = 0  # in the draft raster, which holds class ids from 1 upwards
SHAPEFILE_LIMIT = 2**31 - 1  # bytes of a .shp or .dbf that every reader takes
_SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg", ".qix", ".qmd", ".qpj", ".sbn", ".sbx")
# GDAL journals beside a GeoPackage that was not closed; they would be applied to the new one.
_GEOPACKAGE_PARTS = ("-wal", "-shm", "-journal")


@dataclass(frozen=True)
class Outlines:
    """Polygons with the class of each.

    Args:
        polygons: ``(N,)`` shapely polygons, exterior rings counter-clockwise.
        class_ids: ``(N,)`` int32.
        areas: ``(N,)`` float64 in m2 on the ground, or pixels without a CRS on the earth.
        area_field: ``area_m2`` or ``area_px``, accordingly.
    """

    polygons: NDArray[Any]
    class_ids: NDArray[np.int32]
    areas: NDArray[np.float64]
    area_field: str


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know, or one that only
            a raster has.
    """
    if options.output_type == "scores":
        raise OutputError(f"{writer.driver} holds polygons, no scores; write scores to a .tif")
    empty = Outlines(np.empty(0, object), np.empty(0, np.int32), np.empty(0), "area_m2")
    with tempfile.TemporaryDirectory(prefix="lemevit-") as folder, warnings.catch_warnings():
        # GDAL only warns of a value that it does not know, and takes another.
        warnings.simplefilter("error", RuntimeWarning)
        path = Path(folder) / f"empty{writer.suffix}"
        with _vector_refusals(f"--co, {writer.driver}"):
            _write_layer(path, empty, [], None, options, writer.driver)


@contextmanager
def open_sink(
    target: Path, spec: RasterSpec, options: OutputOptions, writer: Writer
) -> Iterator[Sink]:
    """Open a class raster to be written window by window; its outlines are the result.

    The layer has the target's stem as name and the fields ``class``, ``class_id`` and
    ``area_m2``; without a CRS tied to the earth the last is ``area_px``, and
    ``options.min_area_m2`` counts pixels.

    Raises:
        OutputError: if the target exists, cannot be written, or the disk is full.
    """
    blame = f"{target} cannot be written (is the disk full?)"
    companions = [target.stem + part for part in _SHAPEFILE_PARTS]
    if writer.driver != "ESRI Shapefile":
        companions = [target.name + part for part in _GEOPACKAGE_PARTS]
    with (
        replacing(target, overwrite=options.overwrite, companions=companions) as path,
        gdal_cache(spec),
    ):
        draft = path.with_name(path.name + ".draft.tif")
        with gdal_refusals(blame):
            dataset = _create_draft(draft, spec)
        try:
            yield _ClassSink(dataset, spec, options, blame)
        finally:
            with gdal_refusals(blame):
                dataset.close()
        with gdal_refusals(blame):
            polygons, class_ids = _outline(draft)
        draft.unlink()
        outlines, crs_wkt = _on_the_map(polygons, class_ids, spec.georeference)
        names = [info.name for info in spec.classes]
        kept = _at_least(outlines, options.min_area_m2)
        # Some drivers take a name without their suffix for a folder.
        layer = path.with_name(path.stem + writer.suffix)
        with _vector_refusals(blame):
            _write_layer(layer, kept, names, crs_wkt, options, writer.driver)
            _check_complete(layer, kept, options, writer.driver)
        layer.replace(path)


class _ClassSink:
    """Writes the kept classes of a window into the draft raster, everything else as 0."""

    def __init__(
        self, dataset: DatasetWriter, spec: RasterSpec, options: OutputOptions, blame: str
    ) -> None:
        self._dataset = dataset
        self._spec = spec
        self._blame = blame
        self._draft_values = np.zeros(256, np.uint8)
        for class_id, info in enumerate(spec.classes):
            if class_id != NODATA_CLASS and info.name in (options.classes or (info.name,)):
                self._draft_values[class_id] = class_id + 1

    def write(self, window: Window, values: NDArray[Any]) -> None:
        self._spec.check_values(window, values)
        place = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
        with gdal_refusals(self._blame):
            self._dataset.write(self._draft_values[values], 1, window=place)


def _create_draft(path: Path, spec: RasterSpec) -> DatasetWriter:
    with quiet_without_georeference():
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=spec.width,
            height=spec.height,
            count=1,
            dtype="uint8",
            COMPRESS="DEFLATE",
            ZLEVEL=1,
            NUM_THREADS="ALL_CPUS",
            BIGTIFF="IF_SAFER",
            **plain_tiles(spec.width, spec.height),
        )


def _outline(draft: Path) -> tuple[NDArray[Any], NDArray[np.int32]]:
    """Outline the 4-connected regions of a raster, in pixels (x to the right, y down).

    GDAL reads the file by rows and the corners gather in flat arrays: memory grows with the
    polygons, not with the pixels.
    """
    corners = array("d")
    ring_ends, polygon_ends, class_ids = array("q", [0]), array("q", [0]), array("i")
    with quiet_without_georeference(), rasterio.open(draft) as dataset:
        band = rasterio.band(dataset, 1)
        # The band is its own mask: what is not kept is 0 and costs no polygon.
        for polygon, value in shapes(band, mask=band, connectivity=4):
            for ring in polygon["coordinates"]:
                corners.extend(chain.from_iterable(ring))
                ring_ends.append(len(corners) // 2)
            polygon_ends.append(len(ring_ends) - 1)
            class_ids.append(int(value) - 1)
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.asarray(corners, np.float64).reshape(-1, 2),
        (np.asarray(ring_ends, np.int64), np.asarray(polygon_ends, np.int64)),
    )
    return polygons, np.asarray(class_ids, np.int32)


def _on_the_map(
    polygons: NDArray[Any], class_ids: NDArray[np.int32], georeference: Georeference
) -> tuple[Outlines, str | None]:
    """Carry polygons from pixels to the map and measure them; also the CRS they are then in."""
    pixel_areas = shapely.area(polygons)
    mapped, crs_wkt = polygons, georeference.crs_wkt
    if georeference.transform is not None:
        matrix = georeference.transform
        mapped = shapely.transform(polygons, lambda xy: np.column_stack(matrix @ tuple(xy.T)))
    elif georeference.gcps:
        crs_wkt = georeference.gcps_crs_wkt
        mapped = shapely.transform(polygons, lambda xy: _by_gcps(xy, georeference))
    # South-up and mirrored scenes turn the rings round.
    clockwise = ~shapely.is_ccw(shapely.get_exterior_ring(mapped))
    mapped[clockwise] = shapely.reverse(mapped[clockwise])
    if not is_tied_to_earth(crs_wkt):
        return Outlines(mapped, class_ids, pixel_areas, "area_px"), crs_wkt
    # In parts: measuring takes many times the memory of the polygons themselves.
    parts = np.array_split(mapped, 1 + len(mapped) // 50_000)
    areas = np.concatenate([polygon_areas_m2(part, crs_wkt) for part in parts])
    return Outlines(mapped, class_ids, areas, "area_m2"), crs_wkt


def _by_gcps(xy: NDArray[np.float64], georeference: Georeference) -> NDArray[np.float64]:
    """Map pixels through the polynomial that GDAL fits to the ground control points."""
    points = [
        GroundControlPoint(row=row, col=col, x=x, y=y, z=z)
        for row, col, x, y, z, *_ in georeference.gcps
    ]
    with GCPTransformer(points) as transformer:
        return np.column_stack(transformer.xy(rows=xy[:, 1], cols=xy[:, 0], offset="ul"))


def _at_least(outlines: Outlines, min_area: float) -> Outlines:
    # An area is unknown outside its CRS's domain: such a polygon is kept, not lost.
    kept = ~(outlines.areas < min_area)
    return Outlines(
        outlines.polygons[kept],
        outlines.class_ids[kept],
        outlines.areas[kept],
        outlines.area_field,
    )


def _write_layer(
    path: Path,
    outlines: Outlines,
    names: list[str],
    crs_wkt: str | None,
    options: OutputOptions,
    driver: str,
) -> None:
    if driver == "ESRI Shapefile":
        _check_shapefile_size(outlines)
    class_names = np.array(names, object)[outlines.class_ids]
    with warnings.catch_warnings():
        # The scene has told already that it has no CRS.
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(
            path,
            geometry=shapely.to_wkb(outlines.polygons),
            field_data=[class_names, outlines.class_ids, outlines.areas],
            fields=["class", "class_id", outlines.area_field],
            geometry_type="Polygon",
            layer=path.stem,
            crs=crs_wkt,
            driver=driver,
            **(_layer_options(driver, crs_wkt) | options.creation_options),
        )


def _check_complete(path: Path, outlines: Outlines, options: OutputOptions, driver: str) -> None:
    """Read the end of a layer back: nothing tells of a disk that fills while GDAL closes it.

    Raises:
        OSError: if the end is missing.
    """
    num_polygons = len(outlines.polygons)
    if driver == "GeoJSON":
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            complete = file.read() == b"]\n}\n"
    elif num_polygons == 0:
        complete = True
    else:
        last = {"skip_features": num_polygons - 1, "columns": [outlines.area_field]}
        _, _, polygons, (areas,) = pyogrio.raw.read(path, **last)
        # The area is the last field: cut off, it reads as nothing. FlatGeobuf sorts by place.
        complete = len(polygons) == 1 and polygons[0] is not None
        complete = complete and bool(np.isclose(outlines.areas, areas[0]).any())
    if driver == "GPKG" and "SPATIAL_INDEX" not in options.creation_options:
        complete &= pyogrio.read_info(path)["capabilities"]["fast_spatial_filter"]
    if not complete:
        raise OSError("the end of the layer is missing")


def _layer_options(driver: str, crs_wkt: str | None) -> dict[str, str]:
    # GDAL then turns the polygons into WGS84 and cuts them at the antimeridian. Without a CRS
    # there is nothing to turn: GeoJSON holds pixels, or what the world file says.
    if driver == "GeoJSON" and is_tied_to_earth(crs_wkt):
        return {"RFC7946": "YES"}
    return {}


def _check_shapefile_size(outlines: Outlines) -> None:
    num_rings = shapely.get_num_interior_rings(outlines.polygons).sum() + len(outlines.polygons)
    num_corners = shapely.get_num_coordinates(outlines.polygons).sum()
    # ESRI's layout: a header, then a box and two counts a polygon, 4 bytes a ring, 16 a corner.
    shp_bytes = 100 + 52 * len(outlines.polygons) + 4 * num_rings + 16 * num_corners
    if shp_bytes > SHAPEFILE_LIMIT:
        raise OutputError(
            f"{len(outlines.polygons)} polygons take {shp_bytes / 1e9:.1f} GB, and a shapefile "
            "ends at 2 GB; write .gpkg or .fgb, or leave the small ones out with --min-area"
        )


@contextmanager
def _vector_refusals(blame: str) -> Iterator[None]:
    """Turn whatever a vector driver refuses in the block into ``OutputError("BLAME: REASON")``."""
    try:
        yield
    # pyogrio's errors are RuntimeErrors; it gives a ValueError for options it does not know.
    except (RuntimeError, RuntimeWarning, ValueError, OSError) as error:
        raise OutputError(f"{blame}: {' '.join(str(error).split())}") from error
