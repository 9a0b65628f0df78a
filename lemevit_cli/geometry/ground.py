"""Metres on the ground: areas and lengths of what lies in a CRS.

Areas are taken on the CRS's own ellipsoid: points go to longitude and latitude, from there to the
ellipsoid's cylindrical equal-area plane (Snyder, Map Projections, USGS 1395, p. 81), where the
shoelace formula gives them. That keeps nine digits for a pixel of 10 cm, where geodesic polygon
formulas, which sum areas down to the equator, keep two. Lengths are geodesics.

What lies outside the CRS's domain (beyond a pole, far outside a projection) has no metres: NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import ArrayLike, NDArray

from lemevit_cli.geometry.georeference import Georeference

# Straight in the map is curved in the equal-area plane; edges shorter than this differ by less
# than a millionth of the area.
_MAX_EDGE_M = 2_000.0
_CORNERS_AT_ONCE = 1_000_000  # measuring one takes 150 bytes
_NORTHWARD_RAD = 1e-6  # 6 m: far above rounding, below any curvature of a meridian


def is_tied_to_earth(crs_wkt: str | None) -> bool:
    """Say whether positions in the CRS are places on the earth (geographic or projected)."""
    return crs_wkt is not None and _horizontal_crs(crs_wkt) is not None


def pixel_area_m2(georeference: Georeference, *, col: float, row: float) -> float | None:
    """Measure the ground area of a pixel-sized square centred on ``(col, row)``, in pixels.

    None where the raster has no transform, no CRS tied to the earth, or the square leaves the
    CRS's domain.
    """
    if georeference.transform is None or not is_tied_to_earth(georeference.crs_wkt):
        return None
    corners = [(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)]
    pixel = shapely.Polygon([georeference.transform @ (col + x, row + y) for x, y in corners])
    area = float(polygon_areas_m2([pixel], georeference.crs_wkt)[0])
    return area if np.isfinite(area) else None


def polygon_areas_m2(
    geometries: Sequence[Any] | NDArray, crs_wkt: str | None
) -> NDArray[np.float64]:
    """Measure the ground areas of shapely polygons or multipolygons, holes subtracted.

    Edges are straight in the CRS, as the edges of pixels are. In a projected CRS a polygon may
    cross the antimeridian or hold a pole. In degrees an edge is as long as it is drawn: one from
    179 to 181 crosses the antimeridian, one from 179 to -179 goes round the globe.

    Returns:
        ``(N,)`` in m2, NaN outside the CRS's domain, 0 for what is empty.

    Raises:
        ValueError: if the CRS is not tied to the earth.
    """
    crs = _require_horizontal(crs_wkt)
    polygons, polygon_owner = shapely.get_parts(np.asarray(geometries, object), return_index=True)
    rings, ring_owner = shapely.get_rings(polygons, return_index=True)
    areas = np.zeros(len(geometries))
    if len(rings) == 0:
        return areas
    ring_areas = np.concatenate([_ring_areas(rings[part], crs) for part in _some_rings(rings)])
    # shapely gives each polygon's exterior first, then its holes.
    is_exterior = np.diff(ring_owner, prepend=-1) != 0
    np.add.at(areas, polygon_owner[ring_owner], np.where(is_exterior, ring_areas, -ring_areas))
    return areas


def polygon_perimeters_m(
    geometries: Sequence[Any] | NDArray, crs_wkt: str | None
) -> NDArray[np.float64]:
    """Measure the outlines of shapely polygons on the ground, those of holes too.

    Returns:
        ``(N,)`` in metres, NaN outside the CRS's domain, 0 for what is empty.

    Raises:
        ValueError: if the CRS is not tied to the earth.
    """
    crs = _require_horizontal(crs_wkt)
    rings, polygon_of = shapely.get_rings(np.asarray(geometries, object), return_index=True)
    perimeters = np.zeros(len(geometries))
    for part in _some_rings(rings):
        metres, ring_of = _edges_m(rings[part], crs)
        np.add.at(perimeters, polygon_of[part][ring_of], metres)
    return perimeters


def _edges_m(rings: NDArray, crs: pyproj.CRS) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Return the length of every edge of rings in map units, and the ring that it belongs to."""
    xy, ring_of = shapely.get_coordinates(rings, return_index=True)
    lon, lat = _to_lonlat(xy, crs)
    edges = ring_of[1:] == ring_of[:-1]
    metres = np.full(int(edges.sum()), np.nan)
    ends = (lon[:-1][edges], lat[:-1][edges], lon[1:][edges], lat[1:][edges])
    inside = np.isfinite(np.sum(ends, axis=0))
    lon_from, lat_from, lon_to, lat_to = (end[inside] for end in ends)
    metres[inside] = _geod(crs).inv(lon_from, lat_from, lon_to, lat_to, radians=True)[2]
    return metres, ring_of[1:][edges]


