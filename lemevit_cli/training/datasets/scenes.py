"""Scenes with polygons, or with a raster of class ids: never cut, never read in whole.

Labels are read on the scene's grid, window by window. Blocks of the scene (``blocks.py``) are the
sites: of an undivided scene some are held back for validation, and no training window shares a
pixel with them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.raster.inspection import STATE_NODATA, value_warnings
from lemevit_cli.raster.scene import Scene, open_ground
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.training.datasets.blocks import BlockGrid, block_grid
from lemevit_cli.training.datasets.holding_back import Division, Place, divide_scene
from lemevit_cli.training.datasets.labels import (
    Labels,
    check_labelled,
    open_labels,
    open_to_learn,
)
from lemevit_cli.training.datasets.source import Cells, Parts, Site, Source, count_cells
from lemevit_cli.training.options import LabelledScene

_CELL_SIDES = (16, 32, 64, 128)  # pixels
_MOST_CELLS = 100_000


def open_labelled_scene(labelled: LabelledScene, division: Division) -> Parts:
    """Open a scene with its labels, count its classes, and divide it unless its split is stated.

    Validity is read only if the scene can have nodata pixels, and only where labels may be.

    Raises:
        DataError: if scene or labels cannot be read, do not meet, or nothing can be held back.
    """
    check_labelled(labelled, dates=1)
    with open_to_learn(lambda: open_ground(labelled.scene)) as scene:
        labels = open_labels(scene, labelled)
        ground = Ground(scene, scene.num_bands, labels, may_have_nodata=scene.mask_kind != "none")
        warnings = (*scene.warnings, *value_warnings(scene, option=STATE_NODATA))
        notes = (*(f"{scene.name}: {warning}" for warning in warnings), *labels.notes)
        return divide_ground(ground, labelled, division, notes)


@dataclass(frozen=True, eq=False)
class Ground:
    """A scene, or two dates of it, with labels.

    Args:
        bands: of one date.
        may_have_nodata: whether pixels may have to be read to know which are valid.
    """

    scene: Scene | ScenePair
    bands: int
    labels: Labels
    may_have_nodata: bool

    def read_ids(self, site: Site, window: Window) -> NDArray[np.uint8]:
        """Read class ids ``(H, W)`` of a window of the scene."""
        return self.labels.read(window)


@dataclass(frozen=True, eq=False)
class SceneReader:
    """Reads the one scene, or pair, that a source is of."""

    scene: Scene | ScenePair

    def read(self, site: Site, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels ``(bands, H, W)`` of a window, and where they are valid ``(H, W)``."""
        return self.scene.read(window)


def divide_ground(
    ground: Ground, labelled: LabelledScene, division: Division, notes: tuple[str, ...]
) -> Parts:
    """Count the classes of a labelled scene, and divide it, as :func:`open_labelled_scene` does.

    Raises:
        DataError: if nothing is labelled, or nothing can be held back.
    """
    scene, labels = ground.scene, ground.labels
    grid = block_grid(scene.width, scene.height, crop=division.crop)
    blocks = _count_blocks(ground, grid)
    if not blocks:
        raise DataError(
            f"{scene.name}: no pixel has a label of {labelled.labels}; its polygons are smaller "
            "than a pixel (--all-touched takes what they touch), or lie where the scene has no data"
        )
    training, validation, lines = divide_scene(
        scene,
        labelled,
        grid,
        {place: cells.counts.sum(axis=0) for place, cells in blocks.items()},
        division,
        classes=labels.classes,
        num_polygons=labels.num_polygons,
    )
    reasons = _reasons_of_lack(ground, grid, blocks)
    return Parts(
        _source(ground, "train", training, blocks, reasons),
        _source(ground, "val", validation, blocks, reasons),
        (*notes, *lines),
    )


def _count_blocks(ground: Ground, grid: BlockGrid) -> dict[Place, Cells]:
    """Count the classes in cells of the blocks; what has no label is left out.

    Returns:
        Cells by row and column of their block, without the number of a site.
    """
    scene, labels = ground.scene, ground.labels
    windows = {place: grid.block(*place) for place in np.ndindex(grid.shape)}
    candidates = {place: window for place, window in windows.items() if labels.may_have(window)}
    side = _cell_side(sum(w.width * w.height for w in candidates.values()))
    blocks = {}
    for place, window in candidates.items():
        ids = labels.read(window)
        if ground.may_have_nodata and (ids != NODATA_CLASS).any():
            ids[~scene.read(window)[1]] = NODATA_CLASS
        places, counts = count_cells(ids, side=side, num_classes=len(labels.classes))
        places[:, :2] += window.col_off, window.row_off
        is_labelled = counts.any(axis=1)
        if is_labelled.any():
            blocks[place] = Cells(places[is_labelled], counts[is_labelled])
    return blocks


def _reasons_of_lack(
    ground: Ground, grid: BlockGrid, blocks: Mapping[Place, Cells]
) -> dict[str, str]:
    """Say why classes that the labels name have no pixel, by their names."""
    totals = np.sum([cells.counts.sum(axis=0) for cells in blocks.values()], axis=0)
    reasons = {}
    for class_id in np.flatnonzero(totals == 0).tolist():
        alone = ground.labels.alone(class_id)
        is_drawn = is_valid = False
        for place in np.ndindex(grid.shape):
            window = grid.block(*place)
            is_own = alone.may_have(window) and alone.read(window) == class_id
            if is_valid or not np.any(is_own):
                continue
            is_drawn = True
            no_holes = not ground.may_have_nodata
            is_valid = no_holes or bool((is_own & ground.scene.read(window)[1]).any())
        reasons[ground.labels.classes[class_id]] = ground.labels.explain_lack(
            class_id, is_drawn=is_drawn, is_valid=is_valid
        )
    return reasons


def _cell_side(pixels: int) -> int:
    """Return the smallest side that keeps the cells few: small cells find small polygons."""
    few_enough = (side for side in _CELL_SIDES if pixels <= _MOST_CELLS * side**2)
    return next(few_enough, _CELL_SIDES[-1])


def _source(
    ground: Ground,
    split: str,
    sites: Mapping[Place, Site],
    blocks: Mapping[Place, Cells],
    reasons: Mapping[str, str],
) -> Source | None:
    if not sites:
        return None
    cells = [blocks[place] for place in sites]
    places = [np.insert(each.places, 0, number, axis=1) for number, each in enumerate(cells)]
    scene = ground.scene
    return Source(
        name=scene.stem,
        split=split,
        classes=ground.labels.classes,
        sites=tuple(sites.values()),
        bands=ground.bands,
        dtype=scene.dtype,
        num_pixels=scene.width * scene.height,
        read_pixels=SceneReader(scene).read,
        read_ids=ground.read_ids,
        cells=Cells(np.concatenate(places), np.concatenate([each.counts for each in cells])),
        is_complete=ground.labels.is_complete,
        polygons=ground.labels.count_polygons(),
        reasons=reasons,
    )
