"""What of a labelled scene is held back for validation, and how that is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.training.datasets.blocks import BlockGrid, choose_held_back, extent_of
from lemevit_cli.training.datasets.source import Site
from lemevit_cli.training.options import LabelledScene

_DEFAULT_FRACTION = 0.2
_ENOUGH_POLYGONS = 30
_ENOUGH_BLOCKS = 5  # with labels of a class


Place = tuple[int, int]


def divide_scene(
    scene: Scene | ScenePair,
    labelled: LabelledScene,
    grid: BlockGrid,
    counts: Mapping[Place, NDArray[np.int64]],
    *,
    val_fraction: float | None,
    seed: int,
    classes: Sequence[str],
    num_polygons: int | None,
    unit: str = "labelled pixels",
) -> tuple[dict[Place, Site], dict[Place, Site], tuple[str, ...]]:
    """Divide the blocks of a scene for training and validation, unless its split is stated.

    Windows lie in their site's extent: one to train on keeps out of the blocks that are held back.

    Args:
        counts: ``(classes,)`` of each block with labels, by row and column, in ``unit``.
        val_fraction: as of :func:`hold_back`.
        num_polygons: None where the labels are a raster.

    Returns:
        Sites for training, sites for validation, and lines on what is held back.

    Raises:
        DataError: if the fraction cannot be held back.
    """
    places = list(counts)
    notes: tuple[str, ...] = ()
    if labelled.split is not None:
        held = np.full(len(places), labelled.split == "val")
    else:
        held, note = hold_back(
            np.stack(list(counts.values())),
            places,
            val_fraction,
            name=scene.name,
            classes=classes,
            num_polygons=num_polygons,
            seed=seed,
            unit=unit,
        )
        notes = (note,)
    held_back = np.zeros(grid.shape, dtype=bool)
    held_back[tuple(np.transpose(places))] = held
    parts: tuple[dict[Place, Site], dict[Place, Site]] = ({}, {})
    for place, is_held in zip(places, held.tolist(), strict=True):
        is_free = is_held or not held.any()
        parts[is_held][place] = Site(
            scene=scene.path,
            after=labelled.after,
            extent=scene.window if is_free else extent_of(*place, grid, held_back),
            core=grid.block(*place),
            gsd_m=scene.gsd_m,
        )
    return *parts, notes


def hold_back(
    counts: NDArray[np.int64],
    places: Sequence[Place],
    fraction: float | None,
    *,
    name: str,
    classes: Sequence[str],
    num_polygons: int | None,
    seed: int,
    unit: str = "labelled pixels",
) -> tuple[NDArray[np.bool_], str]:
    """Choose the blocks of a scene that are for validation ``(N,)``, and write a line on it.

    Args:
        counts: ``(N, classes)`` of each block with labels, in ``unit``.
        places: row and column of each block.
        fraction: of the labels; None holds back a fifth if every class is in at least 5 blocks, and
            polygons number at least 30; else nothing.
        name: of the scene.
        num_polygons: None where the labels are a raster.

    Raises:
        DataError: if the fraction cannot be held back.
    """
    nothing = np.zeros(len(counts), dtype=bool)
    if fraction == 0.0:
        return nothing, f"{name}: nothing is held back for validation"
    lack = _lack_of_labels(counts, classes, num_polygons) if fraction is None else None
    if lack is not None:
        return nothing, (
            f"{name}: too few labels to hold some back for validation unasked ({lack})"
        )
    wanted = _DEFAULT_FRACTION if fraction is None else fraction
    held = choose_held_back(counts, places, wanted, seed=seed)
    if not held.any():
        raise DataError(
            f"{name}: {wanted:.0%} of its labels cannot be held back, they lie in "
            f"{len(counts)} blocks; name a validation scene, or hold back nothing"
        )
    share = counts[held].sum() / counts.sum()
    return held, (
        f"{name}: {held.sum()} of {len(held)} blocks are held back for validation, "
        f"{share:.0%} of the {unit}"
    )


def _lack_of_labels(
    counts: NDArray[np.int64], classes: Sequence[str], num_polygons: int | None
) -> str | None:
    """Say what is missing for a part to be held back unasked; None if nothing is."""
    if num_polygons is not None and num_polygons < _ENOUGH_POLYGONS:
        return f"{num_polygons} polygons, it takes {_ENOUGH_POLYGONS}"
    blocks = (counts > 0).sum(axis=0)
    fewest = int(blocks[blocks > 0].min())
    if fewest < _ENOUGH_BLOCKS:
        rarest = classes[int(np.flatnonzero(blocks == fewest)[0])]
        return f"{rarest} lies in {fewest} blocks, it takes {_ENOUGH_BLOCKS}"
    return None
