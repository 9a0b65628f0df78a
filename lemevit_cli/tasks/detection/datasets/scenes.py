"""A scene with a layer of boxes or polygons around its objects: never cut, never read in whole.

Each polygon becomes its minimum rectangle in pixels of the scene. An object belongs to the block of
the scene that its centre lies in. No window that is trained on shares a pixel with a block that is
held back, and an object of such a block that reaches into a window is ignored there: it has its
centre, and so at least half of itself, outside.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.tasks.detection.datasets.labels import Outline, objects_of
from lemevit_cli.tasks.detection.datasets.source import BoxParts, BoxSource, Objects
from lemevit_cli.training.datasets.blocks import BlockGrid, block_grid, extent_of
from lemevit_cli.training.datasets.holding_back import hold_back
from lemevit_cli.training.datasets.labels import (
    NamedPolygons,
    check_labelled,
    read_named_polygons,
)
from lemevit_cli.training.datasets.source import Site
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.vector.scene_polygons import is_vector

_CELL = 512  # pixels: side of the windows that validity is read in


@dataclass(frozen=True, eq=False)
class SceneReader:
    """Reads the one scene that a source is of."""

    scene: Scene

    def read(self, path: Path, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        return self.scene.read(window)


def open_boxes_of_scene(
    labelled: LabelledScene, *, crop: int, val_fraction: float | None, seed: int
) -> BoxParts:
    """Open a scene with its objects, and divide it by blocks unless its split is stated.

    Polygons without a class are ignored, neither trained on nor background.

    Args:
        crop: side of the training windows, from which the blocks' sides follow.
        val_fraction: of the objects, held back from an undivided scene; None decides by their
            number (see ``holding_back.py``).
        seed: of the blocks.

    Raises:
        DataError: if scene or layer cannot be read, do not meet, or nothing can be held back.
    """
    _check(labelled)
    try:
        scene = open_scene(labelled.scene)
        polygons = read_named_polygons(scene, labelled)
    except SceneError as error:
        raise DataError(str(error)) from error
    objects = _objects(scene, polygons)
    grid = block_grid(scene.width, scene.height, crop=crop)
    blocks = _blocks_with_objects(objects, grid, num_classes=len(polygons.classes))
    if not blocks:
        raise DataError(
            f"{scene.name}: no object of {labelled.labels} has its centre on a pixel with data"
        )
    counted = sum(int(block.counts.sum()) for block in blocks)
    plural = "classes" if len(polygons.classes) > 1 else "class"
    notes = (
        *(f"{scene.name}: {warning}" for warning in scene.warnings),
        f"{scene.name}: a scene with a layer of {counted} objects, "
        f"{len(polygons.classes)} {plural} ({', '.join(polygons.classes)})",
        *polygons.notes,
    )
    held, told = _held_back(labelled, polygons, blocks, scene.name, val_fraction, seed)
    placed = list(zip(blocks, _extents(blocks, held, grid, scene.window), strict=True))
    training = [each for each, is_held in zip(placed, held, strict=True) if not is_held]
    validation = [each for each, is_held in zip(placed, held, strict=True) if is_held]
    classes = polygons.classes
    return BoxParts(
        _source(scene, "train", classes, objects, training) if training else None,
        _source(scene, "val", classes, objects, validation) if validation else None,
        (*notes, *told),
    )


def _check(labelled: LabelledScene) -> None:
    """Refuse what can be told to be wrong without opening anything large."""
    check_labelled(labelled, dates=1)
    if labelled.background != LabelledScene.background:
        raise DataError(
            f"{labelled.scene}: a background of {labelled.background!r} is for segmentation; "
            "detection takes for background whatever no box covers"
        )
    if not is_vector(labelled.labels):
        raise DataError(f"{labelled.labels}: is a raster; detection learns from boxes or polygons")


def _objects(scene: Scene, found: NamedPolygons) -> Objects:
    """Fit boxes in pixels of the scene; one whose centre is nodata counts as not labelled."""
    outlines = [
        # The last point of a ring is its first.
        Outline(shapely.get_coordinates(polygon.exterior)[:-1], name, False, scene.name)
        for polygon, name in zip(found.polygons.in_pixels(), found.names, strict=True)
    ]
    objects = objects_of(outlines, found.classes)
    if scene.mask_kind == "none":
        return objects
    seen = _have_data(scene, objects.boxes[:, :2])
    return Objects(objects.boxes[seen], objects.class_ids[seen], objects.difficult[seen])


def _have_data(scene: Scene, centres: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of places ``(N, 2)`` whether their pixel is valid; True of one outside the scene."""
    seen = np.ones(len(centres), dtype=bool)
    cells, of_place = np.unique(centres.astype(np.int64) // _CELL, axis=0, return_inverse=True)
    for number, (col, row) in enumerate(cells.tolist()):
        cell = Window(col_off=col * _CELL, row_off=row * _CELL, width=_CELL, height=_CELL)
        window = cell.intersection(scene.window)
        if window is None:
            continue
        valid = scene.read(window)[1]
        inside = np.flatnonzero(of_place.reshape(-1) == number)
        cols, rows = (
            np.floor(centres[inside]).astype(np.int64) - (window.col_off, window.row_off)
        ).T
        there = (cols >= 0) & (rows >= 0) & (cols < window.width) & (rows < window.height)
        seen[inside[there]] = valid[rows[there], cols[there]]
    return seen


@dataclass(frozen=True, eq=False)
class _Block:
    """A block that objects have their centre in, and how many of each class."""

    row: int
    col: int
    window: Window
    counts: NDArray[np.int64]  # (classes,)


def _blocks_with_objects(objects: Objects, grid: BlockGrid, *, num_classes: int) -> list[_Block]:
    rows = np.searchsorted(grid.row_edges, objects.boxes[:, 1], side="right") - 1
    cols = np.searchsorted(grid.col_edges, objects.boxes[:, 0], side="right") - 1
    height, width = grid.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width) & objects.counted
    counts = np.zeros((height, width, num_classes), dtype=np.int64)
    np.add.at(counts, (rows[inside], cols[inside], objects.class_ids[inside]), 1)
    return [
        _Block(row, col, grid.block(row, col), counts[row, col])
        for row, col in np.argwhere(counts.any(axis=2)).tolist()
    ]


