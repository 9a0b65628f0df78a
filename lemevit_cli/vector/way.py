"""The way of polygons from the CRS of a layer to pixels of a grid, of those near it alone.

What is far from the scene is left behind in the layer's CRS, where its coordinates are finite; only
what touches the scene's surroundings is cut to them, given points along its edges, and projected.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyproj
import shapely
from numpy.typing import NDArray

from lemevit_cli.geometry.georeference import Bounds
from lemevit_cli.geometry.ground import period_of
from lemevit_cli.vector.placement import Placement

_MARGINS = (0.5, 0.02)  # around the scene, in lengths of its longer side; the first that projects
_POINTS_MARGIN = 0.1  # a polynomial knows nothing of what is far from its points
_BULGE = 0.01  # of the sides of a box
_FAR = 3.0  # diagonals of the scene that its surroundings reach from its centre, at most
_SIDE_PIECES = 16  # of a side that is tried
_SHIFTS = (0, -1, 1)  # turns round the globe between 0 to 360 and -180 to 180
_EDGE_TOLERANCE_PX = 1e-3  # that an edge may leave its curve by
_MOST_PIECES = 4096  # of an edge as long as the scene's surroundings
_BROKEN_PX = 2.0  # an edge that leaves its curve by so much does not follow the map at all


@dataclass(frozen=True)
class Surroundings:
    """The scene and what lies around it, in the layer's CRS.

    Args:
        bounds: west, south, east, north; the east may lie beyond the edge of the world.
        scene: those of the scene alone.
    """

    bounds: Bounds
    scene: Bounds


@dataclass(frozen=True, eq=False)
class Way:
    """Leads polygons from a layer to pixels.

    Args:
        place: of the grid.
        layer_crs: None where the layer's numbers are map units of the grid already.
    """

    place: Placement
    layer_crs: pyproj.CRS | None

    @cached_property
    def _to_map(self) -> pyproj.Transformer | None:
        if self.layer_crs is None or self.place.crs_wkt is None:
            return None
        crs = pyproj.CRS.from_wkt(self.place.crs_wkt)
        if crs.equals(self.layer_crs, ignore_axis_order=True):
            return None
        return pyproj.Transformer.from_crs(self.layer_crs, crs, always_xy=True)

    @cached_property
    def _layer_period(self) -> float | None:
        if self._to_map is None:
            return self.place.period
        return None if self.layer_crs is None else period_of(self.layer_crs.to_wkt())

    @cached_property
    def surroundings(self) -> Surroundings | None:
        """Return where the scene lies in the layer's CRS; None where that cannot hold it whole."""
        margins = (_POINTS_MARGIN, 0.0) if self.place.has_points else _MARGINS
        scene = self._bounds(0.0)
        if scene is None:
            return None
        around = next((b for b in map(self._bounds, margins) if b is not None), scene)
        return Surroundings(around, scene)

    def _bounds(self, margin: float) -> Bounds | None:
        ring, inner = (self._to_layer(points) for points in self.place.outline(margin))
        if ring is None or inner is None:
            return None
        period = self._layer_period
        x, y = ring.T
        if period is not None and self._to_map is not None:
            x = np.unwrap(x, period=period)
            x -= period * np.round((x.min() + x.max()) / 2 / period)
            middle = (x.min() + x.max()) / 2
            inner[:, 0] -= period * np.round((inner[:, 0] - middle) / period)
        west, east = min(x.min(), inner[:, 0].min()), max(x.max(), inner[:, 0].max())
        south, north = min(y.min(), inner[:, 1].min()), max(y.max(), inner[:, 1].max())
        if period is not None and abs(x[-1] - x[0]) > period / 2:  # a pole lies within
            west, east = -period, period
            south, north = (south, period) if y.mean() > 0 else (-period, north)
        # Between the points of its outline a scene bulges.
        bulge = 0.0 if self._to_map is None else _BULGE
        across, down = bulge * (east - west), bulge * (north - south)
        west, south, east, north = west - across, south - down, east + across, north + down
        if period is not None and self.layer_crs is not None and self.layer_crs.is_geographic:
            south, north = max(south, -period / 4), min(north, period / 4)
        bounds = float(west), float(south), float(east), float(north)
        return bounds if self._is_near(bounds) else None

    def _is_near(self, bounds: Bounds) -> bool:
        """Say whether a box comes to lie around the scene: what is cut to it gets its corners."""
        step = (bounds[2] - bounds[0]) / _SIDE_PIECES
        sides = shapely.get_coordinates(shapely.segmentize(shapely.box(*bounds), step))
        ring, _ = self.place.outline()
        low, high = ring.min(axis=0), ring.max(axis=0)
        away = self._distance(self._forward(sides), (low + high) / 2)
        return bool((away <= _FAR * np.hypot(*(high - low))).all())

    def _to_layer(self, points: NDArray[np.float64]) -> NDArray[np.float64] | None:
        """Carry points ``(N, 2)`` of the map to the layer's CRS; None unless all come back."""
        if self._to_map is None:
            return points
        found = np.column_stack(
            self._to_map.transform(points[:, 0], points[:, 1], direction="INVERSE")
        )
        back = np.column_stack(self._to_map.transform(found[:, 0], found[:, 1]))
        return_error = self._distance(back, points)
        return found if (return_error <= self.place.pixel_size).all() else None

    def boxes(self, within: Bounds | None = None) -> list[Bounds] | None:
        """Return the boxes of the layer that can hold what touches the scene; None for all of it.

        Args:
            within: the bounds of the layer, None where they are unknown.
        """
        if self.surroundings is None:
            return None
        west, south, east, north = self.surroundings.bounds
        period = self._layer_period
        if period is None:
            boxes = [(west, south, east, north)]
        elif east - west >= period:
            boxes = [(-2 * period, south, 2 * period, north)]
        else:
            turns = [period * shift for shift in _SHIFTS]
            boxes = [(west + turn, south, east + turn, north) for turn in turns]
        return [box for box in boxes if within is None or touch(box, within)]

    def find_near(self, bounds: NDArray[np.float64]) -> NDArray[np.int64]:
        """Find what may touch the scene by its bounds ``(N, 4)`` in the layer's CRS.

        What has no bounds (NaN) may.

        Raises:
            ProjError: as :meth:`bring`.
        """
        boxes = self.boxes()
        if boxes is None:
            return np.arange(len(bounds))
        west, south, east, north = bounds.T
        is_outside = np.ones(len(bounds), dtype=bool)
        for box in boxes:
            is_outside &= (west > box[2]) | (east < box[0]) | (south > box[3]) | (north < box[1])
        return np.flatnonzero(~is_outside)

    def bring(self, polygons: NDArray) -> tuple[NDArray, NDArray[np.int64], NDArray[np.int64]]:
        """Bring valid polygons ``(N,)`` to pixels of the grid, those that touch it.

        Returns:
            The polygons, what each is a part of, and those that cannot be projected.

        Raises:
            ProjError: if nothing leads from one CRS to the other.
        """
        if self._to_map is None:
            mapped, origin = polygons, np.arange(len(polygons))
            broken = np.zeros(len(polygons), dtype=bool)
        else:
            near, origin = self._cut(polygons)
            mapped, broken = self._project(near)
        mapped, copies = self._repeat(mapped)
        origin, broken = origin[copies], broken[copies]
        touching = np.flatnonzero(self._may_touch(mapped) | broken)
        mapped, origin, broken = mapped[touching], origin[touching], broken[touching]
        in_pixels = shapely.transform(mapped[~broken], self.place.to_pixels)
        box = shapely.box(0, 0, self.place.grid.width, self.place.grid.height)
        is_on_grid = shapely.intersects(in_pixels, box)
        return in_pixels[is_on_grid], origin[~broken][is_on_grid], np.unique(origin[broken])

    def bring_points(self, points: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
        """Bring points ``(N,)`` to the grid, as the outlines of the pixels that they lie in.

        Returns:
            The outlines, and the point that each is of; of those on the grid.
        """
        mapped = shapely.points(self._forward(shapely.get_coordinates(points)))
        mapped, origin = self._repeat(mapped)
        col, row = np.floor(self.place.to_pixels(shapely.get_coordinates(mapped))).T
        width, height = self.place.grid.width, self.place.grid.height
        on_grid = (col >= 0) & (row >= 0) & (col < width) & (row < height)
        col, row = col[on_grid], row[on_grid]
        return shapely.box(col, row, col + 1, row + 1), origin[on_grid]

    def _cut(self, polygons: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
        """Cut polygons to the surroundings of the scene; those that lie within stay as they are."""
        boxes = self.boxes()
        if boxes is None:
            return polygons, np.arange(len(polygons))
        bounds = shapely.bounds(polygons)
        pieces, origins = [], []
        for box in boxes:
            low, high = np.array(box[:2]), np.array(box[2:])
            touching = np.flatnonzero(
                ((bounds[:, 2:] >= low) & (bounds[:, :2] <= high)).all(axis=1)
            )
            near = polygons[touching]
            reaches_out = ((bounds[:, :2] < low) | (bounds[:, 2:] > high)).any(axis=1)[touching]
            near[reaches_out] = shapely.clip_by_rect(near[reaches_out], *box)
            parts, of = shapely.get_parts(near, return_index=True)
            is_area = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & (
                shapely.area(parts) > 0
            )
            pieces.append(parts[is_area])
            origins.append(touching[of[is_area]])
        return np.concatenate(pieces), np.concatenate(origins)

    def _project(self, polygons: NDArray) -> tuple[NDArray, NDArray[np.bool_]]:
        """Project polygons to the map; say which of them do not arrive whole."""
        if len(polygons) == 0:
            return polygons, np.zeros(0, dtype=bool)
        fine = shapely.segmentize(polygons, self._step(polygons))
        mapped = shapely.transform(fine, self._forward)
        broken = self._find_broken(fine, mapped)
        period = self.place.period
        if period is not None:
            for i in np.flatnonzero(~broken & _jumps(mapped, period)):
                mapped[i] = _unwrap(mapped[i], period, self._top)
        # What lies around a pole is cut open there: two edges become one.
        is_open = ~broken & ~shapely.is_valid(mapped)
        mapped[is_open] = shapely.make_valid(mapped[is_open], method="linework")
        return mapped, broken

    @property
    def _top(self) -> float:
        """Return how far up or down the map a polygon around a pole reaches."""
        ring, _ = self.place.outline()
        is_geographic = pyproj.CRS.from_wkt(self.place.crs_wkt or "").is_geographic
        quarter = (self.place.period or 0.0) / 4
        return quarter if is_geographic else max(quarter, float(np.abs(ring[:, 1]).max()) + 1.0)

    def _forward(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._to_map is None:
            return points
        return np.column_stack(self._to_map.transform(points[:, 0], points[:, 1]))

    def _step(self, polygons: NDArray) -> float:
        """Return how long an edge may be in the layer's CRS: it follows its curve to the pixel.

        Measured on the diagonals, sides and axes of the surroundings.
        """
        around = self.surroundings
        bounds = around.bounds if around is not None else tuple(shapely.total_bounds(polygons))
        low = np.maximum(bounds[:2], shapely.total_bounds(polygons)[:2])
        high = np.minimum(bounds[2:], shapely.total_bounds(polygons)[2:])
        x, y = np.array([low, (low + high) / 2, high]).T
        corners = np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2)
        pairs = [(0, 2), (3, 5), (6, 8), (0, 6), (1, 7), (2, 8), (0, 8), (2, 6)]
        starts, ends = (corners[[pair[i] for pair in pairs]] for i in (0, 1))
        longest = float(np.hypot(*(ends - starts).T).max())
        tolerance, pieces = _EDGE_TOLERANCE_PX * self.place.pixel_size, 1
        while pieces < _MOST_PIECES:
            share = np.linspace(0, 1, 2 * pieces + 1)[:, np.newaxis, np.newaxis]
            points = self._forward((starts + share * (ends - starts)).reshape(-1, 2))
            points = points.reshape(2 * pieces + 1, len(pairs), 2)
            middles = self._middle(points[:-2:2], points[2::2])
            leaves = self._distance(points[1::2], middles)
            # Of a layer as large as the world the map may hold few of the points, or none at first.
            known = leaves[np.isfinite(leaves)]
            if len(known) >= len(pairs) and not (known > tolerance).any():
                break
            pieces *= 2
        return max(longest / pieces, 1e-12)

    def _find_broken(self, fine: NDArray, mapped: NDArray) -> NDArray[np.bool_]:
        """Say which polygons have a point that the map cannot hold, or an edge across its cut."""
        xy, owner = shapely.get_coordinates(fine, return_index=True)
        on_map = shapely.get_coordinates(mapped)
        _, ring = shapely.get_coordinates(shapely.get_rings(fine), return_index=True)
        is_edge = ring[1:] == ring[:-1]
        middles = self._forward(((xy[1:] + xy[:-1]) / 2)[is_edge])
        straight = self._middle(on_map[:-1][is_edge], on_map[1:][is_edge])
        leaves = self._distance(middles, straight)
        broken = np.zeros(len(fine), dtype=bool)
        is_off = ~(leaves <= _BROKEN_PX * self.place.pixel_size)
        broken[owner[1:][is_edge][is_off]] = True
        broken[owner[~np.isfinite(on_map).all(axis=1)]] = True
        return broken

    def _distance(self, these: NDArray, those: NDArray) -> NDArray[np.float64]:
        """Measure how far points ``(..., 2)`` of the map lie apart, the short way round."""
        apart = self._step_between(those, these)
        distances: NDArray[np.float64] = np.hypot(apart[..., 0], apart[..., 1])
        return distances

    def _middle(self, starts: NDArray, ends: NDArray) -> NDArray[np.float64]:
        """Return the middles of edges on the map, which take the short way round."""
        with np.errstate(invalid="ignore"):
            middles: NDArray[np.float64] = starts + self._step_between(starts, ends) / 2
        return middles

    def _step_between(self, starts: NDArray, ends: NDArray) -> NDArray[np.float64]:
        period = self.place.period
        with np.errstate(invalid="ignore"):  # of what is not finite
            steps: NDArray[np.float64] = ends - starts
            if period is not None:
                steps[..., 0] -= period * np.round(steps[..., 0] / period)
        return steps

    def _repeat(self, mapped: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
        """Add what lies on the scene a turn round the globe away; return with what each is of."""
        order = np.arange(len(mapped))
        if self.place.period is None or len(mapped) == 0:
            return mapped, order
        ring, _ = self.place.outline()
        bounds = shapely.bounds(mapped)
        found, origin = [mapped], [order]
        for shift in _SHIFTS[1:]:
            turn = shift * self.place.period
            overlaps = (bounds[:, 2] + turn > ring[:, 0].min()) & (
                bounds[:, 0] + turn < ring[:, 0].max()
            )
            found.append(
                shapely.transform(mapped[overlaps], lambda xy, by=turn: xy + np.array([by, 0.0]))
            )
            origin.append(np.flatnonzero(overlaps))
        copies = np.concatenate(origin)
        kept = np.argsort(copies, kind="stable")
        return np.concatenate(found)[kept], copies[kept]

    def _may_touch(self, mapped: NDArray) -> NDArray[np.bool_]:
        """Say which polygons' bounds on the map touch those of the scene."""
        # A polynomial may bulge between the points of its outline.
        ring, _ = self.place.outline(_POINTS_MARGIN if self.place.has_points else 0.0)
        low, high = ring.min(axis=0), ring.max(axis=0)
        bounds = shapely.bounds(mapped)
        touches: NDArray[np.bool_] = ((bounds[:, 2:] >= low) & (bounds[:, :2] <= high)).all(axis=1)
        return touches


def _jumps(mapped: NDArray, period: float) -> NDArray[np.bool_]:
    """Say which polygons have an edge that leads across the edge of the map."""
    rings, owner = shapely.get_rings(mapped, return_index=True)
    xy, ring = shapely.get_coordinates(rings, return_index=True)
    jumps = (ring[1:] == ring[:-1]) & (np.abs(np.diff(xy[:, 0])) > period / 2)
    found = np.zeros(len(mapped), dtype=bool)
    found[owner[ring[1:][jumps]]] = True
    return found


def _unwrap(polygon: shapely.Polygon, period: float, top: float) -> shapely.Geometry:
    """Lay a polygon that crosses the edge of the map out in one piece.

    A ring around a pole becomes the strip between it and that pole, a turn wide.
    """
    rings = [shapely.get_coordinates(ring) for ring in (polygon.exterior, *polygon.interiors)]
    areas = []
    for xy in rings:
        x = np.unwrap(xy[:, 0], period=period)
        points = np.column_stack([x, xy[:, 1]])
        if abs(x[-1] - x[0]) > period / 2:
            pole = np.copysign(top, xy[:, 1].mean())
            points = np.vstack([points, [x[-1], pole], [x[0], pole]])
        areas.append(shapely.make_valid(shapely.Polygon(points), method="linework"))
    shell, *holes = areas
    for hole in holes:
        for turn in range(-2, 3):
            shell = shapely.difference(shell, _turned(hole, turn * period))
    return shell


def _turned(geometries: Any, turn: float) -> Any:
    """Return geometries a turn round the globe away."""
    return shapely.transform(geometries, lambda xy: xy + np.array([turn, 0.0]))


def touch(one: Bounds, other: Bounds) -> bool:
    return one[0] <= other[2] and one[2] >= other[0] and one[1] <= other[3] and one[3] >= other[1]
