"""A layer of polygons with fields, written through GDAL's vector drivers and read back."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.transform import GCPTransformer

from lemevit_cli.atomic import replacing, temporary_folder
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import (
    is_projected,
    is_tied_to_earth,
    lengths_m,
    metres_per_unit,
    polygon_areas_m2,
)
from lemevit_cli.geopackage import copy_geopackage, layer_name
from lemevit_cli.raster.spec import RasterSpec, Writer
from lemevit_cli.settings import OutputOptions

SHAPEFILE_LIMIT = 2**31 - 1  # bytes of a .shp or .dbf that every reader takes
_SHAPEFILE_NAME_BYTES = 254  # of a text in a .dbf
# What GDAL gives a field of a .dbf that says nothing of its width: text, whole numbers, others.
_TEXT_WIDTH, _INTEGER_WIDTH, _REAL_WIDTH = 80, 9, 24
_SHAPEFILE_PARTS = (".shx", ".dbf", ".prj", ".cpg", ".qix", ".qmd", ".qpj", ".sbn", ".sbx")
# GDAL journals beside a GeoPackage that was not closed; they would be applied to the new one.
_GEOPACKAGE_PARTS = ("-wal", "-shm", "-journal")
_ROWS_AT_ONCE = 50_000  # polygons that are in memory as such

_METRES_A_DEGREE = 111_320.0
_USUAL_PIXEL_M = 0.3  # of scenes that do not say
_SHARE_OF_A_PIXEL = 1e-3
_LEAST_DECIMALS, _MOST_DECIMALS = 7, 13  # those of RFC 7946; those of a double
_BEND_RADIUS_M = 1e6  # of parallels at 81 degrees, and more nearer to the equator
_SHARE_OF_A_BEND = 0.25  # of a pixel

_Some = TypeVar("_Some")


@dataclass(frozen=True, kw_only=True)
class PolygonLayer:
    """Polygons on the map with their fields.

    Args:
        wkb: ``(N,)`` polygons as bytes, exterior rings counter-clockwise: a million polygons of
            shapely take several times their memory.
        fields: name of at most ten letters to ``(N,)`` text, int32 or float64.
        crs_wkt: None where the polygons lie on no known map.
        pixel_m: side on the ground of the pixels that were outlined, which says how many decimals
            of a degree the corners deserve; None where it is not known.
    """

    wkb: NDArray[Any]
    fields: Mapping[str, NDArray[Any]]
    crs_wkt: str | None
    pixel_m: float | None = None


def on_the_map(polygons: NDArray[Any], georeference: Georeference) -> NDArray[Any]:
    """Carry polygons ``(N,)`` from pixels to the map, see :func:`points_on_the_map`.

    Exterior rings are counter-clockwise afterwards; one that is turned round keeps its first
    corner.
    """
    mapped = shapely.transform(polygons, lambda xy: points_on_the_map(xy, georeference))
    # South-up and mirrored scenes turn the rings round.
    clockwise = ~shapely.is_ccw(shapely.get_exterior_ring(mapped))
    mapped[clockwise] = shapely.reverse(mapped[clockwise])
    return mapped


def large_on_the_map(
    polygons: NDArray[Any], georeference: Georeference, *, min_area: float
) -> tuple[NDArray[Any], NDArray[np.float64], NDArray[np.bool_]]:
    """Carry polygons ``(N,)`` to the map as :func:`on_the_map`, without those that are too small.

    Args:
        min_area: in m2 on the ground, or pixels without a CRS on the earth.

    Returns:
        The M that are kept, their areas in that unit, and which of the N they are.
    """
    mapped, crs_wkt = on_the_map(polygons, georeference), crs_of_map(georeference)
    is_tied = is_tied_to_earth(crs_wkt)
    areas = polygon_areas_m2(mapped, crs_wkt) if is_tied else shapely.area(polygons)
    # An area is unknown outside its CRS's domain: such a polygon is kept, not lost.
    kept = ~(areas < min_area)
    return mapped[kept], areas[kept], kept


def points_on_the_map(xy: NDArray[np.float64], georeference: Georeference) -> NDArray[np.float64]:
    """Carry points ``(N, 2)`` from pixels (x to the right, y down) to the map.

    By the transform, else by ground control points, else they stay in pixels.
    """
    if georeference.transform is not None:
        return np.column_stack(georeference.transform @ tuple(xy.T))
    return _by_gcps(xy, georeference) if georeference.gcps and len(xy) else xy


def pixel_size_m(georeference: Georeference, *, col: float, row: float) -> float | None:
    """Measure the shorter side of a pixel on the ground; None without a CRS, or outside it."""
    crs_wkt = crs_of_map(georeference)
    if not is_tied_to_earth(crs_wkt):
        return None
    here, right, below = points_on_the_map(
        np.array([(col, row), (col + 1, row), (col, row + 1)]), georeference
    )
    side = float(lengths_m([here, here], [right, below], crs_wkt).min())
    return side if np.isfinite(side) and side > 0 else None


def pixel_amid_m(spec: RasterSpec) -> float | None:
    """Measure the pixel in the middle of a raster, as :func:`pixel_size_m`."""
    return pixel_size_m(spec.georeference, col=spec.width / 2, row=spec.height / 2)


def crs_of_map(georeference: Georeference) -> str | None:
    """Return the CRS that :func:`points_on_the_map` leads to, None if it is not known."""
    if georeference.transform is not None:
        return georeference.crs_wkt
    return georeference.gcps_crs_wkt if georeference.gcps else None


def _by_gcps(xy: NDArray[np.float64], georeference: Georeference) -> NDArray[np.float64]:
    """Map pixels through the polynomial that GDAL fits to the ground control points."""
    with gcp_transformer(georeference) as transformer:
        return np.column_stack(transformer.xy(rows=xy[:, 1], cols=xy[:, 0], offset="ul"))


def gcp_transformer(georeference: Georeference) -> GCPTransformer:
    """Return GDAL's polynomial through ground control points, as a context manager.

    Longitudes that jump from 180 to -180 go on beyond 180.
    """
    x = np.array([gcp[2] for gcp in georeference.gcps], dtype=np.float64)
    is_lonlat = is_tied_to_earth(georeference.gcps_crs_wkt) and np.abs(x).max() <= 180
    if is_lonlat and np.ptp(x) > 180:
        x = np.where(x < 0, x + 360, x)
    return GCPTransformer(
        [
            GroundControlPoint(row=row, col=col, x=lon, y=y, z=z)
            for (row, col, _, y, z, *_), lon in zip(georeference.gcps, x.tolist(), strict=True)
        ]
    )


def in_parts(
    describe: Callable[[_Some], tuple[NDArray[Any], ...]], parts: Iterable[_Some]
) -> tuple[NDArray[Any], ...]:
    """Return the columns that a function gives of each part, joined; there is one part at least.

    Polygons and what is measured on them take many times the memory of what is kept of them.
    """
    return tuple(np.concatenate(column) for column in zip(*map(describe, parts), strict=True))


def split(*columns: NDArray[Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """Yield rows of columns ``(N, ...)``, so many as may be polygons in memory; once at least."""
    parts = 1 + len(columns[0]) // _ROWS_AT_ONCE
    return zip(*(np.array_split(column, parts) for column in columns), strict=True)


def check_layer_options(empty: PolygonLayer, options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know, or one that only
            a raster has.
    """
    with temporary_folder() as folder, warnings.catch_warnings():
        # GDAL only warns of a value that it does not know, and takes another.
        warnings.simplefilter("error", RuntimeWarning)
        path = folder / f"empty{writer.suffix}"
        with vector_refusals(f"--co, {writer.driver}"):
            _write(path, empty, options, writer.driver)


