"""The scene as the weights want it: on a grid of the model's pixel size, in the card's values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.packed_mask import PackedMask
from lemevit_cli.geometry.triangle_filter import AxisFilter, triangle_filter
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.radiometry import Stretch

# Scene pixels held at once while a window is shrunk: bounds memory, whatever the scale.
_PIXELS_AT_ONCE = 4_000_000


class ReadableScene(Protocol):
    """Whatever reads like a :class:`lemevit_cli.raster.scene.Scene`, as far as a view asks."""

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def num_bands(self) -> int: ...

    def read(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]: ...


class SceneView:
    """Windows of a scene, resampled, stretched and filled. Any thread may read.

    The model's grid spans the scene exactly: ``width = max(1, round(scene.width * scale))``, the
    same for heights. Its pixel depends on its place on that grid alone: windows that overlap agree
    bit for bit.

    Resampled pixels are weighted means under a triangle that is two model pixels wide (two scene
    pixels when enlarging), as by ``torch.nn.functional.interpolate(mode="bilinear",
    antialias=True)``, of the valid scene pixels only.

    Args:
        scale: model pixels per scene pixel, along rows and along columns if these differ; 1 reads
            straight.
        stretch: applied to scene pixels, before resampling; None reads values as they are.
        fill: what nodata pixels hold, a value a band, in the card's values.

    Raises:
        ValueError: if ``scale`` is not positive or ``fill`` has another number of bands.
    """

    def __init__(
        self,
        scene: ReadableScene,
        *,
        scale: float | tuple[float, float] = 1.0,
        stretch: Stretch | None = None,
        fill: tuple[float, ...],
    ) -> None:
        scale_x, scale_y = scale if isinstance(scale, tuple) else (scale, scale)
        if not (scale_x > 0 and scale_y > 0):
            raise ValueError(f"scale must be positive, got {scale}")
        if len(fill) != scene.num_bands:
            raise ValueError(f"fill has {len(fill)} values, the scene {scene.num_bands} bands")
        self.scene, self.stretch, self.fill = scene, stretch, fill
        self.width = max(1, round(scene.width * scale_x))
        self.height = max(1, round(scene.height * scale_y))

    @property
    def is_resampled(self) -> bool:
        """Say whether the model's grid differs from the scene's."""
        return (self.width, self.height) != (self.scene.width, self.scene.height)

    def read(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read a window of the model's grid.

        Returns:
            Pixels ``(bands, H, W)``: uint8 if the scene is and nothing is stretched or resampled,
            else float32; nodata pixels hold ``fill``. And where they are valid ``(H, W)``: where
            any scene pixel under the model's pixel is.

        Raises:
            SceneError: if the file cannot be read there.
            ValueError: if the window leaves the grid.
        """
        pixels, valid, _ = self.read_with_masks(window)
        return pixels, valid

    def read_with_masks(
        self, window: Window
    ) -> tuple[NDArray, NDArray[np.bool_], tuple[PackedMask, ...]]:
        """Read as :meth:`read`, and keep what was learned of the scene's own pixels on the way.

        Returns:
            Also where scene pixels are valid, in the scene's frame; together the masks cover all
            that lie under the window. None on one grid, where the second answer says it.
        """
        grid = Window(col_off=0, row_off=0, width=self.width, height=self.height)
        if grid.intersection(window) != window:
            raise ValueError(f"{window} leaves the grid of {self.width} x {self.height} pixels")
        if not self.is_resampled:
            pixels, valid = self._read_scene(window)
            return fill_nodata(pixels, valid, self.fill), valid, ()
        cols = triangle_filter(
            window.col_off, window.right, source=self.scene.width, target=self.width
        )
        parts = [self._read_rows(*rows, cols) for rows in self._row_groups(window, cols)]
        pixels = np.concatenate([pixels for pixels, _, _ in parts], axis=1)
        valid = np.concatenate([valid for _, valid, _ in parts])
        return fill_nodata(pixels, valid, self.fill), valid, tuple(mask for _, _, mask in parts)

    def _read_scene(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        pixels, valid = self.scene.read(window)
        if self.stretch is not None:
            return self.stretch.apply(pixels), valid
        return (pixels if pixels.dtype == np.uint8 else pixels.astype(np.float32)), valid

    def _row_groups(self, window: Window, cols: AxisFilter) -> list[tuple[int, int]]:
        """Return first and end row (exclusive) of groups that need few scene pixels at once."""
        shrink = max(1.0, self.scene.height / self.height)
        rows = _PIXELS_AT_ONCE / (cols.stop - cols.start) / shrink
        step = max(1, int(rows) - 2)  # two rows more: the triangle reaches beyond the group
        starts = range(window.row_off, window.bottom, step)
        return [(start, min(start + step, window.bottom)) for start in starts]

    def _read_rows(
        self, first: int, stop: int, cols: AxisFilter
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_], PackedMask]:
        rows = triangle_filter(first, stop, source=self.scene.height, target=self.height)
        source = Window(
            col_off=cols.start,
            row_off=rows.start,
            width=cols.stop - cols.start,
            height=rows.stop - rows.start,
        )
        pixels, valid = self._read_scene(source)
        pixels, mask = pixels.astype(np.float32, copy=False), PackedMask.of(source, valid)
        if valid.all():
            under = np.ones((stop - first, len(cols.weights)), bool)
            return _weigh(pixels, rows, cols), under, mask
        nodata = ~valid
        pixels = np.where(valid, pixels, np.float32(0))
        missing = _weigh(nodata.astype(np.float32)[None], rows, cols)[0]
        weight = _weigh(valid.astype(np.float32)[None], rows, cols)[0]
        pixels = _weigh(pixels, rows, cols)
        # Where nothing is missing the weights' sum is 1 but for rounding: not dividing there gives
        # the same bits as a window that sees no nodata pixel at all.
        partial = (missing > 0) & (weight > 0)
        np.divide(pixels, weight, out=pixels, where=partial)
        return pixels, _any_under(_any_under(valid, rows).T, cols).T, mask