def _held_back(
    labelled: LabelledScene,
    polygons: NamedPolygons,
    blocks: list[_Block],
    name: str,
    val_fraction: float | None,
    seed: int,
) -> tuple[NDArray[np.bool_], list[str]]:
    """Choose the blocks for validation ``(N,)``, all or none where the split is stated; say why."""
    if labelled.split is not None:
        return np.full(len(blocks), labelled.split == "val"), []
    held, note = hold_back(
        np.stack([block.counts for block in blocks]),
        [(block.row, block.col) for block in blocks],
        val_fraction,
        name=name,
        classes=polygons.classes,
        num_polygons=polygons.num_features,
        seed=seed,
        unit="objects",
    )
    return held, [note]


def _extents(
    blocks: list[_Block], held: NDArray[np.bool_], grid: BlockGrid, whole: Window
) -> list[Window]:
    """Return the extent of each block's windows: one to train on keeps out of those held back."""
    held_back = np.zeros(grid.shape, dtype=bool)
    for block, is_held in zip(blocks, held, strict=True):
        held_back[block.row, block.col] = is_held
    return [
        whole if is_held or not held.any() else extent_of(block.row, block.col, grid, held_back)
        for block, is_held in zip(blocks, held, strict=True)
    ]


def _source(
    scene: Scene,
    split: str,
    classes: tuple[str, ...],
    objects: Objects,
    blocks: list[tuple[_Block, Window]],
) -> BoxSource:
    """Make a source of blocks, each with the extent that its windows lie in."""
    return BoxSource(
        name=scene.stem,
        split=split,
        classes=classes,
        sites=tuple(
            Site(scene=scene.path, extent=extent, core=block.window, gsd_m=scene.gsd_m)
            for block, extent in blocks
        ),
        objects={scene.path: objects},
        bands=scene.num_bands,
        dtype=scene.dtype,
        reader=SceneReader(scene),
    )
