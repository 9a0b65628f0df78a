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
from lemevit_cli.scenes.scene import Scene, open_scene
from lemevit_cli.scenes.source import STDIN
from lemevit_cli.training.datasets.blocks import (
    BlockGrid,
    block_grid,
    choose_held_back,
    room_of,
)
from lemevit_cli.training.datasets.labels import Labels, open_labels
from lemevit_cli.training.datasets.source import Cells, Site, count_cells
from lemevit_cli.training.options import LabelledScene

_CELL_SIDES = (16, 32, 64, 128)  # pixels
_MOST_CELLS = 100_000
_DEFAULT_FRACTION = 0.2
_ENOUGH_POLYGONS = 30
_ENOUGH_BLOCKS = 5  # with pixels of a class


@dataclass(frozen=True, eq=False)
class SceneSource:
    """One split of a labelled scene.

    Args:
        sites: blocks of the scene that have labels.
        cells: the classes in them.
    """

    name: str
    split: str
    scene: Scene
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
    def bands(self) -> int:
        return self.scene.num_bands

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

    Validity is read only if the scene can have void pixels, and only where labels may be.

    Args:
        crop: side of the training windows, from which the blocks' sides follow.
        val_fraction: of the labelled pixels, held back from an undivided scene. None holds back a
            fifth if every class has pixels in at least 5 blocks, and polygons number at least 30;
            else nothing, and a note says so.
        seed: of the blocks.

    Raises:
        DataError: if scene or labels cannot be read, do not meet, or nothing can be held back.
    """
    if labelled.split not in (None, "train", "val"):
        raise DataError(f"{labelled.scene}: split {labelled.split!r}; it is train, val, or not set")
    if labelled.scene == STDIN:
        raise DataError("stdin: a scene to train on is read again and again; give a file")
    try:
        scene = open_scene(labelled.scene)
        labels = open_labels(scene, labelled)
    except SceneError as error:
        raise DataError(str(error)) from error
    grid = block_grid(scene.width, scene.height, crop=crop)
    blocks = _count_blocks(scene, labels, grid)
    if not blocks:
        raise DataError(
            f"{scene.name}: no pixel has a label of {labelled.labels}; its polygons are smaller "
            "than a pixel, or lie where the scene has no data"
        )
    notes = (*(f"{scene.name}: {warning}" for warning in scene.warnings), *labels.notes)
    if labelled.split is not None:
        source = _source(scene, labels, labelled.split, blocks)
        is_training = labelled.split == "train"
        return SceneParts(source if is_training else None, None if is_training else source, notes)
    held, note = _hold_back(scene, labels, blocks, val_fraction, seed)
    return _divided(scene, labels, grid, blocks, held, (*notes, note))


@dataclass(frozen=True)
class _Block:
    """A block with labels, and the cells in it that have some."""

    row: int
    col: int
    window: Window
    places: NDArray[np.int64]  # (N, 4), pixels of the scene
    counts: NDArray[np.int64]  # (N, classes)


def _count_blocks(scene: Scene, labels: Labels, grid: BlockGrid) -> list[_Block]:
    windows = {
        (row, col): grid.block(row, col)
        for row in range(grid.shape[0])
        for col in range(grid.shape[1])
    }
    candidates = {place: window for place, window in windows.items() if labels.may_have(window)}
    side = _cell_side(sum(w.width * w.height for w in candidates.values()))
    can_be_void = scene.mask_kind != "none"
    blocks = []
    for (row, col), window in candidates.items():
        ids = labels.read(window)
        if can_be_void and (ids != NODATA_CLASS).any():
            ids[~scene.read(window)[1]] = NODATA_CLASS
        places, counts = count_cells(ids, side=side, num_classes=len(labels.classes))
        places[:, 0] += window.col_off
        places[:, 1] += window.row_off
        labelled = counts.any(axis=1)
        if labelled.any():
            blocks.append(_Block(row, col, window, places[labelled], counts[labelled]))
    return blocks


def _cell_side(pixels: int) -> int:
    """The smallest side that keeps the cells few: small cells let windows find small polygons."""
    few_enough = (side for side in _CELL_SIDES if pixels <= _MOST_CELLS * side**2)
    return next(few_enough, _CELL_SIDES[-1])


def _hold_back(
    scene: Scene, labels: Labels, blocks: list[_Block], fraction: float | None, seed: int
) -> tuple[NDArray[np.bool_], str]:
    """Which blocks are for validation, and a line on it."""
    counts = np.stack([block.counts.sum(axis=0) for block in blocks])
    nothing = np.zeros(len(blocks), dtype=bool)
    if fraction == 0.0:
        return nothing, f"{scene.name}: nothing is held back for validation"
    lack = _lack_of_labels(labels, counts) if fraction is None else None
    if lack is not None:
        return nothing, (
            f"{scene.name}: too few labels to hold some back for validation unasked ({lack})"
        )
    places = [(block.row, block.col) for block in blocks]
    wanted = _DEFAULT_FRACTION if fraction is None else fraction
    held = choose_held_back(counts, places, wanted, seed=seed)
    if not held.any():
        raise DataError(
            f"{scene.name}: {wanted:.0%} of its labels cannot be held back, they lie in "
            f"{len(blocks)} blocks; name a validation scene, or hold back nothing"
        )
    share = counts[held].sum() / counts.sum()
    return held, (
        f"{scene.name}: {held.sum()} of {len(held)} blocks are held back for validation, "
        f"{share:.0%} of the labelled pixels"
    )


def _lack_of_labels(labels: Labels, counts: NDArray[np.int64]) -> str | None:
    """What is missing for a part to be held back unasked; None if nothing is.

    Args:
        counts: ``(blocks, classes)`` pixels.
    """
    if labels.num_polygons is not None and labels.num_polygons < _ENOUGH_POLYGONS:
        return f"{labels.num_polygons} polygons, it takes {_ENOUGH_POLYGONS}"
    blocks = (counts > 0).sum(axis=0)
    fewest = int(blocks[blocks > 0].min())
    if fewest < _ENOUGH_BLOCKS:
        rarest = labels.classes[int(np.flatnonzero(blocks == fewest)[0])]
        return f"{rarest} lies in {fewest} blocks, it takes {_ENOUGH_BLOCKS}"
    return None


def _divided(
    scene: Scene,
    labels: Labels,
    grid: BlockGrid,
    blocks: list[_Block],
    held: NDArray[np.bool_],
    notes: tuple[str, ...],
) -> SceneParts:
    training = [block for block, is_held in zip(blocks, held, strict=True) if not is_held]
    validation = [block for block, is_held in zip(blocks, held, strict=True) if is_held]
    if not validation:
        return SceneParts(_source(scene, labels, "train", training), None, notes)
    held_back = np.zeros(grid.shape, dtype=bool)
    for block in validation:
        held_back[block.row, block.col] = True
    rooms = [room_of(block.row, block.col, grid, held_back) for block in training]
    return SceneParts(
        _source(scene, labels, "train", training, rooms),
        _source(scene, labels, "val", validation),
        notes,
    )


def _source(
    scene: Scene,
    labels: Labels,
    split: str,
    blocks: list[_Block],
    rooms: list[Window] | None = None,
) -> SceneSource:
    """A source of blocks; without rooms windows may lie anywhere in the scene."""
    sites = tuple(
        Site(scene=scene.path, room=room, area=block.window, gsd_m=scene.gsd_m)
        for block, room in zip(blocks, rooms or [scene.window] * len(blocks), strict=True)
    )
    numbers = np.repeat(np.arange(len(blocks)), [len(block.places) for block in blocks])
    places = np.column_stack([numbers, np.concatenate([block.places for block in blocks])])
    cells = Cells(places, np.concatenate([block.counts for block in blocks]))
    return SceneSource(scene.stem, split, scene, labels, sites, cells)
