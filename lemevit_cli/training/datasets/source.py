"""What training asks of a data set, whatever its layout: sites, pixels, class ids, counts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS

_CELL = 128  # pixels: side of the cells of pictures whose classes are counted


@dataclass(frozen=True, kw_only=True)
class Site:
    """A place that windows are drawn from: a picture, or a block of a scene.

    Args:
        scene: path of the raster.
        extent: the extent that windows lie inside, in pixels of the raster.
        core: what is aimed at, or validated, inside ``extent``. Of a picture both are all.
        gsd_m: metres a pixel on the ground, None where the raster is not tied to the earth.
        after: path of the later date, where ``scene`` is the earlier one of two.
    """

    scene: str
    extent: Window
    core: Window
    gsd_m: float | None
    after: str | None = None

    @classmethod
    def whole(
        cls, picture: str, width: int, height: int, gsd_m: float | None, after: str | None = None
    ) -> Site:
        """Make a site of a picture from edge to edge."""
        window = Window(col_off=0, row_off=0, width=width, height=height)
        return cls(scene=picture, extent=window, core=window, gsd_m=gsd_m, after=after)

    @property
    def dates(self) -> tuple[str, ...]:
        """Return paths of its one or two dates, earlier first: what tells its raster apart."""
        return (self.scene,) if self.after is None else (self.scene, self.after)


def count_pictures(sites: Sequence[Site]) -> int:
    """Count the pictures, or pairs of dates, that sites lie in."""
    return len({site.dates for site in sites})


def pixel_sizes(sites: Sequence[Site]) -> tuple[float, float] | None:
    """Return the smallest and largest size of a pixel on the ground, in metres."""
    known = [site.gsd_m for site in sites if site.gsd_m is not None]
    # A range that only some pictures state would shut the others out.
    return (min(known), max(known)) if len(known) == len(sites) else None


@dataclass(frozen=True)
class Cells:
    """How often each class occurs in the cells of a source.

    Args:
        places: ``(N, 5)`` as ``site, col_off, row_off, width, height``, pixels of the raster.
        counts: ``(N, classes)`` pixels.
    """

    places: NDArray[np.int64]
    counts: NDArray[np.int64]


class Source(Protocol):
    """One split of one data set, checked. It can be pickled: worker processes read from it."""

    @property
    def name(self) -> str:
        """Return what messages and figures call it."""
        ...

    @property
    def split(self) -> str:
        """Return ``train`` or ``val``."""
        ...

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the names, by id."""
        ...

    @property
    def is_complete(self) -> bool:
        """Say whether all that is not nodata has a class; else much is unlabelled."""
        ...

    @property
    def bands(self) -> int:
        """Count the bands, of one date where it shows two."""
        ...

    @property
    def dtype(self) -> str: ...

    @property
    def num_pixels(self) -> int:
        """Count the pixels of all its rasters, labelled or not."""
        ...

    @property
    def sites(self) -> tuple[Site, ...]:
        """Return the places with labels."""
        ...

    def read(
        self, site: Site, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8]]:
        """Read a window of a site's raster.

        Returns:
            Pixels ``(bands, H, W)``, of a pair ``(2 * bands, H, W)`` with the earlier date first;
            where they are valid ``(H, W)``; and class ids ``(H, W)``, ``NODATA_CLASS`` where
            ignored, unknown or nodata.
        """
        ...

    def read_truth(self, site: Site, window: Window) -> NDArray[np.uint8]:
        """Read class ids ``(H, W)`` alone, ``NODATA_CLASS`` where ignored or unknown."""
        ...

    def count_classes(self) -> Cells:
        """Count the classes of every cell of every site; all labels are read once for it.

        Raises:
            DataError: if the labels hold an id that is no class.
        """
        ...


def count_sites(
    sites: Sequence[Site], ids_of: Callable[[Site], NDArray[np.uint8]], *, num_classes: int
) -> Cells:
    """Count the classes in every cell of pictures, whose ids ``(H, W)`` are asked for in turn."""
    places, counts = [], []
    for number, site in enumerate(sites):
        at, counted = count_cells(ids_of(site), side=_CELL, num_classes=num_classes)
        places.append(np.insert(at, 0, number, axis=1))
        counts.append(counted)
    return Cells(np.concatenate(places), np.concatenate(counts))


def count_cells(
    ids: NDArray[np.uint8], *, side: int, num_classes: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Cut class ids ``(H, W)`` into square cells, smaller at the right and lower edge, and count.

    Returns:
        Places ``(N, 4)`` as ``col_off, row_off, width, height``, row by row, and pixels of each
        class ``(N, num_classes)``.
    """
    height, width = ids.shape
    cols = np.arange(0, width, side)
    first_bins = np.arange(width) // side * (NODATA_CLASS + 1)
    places, counts = [], []
    for row in range(0, height, side):
        band = ids[row : row + side]
        counted = np.bincount((first_bins + band).ravel(), minlength=len(cols) * (NODATA_CLASS + 1))
        counts.append(counted.reshape(len(cols), -1)[:, :num_classes])
        sizes = np.minimum(side, width - cols)
        places.append(
            np.stack([cols, np.full_like(cols, row), sizes, np.full_like(cols, len(band))], axis=1)
        )
    return np.concatenate(places), np.concatenate(counts)


def merge_areas(sites: Sequence[Site]) -> list[Site]:
    """Join areas that touch along a whole side, so that fewer sites cover the same ground.

    Windows of a model reach over the edge of an area; neighbours would be predicted twice. Areas
    are joined along rows first, then downward; they stay rectangles that do not overlap. Areas of
    other dates stay apart, though the earlier one be the same.
    """
    by_row = sorted(sites, key=lambda s: (s.dates, s.core.row_off, s.core.col_off))
    along_rows = _joined(by_row, _joined_along_row)
    by_col = sorted(along_rows, key=lambda s: (s.dates, s.core.col_off, s.core.row_off))
    return _joined(by_col, _joined_downward)


def _joined(sites: Sequence[Site], join: Callable[[Window, Window], Window | None]) -> list[Site]:
    """Join each site with the one before it where that can be done."""
    found: list[Site] = []
    for site in sites:
        is_same = bool(found) and found[-1].dates == site.dates
        core = join(found[-1].core, site.core) if is_same else None
        if core is None:
            found.append(site)
        else:
            found[-1] = replace(site, core=core)
    return found


def _joined_along_row(left: Window, right: Window) -> Window | None:
    if (left.row_off, left.height, left.right) != (right.row_off, right.height, right.col_off):
        return None
    return replace(left, width=left.width + right.width)


def _joined_downward(upper: Window, lower: Window) -> Window | None:
    if (upper.col_off, upper.width, upper.bottom) != (lower.col_off, lower.width, lower.row_off):
        return None
    return replace(upper, height=upper.height + lower.height)
