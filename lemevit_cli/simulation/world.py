"""The simulated world: a picture with its truth, for any window of any size of scene."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import floor

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS, Geod, Transformer

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.simulation.canvas import BUILDING, Canvas
from lemevit_cli.simulation.districts import CELL_M, District, make_district, make_windings
from lemevit_cli.simulation.ground import paint_ground
from lemevit_cli.simulation.layout import CLASS_OF, furnish
from lemevit_cli.simulation.light import expose, render, shadow_reach_px
from lemevit_cli.simulation.recipes import Thing
from lemevit_cli.simulation.things import colour_trees, draw_things, draw_trees
from lemevit_cli.simulation.town import Date, make_light, make_town

CLASS_NAMES = ("land", "building", "road", "vegetation", "water")
OBJECT_NAMES = ("building", "storage-tank", "small-vehicle", "ship", "plane")  # as in DOTA
CHANGE_NAMES = ("unchanged", "built", "torn down")


@dataclass(frozen=True, kw_only=True)
class WorldSpec:
    """Choice of a world, of its extent and its date.

    Args:
        seed: everything follows from it.
        width, height: pixels of the scene.
        gsd_m: metres on the ground a pixel.
        crs: anything pyproj understands; the scene lies in the middle of its area of use.
        date: the second date has its own sun, sensor, vehicles and buildings.
    """

    seed: int
    width: int
    height: int
    gsd_m: float = 0.3
    crs: str = "EPSG:32633"
    date: Date = "before"


@dataclass(frozen=True, slots=True)
class Drawing:
    """A drawn window: pixels ``(3, H, W)`` and class ids ``(H, W)``, uint8."""

    pixels: NDArray[np.uint8]
    class_ids: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class WorldObject:
    """A thing with its oriented box in scene pixels (``w >= h``, angle in [-pi/2, pi/2))."""

    class_name: str
    cx: float
    cy: float
    w: float
    h: float
    angle_rad: float

    def corners(self) -> NDArray[np.float64]:
        """Return its four corners ``(4, 2)`` in scene pixels, clockwise on the screen."""
        c, s = np.cos(self.angle_rad), np.sin(self.angle_rad)
        along = np.array([c, s]) * self.w / 2
        across = np.array([-s, c]) * self.h / 2
        centre = np.array([self.cx, self.cy])
        return np.stack(
            [centre - along - across, centre + along - across, centre + along + across,
             centre - along + across]
        )  # fmt: skip


class World:
    """One scene of a simulated town; any window of it can be drawn alone, to the same byte."""

    def __init__(self, spec: WorldSpec) -> None:
        self.spec = spec
        self._town = make_town(spec.seed, spec.date)
        self._light = make_light(spec.seed, spec.date)
        self._windings = make_windings(spec.seed)
        self._districts: dict[tuple[int, int], District] = {}
        self._furniture: dict[tuple[int, int], tuple[tuple[Thing, ...], NDArray[np.float64]]] = {}

    @property
    def shift_px(self) -> tuple[int, int]:
        """Return columns and rows by which the picture of this date lies off the truth.

        What the truth has at (col, row), the picture shows at (col - cols, row - rows).
        """
        if self.spec.date == "before":
            return 0, 0
        rng = np.random.default_rng([self.spec.seed, 7])
        cols, rows = rng.choice([-3, -2, -1, 1, 2, 3], 2)
        return int(cols), int(rows)

    def draw(self, window: Window) -> Drawing:
        """Draw a window with its truth; memory grows with the window alone."""
        reach = shadow_reach_px(self.spec.gsd_m) + 6
        shift_cols, shift_rows = self.shift_px
        x_sun, y_sun, _ = self._light.towards_sun
        # Only the side towards the sun throws shadows in; the shift and the blur need a few more.
        left, right = (reach, 6) if x_sun < 0 else (6, reach)
        top, bottom = (reach, 6) if y_sun < 0 else (6, reach)
        wide = Window(
            col_off=window.col_off - left, row_off=window.row_off - top,
            width=window.width + left + right, height=window.height + top + bottom,
        )  # fmt: skip
        canvas = self._paint(wide)
        inner = window.relative_to(wide)
        class_ids = canvas.class_ids[inner.slices].copy()
        view = inner.shift(cols=shift_cols, rows=shift_rows)
        rows = slice(view.row_off - 1, view.bottom + 1)
        cols = slice(view.col_off - 1, view.right + 1)
        pixels = expose(
            render(canvas, self._light)[:, rows, cols],
            cols=np.arange(window.col_off, window.right),
            rows=np.arange(window.row_off, window.bottom),
            light=self._light,
            salt=self.spec.seed * 31 + (501 if self.spec.date == "before" else 502),
        )
        return Drawing(pixels, class_ids)

    def objects(self, window: Window | None = None) -> list[WorldObject]:
        """List objects whose centre lies in the window (None: the scene), district by district."""
        spec = self.spec
        window = window or Window(col_off=0, row_off=0, width=spec.width, height=spec.height)
        objects = []
        for key in self._districts_near(window):
            for thing in self._furnish(key)[0]:
                if thing.kind in CLASS_OF and self._exists(thing):
                    box = _object(thing, spec.gsd_m)
                    if (window.col_off <= box.cx < window.right
                            and window.row_off <= box.cy < window.bottom):  # fmt: skip
                        objects.append(box)
        return objects

    @property
    def georeference(self) -> Georeference:
        """Return where the scene lies: north up, ``gsd_m`` on the ground at its centre."""
        return place_on_earth(self.spec)

    def _paint(self, window: Window) -> Canvas:
        spec = self.spec
        x = (np.arange(window.col_off, window.right) + 0.5) * spec.gsd_m
        y = (np.arange(window.row_off, window.bottom) + 0.5) * spec.gsd_m
        canvas = Canvas(x, y, gsd_m=spec.gsd_m, town=self._town)
        paint_ground(canvas, self._district_at, self._windings)
        near = [self._furnish(key) for key in self._districts_near(window)]
        for things, _ in near:
            draw_things(canvas, [thing for thing in things if self._exists(thing)])
        np.minimum(canvas.height, np.float32(self._light.max_height_m), out=canvas.height)
        for _, trees in near:
            draw_trees(canvas, trees)
        colour_trees(canvas)
        return canvas

    def _exists(self, thing: Thing) -> bool:
        return thing.before if self.spec.date == "before" else thing.after

    def _district_at(self, i: int, j: int) -> District:
        if (i, j) not in self._districts:
            _forget_old(self._districts)
            self._districts[i, j] = make_district(i, j, self.spec.seed)
        return self._districts[i, j]

    def _furnish(self, key: tuple[int, int]) -> tuple[tuple[Thing, ...], NDArray[np.float64]]:
        if key not in self._furniture:
            _forget_old(self._furniture)
            self._furniture[key] = furnish(self._district_at(*key), self.spec.seed, self._windings)
        return self._furniture[key]

    def _districts_near(self, window: Window) -> Iterator[tuple[int, int]]:
        """Yield districts whose things may touch the window, always in the same order."""
        gsd_m = self.spec.gsd_m
        first_i, last_i = (
            floor((side * gsd_m + reach) / CELL_M)
            for side, reach in ((window.col_off, -CELL_M), (window.right, CELL_M))
        )
        first_j, last_j = (
            floor((side * gsd_m + reach) / CELL_M)
            for side, reach in ((window.row_off, -CELL_M), (window.bottom, CELL_M))
        )
        for j in range(first_j, last_j + 1):
            for i in range(first_i, last_i + 1):
                yield i, j


def change_ids(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Tell what became of buildings from one raster of class ids to the next: ``CHANGE_NAMES``."""
    was, is_now = before == BUILDING, after == BUILDING
    changes = (is_now & ~was).astype(np.uint8)
    changes[was & ~is_now] = 2
    return changes


