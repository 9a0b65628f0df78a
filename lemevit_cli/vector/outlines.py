"""Regions of a raster as polygons: outlined once, simplified, summed over, in pixels.

Pixels are ``x`` to the right and ``y`` down, the first one covers 0 to 1 of both. Everything here
takes memory for the polygons and a few rows, whatever the size of the raster.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio.features import shapes
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.raster.gdal import plain_tiles, quiet_without_georeference

NOTHING = 0  # value of pixels that belong to no region
_ROWS_AT_ONCE = 256
_SUMS_AT_ONCE = 8_000_000  # 64 MB, held twice: fewer rows of a wide raster
_AT_ONCE = 50_000  # polygons whose corners are sorted at once
# GEOS leaves out corners whose triangle with their neighbours is smaller than the square of its
# tolerance. Half a pixel is to smooth steps of one pixel, whose triangles are half a pixel large.
_STEP = 1.5
_HAS_COVERAGES = hasattr(shapely, "coverage_simplify") and shapely.geos_version >= (3, 12, 0)


@dataclass(frozen=True)
class Regions:
    """The 4-connected regions of a raster, in the order of their first pixels, row by row.

    Args:
        polygons: ``(N,)`` shapely polygons in pixels, holes kept.
        values: ``(N,)`` int32, what the pixels of each hold.
    """

    polygons: NDArray[Any]
    values: NDArray[np.int32]


def create_draft(path: Path, *, width: int, height: int, dtype: str = "uint8") -> DatasetWriter:
    """Open a raster of one band for what is outlined later; what is never written is 0."""
    with quiet_without_georeference():
        return rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=width,
            height=height,
            count=1,
            dtype=dtype,
            COMPRESS="DEFLATE",
            ZLEVEL=1,
            NUM_THREADS="ALL_CPUS",
            BIGTIFF="IF_SAFER",
            **plain_tiles(width, height),
        )


def outline_regions(path: Path) -> Regions:
    """Outline the 4-connected regions of a raster of one band; ``NOTHING`` is left out.

    GDAL reads the file by rows and the corners gather in flat arrays: memory grows with the
    polygons, not with the pixels.
    """
    corners = array("d")
    ring_ends, polygon_ends, values = array("q", [0]), array("q", [0]), array("i")
    with quiet_without_georeference(), rasterio.open(path) as dataset:
        band = rasterio.band(dataset, 1)
        # The band is its own mask: nothing costs no polygon.
        for polygon, value in shapes(band, mask=band, connectivity=4):
            for ring in polygon["coordinates"]:
                corners.extend(chain.from_iterable(ring))
                ring_ends.append(len(corners) // 2)
            polygon_ends.append(len(ring_ends) - 1)
            values.append(int(value))
    polygons = shapely.from_ragged_array(
        shapely.GeometryType.POLYGON,
        np.asarray(corners, np.float64).reshape(-1, 2),
        (np.asarray(ring_ends, np.int64), np.asarray(polygon_ends, np.int64)),
    )
    parts = np.array_split(polygons, 1 + len(polygons) // _AT_ONCE)
    order = np.lexsort(np.concatenate([_first_pixels(part) for part in parts]).T)
    return Regions(polygons[order], np.asarray(values, np.int32)[order])


def _first_pixels(polygons: NDArray[Any]) -> NDArray[np.float64]:
    """Return the leftmost pixel of the top row of each polygon: ``(N, 2)`` column, row."""
    if len(polygons) == 0:
        return np.empty((0, 2))
    rings = shapely.get_exterior_ring(polygons)
    xy, owner = shapely.get_coordinates(rings, return_index=True)
    order = np.lexsort((xy[:, 0], xy[:, 1], owner))
    first = np.searchsorted(owner[order], np.arange(len(polygons)))
    pixels: NDArray[np.float64] = xy[order][first]
    return pixels


def sums_within(polygons: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Sum a raster of whole numbers over the pixels of each polygon, exactly.

    No pixel is given a label. Green's theorem on a grid: the sum within a ring is that of the
    running sums ``S`` (all pixels above and to the left of a corner) along its vertical edges,
    ``S(end) - S(start)``, down counted against up. So each strip of the raster answers for the
    corners in it, and polygons may be as many and as large as they like.

    Args:
        polygons: ``(N,)`` as :func:`outline_regions` gives them: corners are whole numbers, edges
            vertical or horizontal.
        path: a raster of one band of unsigned integers, on the same grid.
    """
    rings, ring_owner = shapely.get_rings(polygons, return_index=True)
    xy, owner = shapely.get_coordinates(rings, return_index=True)
    col, row = xy.astype(np.int64).T
    running = np.zeros(len(col), np.int64)
    order = np.argsort(row, kind="stable")
    for top, above in _running_sums(path):
        bottom = top + len(above)
        here = order[slice(*np.searchsorted(row[order], (top, bottom)))]
        running[here] = above[row[here] - top, col[here]]
    is_vertical = (owner[1:] == owner[:-1]) & (col[1:] == col[:-1])
    turned = np.zeros(len(rings), np.int64)
    np.add.at(turned, owner[1:][is_vertical], np.diff(running)[is_vertical])
    sums = np.zeros(len(polygons), np.int64)
    # shapely gives each polygon's exterior first, then its holes; numbers are not negative.
    is_exterior = np.diff(ring_owner, prepend=-1) != 0
    np.add.at(sums, ring_owner, np.where(is_exterior, np.abs(turned), -np.abs(turned)))
    return sums


