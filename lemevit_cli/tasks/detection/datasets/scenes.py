"""A scene with a layer of boxes or polygons around its objects: never cut, never read in whole.

Each polygon becomes its minimum rectangle in pixels of the scene. An object belongs to the block of
the scene that its centre lies in. No window that is trained on shares a pixel with a block that is
held back, and an object of such a block that reaches into a window is ignored there: it has its
centre, and so at least half of itself, outside.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.inspection import STATE_NODATA, value_warnings
from lemevit_cli.raster.scene import Scene, open_ground
from lemevit_cli.tasks.detection.datasets.labels import Outline, objects_of
from lemevit_cli.tasks.detection.files import difficult_rows
from lemevit_cli.training.datasets.blocks import BlockGrid, block_grid
from lemevit_cli.training.datasets.holding_back import Division, Place, divide_scene
from lemevit_cli.training.datasets.labels import (
    NamedPolygons,
    check_labelled,
    open_to_learn,
    read_named_polygons,
)
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.datasets.scenes import SceneReader
from lemevit_cli.training.datasets.source import Parts, Site, Source
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.vector.scene_polygons import is_vector

_CELL = 512  # pixels: side of the windows that validity is read in


def open_boxes_of_scene(labelled: LabelledScene, division: Division) -> Parts:
    """Open a scene with its objects, and divide it by blocks unless its split is stated.

    Polygons without a class are ignored, neither trained on nor background.

    Raises:
        DataError: if scene or layer cannot be read, do not meet, or nothing can be held back.
    """
    _check(labelled)
    with open_to_learn(lambda: open_ground(labelled.scene)) as scene:
        return _divide_objects(scene, labelled, division)


def _divide_objects(scene: Scene, labelled: LabelledScene, division: Division) -> Parts:
    polygons = read_named_polygons(scene, labelled, with_points=False)
    objects, left_out = _objects(scene, polygons, labelled.labels)
    grid = block_grid(scene.width, scene.height, crop=division.crop)
    counts = _count_blocks(objects, grid, num_classes=len(polygons.classes))
    if not counts:
        raise DataError(
            f"{scene.name}: no object of {labelled.labels} has its centre on a pixel with data"
        )
    training, validation, lines = divide_scene(
        scene,
        labelled,
        grid,
        counts,
        division,
        classes=polygons.classes,
        num_polygons=polygons.num_features,
        unit="objects",
    )
    plural = "classes" if len(polygons.classes) > 1 else "class"
    notes = (
        *(f"{scene.name}: {warning}" for warning in scene.warnings),
        *(f"{scene.name}: {line}" for line in value_warnings(scene, option=STATE_NODATA)),
        f"{scene.name}: a scene with a layer of {sum(map(np.sum, counts.values()))} objects, "
        f"{len(polygons.classes)} {plural} ({', '.join(polygons.classes)})",
        *polygons.notes,
        *(f"{labelled.labels}: {note}" for note in left_out),
    )
    return Parts(
        _source(scene, "train", polygons.classes, objects, training),
        _source(scene, "val", polygons.classes, objects, validation),
        (*notes, *lines),
    )


def _check(labelled: LabelledScene) -> None:
    """Refuse what is wrong before anything large is opened."""
    check_labelled(labelled, dates=1)
    if labelled.background != LabelledScene.background:
        raise DataError(
            f"{labelled.scene}: a background of {labelled.background!r} is for segmentation; "
            "detection takes for background whatever no box covers"
        )
    if labelled.all_touched:
        raise DataError(f"{labelled.labels}: --all-touched burns pixels; detection learns boxes")
    if not is_vector(labelled.labels):
        raise DataError(f"{labelled.labels}: is a raster; detection learns from boxes or polygons")


def _objects(scene: Scene, named: NamedPolygons, path: str) -> tuple[Objects, list[str]]:
    """Fit boxes in pixels of the scene, and note what is left out.

    A box whose centre is nodata counts as not labelled.
    """
    difficult = difficult_rows(named.table, path)[named.polygons.rows]
    outlines = [
        # The last point of a ring is its first.
        Outline(shapely.get_coordinates(polygon.exterior)[:-1], name, bool(is_hard), scene.name)
        for polygon, name, is_hard in zip(
            named.polygons.polygons, named.names, difficult, strict=True
        )
    ]
    objects = objects_of(outlines, named.classes)
    flat = len(outlines) - len(objects)
    notes = [f"{flat} polygons without area are left out"] if flat else []
    if scene.mask_kind == "none":
        return objects, notes
    has_data = _have_data(scene, objects.boxes[:, :2])
    if not has_data.all():
        notes.append(f"{(~has_data).sum()} objects with their centre on nodata are left out")
    kept = Objects(
        objects.boxes[has_data], objects.class_ids[has_data], objects.difficult[has_data]
    )
    return kept, notes


def _have_data(scene: Scene, centres: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Say of places ``(N, 2)`` whether their pixel is valid; True of one outside the scene."""
    has_data = np.ones(len(centres), dtype=bool)
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
        has_data[inside[there]] = valid[rows[there], cols[there]]
    return has_data


def _count_blocks(
    objects: Objects, grid: BlockGrid, *, num_classes: int
) -> dict[Place, NDArray[np.int64]]:
    """Count the objects of each class ``(classes,)`` that have their centre in a block."""
    rows = np.searchsorted(grid.row_edges, objects.boxes[:, 1], side="right") - 1
    cols = np.searchsorted(grid.col_edges, objects.boxes[:, 0], side="right") - 1
    height, width = grid.shape
    inside = (rows >= 0) & (rows < height) & (cols >= 0) & (cols < width) & objects.counted
    counts = np.zeros((height, width, num_classes), dtype=np.int64)
    np.add.at(counts, (rows[inside], cols[inside], objects.class_ids[inside]), 1)
    return {(row, col): counts[row, col] for row, col in np.argwhere(counts.any(axis=2)).tolist()}


def _source(
    scene: Scene,
    split: str,
    classes: tuple[str, ...],
    objects: Objects,
    sites: Mapping[Place, Site],
) -> Source | None:
    if not sites:
        return None
    return Source(
        name=scene.stem,
        split=split,
        classes=classes,
        sites=tuple(sites.values()),
        bands=scene.num_bands,
        dtype=scene.dtype,
        num_pixels=sum(site.num_pixels for site in sites.values()),
        read_pixels=SceneReader(scene).read,
        objects={scene.path: objects},
    )