def _some_rings(rings: NDArray) -> list[NDArray[np.intp]]:
    """Return indices of rings that are measured at once: a polygon may have a million holes."""
    parts = 1 + int(shapely.get_num_coordinates(rings).sum()) // _CORNERS_AT_ONCE
    return np.array_split(np.arange(len(rings)), parts)


def lengths_m(xy_from: ArrayLike, xy_to: ArrayLike, crs_wkt: str | None) -> NDArray[np.float64]:
    """Measure geodesic distances between pairs of points.

    Args:
        xy_from, xy_to: ``(N, 2)`` in map units, x first (longitude first in degrees).

    Returns:
        ``(N,)`` in metres, NaN outside the CRS's domain.

    Raises:
        ValueError: if the CRS is not tied to the earth.
    """
    crs = _require_horizontal(crs_wkt)
    lon_from, lat_from = _to_lonlat(np.asarray(xy_from, float).reshape(-1, 2), crs)
    lon_to, lat_to = _to_lonlat(np.asarray(xy_to, float).reshape(-1, 2), crs)
    inside = np.isfinite(lon_from + lat_from + lon_to + lat_to)
    metres = np.full(len(lon_from), np.nan)
    ends = (lon_from[inside], lat_from[inside], lon_to[inside], lat_to[inside])
    metres[inside] = _geod(crs).inv(*ends, radians=True)[2]
    return metres


def local_metres(xy: ArrayLike, crs_wkt: str | None) -> NDArray[np.float64]:
    """Lay groups of near points out in a plane: metres to the east and north of their first point.

    In a projected CRS the plane is the map, its unit turned to metres. In degrees a point lies as
    far, and in that azimuth, as the geodesic leads to it from the first one.

    Args:
        xy: ``(N, K, 2)`` in map units, x first (longitude first in degrees).

    Returns:
        ``(N, K, 2)``, NaN where a group leaves the CRS's domain.

    Raises:
        ValueError: if the CRS is not tied to the earth.
    """
    crs = _require_horizontal(crs_wkt)
    xy = np.asarray(xy, float)
    if not crs.is_geographic:
        return (xy - xy[:, :1]) * _metres_per_unit(crs)
    lon, lat = (a.reshape(xy.shape[:2]) for a in _to_lonlat(xy.reshape(-1, 2), crs))
    inside = np.isfinite(lon + lat).all(axis=1)
    lon, lat = lon[inside], lat[inside]
    start = np.broadcast_to(lon[:, :1], lon.shape), np.broadcast_to(lat[:, :1], lat.shape)
    azimuth, _, metres = _geod(crs).inv(*start, lon, lat, radians=True)
    plane = np.full(xy.shape, np.nan)
    plane[inside] = np.stack([metres * np.sin(azimuth), metres * np.cos(azimuth)], axis=-1)
    return plane


def pixel_metric_m2(
    georeference: Georeference, *, col: float, row: float
) -> NDArray[np.float64] | None:
    """Return the symmetric ``(2, 2)`` G that gives lengths on the ground near a pixel position.

    A step of ``d = (cols, rows)`` is ``sqrt(d G d)`` metres long, whatever the transform and CRS
    do to pixels. None where :func:`pixel_area_m2` is None.
    """
    if georeference.transform is None or not is_tied_to_earth(georeference.crs_wkt):
        return None
    start = georeference.transform @ (col, row)
    ends = [georeference.transform @ (col + x, row + y) for x, y in ((1, 0), (0, 1), (1, 1))]
    along_row, along_col, across = lengths_m([start] * 3, ends, georeference.crs_wkt) ** 2
    mixed = (across - along_row - along_col) / 2
    metric = np.array([[along_row, mixed], [mixed, along_col]])
    return metric if np.isfinite(metric).all() and np.linalg.det(metric) > 0 else None


def north_in_pixels(
    georeference: Georeference, *, col: float, row: float
) -> tuple[float, float] | None:
    """Return true north's direction at a pixel position: ``(cols, rows)`` of length 1, rows down.

    None where the raster has no transform, no CRS tied to the earth, or the position is outside
    its domain.
    """
    if georeference.transform is None or not is_tied_to_earth(georeference.crs_wkt):
        return None
    crs = _require_horizontal(georeference.crs_wkt)
    here = np.array([georeference.transform @ (col, row)])
    lon, lat = _to_lonlat(here, crs)
    if not np.isfinite(lat).all():
        return None
    north = _from_lonlat(lon, lat + _NORTHWARD_RAD, crs)
    south = _from_lonlat(lon, lat - _NORTHWARD_RAD, crs)
    to_pixels = ~georeference.transform
    (col_to, row_to), (col_from, row_from) = (to_pixels @ tuple(p[0]) for p in (north, south))
    length = float(np.hypot(col_to - col_from, row_to - row_from))
    if not np.isfinite(length) or length == 0:
        return None
    return float(col_to - col_from) / length, float(row_to - row_from) / length


