"""Where the pixels of a grid lie on a map, by its transform or its ground control points."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.transform import GCPTransformer

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, period_of
from lemevit_cli.vector.layer import crs_of_map, gcp_transformer, points_on_the_map

_SIDE_POINTS = 64  # of each side of an outline, which curves in another CRS
_INNER_POINTS = 15  # along each axis of what lies within: a pole may
_NEWTON_STEPS = 6


class Grid(Protocol):
    """A grid that polygons are brought onto: of a scene, or of a picture of it."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def georeference(self) -> Georeference: ...


@dataclass(frozen=True, eq=False)
class Placement:
    """The map that a grid's pixels lie on."""

    grid: Grid

    @property
    def is_placed(self) -> bool:
        """Say whether a transform or ground control points tell where pixels lie."""
        return self.grid.georeference.transform is not None or self.has_points

    @property
    def has_points(self) -> bool:
        """Say whether ground control points alone tell it."""
        georeference = self.grid.georeference
        return georeference.transform is None and bool(georeference.gcps)

    @property
    def crs_wkt(self) -> str | None:
        """Return the map's CRS, None where it is unknown or not tied to the earth."""
        wkt = crs_of_map(self.grid.georeference)
        return wkt if is_tied_to_earth(wkt) else None

    @cached_property
    def period(self) -> float | None:
        """Return the map units of a turn round the globe, see :func:`period_of`."""
        return None if self.crs_wkt is None else period_of(self.crs_wkt)

    @cached_property
    def pixel_size(self) -> float:
        """Return the side of a pixel in map units, at the grid's centre."""
        middle = np.array([[self.grid.width / 2, self.grid.height / 2]])
        at, right, down = self.to_map(middle + np.array([[0, 0], [1, 0], [0, 1]]))
        return float(abs(np.linalg.det(np.array([right - at, down - at]))) ** 0.5)

    def to_map(self, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
        """Carry points ``(N, 2)`` from pixels to the map; they stay where nothing places them."""
        return points_on_the_map(pixels, self.grid.georeference)

    def to_pixels(self, points: NDArray[np.float64]) -> NDArray[np.float64]:
        """Carry points ``(N, 2)`` from the map to pixels, x to the right, y down.

        By ground control points this is the inverse of :meth:`to_map`, so that outlines written
        of a scene come back to their pixels; GDAL fits a polynomial of its own for this way.
        """
        if self.has_points:
            return _invert_points(points, self.grid.georeference)
        inverse = ~(self.grid.georeference.transform or Affine.identity())
        matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        moved: NDArray[np.float64] = points @ matrix.T + (inverse.c, inverse.f)
        return moved

    def outline(self, margin: float = 0.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return points on the grid's closed outline, and some within it, on the map.

        Args:
            margin: that the grid is grown by, in lengths of its longer side.
        """
        width, height = self.grid.width, self.grid.height
        grown = margin * max(width, height)
        box = shapely.box(-grown, -grown, width + grown, height + grown)
        step = max(width, height, 1) * (1 + 2 * margin) / _SIDE_POINTS
        ring = shapely.get_coordinates(shapely.segmentize(box, step))
        low, high = np.array([-grown, -grown]), np.array([width + grown, height + grown])
        cols, rows = np.linspace(low, high, _INNER_POINTS).T
        inner = np.stack(np.meshgrid(cols, rows), axis=-1).reshape(-1, 2)
        return self.to_map(ring), self.to_map(inner)


def _invert_points(points: NDArray[np.float64], georeference: Georeference) -> NDArray[np.float64]:
    """Find the pixels that ground control points carry to a place, by Newton's steps."""
    finite = np.isfinite(points).all(axis=1)
    found = np.full(points.shape, np.nan)
    if not finite.any():
        return found
    goal = points[finite]
    with gcp_transformer(georeference) as transformer:
        rows, cols = transformer.rowcol(*goal.T, op=lambda values: values)
        pixels = np.column_stack([cols, rows]).astype(np.float64)
        for _ in range(_NEWTON_STEPS):
            at, right, down = (
                _forward(transformer, pixels + step) for step in ((0, 0), (1, 0), (0, 1))
            )
            slopes = np.stack([right - at, down - at], axis=-1)  # (N, 2, 2): map by pixel
            is_regular = np.abs(np.linalg.det(slopes)) > 0
            steps = np.linalg.solve(slopes[is_regular], (goal - at)[is_regular][..., np.newaxis])
            pixels[is_regular] += steps[..., 0]
    found[finite] = pixels
    return found


def _forward(transformer: GCPTransformer, pixels: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.column_stack(transformer.xy(rows=pixels[:, 1], cols=pixels[:, 0], offset="ul"))
