"""Boxes read from files: vector layers, tables with corners, GeoParquet, and the text of DOTA."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import box_of_polygon, corners_of
from lemevit_cli.tasks.detection.datasets.text import dota_rows
from lemevit_cli.training.datasets.labels import class_texts
from lemevit_cli.vector.scene_polygons import read_layer

_SCORE, _DIFFICULT = "score", "difficult"
_CORNER_FIELDS = ("x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4")
_PIXEL_FIELDS = ("length_px", "area_px")  # as detect writes them where there is no CRS
_LONLAT_LIMITS = (540.0, 90.001)  # a GeoJSON that reaches beyond them holds no degrees
_POLYGONS = (shapely.GeometryType.POLYGON, shapely.GeometryType.MULTIPOLYGON)
_TRUTH_VALUES = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, kw_only=True)
class BoxFile:
    """The boxes of a file.

    Args:
        path: what messages call it.
        corners: ``(N, 4, 2)`` around each box, in map units; in pixels, y down, without a map.
        classes: ``(N,)`` names.
        scores: ``(N,)``, None where the file has none.
        difficult: ``(N,)`` bool.
        crs_wkt: of the map, None where the file names none.
        in_pixels: whether the file is known to hold pixels; without CRS and without this it may
            hold either.
        notes: what a user should know of how it was read.
    """

    path: str
    corners: NDArray[np.float64]
    classes: NDArray[Any]
    scores: NDArray[np.float64] | None
    difficult: NDArray[np.bool_]
    crs_wkt: str | None = None
    in_pixels: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class BoxReading:
    """Options of the reading of a layer of boxes.

    Args:
        fields: that may hold the class; the first that there is.
        class_name: of all boxes, where there is none of these fields.
        layer, where: of a vector file, see :func:`read_layer`.
    """

    fields: tuple[str, ...] = ("class",)
    class_name: str | None = None
    layer: str | None = None
    where: str | None = None


def read_boxes(path: str, reading: BoxReading | None = None) -> BoxFile:
    """Read boxes from whatever holds them; the suffix tells a DOTA text and GeoParquet.

    A layer's polygons are boxes by their four corners; of any other number the smallest rectangle
    is taken. Beside the class it may have the fields ``score`` and ``difficult``. A CSV holds WKT,
    or corners in the fields x1, y1 ... x4, y4.

    Raises:
        LemevitError: if it cannot be read or understood; with the line of a text, the feature of a
            layer.
    """
    reading = reading or BoxReading()
    if is_box_text(path):
        return _read_text(path)
    if path.lower().endswith(".parquet"):
        table = _read_parquet(path)
    elif _has_corner_fields(path):
        table = _read_corner_fields(path)
    else:
        table = read_layer(path, layer=reading.layer, where=reading.where)
    return _boxes_of_table(table, path, reading)


def is_box_text(path: str) -> bool:
    """Say whether a path is that of a DOTA text."""
    return path.lower().endswith(".txt")


def is_box_file(path: str) -> bool:
    """Say whether a path can only hold boxes: a DOTA text, a folder of them, or a table."""
    if Path(path).is_dir():
        return bool(texts_in(path))
    return is_box_text(path) or path.lower().endswith(".parquet") or _has_corner_fields(path)


def texts_in(folder: str) -> dict[str, Path]:
    """List the DOTA texts of a folder by the picture of each: its stem without ``_boxes``."""
    texts = sorted(p for p in Path(folder).iterdir() if is_box_text(p.name))
    return {path.stem.removesuffix("_boxes"): path for path in texts}


def _read_text(path: str) -> BoxFile:
    """Read a DOTA text: after the class, a number with decimals is a score, else difficulty."""
    rows = list(dota_rows(Path(path)))
    last = [flag for _, _, flag, _ in rows]
    numbers = np.array([_last_number(flag, place) for _, _, flag, place in rows], dtype=np.float64)
    has_scores = any(flag and not flag.isdecimal() for flag in last)
    return BoxFile(
        path=path,
        corners=np.array([corners for corners, *_ in rows]).reshape(-1, 4, 2),
        classes=np.array([name for _, name, _, _ in rows], dtype=object),
        scores=numbers if has_scores else None,
        difficult=np.zeros(len(rows), dtype=bool) if has_scores else numbers > 0,
        in_pixels=True,
    )


def _last_number(text: str, place: str) -> float:
    try:
        return float(text or 0)
    except ValueError:
        raise DataError(
            f"{place}: ends in {text!r}, after the class it takes a score or difficult (0 or 1)"
        ) from None


def _read_parquet(path: str) -> geopandas.GeoDataFrame:
    if find_spec("pyarrow") is None:
        raise DataError(
            f"{path}: GeoParquet needs pyarrow, which is not installed: pip install pyarrow, or "
            "convert it to .gpkg"
        )
    try:
        return geopandas.read_parquet(path)
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error


def _has_corner_fields(path: str) -> bool:
    if not path.lower().endswith(".csv") or not Path(path).is_file():
        return False
    with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
        return set(_CORNER_FIELDS) <= set(next(csv.reader(file), []))


def _read_corner_fields(path: str) -> geopandas.GeoDataFrame:
    """Read a CSV without geometry, its corners in fields of their own."""
    with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
        reader = csv.DictReader(file)
        names, records = reader.fieldnames or [], list(reader)
    columns = {name: [record[name] for record in records] for name in names}
    numbers = [_numbers(columns[name], name, path) for name in _CORNER_FIELDS]
    polygons = shapely.polygons(np.column_stack(numbers).reshape(-1, 4, 2))
    return geopandas.GeoDataFrame(columns, geometry=polygons)


def _boxes_of_table(table: geopandas.GeoDataFrame, path: str, reading: BoxReading) -> BoxFile:
    corners, rows, others = _corners_of(table, path)
    names = _names(table, path, reading)
    has_name = np.array([names[row] is not None for row in rows], dtype=bool)
    corners, rows = corners[has_name], rows[has_name]
    notes = []
    if others:
        notes.append(f"{path}: of {others} polygons without four corners the rectangle is taken")
    if not has_name.all():
        notes.append(f"{path}: {(~has_name).sum()} boxes without a class are left out")
    scores = _numbers(table[_SCORE], _SCORE, path)[rows] if _SCORE in table.columns else None
    difficult = np.zeros(len(rows), dtype=bool)
    if _DIFFICULT in table.columns:
        difficult = _numbers(table[_DIFFICULT], _DIFFICULT, path, missing=0.0)[rows] > 0
    in_pixels = any(name in table.columns for name in _PIXEL_FIELDS)
    return BoxFile(
        path=path,
        corners=corners,
        classes=np.array([names[row] for row in rows], dtype=object),
        scores=scores,
        difficult=difficult,
        crs_wkt=None if in_pixels else _crs_wkt(table, corners, path),
        in_pixels=in_pixels,
        notes=tuple(notes),
    )


def _corners_of(
    table: geopandas.GeoDataFrame, path: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Return corners ``(N, 4, 2)``, their rows, and how many polygons have not just these four."""
    geometries = table.geometry.to_numpy()
    is_polygon = np.isin(shapely.get_type_id(geometries), _POLYGONS)
    rows = np.flatnonzero(is_polygon & ~shapely.is_empty(geometries))
    if len(rows) == 0 and not shapely.is_missing(geometries).all():
        raise DataError(f"{path}: holds no polygons; boxes are polygons with four corners")
    polygons = geometries[rows]
    is_single = shapely.get_num_geometries(polygons) == 1
    rings = shapely.get_exterior_ring(shapely.get_geometry(polygons, 0))
    has_four = is_single & (shapely.get_num_coordinates(rings) == 5)  # a ring ends where it began
    corners = np.empty((len(rows), 4, 2))
    corners[has_four] = shapely.get_coordinates(rings[has_four]).reshape(-1, 5, 2)[:, :4]
    for i in np.flatnonzero(~has_four):
        corners[i] = corners_of(box_of_polygon(shapely.get_coordinates(polygons[i])))[0]
    return corners, rows, int((~has_four).sum())


