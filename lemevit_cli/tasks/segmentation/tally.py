"""A map against the true one: classes, their boundaries, and pixels for a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.boundary import BoundaryTally, Disc
from lemevit_cli.metrics.confusion import Confusion, mean_known

_PICTURE_SIDE = 900  # pixels of a map at most


class MapTally:
    """Adds up a scene's blocks: confusion, boundaries, and pixels for a picture.

    Args:
        classes: names, by id.
        disc: within which boundaries match.
        area: of the scene, that is compared.
        keep_unseen: keep classes in the figures that neither map has.

    Attributes:
        halo: pixels around a block that its boundaries depend on.
        truth, prediction: every so many pixels of both maps, ``NODATA_CLASS`` where not compared.
    """

    def __init__(
        self, classes: tuple[str, ...], disc: Disc, area: Window, *, keep_unseen: bool
    ) -> None:
        self._keep_unseen = keep_unseen
        self._confusion = Confusion(classes)
        self._boundaries = BoundaryTally(len(classes), disc)
        self.halo = self._boundaries.halo
        self._area = area
        self._every = -(-max(area.width, area.height) // _PICTURE_SIDE)
        shape = (-(-area.height // self._every), -(-area.width // self._every))
        self.truth, self.prediction = np.full((2, *shape), NODATA_CLASS, dtype=np.uint8)

    @property
    def pixels(self) -> int:
        return int(self._confusion.counts.sum())

    def add(
        self,
        truth: NDArray[np.uint8],
        prediction: NDArray[np.uint8],
        valid: NDArray[np.bool_],
        block: Window,
        around: Window,
    ) -> None:
        """Count a block, given ids among the classes with what surrounds it."""
        # A predicted class that the truth does not know is wrong, but it is not nodata.
        valid = valid & (truth != NODATA_CLASS)
        core = block.relative_to(around)
        self._boundaries.add(truth, prediction, valid, core)
        truth = np.where(valid, truth, NODATA_CLASS)[core.slices]
        prediction = prediction[core.slices]
        self._confusion.add(truth, prediction)
        self._pick(block, truth, prediction)

    def _pick(self, block: Window, truth: NDArray[np.uint8], prediction: NDArray[np.uint8]) -> None:
        inside = block.relative_to(self._area)
        rows, cols = (-inside.row_off % self._every, -inside.col_off % self._every)
        picked = (slice(rows, None, self._every), slice(cols, None, self._every))
        row, col = -(-inside.row_off // self._every), -(-inside.col_off // self._every)
        part = truth[picked]
        place = (slice(row, row + part.shape[0]), slice(col, col + part.shape[1]))
        self.truth[place] = part
        self.prediction[place] = np.where(part == NODATA_CLASS, NODATA_CLASS, prediction[picked])

    @property
    def class_ids(self) -> list[int]:
        """List the ids of the classes that have figures: those that occur, or all."""
        counts = self._confusion.counts
        if self._keep_unseen:
            return list(range(len(counts)))
        return np.flatnonzero(counts.sum(axis=1) + counts[:, :-1].sum(axis=0)).tolist()

    def figures(self) -> dict[str, Any]:
        """Return all figures of a score of classes but the tolerance."""
        figures = self._confusion.figures()
        boundary_f1 = self._boundaries.f1()
        names, counts = self._confusion.classes, self._confusion.counts
        ids = self.class_ids
        return {
            "miou": figures["miou"],
            "f1": figures["f1"],
            "accuracy": figures["accuracy"],
            "boundary_f1": mean_known(boundary_f1),
            "classes": {
                names[i]: {**figures["classes"][names[i]], "boundary_f1": boundary_f1[i]}
                for i in ids
            },
            "confusion": counts[np.ix_(ids, ids)].tolist(),
            "unmatched": counts[ids, -1].tolist(),
            "pixels": self.pixels,
        }