def _running_sums(path: Path) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield sums above and left of every corner, ``(rows, width + 1)``, after their first row.

    The corners below the last row of pixels are a row of their own.
    """
    with quiet_without_georeference(), rasterio.open(path) as dataset:
        above = np.zeros((1, dataset.width + 1), np.int64)
        at_once = max(1, min(_ROWS_AT_ONCE, _SUMS_AT_ONCE // dataset.width))
        for top in range(0, dataset.height, at_once):
            rows = min(at_once, dataset.height - top)
            pixels = dataset.read(1, window=RasterioWindow(0, top, dataset.width, rows))
            sums = np.zeros((rows + 1, dataset.width + 1), np.int64)
            np.cumsum(pixels, axis=0, dtype=np.int64, out=sums[1:, 1:])
            np.cumsum(sums, axis=1, out=sums)
            sums += above
            yield top, sums[:-1]
            above = sums[-1:].copy()
        yield dataset.height, above


def simplify_polygons(
    regions: Regions, tolerance: float, *, sides: tuple[float, float] = (1.0, 1.0)
) -> NDArray[Any]:
    """Draw polygons with fewer corners; none comes to lie over another, and all stay valid.

    Regions of one value touch at corners at most. Each is simplified by itself (Douglas and
    Peucker: the outline moves by less than the tolerance), and keeps its outline where it would
    reach into another. Neighbours of different values share edges, which are simplified once for
    both (Visvalingam and Whyatt) where GEOS can.

    Args:
        tolerance: in the unit of ``sides``; 0 leaves every corner.
        sides: of a pixel, along rows and down columns.
    """
    polygons = regions.polygons
    if tolerance <= 0 or len(polygons) == 0:
        return polygons
    scaled = shapely.transform(polygons, lambda xy: xy * sides)
    if len(np.unique(regions.values)) > 1 and _HAS_COVERAGES:
        drawn = shapely.coverage_simplify(scaled, _STEP * tolerance)
    else:
        drawn = shapely.simplify(scaled, tolerance, preserve_topology=True)
        is_thinner = shapely.get_num_coordinates(drawn) < shapely.get_num_coordinates(scaled)
        while (is_invalid := is_thinner & (~shapely.is_valid(drawn) | _reaching_over(drawn))).any():
            drawn[is_invalid], is_thinner[is_invalid] = scaled[is_invalid], False
    # Corners are only left out: those that stay are whole numbers.
    return shapely.transform(drawn, lambda xy: np.round(xy / sides))


def _reaching_over(polygons: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the polygons ``(N,)`` that share more than an edge with another."""
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    one, other = one[one < other], other[one < other]
    overlap = shapely.relate_pattern(polygons[one], polygons[other], "T********")
    reaching = np.zeros(len(polygons), bool)
    reaching[one[overlap]] = reaching[other[overlap]] = True
    return reaching
