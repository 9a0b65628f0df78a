"""What a writer is told before the first pixel, and what it takes from then on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES, ClassInfo
from lemevit_cli.settings import OutputType

DRAFT_BYTES_PER_PIXEL = 4  # of polygons: classes, scores, and what is outlined a second time
FULL_SCORE = 65535  # of drafts and parts: whole numbers, whose sums are exact


def whole_scores(scores: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Return scores in [0, 1] as whole numbers up to ``FULL_SCORE``; NaN is 0."""
    clipped = np.nan_to_num(scores).clip(0, 1)
    return np.rint(clipped * np.float32(FULL_SCORE)).astype(np.uint16)


@dataclass(frozen=True)
class Writer:
    """A format: GDAL's driver with its suffix, and the module that serves it.

    ``module`` has ``check_options(options, writer)``, and ``open_sink(target, spec, options,
    writer)`` if it takes pixels alone (``raster``, ``cells``); it is imported only when the format
    is asked for.
    """

    driver: str
    suffix: str
    kind: Literal["raster", "cells", "boxes", "regions"]
    module: str


@dataclass(frozen=True, kw_only=True)
class RasterSpec:
    """The result's grid, classes and tags.

    Args:
        width, height: output pixels.
        georeference: written as it is; the scene's own, or that of the cropped scene.
        classes: by id, counted from 0.
        output_type: ``classes`` (one band of ids) or ``scores`` (one band a class).
        tags: dataset tags; ``software`` becomes the TIFF tag, any other name becomes
            ``LEMEVIT_NAME`` in upper case.
    """

    width: int
    height: int
    georeference: Georeference
    classes: tuple[ClassInfo, ...]
    output_type: OutputType = "classes"
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a raster needs at least one pixel, got {self.width} x {self.height}")
        if not 1 <= len(self.classes) <= MAX_CLASSES:
            raise ValueError(f"1 to {MAX_CLASSES} classes fit a raster, got {len(self.classes)}")

    @property
    def bytes_per_pixel(self) -> int:
        """Return the uncompressed size: a byte for a class, four for each score."""
        return 1 if self.output_type == "classes" else 4 * len(self.classes)

    def check_values(self, window: Window, values: NDArray[Any]) -> None:
        """Refuse values that do not belong to the window, or a window beyond the raster.

        Raises:
            ValueError: naming both shapes.
        """
        if window.col_off < 0 or window.row_off < 0:
            raise ValueError(f"{window} begins before the raster")
        if window.right > self.width or window.bottom > self.height:
            raise ValueError(f"{window} ends beyond the raster of {self.width} x {self.height}")
        bands = () if self.output_type == "classes" else (len(self.classes),)
        expected = (*bands, window.height, window.width)
        if values.shape != expected:
            raise ValueError(f"{window} takes values of shape {expected}, got {values.shape}")


class Sink(Protocol):
    """Takes the pixels of a result, in any order of windows."""

    def write(self, window: Window, values: NDArray[Any]) -> None:
        """Take class ids ``(H, W)`` uint8 or scores ``(C, H, W)`` float32 of a window.

        Pixels that are never written are nodata.
        """
        ...
