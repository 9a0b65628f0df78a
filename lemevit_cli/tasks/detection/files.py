"""Boxes read from a file that holds one map or picture: layers, tables, GeoParquet, DOTA's text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, reading
from lemevit_cli.geometry.oriented_boxes import box_of_polygon, corners_of, uncrossed
from lemevit_cli.tasks.detection.datasets.dota import read_dota_results
from lemevit_cli.tasks.detection.datasets.labels import LabelReport, Outline
from lemevit_cli.tasks.detection.datasets.table import (
    CLASS_FIELDS,
    is_box_table,
    read_table,
)
from lemevit_cli.training.datasets.labels import class_texts
from lemevit_cli.vector.scene_polygons import read_layer

_SCORE, _DIFFICULT = "score", "difficult"
_PIXEL_FIELDS = ("length_px", "area_px")  # as detect writes them where there is no CRS
_LONLAT_LIMITS = (540.0, 90.001)  # a GeoJSON that reaches beyond them holds no degrees
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
        areas: ``(M, 4, 2)`` corners of areas to be ignored, each of one class.
        area_classes: ``(M,)`` names.
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
    areas: NDArray[np.float64] = field(default_factory=lambda: np.empty((0, 4, 2)))
    area_classes: NDArray[Any] = field(default_factory=lambda: np.empty(0, dtype=object))
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
        skip_bad_labels: count what cannot be understood in a text or a table, and leave it out.
    """

    fields: tuple[str, ...] = ("class",)
    class_name: str | None = None
    layer: str | None = None
    where: str | None = None
    skip_bad_labels: bool = False


def read_boxes(path: str, reading: BoxReading | None = None) -> BoxFile:
    """Read boxes from whatever holds them; the suffix tells a DOTA text and GeoParquet.

    A layer's polygons are boxes by their four corners, in any order; of any other number the
    smallest rectangle is taken. Parts of a multipolygon are boxes of their own. Beside the class it
    may have the fields ``score`` and ``difficult``. A CSV holds WKT, corners in the fields x1, y1
    ... x4, y4, or edges in xmin, ymin, xmax, ymax.

    Raises:
        LemevitError: if it cannot be read or understood; with the line of a text, the feature of a
            layer.
    """
    return without_flat_boxes(_read_boxes(path, reading or BoxReading()))


def without_flat_boxes(file: BoxFile) -> BoxFile:
    """Leave out boxes without area, which nothing overlaps, with a note."""
    has_area = shapely.area(shapely.polygons(file.corners)) > 0
    if has_area.all():
        return file
    return replace(
        file,
        corners=file.corners[has_area],
        classes=file.classes[has_area],
        scores=None if file.scores is None else file.scores[has_area],
        difficult=file.difficult[has_area],
        notes=(*file.notes, f"{file.path}: {(~has_area).sum()} boxes without area are left out"),
    )


def _read_boxes(path: str, reading: BoxReading) -> BoxFile:
    report = LabelReport(skip_bad=reading.skip_bad_labels)
    if not is_layer_path(path):
        _refuse_choice(path, reading)
    if is_box_text(path):
        outlines = read_dota_results(Path(path), report)
        return boxes_of_outlines(outlines, path, notes_of(report, path))
    if is_box_table(Path(path)):
        return _read_table(path, reading, report)
    return _boxes_of_table(read_table_of(path, reading), path, reading)


def is_layer_path(path: str) -> bool:
    """Say whether a path is that of a layer of polygons, rather than of boxes alone."""
    return not (is_box_text(path) or is_box_table(Path(path)))


def read_table_of(path: str, reading: BoxReading) -> geopandas.GeoDataFrame:
    """Read a layer, GeoParquet too.

    Raises:
        LemevitError: if it cannot be read.
    """
    if path.lower().endswith(".parquet"):
        _refuse_choice(path, reading)
        return _read_parquet(path)
    return read_layer(path, layer=reading.layer, where=reading.where)


def _refuse_choice(path: str, reading: BoxReading) -> None:
    """Refuse a layer or a filter of a file that OGR does not read."""
    if reading.layer is not None or reading.where is not None:
        raise DataError(
            f"{path}: is read in whole, without --layer or --where; make a layer of it (ogr2ogr) "
            "to choose boxes"
        )


def is_box_text(path: str) -> bool:
    """Say whether a path is that of a DOTA text."""
    return path.lower().endswith(".txt")


def boxes_of_outlines(
    outlines: Sequence[Outline], path: str, notes: tuple[str, ...] = ()
) -> BoxFile:
    """Return boxes of outlines in pixels: four points are corners, of others the rectangle counts.

    Raises:
        DataError: if some have scores and others have none.
    """
    objects = [outline for outline in outlines if outline.name is not None]
    areas = [outline for outline in outlines if outline.area_of is not None]
    scores = [outline.score for outline in objects if outline.score is not None]
    if scores and len(scores) < len(objects):
        lacking = next(outline for outline in objects if outline.score is None)
        raise DataError(f"{lacking.place}: has no score, others of {path} have one")
    return BoxFile(
        path=path,
        corners=_corners_of_outlines(objects),
        classes=np.array([outline.name for outline in objects], dtype=object),
        scores=np.array(scores, dtype=np.float64) if scores else None,
        difficult=np.array([outline.difficult for outline in objects], dtype=bool),
        areas=_corners_of_outlines(areas),
        area_classes=np.array([outline.area_of for outline in areas], dtype=object),
        in_pixels=True,
        notes=notes,
    )


def _corners_of_outlines(outlines: Sequence[Outline]) -> NDArray[np.float64]:
    corners = [
        outline.points
        if len(outline.points) == 4
        else corners_of(box_of_polygon(outline.points))[0]
        for outline in outlines
    ]
    return uncrossed(np.array(corners).reshape(-1, 4, 2))


