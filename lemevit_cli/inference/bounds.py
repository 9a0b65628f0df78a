"""Parts of a scene: the window of a rectangle in map units, the pixels inside polygons."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from affine import Affine
from numpy.typing import NDArray

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.georeference import bounds_text
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import Scene

if TYPE_CHECKING:
    from lemevit_cli.vector.scene_polygons import ScenePolygons

# Bounds copied from a file's own printout miss its pixel edges by rounding.
_ROUNDING_PX = 1e-3


def window_of_bounds(scene: Scene, bounds: tuple[float, float, float, float]) -> Window:
    """Return the pixels of the scene within ``(west, south, east, north)``, map units.

    * North-up and south-up: the pixels that lie wholly inside.
    * Rotated: the smallest window that contains the part of the rectangle within the scene.
    * No transform: the bounds are pixels, rows counted downward (north and south in any order).

    What reaches beyond the scene is cut off.

    Raises:
        SceneError: if the bounds are malformed, hold no whole pixel, or lie outside the scene.
    """
    west, south, east, north = bounds
    transform = scene.georeference.transform
    if transform is None:
        south, north = min(south, north), max(south, north)
    if not (west < east and south < north and all(math.isfinite(b) for b in bounds)):
        raise SceneError(f"--bounds {bounds_text(bounds)}: needs WEST < EAST and SOUTH < NORTH")
    corners = [(west, south), (east, south), (east, north), (west, north)]
    to_pixels = ~(transform or Affine.identity())
    cols, rows = zip(*(to_pixels @ corner for corner in corners), strict=True)
    is_rotated = transform is not None and not _is_rectilinear(transform)
    col_off, right = _whole_pixels(min(cols), max(cols), outward=is_rotated)
    row_off, bottom = _whole_pixels(min(rows), max(rows), outward=is_rotated)
    outside = min(right, scene.width) <= max(col_off, 0) or min(bottom, scene.height) <= max(
        row_off, 0
    )
    if outside and (right <= col_off or bottom <= row_off):
        raise SceneError(f"--bounds {bounds_text(bounds)}: hold no whole pixel of {scene.name}")
    if outside:
        raise SceneError(
            f"--bounds {bounds_text(bounds)}: outside {scene.name}, which spans "
            f"{bounds_text(extent(scene))}"
        )
    col_off, row_off = max(col_off, 0), max(row_off, 0)
    return Window(
        col_off=col_off,
        row_off=row_off,
        width=min(right, scene.width) - col_off,
        height=min(bottom, scene.height) - row_off,
    )


def _is_rectilinear(transform: Affine) -> bool:
    """Say whether pixels lie along the axes, however small: affine's own limit is absolute."""
    largest = max(abs(transform.a), abs(transform.b), abs(transform.d), abs(transform.e))
    least = 1e-9 * largest
    along = abs(transform.b) <= least and abs(transform.d) <= least
    return along or (abs(transform.a) <= least and abs(transform.e) <= least)


def extent(scene: Scene) -> tuple[float, float, float, float]:
    """Return ``(west, south, east, north)`` in map units; in pixels without a transform."""
    transform = scene.georeference.transform or Affine.identity()
    w, h = scene.width, scene.height
    x, y = zip(*(transform @ corner for corner in ((0, 0), (w, 0), (w, h), (0, h))), strict=True)
    return min(x), min(y), max(x), max(y)


def _whole_pixels(low: float, high: float, *, outward: bool) -> tuple[int, int]:
    if outward:
        return math.floor(low + _ROUNDING_PX), math.ceil(high - _ROUNDING_PX)
    return math.ceil(low - _ROUNDING_PX), math.floor(high + _ROUNDING_PX)


@dataclass(frozen=True, eq=False)
class PolygonsMask:
    """Polygons burnt window by window."""

    polygons: ScenePolygons

    @property
    def notes(self) -> tuple[str, ...]:
        """Return what a user should know of how they were read, a line each."""
        return self.polygons.notes

    def read(self, window: Window) -> NDArray[np.bool_]:
        """Mark the pixels ``(H, W)`` whose centre lies inside a polygon."""
        ones = np.ones(len(self.polygons.polygons), dtype=np.uint8)
        return self.polygons.burn(window, ones, background=0).astype(bool)


def polygons_mask(path: str, scene: Scene) -> PolygonsMask:
    """Read the polygons of a vector file and bring them to the scene's CRS.

    How a layer is named and which CRS is meant: see
    ``vector/frames.py``.

    Raises:
        SceneError: if the file cannot be read, has no polygons, cannot be reprojected, or none of
            its polygons touches the scene.
    """
    # Most runs have no mask, and import nothing of what reads one.
    from lemevit_cli.vector.scene_polygons import read_polygons_on

    polygons, table = read_polygons_on(scene, path)
    if len(table) == 0:
        raise SceneError(f"{path}: holds no polygons")
    return PolygonsMask(polygons)
