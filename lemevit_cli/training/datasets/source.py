"""What training asks of a data set, whatever its layout: sites, pixels, labels, counts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.training.datasets.objects import Objects

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

    @property
    def num_pixels(self) -> int:
        """Count the pixels of its core."""
        return self.core.width * self.core.height


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
    """Counts of each class in the cells of a source.

    Args:
        places: ``(N, 5)`` as ``site, col_off, row_off, width, height``, pixels of the raster.
        counts: ``(N, classes)`` pixels, or objects.
    """

    places: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Sample:
    """A window with its labels: a class for every pixel, or objects.

    Args:
        pixels: ``(bands, H, W)``, of a pair ``(2 * bands, H, W)`` with the earlier date first.
        valid: where they are valid ``(H, W)``.
        ids: class ids ``(H, W)``, ``NODATA_CLASS`` where ignored, unknown or nodata.
        objects: all of the raster, in its pixels; None where pixels are labelled.
    """

    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    ids: NDArray[np.uint8]
    objects: Objects | None = None

    @property
    def is_labelled(self) -> bool:
        """Say whether there is something to learn; where no object lies there is background."""
        return self.objects is not None or bool((self.ids != NODATA_CLASS).any())


def read_no_ids(site: Site, window: Window) -> NDArray[np.uint8]:
    """Return class ids ``(H, W)`` of a raster whose pixels are not labelled."""
    return np.full((window.height, window.width), NODATA_CLASS, dtype=np.uint8)


@dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """One split of one data set, checked. It can be pickled: worker processes read from it.

    Args:
        name: what messages and figures call it.
        split: ``train`` or ``val``.
        classes: names, by id. What objects do not cover is background.
        sites: the places with labels.
        bands, dtype: of all rasters; the bands of one date where it shows two.
        num_pixels: of all its rasters, labelled or not.
        read_pixels: reads pixels and where they are valid, as of a :class:`Sample`.
        read_ids: reads class ids ``(H, W)``, ``NODATA_CLASS`` where ignored or unknown.
        objects: by the raster's path; a scene's blocks share theirs. Empty where pixels are
            labelled.
        cells: counts that are known already.
        is_complete: whether all that is not nodata has a class; else much is unlabelled.
        is_searched: whether a picture without any label is known to show none of the classes.
        whole_pictures: whether a site is labelled as a whole, by one class, and seen as one window.
        first_of: where a class is first labelled, for messages; of folders of boxes alone.
        polygons: how many each class has, where labels are polygons.
        reasons: why a class has no label in the whole of the data, where it has none.
        notes: what a user should know of how it was read, where nothing else tells it.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    sites: tuple[Site, ...]
    bands: int
    dtype: str
    num_pixels: int
    read_pixels: Callable[[Site, Window], tuple[NDArray[Any], NDArray[np.bool_]]] = field(
        repr=False
    )
    read_ids: Callable[[Site, Window], NDArray[np.uint8]] = field(default=read_no_ids, repr=False)
    objects: Mapping[str, Objects] = field(default_factory=dict, repr=False)
    cells: Cells | None = field(default=None, repr=False)
    is_complete: bool = True
    is_searched: bool = False
    whole_pictures: bool = False
    first_of: Mapping[str, str] = field(default_factory=dict, repr=False)
    polygons: Mapping[str, int] = field(default_factory=dict, repr=False)
    reasons: Mapping[str, str] = field(default_factory=dict, repr=False)
    notes: tuple[str, ...] = ()

    def read(self, site: Site, window: Window) -> Sample:
        """Read a window of a site's raster with its labels."""
        pixels, valid = self.read_pixels(site, window)
        ids = np.where(valid, self.read_ids(site, window), np.uint8(NODATA_CLASS))
        return Sample(pixels, valid, ids, self.objects.get(site.scene))

    def count_classes(self) -> Cells:
        """Count the classes of every cell of every site; all labels are read once for it.

        Raises:
            DataError: if the labels hold an id that is no class.
        """
        if self.cells is not None:
            return self.cells
        places, counts = [], []
        for number, site in enumerate(self.sites):
            ids = self.read_ids(site, site.core)
            at, of_cells = count_cells(ids, side=_CELL, num_classes=len(self.classes))
            places.append(np.insert(at, 0, number, axis=1))
            counts.append(of_cells)
        return Cells(np.concatenate(places), np.concatenate(counts))


@dataclass(frozen=True)
class Parts:
    """Sources of a folder or a scene: one to train on, one to validate on, or both.

    Args:
        notes: what a user should know, a line each.
    """

    training: Source | None
    validation: Source | None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sources:
    """All sources of the user's data.

    Args:
        training: what windows are drawn from.
        cells: the classes of each of ``training``.
        weights: how often each of ``training`` is drawn from, in any unit.
        validation: empty where nothing is held back.
        classes: of a model that learns from all of them.
        notes: what a user should know, a line each.
        warnings: what is wrong with them, a line each.
    """

    training: tuple[Source, ...]
    cells: tuple[Cells, ...]
    weights: tuple[float, ...]
    validation: tuple[Source, ...]
    classes: tuple[str, ...]
    notes: tuple[str, ...]
    warnings: tuple[str, ...] = ()

    @property
    def num_labels(self) -> int:
        """Count the labelled pixels, or objects, to train on."""
        return sum(int(cells.counts.sum()) for cells in self.cells)


def check_alike(rasters: Iterable[tuple[str, int, str]], need: str) -> None:
    """Refuse rasters that one model cannot read.

    Args:
        rasters: name, bands and dtype of each.
        need: which of them have to be alike, for the message.

    Raises:
        DataError: naming the first that differs from the first of all.
    """
    (first, *of_first), *others = rasters
    for name, *kind in others:
        if kind != of_first:
            raise DataError(
                f"{name} has {kind[0]} bands of {kind[1]}, {first} has "
                f"{of_first[0]} of {of_first[1]}; {need} need the same"
            )


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
    """Merge cores that touch along a whole side, so that fewer sites cover the same ground.

    Windows of a model reach over the edge of a core; neighbours would be predicted twice. Cores
    are merged along rows first, then downward; they stay rectangles that do not overlap. Cores of
    other dates stay apart, though the earlier one be the same.
    """
    by_row = sorted(sites, key=lambda s: (s.dates, s.core.row_off, s.core.col_off))
    along_rows = _merge_neighbours(by_row, _union_along_row)
    by_col = sorted(along_rows, key=lambda s: (s.dates, s.core.col_off, s.core.row_off))
    return _merge_neighbours(by_col, _union_downward)


def _merge_neighbours(
    sites: Sequence[Site], unite: Callable[[Window, Window], Window | None]
) -> list[Site]:
    """Merge each site with the one before it where that can be done."""
    merged: list[Site] = []
    for site in sites:
        is_same = bool(merged) and merged[-1].dates == site.dates
        core = unite(merged[-1].core, site.core) if is_same else None
        if core is None:
            merged.append(site)
        else:
            merged[-1] = replace(site, core=core)
    return merged


def _union_along_row(left: Window, right: Window) -> Window | None:
    if (left.row_off, left.height, left.right) != (right.row_off, right.height, right.col_off):
        return None
    return replace(left, width=left.width + right.width)


def _union_downward(upper: Window, lower: Window) -> Window | None:
    if (upper.col_off, upper.width, upper.bottom) != (lower.col_off, lower.width, lower.row_off):
        return None
    return replace(upper, height=upper.height + lower.height)