@contextmanager
def replacing_layer(target: Path, options: OutputOptions, writer: Writer) -> Iterator[Path]:
    """Yield a path for :func:`write_layer`, as ``replacing``; other layers stay if one is named."""
    with replacing(
        target,
        overwrite=options.overwrite,
        companions=companions_of(target, writer),
        layer=options.layer,
    ) as path:
        yield path


def write_layer(
    path: Path,
    layer: PolygonLayer,
    options: OutputOptions,
    writer: Writer,
    *,
    blame: str,
    target: Path | None,
) -> None:
    """Write a layer that has its file's stem as name, or another, and make sure that it is whole.

    Args:
        path: where ``replacing`` wants it; its folder takes the other files of a shapefile.
        blame: how the message of an error begins.
        target: where it is to be put; its other layers are copied if ``options.layer`` is one of
            several. None for stdout.

    Raises:
        OutputError: if the format cannot hold the layer, or the disk is full.
    """
    # Some drivers take a name without their suffix for a folder.
    place = path.with_name(path.stem + writer.suffix)
    if options.layer is not None and target is not None and target.exists():
        copy_geopackage(target, place)
    with vector_refusals(blame):
        _write(place, layer, options, writer.driver)
        _check_complete(place, layer, options, writer.driver)
    place.replace(path)


