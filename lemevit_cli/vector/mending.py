"""Valid single polygons of whatever geometries a layer holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

_FARTHEST = 1e15  # of any map: what lies beyond is no place, and squares of it are no numbers


@dataclass(frozen=True, eq=False)
class SinglePolygons:
    """Valid polygons, taken out of geometries.

    Args:
        polygons: in the order of the geometries.
        rows: the geometry that each is from.
        mended: rows of those that were not valid.
        lost: rows of polygons that have no area, or coordinates that are no numbers or lie beyond
            any map.
        others: rows that hold something else, lines or points.
        missing: rows without a geometry, with an empty one, or one that cannot be read.
    """

    polygons: NDArray
    rows: NDArray[np.int64]
    mended: NDArray[np.int64]
    lost: NDArray[np.int64]
    others: NDArray[np.int64]
    missing: NDArray[np.int64]

    def notes(self, path: str, *, among: NDArray[np.int64] | None = None) -> tuple[str, ...]:
        """Return what was mended and what was left out, by number, a line each.

        Args:
            path: what messages call the layer.
            among: rows that matter of those mended; None counts all.
        """
        mended = self.mended if among is None else np.intersect1d(self.mended, among)
        counts = (
            (np.unique(mended), "cross or touch themselves; what an outline encloses an odd number "
             "of times counts"),
            (self.lost, "have no area, or coordinates that are no numbers, or none of any map, and "
             "are left out"),
            (self.others, "hold lines or points, which are left out"),
            (self.missing, "have no geometry that can be read, and are left out"),
        )  # fmt: skip
        return tuple(f"{path}: {len(r)} of its features {what}" for r, what in counts if len(r))


def single_polygons(geometries: NDArray) -> SinglePolygons:
    """Take collections apart and mend polygons that cross themselves.

    What an outline encloses an odd number of times belongs to the polygon, as GDAL and QGIS fill
    it (Shapely's ``make_valid(method="linework")``): both lobes of an eight stay, a hole stays a
    hole. Its other method, "structure", fills what is enclosed twice, such as the middle of a
    pentagram, which neither of them does. Parts of a multipolygon are polygons by themselves.
    Lines and points that mending leaves have no area and are dropped. Valid polygons stay as they
    are, corner by corner.
    """
    is_missing = shapely.is_missing(geometries) | shapely.is_empty(geometries)
    missing, rows = np.flatnonzero(is_missing), np.flatnonzero(~is_missing)
    parts, rows = _take_apart(shapely.force_2d(geometries[rows]), rows)
    is_polygon = shapely.get_type_id(parts) == shapely.GeometryType.POLYGON
    others = rows[~is_polygon]
    parts, rows = parts[is_polygon], rows[is_polygon]
    is_placed = _all_placed(parts)
    lost = [rows[~is_placed]]
    parts, rows = parts[is_placed], rows[is_placed]
    is_valid = shapely.is_valid(parts)
    mended = rows[~is_valid]
    if len(mended):
        parts = parts.copy()
        parts[~is_valid] = shapely.make_valid(parts[~is_valid], method="linework")
        lost.append(rows[shapely.area(parts) == 0])
        parts, rows = _take_apart(parts, rows)
    is_area = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (
        shapely.area(parts) > 0
    )
    gone = np.unique(np.concatenate(lost))
    return SinglePolygons(
        polygons=parts[is_area],
        rows=rows[is_area],
        mended=np.setdiff1d(mended, gone),
        lost=gone,
        others=np.unique(others),
        missing=missing,
    )


def _take_apart(geometries: NDArray, rows: NDArray[np.int64]) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the single geometries of collections, with the row of each."""
    for _ in range(2):  # a collection may hold multipolygons
        geometries, origin = shapely.get_parts(geometries, return_index=True)
        rows = rows[origin]
    is_there = ~shapely.is_empty(geometries)
    return geometries[is_there], rows[is_there]


def _all_placed(polygons: NDArray) -> NDArray[np.bool_]:
    """Say of each polygon whether all its coordinates may be of a map: bounds pass over NaN."""
    xy, owner = shapely.get_coordinates(polygons, return_index=True)
    broken = np.zeros(len(polygons), dtype=bool)
    broken[owner[~(np.abs(xy) < _FARTHEST).all(axis=1)]] = True
    return ~broken