def place_on_earth(spec: WorldSpec) -> Georeference:
    """Put the scene near the middle of its CRS' area of use, its pixels square on the ground."""
    crs = CRS.from_user_input(spec.crs)
    area = crs.area_of_use
    lon, lat = (15.0, 50.0) if area is None else _middle(area.west, area.south, area.east,
                                                         area.north)  # fmt: skip
    there = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    back = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    x, y = there.transform(lon, lat)
    width, height = _units_per_metre(back, x, y, spec.gsd_m)
    transform = Affine(
        width, 0, x - width * spec.width / 2, 0, -height, y + height * spec.height / 2
    )
    return Georeference(transform=transform, crs_wkt=crs.to_wkt("WKT2_2019"))


def _middle(west: float, south: float, east: float, north: float) -> tuple[float, float]:
    """Choose a place on dry land of the temperate kind, as far as the area allows."""
    lon = 15.0 if west <= 15 <= east else (west + east) / 2
    lat = 50.0 if south <= 50 <= north else (south + north) / 2
    return lon, lat


def _units_per_metre(back: Transformer, x: float, y: float, gsd_m: float) -> tuple[float, float]:
    """Measure a pixel's sides in map units that are ``gsd_m`` long on the ellipsoid."""
    geod = Geod(ellps="WGS84")
    step = 1e-4 if back.source_crs is not None and back.source_crs.is_geographic else 10.0
    lengths = []
    for dx, dy in ((step, 0.0), (0.0, step)):
        lon, lat = back.transform([x - dx, x + dx], [y - dy, y + dy])
        lengths.append(geod.inv(lon[0], lat[0], lon[1], lat[1])[2])
    return 2 * step * gsd_m / lengths[0], 2 * step * gsd_m / lengths[1]


def _object(thing: Thing, gsd_m: float) -> WorldObject:
    w, h, angle = thing.w, thing.h, thing.angle
    if w < h:
        w, h, angle = h, w, angle + np.pi / 2
    angle = (angle + np.pi / 2) % np.pi - np.pi / 2
    return WorldObject(
        CLASS_OF[thing.kind], thing.cx / gsd_m, thing.cy / gsd_m, w / gsd_m, h / gsd_m, float(angle)
    )


def _forget_old(cache: dict, most: int = 512) -> None:
    if len(cache) >= most:
        cache.pop(next(iter(cache)))
