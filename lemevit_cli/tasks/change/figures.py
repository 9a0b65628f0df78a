"""How well change was found: pooled over pixels, and by batch as the authors of BIT report it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import ClassMatch, Confusion, figures_of
from lemevit_cli.tasks.change.classes import ONE_KIND

_SIDE, _BATCH = 256, 16  # of the authors' windows and batches


def match_changes(model_classes: Sequence[str], data_classes: Sequence[str]) -> ClassMatch:
    """Match kinds of change by name if both know the same, else changed against unchanged."""
    if set(model_classes) == set(data_classes):
        of_prediction = tuple(data_classes.index(name) for name in model_classes)
        return ClassMatch(tuple(data_classes), tuple(range(len(data_classes))), of_prediction)
    one_kind = [(0, *[1] * (len(names) - 1)) for names in (data_classes, model_classes)]
    return ClassMatch(ONE_KIND, *one_kind)


def change_figures(confusion: Confusion) -> dict[str, Any]:
    """Return ``f1``, ``iou``, ``precision``, ``recall`` of change, of whatever kind, in [0, 1].

    None where neither truth nor prediction has any. With several kinds also
    ``classes.<name>.{iou,f1,precision,recall}``, in which one kind taken for another is wrong.
    """
    counts = confusion.counts
    hits = counts[1:, 1:-1].sum()
    true, found = counts[1:].sum(), counts[:, 1:-1].sum()
    figures: dict[str, Any] = dict(figures_of(hits, found=found, true=true))
    if len(confusion.classes) > len(ONE_KIND):
        figures["classes"] = confusion.figures()["classes"]
    return figures


@dataclass
class BatchTally:
    """Counts change by windows of 256 x 256 pixels, for means over batches of 16 of them.

    The windows of an area lie side by side from its upper left corner, row by row; those at its
    right and lower edge are smaller. Batches take them in the order in which the areas were begun,
    across areas; the last one may be smaller.
    """

    _areas: list[NDArray[np.int64]] = field(init=False, default_factory=list)
    _area: Window | None = field(init=False, default=None)

    def begin(self, area: Window) -> None:
        """Go on to another area; what is added lies inside."""
        shape = (ceil(area.height / _SIDE) * ceil(area.width / _SIDE), 4)
        self._areas.append(np.zeros(shape, dtype=np.int64))
        self._area = area

    def add(self, window: Window, truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
        """Count class ids ``(H, W)`` of a window; truth ``NODATA_CLASS`` is left out."""
        if self._area is None:
            raise ValueError("an area has to be begun first")
        place = window.relative_to(self._area)
        rows = np.arange(place.row_off, place.bottom) // _SIDE
        cols = np.arange(place.col_off, place.right) // _SIDE
        numbers = rows[:, None] * ceil(self._area.width / _SIDE) + cols
        known = truth != NODATA_CLASS
        is_changed, is_found = known & (truth > 0), known & (found > 0)
        counts = self._areas[-1]
        for column, mask in enumerate((is_changed & is_found, is_changed, is_found, known)):
            counts[:, column] += np.bincount(numbers[mask], minlength=len(counts))

    def figures(self) -> dict[str, float | None]:
        """Return ``batch_f1``, ``batch_precision``, ``batch_recall``: means over batches in [0, 1].

        A batch without change in truth and prediction is left out; one with change in only one of
        them counts 0. None without any change.
        """
        counts = np.concatenate([np.zeros((0, 4), dtype=np.int64), *self._areas])
        counts = counts[counts[:, 3] > 0]
        sums = [counts[i : i + _BATCH].sum(axis=0) for i in range(0, len(counts), _BATCH)]
        means = [
            (2 * hits / (true + found), hits / max(found, 1), hits / max(true, 1))
            for hits, true, found, _ in sums
            if true + found
        ]
        names = ("batch_f1", "batch_precision", "batch_recall")
        if not means:
            return dict.fromkeys(names)
        return {name: float(v) for name, v in zip(names, np.mean(means, axis=0), strict=True)}