def companions_of(target: Path, writer: Writer) -> list[str]:
    """List the names of files that may belong to an older target of this format."""
    if writer.driver == "ESRI Shapefile":
        return [target.stem + part for part in _SHAPEFILE_PARTS]
    return [target.name + part for part in _GEOPACKAGE_PARTS]


@contextmanager
def vector_refusals(blame: str) -> Iterator[None]:
    """Turn whatever a vector driver refuses in the block into ``OutputError("BLAME: REASON")``."""
    try:
        yield
    # pyogrio's errors are RuntimeErrors; it gives a ValueError for options it does not know.
    except (RuntimeError, RuntimeWarning, ValueError, OSError) as error:
        raise OutputError(f"{blame}: {' '.join(str(error).split())}") from error


def _write(path: Path, layer: PolygonLayer, options: OutputOptions, driver: str) -> None:
    import pyogrio  # and with it geopandas: only where a layer is written

    if driver == "ESRI Shapefile":
        _check_shapefile_size(layer)
    with warnings.catch_warnings():
        # The scene has told already that it has no CRS.
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(
            path,
            geometry=_straight_in_degrees(layer) if driver == "GeoJSON" else layer.wkb,
            field_data=list(layer.fields.values()),
            fields=list(layer.fields),
            geometry_type="Polygon",
            layer=_name_of(path, options, driver),
            crs=layer.crs_wkt,
            driver=driver,
            **(_layer_options(driver, layer) | options.creation_options),
        )


def _name_of(path: Path, options: OutputOptions, driver: str) -> str:
    if options.layer is not None:
        return options.layer
    return layer_name(path) if driver == "GPKG" else path.stem


def _layer_options(driver: str, layer: PolygonLayer) -> dict[str, str]:
    # GDAL then turns the polygons into WGS84 and cuts them at the antimeridian. Without a CRS
    # there is nothing to turn: GeoJSON holds pixels, or what the world file says.
    if driver == "GeoJSON" and is_tied_to_earth(layer.crs_wkt):
        return {"RFC7946": "YES", "COORDINATE_PRECISION": str(lonlat_decimals(layer.pixel_m))}
    return {"GEOMETRY": "AS_WKT"} if driver == "CSV" else {}


def lonlat_decimals(pixel_m: float | None) -> int:
    """Return how many decimals of a degree keep corners to a thousandth of a pixel; 7 at least.

    Rounded to the 7 of RFC 7946, a centimetre, rings of small pixels cross themselves.
    """
    step = (pixel_m or _USUAL_PIXEL_M) * _SHARE_OF_A_PIXEL / _METRES_A_DEGREE
    return min(max(_LEAST_DECIMALS, math.ceil(-math.log10(step))), _MOST_DECIMALS)


