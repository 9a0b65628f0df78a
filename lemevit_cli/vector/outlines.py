"""Regions of a raster as polygons: outlined once, simplified, summed over, in pixels.

Pixels are ``x`` to the right and ``y`` down, the first one covers 0 to 1 of both. Everything here
takes memory for the polygons and some rows, whatever the size of the raster.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize, shapes
from rasterio.io import DatasetWriter
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.raster.gdal import TILE_SIZE, plain_tiles, quiet_without_georeference

NOTHING = 0  # value of pixels that belong to no region
_ROWS_AT_ONCE = 256
_SUMS_AT_ONCE = 8_000_000  # 64 MB, held twice: fewer rows of a wide raster
_OUTLINED_AT_ONCE = 8_000_000  # pixels
_CORNERS_AT_ONCE = 1_000_000  # of polygons that are in memory as such
_TRIED_AT_ONCE = 4_000_000  # corners of pixels that edges pass through
_POINTS_AT_ONCE = 50_000
# GEOS leaves out corners whose triangle with their neighbours is smaller than the square of its
# tolerance. Half a pixel is to smooth steps of one pixel, whose triangles are half a pixel large.
_STEP = 1.5
_AS_IT_IS = Affine.identity()
_HAS_COVERAGES = hasattr(shapely, "coverage_simplify") and shapely.geos_version >= (3, 12, 0)

_Shape = tuple[dict[str, Any], float]  # GeoJSON of a polygon, its value


@dataclass(frozen=True)
class Regions:
    """The 4-connected regions of a raster, in the order of their first pixels, row by row.

    They are kept as corners alone: a polygon of shapely takes several times their memory.

    Args:
        corners: ``(C, 2)`` in pixels, ring after ring, each closed.
        ring_ends: ``(R + 1,)``, where the corners of each ring end; the first is 0.
        polygon_ends: ``(N + 1,)``, where the rings of each region end, the exterior its first;
            the first is 0.
        values: ``(N,)`` int32, what the pixels of each hold.
    """

    corners: NDArray[Any]
    ring_ends: NDArray[np.int64]
    polygon_ends: NDArray[np.int64]
    values: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.values)

    @property
    def corner_ends(self) -> NDArray[np.int64]:
        """Return where the corners of each region end, ``(N + 1,)``."""
        return self.ring_ends[self.polygon_ends]

    @property
    def polygons(self) -> NDArray[Any]:
        """Return them as shapely polygons ``(N,)`` in pixels, holes kept."""
        ends = (self.ring_ends, self.polygon_ends)
        corners = self.corners.astype(np.float64)
        return shapely.from_ragged_array(shapely.GeometryType.POLYGON, corners, ends)

    def take(self, indices: NDArray[np.intp]) -> Regions:
        """Return some of them, in the order of the indices."""
        rings, polygon_ends = _take_groups(self.polygon_ends, indices)
        corners, ring_ends = _take_groups(self.ring_ends, rings)
        return Regions(self.corners[corners], ring_ends, polygon_ends, self.values[indices])

    def parts(self) -> Iterator[Regions]:
        """Yield them in their order, so many at a time as may be polygons in memory; once at least.

        A part of a single region may be of any size.
        """
        ends, first = self.corner_ends, 0
        while True:
            stop = int(np.searchsorted(ends, ends[first] + _CORNERS_AT_ONCE, side="right")) - 1
            stop = min(max(stop, first + 1), len(self))
            yield self.take(np.arange(first, stop))
            if stop == len(self):
                return
            first = stop


NO_REGIONS = Regions(
    np.empty((0, 2), np.int32), np.zeros(1, np.int64), np.zeros(1, np.int64), np.empty(0, np.int32)
)


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

    GDAL keeps all polygons of a call until its end, in many times the memory of their corners: it
    is called for strips of the raster, and once more for the regions that reach from one into
    another, which gather in a draft beside the raster.
    """
    outlines = _Outlines()
    with quiet_without_georeference(), rasterio.open(path) as dataset:
        step = _strip_height(dataset.width)
        if dataset.height <= step:
            outlines.add(_shapes_of(rasterio.band(dataset, 1)))
            return outlines.regions()
        rest = path.with_name(f"{path.name}.rest.tif")
        with create_draft(rest, width=dataset.width, height=dataset.height) as draft:
            for top in range(0, dataset.height, step):
                rows = min(step, dataset.height - top)
                window = RasterioWindow(0, top, dataset.width, rows)
                pixels, place = dataset.read(1, window=window), Affine.translation(0, top)
                seams = {top, top + rows} - {0, dataset.height}
                if reaching := outlines.add(_shapes_of(pixels, place), seams=seams):
                    shares = rasterize(reaching, pixels.shape, transform=place, dtype="uint8")
                    draft.write(shares, 1, window=window)
    with quiet_without_georeference(), rasterio.open(rest) as dataset:
        outlines.add(_shapes_of(rasterio.band(dataset, 1)))
    rest.unlink()
    return outlines.regions()


