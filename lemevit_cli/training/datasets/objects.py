"""Objects that are labelled by oriented boxes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds, corners_of
from lemevit_cli.geometry.window import Window

IGNORED = -2  # the class of an object that is neither one of the classes nor background
KEPT_PART = 0.7  # of an object's area, inside the window: with less it is difficult


@dataclass(frozen=True, eq=False)
class Objects:
    """Labelled objects of a raster, or of a part of it.

    Args:
        boxes: ``(N, 5)`` as ``(cx, cy, w, h, angle_rad)``, pixels of the raster, canonical.
        class_ids: ``(N,)`` of the source's classes, or ``IGNORED``.
        difficult: ``(N,)`` bool: hard to tell by the people who labelled it, or cut off; neither
            finding nor missing such an object is a mistake.
    """

    boxes: NDArray[np.float64]
    class_ids: NDArray[np.int64]
    difficult: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.boxes)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Mark the objects ``(N,)`` that have a class and are to be found."""
        return (self.class_ids != IGNORED) & ~self.difficult

    @cached_property
    def _bounds(self) -> NDArray[np.float64]:
        return axis_aligned_bounds(self.boxes)

    def near(self, bounds: Sequence[float]) -> NDArray[np.int64]:
        """Return the indices of objects that may touch ``x1, y1, x2, y2``."""
        x1, y1, x2, y2 = bounds
        left, top, right, bottom = self._bounds.T
        return np.flatnonzero((right > x1) & (left < x2) & (bottom > y1) & (top < y2))

    def centred_in(self, window: Window) -> NDArray[np.int64]:
        """Find the objects centred in a window: each is in just one of windows side by side."""
        x, y = self.boxes[:, 0], self.boxes[:, 1]
        along = (x >= window.col_off) & (x < window.right)
        return np.flatnonzero(along & (y >= window.row_off) & (y < window.bottom))

    def counted_in(self, window: Window) -> NDArray[np.int64]:
        """Find the objects centred in a window that have a class and are to be found."""
        centred = self.centred_in(window)
        return centred[self.counted[centred]]

    def cut(self, corners: NDArray[np.float64], extent: Window) -> Objects:
        """Select the objects that touch a window; difficult, if less than 0.7 is inside.

        Args:
            corners: ``(4, 2)`` of the window, which may be turned, in pixels of the raster.
            extent: that the window sees no further than.
        """
        near = self.near([*corners.min(axis=0), *corners.max(axis=0)])
        visible = shapely.intersection(
            shapely.Polygon(corners),
            shapely.box(extent.col_off, extent.row_off, extent.right, extent.bottom),
        )
        outlines = shapely.polygons(corners_of(self.boxes[near]))
        shares = shapely.area(shapely.intersection(outlines, visible)) / shapely.area(outlines)
        touching, shares = near[shares > 0], shares[shares > 0]
        is_cut = np.minimum(shares, 1.0) < KEPT_PART
        return Objects(
            self.boxes[touching], self.class_ids[touching], self.difficult[touching] | is_cut
        )
