"""Change against true change over any number of areas: by pixel, by batch, and as polygons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.atomic import temporary_folder
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import Confusion, figures_of
from lemevit_cli.metrics.polygons import count_matches
from lemevit_cli.tasks.change.figures import BatchTally, change_figures
from lemevit_cli.vector.outlines import create_draft, outline_regions

_ENOUGH_IOU = 0.5  # from which on two polygons show the same change


# Takes class ids (H, W) of a window: true ones, NODATA_CLASS where unknown, and found ones.
AddIds = Callable[[Window, NDArray[np.uint8], NDArray[np.uint8]], None]
# Takes where change was found in a window (H, W), and where it truly is.
AddMasks = Callable[[Window, NDArray[np.bool_], NDArray[np.bool_]], None]


class ChangeTally:
    """Counts change of one or several kinds, of which class 0 is none."""

    def __init__(self, classes: Sequence[str]) -> None:
        self._confusion = Confusion(tuple(classes))
        self._batches, self._objects = BatchTally(), ObjectTally()

    @contextmanager
    def over(self, area: Window) -> Iterator[AddIds]:
        """Take an area in any order of windows; change that is connected in it is an object."""
        self._batches.begin(area)
        with self._objects.over(area) as add_masks:

            def add(window: Window, truth: NDArray[np.uint8], found: NDArray[np.uint8]) -> None:
                self._confusion.add(truth, found)
                self._batches.add(window, truth, found)
                is_known = truth != NODATA_CLASS
                add_masks(window, is_known & (found > 0), is_known & (truth > 0))

            yield add

    def figures(self) -> dict[str, Any]:
        """Return all figures, in [0, 1], None where there is nothing to count.

        Returns:
            ``f1``, ``iou``, ``precision`` and ``recall`` of change, pooled over the pixels (see
            :func:`change_figures`); ``batch_f1``, ``batch_precision`` and ``batch_recall``, see
            :class:`BatchTally`; ``objects``, see :class:`ObjectTally`; and how many ``pixels``.
        """
        return {
            **change_figures(self._confusion),
            **self._batches.figures(),
            "objects": self._objects.figures(),
            "pixels": int(self._confusion.counts.sum()),
        }


class ObjectTally:
    """Counts polygons of change, of which one is found if its IoU with a true one is 0.5 or more.

    Pairs are taken in the order of their IoU, the best first, while both are free.
    """

    def __init__(self) -> None:
        self._found = self._true = self._matched = 0

    def add(self, found: NDArray[Any], true: NDArray[Any]) -> None:
        """Count polygons ``(N,)`` against true ones ``(M,)``, of shapely, on one plane."""
        self._found += len(found)
        self._true += len(true)
        self._matched += count_matches(found, true, _ENOUGH_IOU)

    @contextmanager
    def over(self, area: Window) -> Iterator[AddMasks]:
        """Take both masks of an area in any order of windows; in the end what connects counts."""
        with temporary_folder() as folder:
            paths = [folder / name for name in ("found.tif", "true.tif")]
            drafts = [create_draft(path, width=area.width, height=area.height) for path in paths]

            def take(window: Window, found: NDArray[np.bool_], true: NDArray[np.bool_]) -> None:
                inside = window.relative_to(area)
                place = RasterioWindow(inside.col_off, inside.row_off, inside.width, inside.height)
                for draft, mask in zip(drafts, (found, true), strict=True):
                    draft.write(mask.astype(np.uint8), 1, window=place)

            try:
                yield take
            finally:
                for draft in drafts:
                    draft.close()
            self.add(*(outline_regions(path).polygons for path in paths))

    def figures(self) -> dict[str, Any]:
        """Return ``precision``, ``recall``, ``f1`` in [0, 1], None of nothing; and the counts."""
        shares = figures_of(self._matched, found=self._found, true=self._true)
        del shares["iou"]  # of polygons that count as found or not, it says nothing more
        return {**shares, "found": self._found, "truths": self._true, "matched": self._matched}