def _strip_height(width: int) -> int:
    """Return the rows that are outlined at once: whole rows of tiles."""
    return max(1, _OUTLINED_AT_ONCE // (TILE_SIZE * width)) * TILE_SIZE


def _shapes_of(band: Any, place: Affine = _AS_IT_IS) -> Iterator[_Shape]:
    # The band is its own mask: nothing costs no polygon.
    return shapes(band, mask=band, connectivity=4, transform=place)


class _Outlines:
    """Gathers polygons as GDAL gives them; corners of pixels are whole numbers."""

    def __init__(self) -> None:
        self._corners, self._values = array("i"), array("i")
        self._ring_ends, self._polygon_ends = array("q", [0]), array("q", [0])

    def add(self, found: Iterable[_Shape], *, seams: Collection[int] = ()) -> list[_Shape]:
        """Take polygons with their values, but those that reach a row of seams: return them."""
        reaching = []
        for polygon, value in found:
            rings = [np.array(ring, np.int32) for ring in polygon["coordinates"]]
            rows = rings[0][:, 1]
            if rows.min() in seams or rows.max() in seams:
                reaching.append((polygon, value))
                continue
            for ring in rings:
                self._corners.frombytes(ring.tobytes())
                self._ring_ends.append(len(self._corners) // 2)
            self._polygon_ends.append(len(self._ring_ends) - 1)
            self._values.append(int(value))
        return reaching

    def regions(self) -> Regions:
        """Return all, in the order of their first pixels."""
        regions = Regions(
            np.frombuffer(self._corners, np.int32).reshape(-1, 2),
            np.frombuffer(self._ring_ends, np.int64),
            np.frombuffer(self._polygon_ends, np.int64),
            np.frombuffer(self._values, np.int32),
        )
        return regions.take(np.lexsort(_first_pixels(regions).T))


def _first_pixels(regions: Regions) -> NDArray[np.int32]:
    """Return the leftmost pixel of the top row of each region: ``(N, 2)`` column, row."""
    first = np.empty((len(regions), 2), np.int32)
    if len(regions) == 0:
        return first
    begins = regions.corner_ends[:-1]
    col, row = regions.corners.T
    # Holes lie below the top row and to the right of its first pixel: all corners may be asked.
    first[:, 1] = np.minimum.reduceat(row, begins)
    on_top = row == np.repeat(first[:, 1], np.diff(regions.corner_ends))
    first[:, 0] = np.minimum.reduceat(np.where(on_top, col, np.iinfo(np.int32).max), begins)
    return first


def _take_groups(
    ends: NDArray[np.int64], groups: NDArray[np.intp]
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """Return the members of some groups, and where each of these groups ends among them.

    Args:
        ends: ``(N + 1,)``, where the members of each of all groups end; the first is 0.
    """
    counts = np.diff(ends)[groups]
    new_ends = np.concatenate([[0], np.cumsum(counts)])
    # One after the other within a group, and a leap to the first of the next: no group is empty.
    members = np.ones(new_ends[-1], np.int64)
    firsts, lasts = ends[groups], ends[groups] + counts - 1
    members[new_ends[:-1]] = firsts - np.concatenate([[0], lasts])[:-1]
    return np.cumsum(members, out=members), new_ends


def areas_of(regions: Regions) -> NDArray[np.int64]:
    """Count the pixels of each region."""
    col, row = regions.corners.T
    # The shoelace formula along vertical edges: the area is that between them and column 0.
    steps = np.zeros(len(row), np.int64)
    np.subtract(row[1:], row[:-1], out=steps[1:])
    steps *= col
    steps[regions.ring_ends[:-1]] = 0
    return _sums_of_regions(steps, regions)


def sums_within(regions: Regions, path: Path) -> NDArray[np.int64]:
    """Sum a raster of whole numbers over the pixels of each region, exactly.

    No pixel is given a label. Green's theorem on a grid: the sum within a ring is that of the
    running sums ``S`` (all pixels above and to the left of a corner) along its vertical edges,
    ``S(end) - S(start)``, down counted against up. So each strip of the raster answers for the
    corners in it, and regions may be as many and as large as they like.

    Args:
        path: a raster of one band of unsigned integers, on the same grid.
    """
    col = regions.corners[:, 0]
    steps = _sums_above_and_left(regions.corners, path)
    steps[1:] -= steps[:-1].copy()
    # Along rows nothing counts, nor from one ring to the next.
    steps[1:][col[1:] != col[:-1]] = 0
    steps[regions.ring_ends[:-1]] = 0
    return _sums_of_regions(steps, regions)


def _sums_above_and_left(corners: NDArray[Any], path: Path) -> NDArray[np.int64]:
    """Return the sum of all pixels above and to the left of each corner, ``(C,)``."""
    col, row = corners.T
    running = np.zeros(len(col), np.int64)
    order = np.argsort(row, kind="stable")
    sorted_rows = row[order]
    for top, above in _running_sums(path):
        bottom = top + len(above)
        here = order[slice(*np.searchsorted(sorted_rows, (top, bottom)))]
        running[here] = above[row[here] - top, col[here]]
    return running


def _sums_of_regions(steps: NDArray[np.int64], regions: Regions) -> NDArray[np.int64]:
    """Sum what stands at corners along each ring; exteriors count, and holes are taken away.

    Rings may run either way round: what is summed is not negative.
    """
    if len(regions) == 0:
        return np.zeros(0, np.int64)
    of_rings = np.abs(np.add.reduceat(steps, regions.ring_ends[:-1]))
    is_hole = np.ones(len(of_rings), bool)
    is_hole[regions.polygon_ends[:-1]] = False
    sums: NDArray[np.int64] = np.add.reduceat(
        np.where(is_hole, -of_rings, of_rings), regions.polygon_ends[:-1]
    )
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


def simplify_regions(
    regions: Regions, tolerance: float, *, sides: tuple[float, float] = (1.0, 1.0)
) -> Regions:
    """Draw regions with fewer corners; none comes to lie over another, and all stay valid.

    Regions of one value touch at corners at most. Each is simplified by itself (Douglas and
    Peucker: the outline moves by less than the tolerance), and keeps its outline where it would
    reach into another. Neighbours of different values share edges, which are simplified once for
    both (Visvalingam and Whyatt) where GEOS can: nothing comes to lie between them. Of more that
    hang together than are in memory at once, some edges between two keep their steps.

    Args:
        tolerance: in the unit of ``sides``; 0 leaves every corner.
        sides: of a pixel, along rows and down columns.
    """
    if tolerance <= 0 or len(regions) == 0:
        return regions
    share_edges = len(np.unique(regions.values)) > 1 and _HAS_COVERAGES
    if share_edges:
        # To GEOS an edge is shared if both have the same corners on it.
        regions = with_touching_corners(regions)
    order, drawn = [], []
    for part, is_whole in _parts_that_meet(regions, cut=share_edges):
        polygons = regions.take(part).polygons
        if share_edges:
            polygons = _simplify_together(polygons, tolerance, sides, is_whole=is_whole)
        else:
            polygons = _simplify_each(polygons, tolerance, sides)
        order.append(part)
        drawn.append(shapely.to_ragged_array(polygons)[1:])
    corners, ends = zip(*drawn, strict=True)
    ring_ends, polygon_ends = (_join_ends(of_parts) for of_parts in zip(*ends, strict=True))
    # Corners are only left out: those that stay are whole numbers.
    whole = np.concatenate(corners).astype(np.int32)
    joined = np.concatenate(order)
    thin = Regions(whole, ring_ends, polygon_ends, regions.values[joined]).take(np.argsort(joined))
    # A corner amid an edge would come to lie on either side of it, rounded on the map.
    return with_touching_corners(thin)


def with_touching_corners(regions: Regions) -> Regions:
    """Put a corner on every edge wherever a corner of any ring lies on it, exactly."""
    corners = regions.corners.astype(np.int64)
    steps = np.diff(corners, axis=0, append=corners[-1:])
    steps[regions.ring_ends[1:] - 1] = 0  # from one ring to the next is no edge
    whole_steps = np.gcd(*np.abs(steps).T)  # an edge of n passes through n - 1 corners of pixels
    known = np.unique(_keys(corners))
    places, added = [], []
    inner = np.maximum(whole_steps - 1, 0)
    for first, stop in _slices(inner, _TRIED_AT_ONCE):
        counts = inner[first:stop]
        edges = np.repeat(np.arange(first, stop), counts)
        nth = 1 + np.arange(len(edges)) - np.repeat(np.cumsum(counts) - counts, counts)
        points = (
            corners[edges] + steps[edges] // whole_steps[edges, np.newaxis] * nth[:, np.newaxis]
        )
        keys = _keys(points)
        is_known = known[np.minimum(np.searchsorted(known, keys), len(known) - 1)] == keys
        places.append(edges[is_known] + 1)
        added.append(points[is_known])
    if not any(map(len, places)):
        return regions
    place = np.concatenate(places)
    return Regions(
        np.insert(regions.corners, place, np.concatenate(added).astype(np.int32), axis=0),
        regions.ring_ends + np.searchsorted(place, regions.ring_ends, side="left"),
        regions.polygon_ends,
        regions.values,
    )


def _keys(corners: NDArray[np.int64]) -> NDArray[np.int64]:
    return corners[:, 1] << 32 | corners[:, 0]


def _slices(counts: NDArray[np.int64], at_once: int) -> Iterator[tuple[int, int]]:
    """Yield slices whose counts sum to so many at most, or that hold one count."""
    ends, first = np.cumsum(counts), 0
    while first < len(counts):
        before = int(ends[first - 1]) if first else 0
        stop = max(int(np.searchsorted(ends, before + at_once, side="right")), first + 1)
        yield first, stop
        first = stop


def holes_of(regions: Regions) -> tuple[Regions, NDArray[np.intp]]:
    """Return all holes as regions of their own, and the place of each among the rings."""
    is_hole = np.ones(len(regions.ring_ends) - 1, bool)
    is_hole[regions.polygon_ends[:-1]] = False
    rings = np.flatnonzero(is_hole)
    corners, ring_ends = _take_groups(regions.ring_ends, rings)
    ends = np.arange(len(rings) + 1, dtype=np.int64)
    return Regions(regions.corners[corners], ring_ends, ends, np.zeros(len(rings), np.int32)), rings


def without_holes(regions: Regions, rings: NDArray[np.intp]) -> tuple[Regions, NDArray[np.bool_]]:
    """Fill some holes, which takes the place of the regions that lie in them.

    Args:
        rings: of the holes, as :func:`holes_of` gives them.

    Returns:
        The M regions that are left, and which of the N they are.
    """
    holes, of_all = holes_of(regions)
    holes = holes.take(np.flatnonzero(np.isin(of_all, rings)))
    stays = ~_lie_within(regions, holes)
    is_kept = np.ones(len(regions.ring_ends) - 1, bool)
    is_kept[rings] = False
    corners, ring_ends = _take_groups(regions.ring_ends, np.flatnonzero(is_kept))
    polygon_ends = np.concatenate([[0], np.cumsum(is_kept)])[regions.polygon_ends]
    filled = Regions(regions.corners[corners], ring_ends, polygon_ends, regions.values)
    return filled.take(np.flatnonzero(stays)), stays


def _lie_within(regions: Regions, holes: Regions) -> NDArray[np.bool_]:
    """Mark the regions that lie in one of some holes: with one pixel, and so with all."""
    within = np.zeros(len(regions), bool)
    if len(holes) == 0:
        return within
    first = _first_pixels(regions)
    for part in holes.parts():
        tree = shapely.STRtree(part.polygons)
        for start in range(0, len(regions), _POINTS_AT_ONCE):
            points = shapely.points(first[start : start + _POINTS_AT_ONCE] + 0.5)
            inside, _ = tree.query(points, predicate="within")
            within[start + inside] = True
    return within


def _simplify_together(
    polygons: NDArray[Any], tolerance: float, sides: tuple[float, float], *, is_whole: bool
) -> NDArray[Any]:
    """Simplify polygons that share edges, in pixels; their outer edges too if all are there."""
    # Triangles decide by their area, which is as many times that in pixels for all of them.
    step = _STEP * tolerance / math.sqrt(sides[0] * sides[1])
    while step >= 0.5:  # smaller than half a pixel no triangle is
        drawn: NDArray[Any] = shapely.coverage_simplify(polygons, step, simplify_boundary=is_whole)
        if shapely.is_valid(drawn).all():
            return drawn
        step /= 2
    return polygons


def _simplify_each(
    polygons: NDArray[Any], tolerance: float, sides: tuple[float, float]
) -> NDArray[Any]:
    """Simplify polygons that touch at corners at most, in pixels."""
    scaled = shapely.transform(polygons, lambda xy: xy * sides)
    scaled = shapely.simplify(scaled, tolerance, preserve_topology=True)
    # Rounded to whole numbers, what was valid may touch itself.
    drawn = shapely.transform(scaled, lambda xy: np.round(xy / sides))
    is_thinner = shapely.get_num_coordinates(drawn) < shapely.get_num_coordinates(polygons)
    while (is_invalid := is_thinner & (~shapely.is_valid(drawn) | _reaching_over(drawn))).any():
        drawn[is_invalid], is_thinner[is_invalid] = polygons[is_invalid], False
    return drawn


def _join_ends(of_parts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Return where groups end in parts joined, of where they end in each; all begin with 0."""
    counts = [np.diff(ends) for ends in of_parts]
    return np.concatenate([[0], np.cumsum(np.concatenate(counts))])


def _parts_that_meet(regions: Regions, *, cut: bool) -> Iterator[tuple[NDArray[np.intp], bool]]:
    """Yield parts that are simplified by themselves, and whether all that meets one is in it.

    A corner may go or stay for what lies in the triangle with its neighbours, within the bounds of
    its region: those whose bounds meet are in one part, as many as are in memory at once.

    Args:
        cut: into several parts what meets, but is more; else it is one.
    """
    groups = _groups_that_meet(regions)
    order = np.argsort(groups, kind="stable")
    counts = np.diff(regions.corner_ends)[order]
    begins = np.flatnonzero(np.diff(groups[order], prepend=-1))
    of_groups = np.add.reduceat(counts, begins)
    ends = np.append(begins, len(order))
    for first, stop in _slices(of_groups, _CORNERS_AT_ONCE):
        part = order[ends[first] : ends[stop]]
        if not cut or of_groups[first:stop].sum() <= _CORNERS_AT_ONCE:
            yield np.sort(part), True
            continue
        for some, others in _slices(counts[ends[first] : ends[stop]], _CORNERS_AT_ONCE):
            yield part[some:others], False


def _groups_that_meet(regions: Regions) -> NDArray[np.intp]:
    """Return a number of each region, one for all whose bounds meet, directly or through others."""
    begins = regions.corner_ends[:-1]
    ends = [which.reduceat(regions.corners, begins) for which in (np.minimum, np.maximum)]
    # The index compares bounds: those of a diagonal take least memory.
    diagonals = shapely.linestrings(np.stack(ends, axis=1).astype(np.float64))
    one, other = shapely.STRtree(diagonals).query(diagonals)
    groups = np.arange(len(regions))
    while True:
        smallest = groups.copy()
        np.minimum.at(smallest, one, groups[other])
        smallest = smallest[smallest]
        if (smallest == groups).all():
            return groups
        groups = smallest


def _reaching_over(polygons: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark the polygons ``(N,)`` that share more than an edge with another."""
    one, other = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    one, other = one[one < other], other[one < other]
    overlap = shapely.relate_pattern(polygons[one], polygons[other], "T********")
    reaching = np.zeros(len(polygons), bool)
    reaching[one[overlap]] = reaching[other[overlap]] = True
    return reaching