@lru_cache(maxsize=32)
def _horizontal_crs(crs_wkt: str) -> pyproj.CRS | None:
    """Return the geographic or projected part of a CRS, None if it has none."""
    crs = pyproj.CRS.from_wkt(crs_wkt)
    if crs.is_compound:
        crs = crs.sub_crs_list[0]
    if crs.source_crs is not None and crs.is_bound:
        crs = crs.source_crs
    return crs if crs.is_geographic or crs.is_projected else None


def _require_horizontal(crs_wkt: str | None) -> pyproj.CRS:
    crs = None if crs_wkt is None else _horizontal_crs(crs_wkt)
    if crs is None:
        raise ValueError("metres on the ground need a CRS that is tied to the earth")
    return crs


def _metres_per_unit(crs: pyproj.CRS) -> float:
    return crs.axis_info[0].unit_conversion_factor


def _geodetic(crs: pyproj.CRS) -> pyproj.CRS:
    geodetic = crs.geodetic_crs
    if geodetic is None:
        raise ValueError(f"{crs.name} has no geodetic CRS below it")
    return geodetic


def _geod(crs: pyproj.CRS) -> pyproj.Geod:
    geod = crs.get_geod()
    if geod is None:
        raise ValueError(f"{crs.name} has no ellipsoid")
    return geod


def _to_lonlat(xy: NDArray, crs: pyproj.CRS) -> tuple[NDArray, NDArray]:
    """Return longitude and latitude in radians on the CRS's own datum, NaN outside its domain.

    Longitudes may leave [-pi, pi]: only their differences count here.
    """
    lon, lat = xy[:, 0], xy[:, 1]
    if not crs.is_geographic:
        lon, lat = _inverse_projection(crs.to_wkt()).transform(lon, lat)
    radians_per_unit = _geodetic(crs).axis_info[0].unit_conversion_factor
    lon, lat = lon * radians_per_unit, lat * radians_per_unit
    # 1e-9 rad is 6 mm: a global grid's edge may miss the pole by rounding.
    outside = ~np.isfinite(lon) | ~(np.abs(lat) <= np.pi / 2 + 1e-9)
    return np.where(outside, np.nan, lon), np.where(outside, np.nan, lat)


def _from_lonlat(lon: NDArray, lat: NDArray, crs: pyproj.CRS) -> NDArray[np.float64]:
    """Return positions ``(N, 2)`` in map units, of longitudes and latitudes in radians."""
    radians_per_unit = _geodetic(crs).axis_info[0].unit_conversion_factor
    x, y = lon / radians_per_unit, lat / radians_per_unit
    if not crs.is_geographic:
        x, y = _inverse_projection(crs.to_wkt()).transform(x, y, direction="INVERSE")
    return np.column_stack([x, y])


@lru_cache(maxsize=32)
def _inverse_projection(crs_wkt: str) -> pyproj.Transformer:
    crs = pyproj.CRS.from_wkt(crs_wkt)
    return pyproj.Transformer.from_crs(crs, _geodetic(crs), always_xy=True)


def _ring_areas(rings: NDArray, crs: pyproj.CRS) -> NDArray[np.float64]:
    """Measure unsigned areas of closed rings in map units, all at once."""
    if not crs.is_geographic:
        rings = shapely.segmentize(rings, _MAX_EDGE_M / _metres_per_unit(crs))
    xy, owner = shapely.get_coordinates(rings, return_index=True)
    lon, lat = _to_lonlat(xy, crs)
    geod = _geod(crs)
    height = _authalic_height(lat, geod)
    same_ring = owner[1:] == owner[:-1]
    turn = np.where(same_ring, np.diff(lon), 0.0)
    if not crs.is_geographic:
        # The short way round: a projected ring across the antimeridian must not span the globe.
        turn -= 2 * np.pi * np.round(turn / (2 * np.pi))
    first = np.searchsorted(owner, np.arange(len(rings)))
    # Heights above the ring's first point: small numbers, no digits lost.
    above = height - height[first][owner]
    swept = turn * (above[1:] + above[:-1]) / 2 * geod.a
    areas = np.bincount(owner[1:], weights=swept, minlength=len(rings))
    around = np.bincount(owner[1:], weights=turn, minlength=len(rings))
    # A ring around a pole: what lies between it and the pole, not the equator.
    pole = np.copysign(_authalic_height(np.pi / 2, geod), height[first]) - height[first]
    areas = np.where(np.abs(around) > np.pi, around * pole * geod.a - areas, areas)
    return np.abs(areas)


def _authalic_height(lat: Any, geod: pyproj.Geod) -> Any:
    """Return metres of height on the equator's cylinder that keeps areas; odd in ``lat``."""
    sine = np.sin(lat)
    if geod.es == 0:
        return geod.a * sine
    e = np.sqrt(geod.es)
    curved = sine / (1 - geod.es * sine**2) + np.arctanh(e * sine) / e
    return geod.a * (1 - geod.es) / 2 * curved