def _names(table: geopandas.GeoDataFrame, path: str, reading: BoxReading) -> list[str | None]:
    for field in reading.fields:
        if field in table.columns:
            return class_texts(table[field])
    if len(table) == 0:  # a GeoJSON without features has no fields either
        return []
    if reading.class_name is not None:
        return [reading.class_name] * len(table)
    fields = [str(name) for name in table.columns if name != table.geometry.name]
    raise DataError(
        f"{path}: has no field {reading.fields[0]!r}; its fields are "
        f"{', '.join(fields) or 'none'}; name the one with the class by --label-field, or by "
        "--class what all its boxes are"
    )


def _numbers(
    values: Any, name: str, path: str, *, missing: float | None = None
) -> NDArray[np.float64]:
    """Read values of a field as finite numbers."""
    numbers = []
    for feature, value in enumerate(values, 1):
        text = "" if value is None or value != value else str(value).strip()
        try:
            number = _TRUTH_VALUES[text.lower()] if text.lower() in _TRUTH_VALUES else float(text)
        except ValueError:
            number = np.nan if text or missing is None else missing
        if not np.isfinite(number):
            reason = f"is {text!r}, which is no number" if text else "is empty"
            raise DataError(f"{path}: {name} of feature {feature} {reason}")
        numbers.append(number)
    return np.array(numbers, dtype=np.float64)


def _crs_wkt(table: geopandas.GeoDataFrame, corners: NDArray[np.float64], path: str) -> str | None:
    if table.crs is None:
        return None
    # GDAL takes every GeoJSON that names no CRS for degrees.
    is_geojson = path.partition("|")[0].lower().endswith((".geojson", ".json"))
    if is_geojson and (np.abs(corners) > _LONLAT_LIMITS).any() and table.crs.is_geographic:
        return None
    wkt: str = table.crs.to_wkt()
    return wkt
