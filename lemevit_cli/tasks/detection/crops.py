"""Training windows with oriented boxes; sample ``i`` of a seed is always the same.

A window is what becomes of a frame (``frames.py``). One affine says where each of its pixels comes
from, and the inverse brings the boxes: whatever is done to the picture is done to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import hypot
from typing import Any

import numpy as np
import shapely
import torch
from affine import Affine
from numpy.typing import NDArray
from torch import Generator, Tensor
from torch.utils.data import Dataset

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import corners_of, mapped
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.view import filled
from lemevit_cli.tasks.detection.datasets.source import IGNORED, BoxSource, Objects
from lemevit_cli.tasks.detection.frames import Frame, draw_frame, sample_frame
from lemevit_cli.training.augmentation import (
    NUM_SYMMETRIES,
    symmetry,
    symmetry_transform,
    uniform,
    vary_pixels,
)
from lemevit_cli.training.crops import generator_of, pick, void_values
from lemevit_cli.training.datasets.source import Site
from lemevit_cli.training.options import AugmentationOptions, TrainingOptions

EMPTY = -1  # the label of a row without an object
MOST_OBJECTS = 512  # rows for the objects of a window; of more, the smallest are forgotten
KEPT_PART = 0.7  # of an object's area, inside the window: with less it is ignored
_SMALLEST_SIDE = 2.0  # pixels of the window; smaller boxes are ignored
_GROUND = 0.1  # share of the windows that are drawn anywhere, not around an object


@dataclass(frozen=True, eq=False)
class SourceOfBoxes:
    """A source with what is needed to draw from it.

    Args:
        class_ids: of the model, for every class of the source.
        unknown: ``(classes of the model,)`` bool: those that the source does not label.
        class_shares: cumulated chance of each class of the source, the last is 1.
        cells: of each class of the source the cells with objects of it, each as the number of its
            site and the objects' numbers.
        ground_shares: cumulated chance of each site, by its area.
    """

    source: BoxSource
    class_ids: NDArray[np.int64]
    unknown: Tensor
    class_shares: NDArray[np.float64]
    cells: tuple[tuple[tuple[int, NDArray[np.int64]], ...], ...]
    ground_shares: NDArray[np.float64]


def source_of_boxes(
    source: BoxSource, model_classes: Sequence[str], *, balance: float, crop: int
) -> SourceOfBoxes:
    """Prepare a source.

    Sites are cut into cells of a window's size. A class that is found in the share ``f`` of the
    cells is aimed at with a chance in proportion to ``f ** (1 - balance)``, then evenly one of its
    cells, then an object in it: a harbour with a hundred boats counts as one cell.

    Raises:
        DataError: if there is no object to find.
    """
    cells = _cells_by_class(source, crop)
    numbers = np.array([len(of_class) for of_class in cells], dtype=np.float64)
    if not numbers.any():
        raise DataError(f"{source.name}/{source.split}: there is no object to find")
    chances = np.where(numbers > 0, (numbers / numbers.sum()) ** (1.0 - balance), 0.0)
    areas = np.array([float(site.area.width * site.area.height) for site in source.sites])
    return SourceOfBoxes(
        source=source,
        class_ids=np.array([model_classes.index(name) for name in source.classes], dtype=np.int64),
        unknown=torch.tensor([name not in source.classes for name in model_classes]),
        class_shares=np.cumsum(chances) / chances.sum(),
        cells=cells,
        ground_shares=np.cumsum(areas) / areas.sum(),
    )


def _cells_by_class(
    source: BoxSource, side: int
) -> tuple[tuple[tuple[int, NDArray[np.int64]], ...], ...]:
    found: list[list[tuple[int, NDArray[np.int64]]]] = [[] for _ in source.classes]
    for number, site in enumerate(source.sites):
        objects = source.objects[site.scene]
        own = source.own(site)
        own = own[objects.counted[own]]
        places = np.column_stack(
            [objects.class_ids[own], objects.boxes[own, :2].astype(np.int64) // side]
        )
        kinds, of_object = np.unique(places, axis=0, return_inverse=True)
        for kind, (class_id, _, _) in enumerate(kinds.tolist()):
            found[class_id].append((number, own[of_object.reshape(-1) == kind]))
    return tuple(tuple(of_class) for of_class in found)


@dataclass(frozen=True, eq=False)
class DrawnFrame:
    """A frame as it was drawn and read, before any variation.

    Args:
        seen: the part of the frame's window that lies in the site's extent.
        pixels, valid: of ``seen``, as :meth:`BoxSource.read` gives them.
        generator: for what is drawn next.
    """

    source: SourceOfBoxes
    site: Site
    frame: Frame
    seen: Window
    pixels: NDArray[Any]
    valid: NDArray[np.bool_]
    generator: Generator

    @property
    def dates(self) -> tuple[str, ...]:
        """Return the paths of its raster, or of both dates."""
        return self.site.dates


class FrameDraw:
    """Draws frames around objects, and some anywhere; number ``i`` of a seed is always the same.

    Args:
        weights: how often each source is drawn from; in any unit.
    """

    def __init__(
        self, sources: Sequence[SourceOfBoxes], weights: Sequence[float], options: TrainingOptions
    ) -> None:
        self._sources = list(sources)
        self._shares = np.cumsum(weights) / np.sum(weights)
        self._options = options

    def __call__(self, index: int) -> DrawnFrame:
        generator = generator_of(self._options.seed, index)
        source = self._sources[pick(self._shares, generator)]
        site, target = _draw_target(source, generator)
        frame = draw_frame(site.room, target, self._options, generator)
        seen = frame.window.intersection(site.room)
        if seen is None:
            raise ValueError(f"{frame} misses {site.room}")
        pixels, valid = source.source.read(site, seen)
        return DrawnFrame(source, site, frame, seen, pixels, valid, generator)


def _draw_target(
    source: SourceOfBoxes, generator: Generator
) -> tuple[Site, tuple[float, float, float]]:
    """Draw a site, and what to aim at in it: a place ``x, y`` and the width of the object there."""
    sites = source.source.sites
    if uniform(generator, 0.0, 1.0) < _GROUND:
        site = sites[pick(source.ground_shares, generator)]
        x = site.area.col_off + uniform(generator, 0.0, site.area.width)
        return site, (x, site.area.row_off + uniform(generator, 0.0, site.area.height), 0.0)
    cells = source.cells[pick(source.class_shares, generator)]
    number, objects = cells[_any_of(len(cells), generator)]
    chosen = objects[_any_of(len(objects), generator)]
    site = sites[number]
    x, y, w, h, _ = source.source.objects[site.scene].boxes[chosen].tolist()
    return site, (x, y, hypot(w, h))


def _any_of(count: int, generator: Generator) -> int:
    return min(int(uniform(generator, 0.0, count)), count - 1)


class TrainingBoxCrops(Dataset[dict[str, Tensor]]):
    """Sample ``i``: an augmented window with its boxes, all of constant shape.

    ``pixels`` ``(bands, crop, crop)`` float32; ``boxes`` ``(MOST_OBJECTS, 5)`` float32 in pixels of
    the window; ``labels`` ``(MOST_OBJECTS,)``: ids of the model's classes, ``IGNORED`` for what is
    neither a class nor background (difficult, tiny, cut by the edge, dropped), ``EMPTY`` in
    unused rows, which come last; ``unknown`` ``(classes,)`` bool: classes that the source does not
    label. A cut object keeps its whole box. Nodata pixels, and those outside of the raster, hold
    ``fill``; no augmentation of colours touches them.

    Args:
        draw: gives frames by number.
        value_range: of the pixels, for the augmentation.
        fill: a value a band: the card's mean.
    """

    def __init__(
        self,
        draw: FrameDraw,
        options: TrainingOptions,
        *,
        value_range: tuple[float, float],
        fill: Sequence[float],
    ) -> None:
        self._draw = draw
        self._options = options
        self._value_range = value_range
        self._fill = tuple(fill)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        drawn = self._draw(index)
        augmentation, generator = self._options.augmentation, drawn.generator
        crop = self._options.crop
        kind = _draw_symmetry(augmentation, generator)
        pixels, valid = sample_frame(
            drawn.frame, drawn.seen, drawn.pixels, drawn.valid, crop=crop, fill=self._fill
        )
        pixels, valid = (symmetry(values, kind).contiguous() for values in (pixels, valid))
        pixels = vary_pixels(pixels, augmentation, generator, value_range=self._value_range)
        void = void_values(self._fill, drawn.pixels.dtype)
        to_crop = symmetry_transform(kind, crop) @ ~drawn.frame.to_raster(crop)
        boxes, labels = _boxes_in(drawn, to_crop, valid.numpy())
        return {
            "pixels": torch.from_numpy(filled(pixels.numpy(), valid.numpy(), void)),
            **_rows(boxes, labels),
            "unknown": drawn.source.unknown,
        }

    def origin(self, index: int) -> str:
        """Say where sample ``index`` is from, for messages."""
        drawn = self._draw(index)
        seen = drawn.seen
        return (
            f"{drawn.site.scene}, window {seen.col_off},{seen.row_off} "
            f"of {seen.width} x {seen.height}"
        )


def _draw_symmetry(options: AugmentationOptions, generator: Generator) -> int:
    if not options.symmetries:
        return 0
    return int(torch.randint(NUM_SYMMETRIES, (), generator=generator))


def _boxes_in(
    drawn: DrawnFrame, to_crop: Affine, valid: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return boxes ``(N, 5)`` that touch a window, in its pixels, and their labels ``(N,)``."""
    objects = drawn.source.source.objects[drawn.site.scene]
    inside = part_inside(objects, drawn.frame.corners, drawn.site.room)
    touching = np.flatnonzero(inside > 0)
    boxes = mapped(objects.boxes[touching], to_crop)
    labels = objects.class_ids[touching]
    has_class = labels != IGNORED
    labels[has_class] = drawn.source.class_ids[labels[has_class]]
    cols, rows = np.clip(boxes[:, :2].astype(np.int64), 0, len(valid) - 1).T
    is_kept = (
        (inside[touching] >= KEPT_PART)
        & ~objects.difficult[touching]
        & (boxes[:, 3] >= _SMALLEST_SIDE)
        & valid[rows, cols]
    )
    return boxes, np.where(is_kept, labels, IGNORED)


