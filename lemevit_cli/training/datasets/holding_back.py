"""Labelled scenes divided by blocks: which are trained on, which are held back."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

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


@dataclass(frozen=True, kw_only=True)
class Division:
    """Options of the division of a scene into training and validation.

    Args:
        crop: side of the training windows, from which the blocks' sides follow.
        val_fraction: of the labels, held back. None holds back a fifth if every class is in at
            least 5 blocks, and polygons number at least 30; else nothing, and a note says so.
        seed: of the blocks.
        held_back: what is so far, by :func:`place_of`: of other labels of a scene the same.
    """

    crop: int
    val_fraction: float | None = None
    seed: int = 0
    held_back: dict[tuple[str, str | None], NDArray[np.bool_]] = field(
        default_factory=dict, compare=False
    )


def place_of(labelled: LabelledScene) -> tuple[str, str | None]:
    """Return what tells scenes, or pairs, apart, however their paths are written."""
    after = None if labelled.after is None else os.path.realpath(labelled.after)
    return os.path.realpath(labelled.scene), after


def divide_scene(
    scene: Scene | ScenePair,
    labelled: LabelledScene,
    grid: BlockGrid,
    counts: Mapping[Place, NDArray[np.int64]],
    division: Division,
    *,
    classes: Sequence[str],
    num_polygons: int | None,
    unit: str = "labelled pixels",
) -> tuple[dict[Place, Site], dict[Place, Site], tuple[str, ...]]:
    """Divide the blocks of a scene for training and validation, unless its split is stated.

    Windows lie in their site's extent: one to train on keeps out of the blocks that are held back.

    Args:
        counts: ``(classes,)`` of each block with labels, by row and column, in ``unit``.
        num_polygons: None where the labels are a raster.

    Returns:
        Sites for training, sites for validation, and lines on what is held back.

    Raises:
        DataError: if the fraction cannot be held back.
    """
    notes: tuple[str, ...] = ()
    if labelled.split is not None:
        held = np.full(len(counts), labelled.split == "val")
    elif (decided := division.held_back.get(place_of(labelled))) is not None:
        held = decided[tuple(np.transpose(list(counts)))]
        number = f"{held.sum()} of {len(held)} blocks"
        notes = (f"{scene.name}: {number} are held back, as of its other labels",)
    else:
        lack = None
        if division.val_fraction is None:
            lack = _lack_of_labels(np.stack(list(counts.values())), classes, num_polygons)
        held, note = _hold_back(counts, division, lack, name=scene.name, unit=unit)
        notes = (f"{scene.name}: {note}",)
    held_back = np.zeros(grid.shape, dtype=bool)
    held_back[tuple(np.transpose(list(counts)))] = held
    held_back |= division.held_back.setdefault(place_of(labelled), held_back)
    parts: tuple[dict[Place, Site], dict[Place, Site]] = ({}, {})
    for place, is_held in zip(counts, held.tolist(), strict=True):
        is_free = is_held or not held_back.any()
        parts[is_held][place] = Site(
            scene=scene.path,
            after=labelled.after,
            extent=scene.window if is_free else extent_of(*place, grid, held_back),
            core=grid.block(*place),
            gsd_m=scene.gsd_m,
        )
    return *parts, notes


def _hold_back(
    blocks: Mapping[Place, NDArray[np.int64]],
    division: Division,
    lack: str | None,
    *,
    name: str,
    unit: str,
) -> tuple[NDArray[np.bool_], str]:
    """Choose the blocks for validation ``(N,)``, and say how much of the labels that is.

    Args:
        lack: what is missing for a part to be held back unasked.
    """
    nothing = np.zeros(len(blocks), dtype=bool)
    if division.val_fraction == 0.0:
        return nothing, "nothing is held back for validation"
    if lack is not None:
        return nothing, f"too few labels to hold some back for validation unasked ({lack})"
    wanted = _DEFAULT_FRACTION if division.val_fraction is None else division.val_fraction
    counts = np.stack(list(blocks.values()))
    held = choose_held_back(counts, list(blocks), wanted, seed=division.seed)
    if not held.any():
        raise DataError(
            f"{name}: {wanted:.0%} of its labels cannot be held back, they lie in "
            f"{len(counts)} blocks; name a validation scene, or hold back nothing"
        )
    share = counts[held].sum() / counts.sum()
    return held, (
        f"{held.sum()} of {len(held)} blocks are held back for validation, "
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