def _read_parquet(path: str) -> geopandas.GeoDataFrame:
    if find_spec("pyarrow") is None:
        raise DataError(
            f"{path}: GeoParquet needs pyarrow, which is not installed: pip install pyarrow, or "
            "convert it to .gpkg"
        )
    with reading(path, raises=DataError):
        return geopandas.read_parquet(path)


def _read_table(path: str, reading: BoxReading, report: LabelReport) -> BoxFile:
    """Read a table of boxes that names no picture."""
    is_usual = reading.fields == BoxReading.fields
    table = read_table(Path(path), report, CLASS_FIELDS if is_usual else reading.fields)
    outlines = [outline for found in table.outlines.values() for outline in found]
    if outlines and not table.has_classes:
        if reading.class_name is None:
            raise DataError(
                f"{path}: has no field {reading.fields[0]!r}; name the one with the class by "
                "--label-field, or by --class what all its boxes are"
            )
        outlines = [replace(outline, name=reading.class_name) for outline in outlines]
    return boxes_of_outlines(outlines, path, notes_of(report, path))


def notes_of(report: LabelReport, path: str) -> tuple[str, ...]:
    """Return what a report says, a line each, of a file."""
    return tuple(f"{path}: {note}" for note in report.notes())


def _boxes_of_table(table: geopandas.GeoDataFrame, path: str, reading: BoxReading) -> BoxFile:
    corners, rows, others = _corners_of(table, path)
    without = len(table) - len(np.unique(rows))
    names = class_names_of(table, path, reading)
    has_name = np.array([names[row] is not None for row in rows], dtype=bool)
    corners, rows = corners[has_name], rows[has_name]
    notes = []
    if without:
        notes.append(f"{path}: {without} features without a polygon are left out")
    if others:
        notes.append(f"{path}: of {others} polygons without four corners the rectangle is taken")
    if not has_name.all():
        notes.append(f"{path}: {(~has_name).sum()} boxes without a class are left out")
    scores = _numbers(table[_SCORE], _SCORE, path)[rows] if _SCORE in table.columns else None
    in_pixels = any(name in table.columns for name in _PIXEL_FIELDS)
    return BoxFile(
        path=path,
        corners=corners,
        classes=np.array([names[row] for row in rows], dtype=object),
        scores=scores,
        difficult=difficult_rows(table, path)[rows],
        crs_wkt=None if in_pixels else crs_wkt_of(table, path),
        in_pixels=in_pixels,
        notes=tuple(notes),
    )


def _corners_of(
    table: geopandas.GeoDataFrame, path: str
) -> tuple[NDArray[np.float64], NDArray[np.int64], int]:
    """Return corners ``(N, 4, 2)``, their rows, and how many polygons have not just these four."""
    geometries = table.geometry.to_numpy()
    parts, rows = polygon_parts(geometries)
    if len(parts) == 0 and not shapely.is_missing(geometries).all():
        raise DataError(f"{path}: holds no polygons; boxes are polygons with four corners")
    has_four = has_four_corners(parts)
    rings = shapely.get_exterior_ring(parts[has_four])
    corners = np.empty((len(rows), 4, 2))
    corners[has_four] = shapely.get_coordinates(rings).reshape(-1, 5, 2)[:, :4]
    for i in np.flatnonzero(~has_four):
        corners[i] = corners_of(box_of_polygon(shapely.get_coordinates(parts[i])))[0]
    return uncrossed(corners), rows, int((~has_four).sum())


def polygon_parts(geometries: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return single polygons, and the row that each is from."""
    rows = np.flatnonzero(~shapely.is_missing(geometries))
    parts = geometries[rows]
    for _ in range(2):  # a collection may hold multipolygons
        parts, origin = shapely.get_parts(parts, return_index=True)
        rows = rows[origin]
    is_polygon = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(
        parts
    )
    return parts[is_polygon], rows[is_polygon]


def has_four_corners(polygons: NDArray[Any]) -> NDArray[np.bool_]:
    """Say of polygons ``(N,)`` whether they have just four corners."""
    # A ring ends where it began.
    return np.asarray(shapely.get_num_coordinates(shapely.get_exterior_ring(polygons)) == 5)


def class_names_of(
    table: geopandas.GeoDataFrame, path: str, reading: BoxReading
) -> list[str | None]:
    """Return the class of each row of a layer, None where that is empty.

    Raises:
        DataError: if there is no field of classes.
    """
    for name in reading.fields:
        if name in table.columns:
            return class_texts(table[name])
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


def difficult_rows(table: Any, path: str) -> NDArray[np.bool_]:
    """Say of each row of a layer whether its field calls the object difficult; no field: none is.

    Raises:
        DataError: if the field holds what is no number.
    """
    if _DIFFICULT not in table.columns:
        return np.zeros(len(table), dtype=bool)
    return _numbers(table[_DIFFICULT], _DIFFICULT, path, missing=0.0) > 0


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


def crs_wkt_of(table: geopandas.GeoDataFrame, path: str) -> str | None:
    """Return the CRS of a layer; None without one, and where a GeoJSON holds no degrees."""
    if table.crs is None:
        return None
    # GDAL takes every GeoJSON that names no CRS for degrees.
    is_geojson = path.partition("|")[0].lower().endswith((".geojson", ".json"))
    reach = np.abs(table.total_bounds.reshape(2, 2))
    if is_geojson and (reach > _LONLAT_LIMITS).any() and table.crs.is_geographic:
        return None
    wkt: str = table.crs.to_wkt()
    return wkt