def part_inside(
    objects: Objects, corners: NDArray[np.float64], room: Window
) -> NDArray[np.float64]:
    """Measure the part of each object's area in a quadrilateral and an extent, ``(N,)`` in [0, 1].

    Args:
        corners: ``(4, 2)`` of the quadrilateral, in pixels of the raster.
    """
    parts = np.zeros(len(objects))
    near = objects.near([*corners.min(axis=0), *corners.max(axis=0)])
    visible = shapely.intersection(
        shapely.Polygon(corners),
        shapely.box(room.col_off, room.row_off, room.right, room.bottom),
    )
    outlines = shapely.polygons(corners_of(objects.boxes[near]))
    parts[near] = shapely.area(shapely.intersection(outlines, visible)) / shapely.area(outlines)
    return np.minimum(parts, 1.0)


def _rows(boxes: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Tensor]:
    """Put boxes and labels in a constant number of rows: objects to find first, then by size."""
    order = np.lexsort([-boxes[:, 2] * boxes[:, 3], labels == IGNORED])[:MOST_OBJECTS]
    padded = np.zeros((MOST_OBJECTS, 5), dtype=np.float32)
    padded[: len(order)] = boxes[order]
    ids = np.full(MOST_OBJECTS, EMPTY, dtype=np.int64)
    ids[: len(order)] = labels[order]
    return {"boxes": torch.from_numpy(padded), "labels": torch.from_numpy(ids)}
