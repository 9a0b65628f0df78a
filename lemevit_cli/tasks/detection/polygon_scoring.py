"""Layers of class polygons compared as what they are: by area, and polygon by polygon.

No rectangle is laid around a building or a forest. That is for boxes: what ``detect`` writes, and
layers of which every polygon has four corners.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import geopandas
import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, reading
from lemevit_cli.metrics.confusion import figures_of, mean_known
from lemevit_cli.metrics.polygons import area_figures, count_matches
from lemevit_cli.progress import Progress
from lemevit_cli.tasks.detection.files import (
    BoxReading,
    class_names_of,
    crs_wkt_of,
    has_four_corners,
    is_layer_path,
    polygon_parts,
    read_table_of,
)
from lemevit_cli.vector.mending import single_polygons

_IOUS = {"50": 0.5, "75": 0.75}  # from which on a polygon is found
_OF_BOXES = ({"bearing", "length_m"}, {"bearing", "length_px"})  # fields that detect writes


def is_polygon_pair(
    prediction: str, truth: str, found_reading: BoxReading, true_reading: BoxReading
) -> bool:
    """Say whether two files are layers of which the prediction, or both, hold no boxes."""
    if not (is_layer_path(prediction) and is_layer_path(truth)):
        return False
    found = read_table_of(prediction, found_reading)
    if len(found) == 0 or any(fields <= set(found.columns) for fields in _OF_BOXES):
        return False
    all_found = _are_quadrilaterals(found)
    if all_found and "score" in found.columns:
        return False
    return not (all_found and _are_quadrilaterals(read_table_of(truth, true_reading)))


def _are_quadrilaterals(table: geopandas.GeoDataFrame) -> bool:
    parts, _ = polygon_parts(table.geometry.to_numpy())
    return bool(has_four_corners(parts).all())


def score_polygons(
    prediction: str,
    truth: str,
    found_reading: BoxReading,
    true_reading: BoxReading,
    progress: Progress,
) -> dict[str, Any]:
    """Compare two layers of class polygons; classes are matched by name.

    Areas are those of the prediction's map, of an equal-area one where that is in degrees. Parts of
    a multipolygon are polygons of their own; one is found where its IoU with a true one reaches a
    threshold, pairs taken in the order of their IoU.

    Returns:
        ``area_iou`` and ``area_f1``, means over the classes that both or one of them has;
        ``classes.<name>.{iou,f1,precision,recall}`` by area, ``.objects_50`` and ``.objects_75`` by
        polygon at IoU 0.5 and 0.75 (``f1, precision, recall, matched``), ``.truths``, ``.found``;
        and the pooled ``objects_50`` and ``objects_75``.

    Raises:
        DataError: if they cannot be brought to one map, or share no class.
    """
    tables = (read_table_of(prediction, found_reading), read_table_of(truth, true_reading))
    found, true = (
        _by_class(table, path, reading, progress)
        for table, path, reading in zip(
            _on_one_map(*tables, prediction, truth),
            (prediction, truth),
            (found_reading, true_reading),
            strict=True,
        )
    )
    if not set(found) & set(true):
        raise DataError(
            f"{prediction} holds {', '.join(sorted(found))}, {truth} {', '.join(sorted(true))}: no "
            "class is in both; --label-field names the field of the classes"
        )
    lacking = sorted(set(found) - set(true))
    if lacking:
        progress.warn(f"{truth}: has no {', '.join(lacking)}; polygons of that are not judged")
    progress.note("polygons are compared by their areas and one by one; no boxes are made of them")
    nothing = np.empty(0, dtype=object)
    records = {name: _compare(found.get(name, nothing), true[name]) for name in sorted(true)}
    classes = {name: record.figures() for name, record in records.items()}
    return {
        "area_iou": mean_known(figures["iou"] for figures in classes.values()),
        "area_f1": mean_known(figures["f1"] for figures in classes.values()),
        "classes": classes,
        **_objects(list(records.values())),
    }


@dataclass(frozen=True)
class _Comparison:
    """Figures of the areas of a class, and its polygons: all, and matched at each threshold."""

    areas: Mapping[str, float | None]
    found: int
    true: int
    matched: Mapping[str, int]

    def figures(self) -> dict[str, Any]:
        return {**self.areas, **_objects([self]), "truths": self.true, "found": self.found}


def _compare(found: NDArray[Any], true: NDArray[Any]) -> _Comparison:
    matched = {key: count_matches(found, true, iou) for key, iou in _IOUS.items()}
    return _Comparison(area_figures(found, true), len(found), len(true), matched)


def _objects(records: Sequence[_Comparison]) -> dict[str, Any]:
    """Return the figures of polygons, pooled, by the threshold."""
    found, true = sum(record.found for record in records), sum(record.true for record in records)
    figures = {}
    for key in _IOUS:
        matched = sum(record.matched[key] for record in records)
        shares = figures_of(matched, found=found, true=true)
        del shares["iou"]  # of polygons that count as found or not, it says nothing more
        figures[f"objects_{key}"] = {**shares, "matched": matched}
    return figures


def _by_class(
    table: geopandas.GeoDataFrame, path: str, reading: BoxReading, progress: Progress
) -> dict[str, NDArray[Any]]:
    """Return the polygons of each class."""
    names = np.array(class_names_of(table, path, reading), dtype=object)
    single = single_polygons(table.geometry.to_numpy())
    if len(single.polygons) == 0:
        raise DataError(f"{path}: holds no polygons")
    for note in single.notes(path):
        progress.note(note)
    of_polygons = names[single.rows]
    has_name = np.array([name is not None for name in of_polygons], dtype=bool)
    if not has_name.all():
        progress.note(f"{path}: {(~has_name).sum()} polygons without a class are left out")
    classes = sorted(set(of_polygons[has_name]))
    return {name: single.polygons[of_polygons == name] for name in classes}


def _on_one_map(
    found: geopandas.GeoDataFrame, true: geopandas.GeoDataFrame, prediction: str, truth: str
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    crs = [
        crs_wkt_of(table, path)
        for table, path in zip((found, true), (prediction, truth), strict=True)
    ]
    if (crs[0] is None) != (crs[1] is None):
        raise DataError(
            f"{prediction} and {truth}: one has a CRS and the other has none; state it "
            "(ogr2ogr -a_srs)"
        )
    if crs[0] is None:
        return found, true
    target = found.crs
    if target.is_geographic:
        middle = np.mean(found.total_bounds[1::2])
        target = f"+proj=cea +lat_ts={middle:.3f} +datum=WGS84"
    with reading(truth, f"cannot be brought to the map of {prediction}", raises=DataError):
        return found.to_crs(target), true.to_crs(target)