def _straight_in_degrees(layer: PolygonLayer) -> NDArray[Any]:
    """Return the polygons as bytes, with corners on edges that would bend in degrees.

    What is straight on a map is none there, unless it is short: a hole near a long edge would lie
    outside of it.
    """
    if layer.pixel_m is None or layer.crs_wkt is None or not is_projected(layer.crs_wkt):
        return layer.wkb
    # An edge of a length L leaves a chord by L^2 / 8 r, and no map bends edges by more than r.
    longest = math.sqrt(8 * _BEND_RADIUS_M * _SHARE_OF_A_BEND * layer.pixel_m)
    unit = metres_per_unit(layer.crs_wkt)

    def describe(part: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
        return (shapely.to_wkb(shapely.segmentize(shapely.from_wkb(part[0]), longest / unit)),)

    return in_parts(describe, split(layer.wkb))[0]


def _check_complete(path: Path, layer: PolygonLayer, options: OutputOptions, driver: str) -> None:
    """Read the end of a layer back: nothing tells of a disk that fills while GDAL closes it.

    Raises:
        OSError: if the end is missing.
    """
    import pyogrio

    num_polygons = len(layer.wkb)
    if driver == "GeoJSON":
        with path.open("rb") as file:
            file.seek(-4, os.SEEK_END)
            complete = file.read() == b"]\n}\n"
    elif num_polygons == 0:
        complete = True
    else:
        name, expected = list(layer.fields.items())[-1]
        last = {"skip_features": num_polygons - 1, "columns": [name]}
        _, _, polygons, (values,) = pyogrio.raw.read(path, layer=options.layer, **last)
        # The last field, cut off, reads as nothing. FlatGeobuf sorts by place.
        complete = len(polygons) == 1 and polygons[0] is not None
        complete = complete and _is_among(values[0], expected)
    if driver == "GPKG" and "SPATIAL_INDEX" not in options.creation_options:
        info = pyogrio.read_info(path, layer=options.layer)
        complete &= info["capabilities"]["fast_spatial_filter"]
    if not complete:
        raise OSError("the end of the layer is missing")


def _is_among(value: Any, expected: NDArray[Any]) -> bool:
    if expected.dtype == object:
        return value in set(expected)
    return bool(np.isclose(expected, np.float64(value), equal_nan=True).any())


def _check_shapefile_size(layer: PolygonLayer) -> None:
    """Refuse what a shapefile cannot hold.

    Raises:
        OutputError: if the .shp or the .dbf would grow too large, or a text is too long.
    """
    count = len(layer.wkb)
    texts = [v for v in layer.fields.values() if v.dtype == object]
    longest = [max((len(text.encode()) for text in set(column)), default=0) for column in texts]
    if max(longest, default=0) > _SHAPEFILE_NAME_BYTES:
        raise OutputError(
            f"a shapefile holds names of at most {_SHAPEFILE_NAME_BYTES} bytes, one has "
            f"{max(longest)}; write .gpkg or .fgb"
        )
    # Both layouts take 4 bytes a ring and 16 a corner. A polygon takes 9 more as WKB, and 52 as
    # ESRI's, a box and two counts among them; a header comes before the first.
    shp_bytes = 100 + (52 - 9) * count + sum(map(len, layer.wkb))
    # dBASE's: a header with 32 bytes a field; a mark and all fields a record; a mark at the end.
    widths = [max(_TEXT_WIDTH, length) for length in longest] + [
        _INTEGER_WIDTH if v.dtype == np.int32 else _REAL_WIDTH
        for v in layer.fields.values()
        if v.dtype != object
    ]
    dbf_bytes = 33 + 32 * len(widths) + count * (1 + sum(widths)) + 1
    size = max(shp_bytes, dbf_bytes)
    if size > SHAPEFILE_LIMIT:
        raise OutputError(
            f"{count} polygons take {size / 1e9:.1f} GB, and a shapefile ends at 2 GB; "
            "write .gpkg or .fgb, or ask for fewer of them"
        )
