"""Scenes with polygons, or with a raster of class ids: never cut, never read in whole.

Labels are read on the scene's grid, window by window. Blocks of the scene (``blocks.py``) are the
sites: of an undivided scene some are held back for validation, and no training window shares a
pixel with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.training.datasets.blocks import BlockGrid, block_grid, extent_of
from lemevit_cli.training.datasets.holding_back import hold_back
from lemevit_cli.training.datasets.labels import Labels, check_labelled, open_labels
from lemevit_cli.training.datasets.source import Cells, Site, count_cells
from lemevit_cli.training.options import LabelledScene

_CELL_SIDES = (16, 32, 64, 128)  # pixels
_MOST_CELLS = 100_000


@dataclass(frozen=True, eq=False)
class SceneSource:
    """One split of a labelled scene, or of two dates of it.

    Args:
        scene: or two dates of it, read as one.
        bands: of one date.
        sites: blocks of the scene that have labels.
        cells: the classes in them.
    """

    name: str
    split: str
    scene: Scene | ScenePair
    bands: int
    labels: Labels
    sites: tuple[Site, ...]
    cells: Cells

    @property
    def classes(self) -> tuple[str, ...]:
        return self.labels.classes

    @property
    def is_complete(self) -> bool:
        return self.labels.is_complete

    @property
    def dtype(self) -> str:
        return self.scene.dtype

    @property
    def num_pixels(self) -> int:
        return self.scene.width * self.scene.height

    def read(
        self, site: Site, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8]]:
        pixels, valid = self.scene.read(window)
        ids = self.labels.read(window)
        ids[~valid] = NODATA_CLASS
        return pixels, valid, ids

    def read_truth(self, site: Site, window: Window) -> NDArray[np.uint8]:
        return self.labels.read(window)

    def count_classes(self) -> Cells:
        return self.cells


@dataclass(frozen=True)
class SceneParts:
    """What a labelled scene gives: a training source, a validation source, or both."""

    training: SceneSource | None
    validation: SceneSource | None
    notes: tuple[str, ...]


def open_labelled_scene(
    labelled: LabelledScene, *, crop: int, val_fraction: float | None, seed: int
) -> SceneParts:
    """Open a scene with its labels, count its classes, and divide it unless its split is stated.

    Validity is read only if the scene can have nodata pixels, and only where labels may be.

    Args:
        crop: side of the training windows, from which the blocks' sides follow.
        val_fraction: of the labelled pixels, held back from an undivided scene. None holds back a
            fifth if every class has pixels in at least 5 blocks, and polygons number at least 30;
            else nothing, and a note says so.
        seed: of the blocks.

    Raises:
        DataError: if scene or labels cannot be read, do not meet, or nothing can be held back.
    """
    check_labelled(labelled, dates=1)
    try:
        scene = open_scene(labelled.scene)
        labels = open_labels(scene, labelled)
    except SceneError as error:
        raise DataError(str(error)) from error
    ground = Ground(scene, scene.num_bands, labels, can_be_void=scene.mask_kind != "none")
    notes = (*(f"{scene.name}: {warning}" for warning in scene.warnings), *labels.notes)
    return parts_of(ground, labelled, crop=crop, val_fraction=val_fraction, seed=seed, notes=notes)


@dataclass(frozen=True, eq=False)
class Ground:
    """A scene, or two dates of it, with labels.

    Args:
        bands: of one date.
        can_be_void: whether pixels may have to be read to know which are valid.
        after: path of the later date.
    """

    scene: Scene | ScenePair
    bands: int
    labels: Labels
    can_be_void: bool
    after: str | None = None


def parts_of(
    ground: Ground,
    labelled: LabelledScene,
    *,
    crop: int,
    val_fraction: float | None,
    seed: int,
    notes: tuple[str, ...],
) -> SceneParts:
    """Count the classes of a labelled scene, and divide it, as :func:`open_labelled_scene` does.

    Raises:
        DataError: if nothing is labelled, or nothing can be held back.
    """
    scene, labels = ground.scene, ground.labels
    grid = block_grid(scene.width, scene.height, crop=crop)
    blocks = _count_blocks(ground, grid)
    if not blocks:
        raise DataError(
            f"{scene.name}: no pixel has a label of {labelled.labels}; its polygons are smaller "
            "than a pixel, or lie where the scene has no data"
        )
    if labelled.split is not None:
        source = _source(ground, labelled.split, blocks)
        is_training = labelled.split == "train"
        return SceneParts(source if is_training else None, None if is_training else source, notes)
    held, note = hold_back(
        np.stack([block.counts.sum(axis=0) for block in blocks]),
        [(block.row, block.col) for block in blocks],
        val_fraction,
        name=scene.name,
        classes=labels.classes,
        num_polygons=labels.num_polygons,
        seed=seed,
    )
    return _divided(ground, grid, blocks, held, (*notes, note))


@dataclass(frozen=True)
class _Block:
    """A block with labels, and the cells in it that have some."""

    row: int
    col: int
    window: Window
    places: NDArray[np.int64]  # (N, 4), pixels of the scene
    counts: NDArray[np.int64]  # (N, classes)


def _count_blocks(ground: Ground, grid: BlockGrid) -> list[_Block]:
    scene, labels = ground.scene, ground.labels
    windows = {
        (row, col): grid.block(row, col)
        for row in range(grid.shape[0])
        for col in range(grid.shape[1])
    }
    candidates = {place: window for place, window in windows.items() if labels.may_have(window)}
    side = _cell_side(sum(w.width * w.height for w in candidates.values()))
    blocks = []
    for (row, col), window in candidates.items():
        ids = labels.read(window)
        if ground.can_be_void and (ids != NODATA_CLASS).any():
            ids[~scene.read(window)[1]] = NODATA_CLASS
        places, counts = count_cells(ids, side=side, num_classes=len(labels.classes))
        places[:, 0] += window.col_off
        places[:, 1] += window.row_off
        labelled = counts.any(axis=1)
        if labelled.any():
            blocks.append(_Block(row, col, window, places[labelled], counts[labelled]))
    return blocks


def _cell_side(pixels: int) -> int:
    """Return the smallest side that keeps the cells few: small cells find small polygons."""
    few_enough = (side for side in _CELL_SIDES if pixels <= _MOST_CELLS * side**2)
    return next(few_enough, _CELL_SIDES[-1])


def _divided(
    ground: Ground,
    grid: BlockGrid,
    blocks: list[_Block],
    held: NDArray[np.bool_],
    notes: tuple[str, ...],
) -> SceneParts:
    training = [block for block, is_held in zip(blocks, held, strict=True) if not is_held]
    validation = [block for block, is_held in zip(blocks, held, strict=True) if is_held]
    if not validation:
        return SceneParts(_source(ground, "train", training), None, notes)
    held_back = np.zeros(grid.shape, dtype=bool)
    for block in validation:
        held_back[block.row, block.col] = True
    extents = [extent_of(block.row, block.col, grid, held_back) for block in training]
    return SceneParts(
        _source(ground, "train", training, extents), _source(ground, "val", validation), notes
    )


def _source(
    ground: Ground, split: str, blocks: list[_Block], extents: list[Window] | None = None
) -> SceneSource:
    """Make a source of blocks; without ``extents`` windows may lie anywhere in the scene."""
    scene = ground.scene
    sites = tuple(
        Site(
            scene=scene.path,
            after=ground.after,
            extent=extent,
            core=block.window,
            gsd_m=scene.gsd_m,
        )
        for block, extent in zip(blocks, extents or [scene.window] * len(blocks), strict=True)
    )
    numbers = np.repeat(np.arange(len(blocks)), [len(block.places) for block in blocks])
    places = np.column_stack([numbers, np.concatenate([block.places for block in blocks])])
    cells = Cells(places, np.concatenate([block.counts for block in blocks]))
    return SceneSource(scene.stem, split, scene, ground.bands, ground.labels, sites, cells)
