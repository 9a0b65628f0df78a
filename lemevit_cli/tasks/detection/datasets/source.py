"""What training asks of a data set of oriented boxes, whatever its layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import circumscribed
from lemevit_cli.geometry.window import Window
from lemevit_cli.training.datasets.source import Site

IGNORED = -2  # the class of an object that is neither one of the classes nor background


@dataclass(frozen=True, eq=False)
class Objects:
    """What is labelled on a raster, or on a part of it.

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
        return circumscribed(self.boxes)

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


class WindowReader(Protocol):
    """Reads windows of rasters by their paths. Can be pickled."""

    def read(self, path: Path, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels ``(bands, H, W)`` and their validity ``(H, W)``; both may be views."""
        ...


@dataclass(frozen=True, eq=False)
class BoxSource:
    """One split of one data set, checked. It can be pickled: worker processes read from it.

    Args:
        name: what messages and figures call it.
        split: ``train`` or ``val``.
        classes: names, by id. Everything else that it shows is background.
        sites: pictures, labelled or proven empty, or blocks of a scene with objects.
        objects: by the raster's path; a scene's blocks share theirs.
        bands, dtype: of all rasters.
        reader: reads them.
        first_of: where a class is first labelled, for messages; of folders alone.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    sites: tuple[Site, ...]
    objects: Mapping[str, Objects]
    bands: int
    dtype: str
    reader: WindowReader = field(repr=False)
    first_of: Mapping[str, str] = field(default_factory=dict)

    def read(self, site: Site, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels ``(bands, H, W)`` of a window, and where they are valid ``(H, W)``."""
        return self.reader.read(Path(site.scene), window)

    def own(self, site: Site) -> NDArray[np.int64]:
        """Find the objects of a site's raster that belong to it: those with their centre in it."""
        return self.objects[site.scene].centred_in(site.core)

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """Count the objects of each class that are to be found, ``(classes,)``."""
        return np.array([len(self.lengths[name]) for name in self.classes], dtype=np.int64)

    @cached_property
    def lengths(self) -> dict[str, NDArray[np.float64]]:
        """Return lengths of the objects to be found, by class, in pixels of their rasters."""
        ids, lengths = [np.empty(0, np.int64)], [np.empty(0)]
        for site in self.sites:
            objects, own = self.objects[site.scene], self.own(site)
            found = own[objects.counted[own]]
            ids.append(objects.class_ids[found])
            lengths.append(objects.boxes[found, 2])
        every, of_every = np.concatenate(lengths), np.concatenate(ids)
        return {name: every[of_every == i] for i, name in enumerate(self.classes)}

    @property
    def num_pixels(self) -> int:
        """Count the pixels of all sites."""
        return sum(site.core.width * site.core.height for site in self.sites)


@dataclass(frozen=True)
class BoxParts:
    """What a folder or a scene gives: a training source, a validation source, or both."""

    training: BoxSource | None
    validation: BoxSource | None
    notes: tuple[str, ...]
