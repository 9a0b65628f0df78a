"""Polygons found against true ones: by the area that they share, and one by one."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.metrics.confusion import figures_of


def area_figures(found: NDArray[Any], true: NDArray[Any]) -> dict[str, float | None]:
    """Return ``iou``, ``f1``, ``precision`` and ``recall`` of the areas that polygons cover."""
    all_found, all_true = shapely.union_all(found), shapely.union_all(true)
    hits = shapely.area(shapely.intersection(all_found, all_true))
    return figures_of(hits, found=all_found.area, true=all_true.area)


def count_matches(found: NDArray[Any], true: NDArray[Any], iou: float) -> int:
    """Count pairs of polygons that overlap by an IoU, the best first, while both are free."""
    one, other = shapely.STRtree(true).query(found, predicate="intersects")
    shared = shapely.area(shapely.intersection(found[one], true[other]))
    overlaps = shared / (shapely.area(found)[one] + shapely.area(true)[other] - shared)
    is_free = np.ones(len(found), bool), np.ones(len(true), bool)
    matched = 0
    for pair in np.argsort(-overlaps, kind="stable"):
        if overlaps[pair] < iou:
            break
        if is_free[0][one[pair]] and is_free[1][other[pair]]:
            is_free[0][one[pair]] = is_free[1][other[pair]] = False
            matched += 1
    return matched