def _weigh(pixels: NDArray, rows: AxisFilter, cols: AxisFilter) -> NDArray[np.float32]:
    """Return weighted sums, rows first: ``(bands, h, w)`` to ``(bands, H, W)``.

    Tap by tap instead of as a matrix product, whose order of summation depends on its shape.
    """
    shrunk = np.zeros((pixels.shape[0], len(rows.taps), pixels.shape[2]), np.float32)
    for taps, weights in zip(rows.taps.T, rows.weights.T, strict=True):
        shrunk += pixels[:, taps] * weights[:, None]
    shrunk = np.ascontiguousarray(shrunk.swapaxes(1, 2))  # gathering whole rows is faster
    out = np.zeros((pixels.shape[0], len(cols.taps), len(rows.taps)), np.float32)
    for taps, weights in zip(cols.taps.T, cols.weights.T, strict=True):
        out += shrunk[:, taps] * weights[:, None]
    return np.ascontiguousarray(out.swapaxes(1, 2))


def _any_under(valid: NDArray[np.bool_], rows: AxisFilter) -> NDArray[np.bool_]:
    """Mark for each model row where any scene row under it is valid; columns stay as they are."""
    index = np.arange(rows.first, rows.first + len(rows.taps))
    # The rounding of an exact edge must not put a neighbour under the pixel.
    low = np.floor(index * rows.shrink + 1e-6).astype(np.intp) - rows.start
    high = np.ceil((index + 1) * rows.shrink - 1e-6).astype(np.intp) - rows.start
    counts = np.zeros((len(valid) + 1, valid.shape[1]), np.int32)
    np.cumsum(valid, axis=0, out=counts[1:])
    return counts[high] > counts[low]


def fill_nodata(
    pixels: NDArray, valid: NDArray[np.bool_], fill: Sequence[float] | NDArray
) -> NDArray:
    """Return pixels ``(bands, H, W)`` with ``fill``, a value a band, where they are not valid."""
    if valid.all():
        return pixels
    values = np.asarray(fill).astype(pixels.dtype)[:, None, None]
    return np.where(valid, pixels, values)
