"""Two dates of one place: ``after`` resampled onto the grid of ``before``, as windows are read."""

from __future__ import annotations

from copy import copy

import numpy as np
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.joined import JoinedScenes
from lemevit_cli.raster.overlap import (
    apply,
    is_placed,
    on_grid_of,
    outline_in,
    part_over,
    reproject_points,
    same_grid,
    same_transform,
    window_over,
)
from lemevit_cli.raster.radiometry import Stretch
from lemevit_cli.raster.scene import AS_GROUND, Scene, open_scene
from lemevit_cli.raster.source import WarpResampling
from lemevit_cli.settings import SceneOptions

# Pixels of `after` beside one another under a pixel of `before`, from which on their mean counts.
# Nearer to one, the mean of those that a pixel touches blurs more than it collects.
_FINER = 1.05
_NOT_COARSER = 0.9
_COARSE = 2.0  # times the pixels of `before`: too blurred to compare


def open_pair(
    before: str,
    after: str,
    options_before: SceneOptions | None = None,
    options_after: SceneOptions | None = None,
) -> ScenePair:
    """Open two dates of one place; without options palettes are read as their colours.

    Raises:
        SceneError: if one of them cannot be opened, or it cannot be told how they lie on one
            another: see :class:`ScenePair`.
    """
    first = open_scene(before, options_before or AS_GROUND)
    try:
        second = open_scene(after, options_after or AS_GROUND)
        try:
            return ScenePair(first, second)
        except BaseException:
            second.close()
            raise
    except BaseException:
        first.close()
        raise


class ScenePair:
    """Two scenes that read as one, with the bands of ``before`` and then those of ``after``.

    The grid is that of ``before``. ``after`` may have any other CRS, pixel size, extent, rotation
    and dtype: GDAL's warper brings it there, by means over area where its pixels are finer, by
    cubic interpolation otherwise. On one grid nothing is resampled. A pixel is valid where both
    dates are. Any thread may read; a pickled pair opens its files anew.

    Args:
        dx_px, dy_px: what ``before`` shows at ``(col, row)`` of its grid ``after`` shows at
            ``(col + dx_px, row + dy_px)``; reading undoes it.

    Attributes:
        before, after: the scenes, each on its own grid.
        after_on_grid: ``after`` on the grid of ``before``; ``after`` itself on one grid.
        resampling: how it was brought there, None on one grid.
        overlap: the window of ``before`` outside of which ``after`` has nothing.
        after_overlap: the same place on the grid of ``after``.
        stretches: of the values of ``before`` and of ``after``; None reads them as they are.
        stem: of ``after``, for names of results.
        dtype: numpy name of what :meth:`read` gives.
        warnings: what a user should know of the pair, a line each; each scene has its own.

    Others as of :class:`Scene`: those of ``before``, and both scenes' ``bidx`` and ``num_bands``.

    Raises:
        SceneError: if a scene is placed by ground control points or RPCs alone, one has a CRS and
            the other has not, neither is placed and their grids differ, or they do not overlap.
    """

    def __init__(
        self,
        before: Scene,
        after: Scene,
        *,
        dx_px: float = 0.0,
        dy_px: float = 0.0,
    ) -> None:
        self.warnings = (*_refuse_unrelated(before, after), *_told_of_coarse(before, after))
        self.before, self.after = before, after
        self.dx_px, self.dy_px = dx_px, dy_px
        self.stretches: tuple[Stretch | None, Stretch | None] = (None, None)
        self.name = f"{before.name} and {after.name}"
        self.path, self.stem = before.path, after.stem
        self.width, self.height = before.width, before.height
        self.georeference = before.georeference
        self.gsd_m, self.pixel_sides_m = before.gsd_m, before.pixel_sides_m
        self.bidx = (*before.bidx, *after.bidx)
        self.num_bands = len(self.bidx)
        self.dtype = _common_dtype((before, after), self.stretches)

        is_on_grid = same_grid(before, after)
        self.overlap = _overlap(before, after, is_on_grid, dx_px=dx_px, dy_px=dy_px)
        self.after_overlap = after.window if is_on_grid else part_over(after, before)
        self.resampling = (
            None if is_on_grid and dx_px == dy_px == 0 else _resampling(before, after, self.overlap)
        )
        self.after_on_grid: Scene | JoinedScenes = (
            after if self.resampling is None else self._resample(self.resampling)
        )
        self._opened: tuple[Scene | JoinedScenes, ...] = (self.after_on_grid, after, before)

    @property
    def files(self) -> tuple[str, ...]:
        """Return what GDAL opens of both dates."""
        return (*self.before.files, *self.after.files)

    @property
    def window(self) -> Window:
        """Return the whole grid of ``before``."""
        return self.before.window

    def shift(self, *, dx_px: float, dy_px: float) -> ScenePair:
        """Return the pair with ``after`` moved back by a shift, beside that which it has already.

        Args:
            dx_px, dy_px: as :func:`lemevit_cli.raster.registration.estimate_shift` gives them.

        Both pairs read the same files: closing the new one closes all.

        Raises:
            SceneError: if nothing of the overlap is left.
        """
        pair = ScenePair(
            self.before, self.after, dx_px=self.dx_px + dx_px, dy_px=self.dy_px + dy_px
        ).stretch(*self.stretches)
        pair._opened = (pair.after_on_grid, *self._opened)
        return pair

    def stretch(self, before: Stretch | None, after: Stretch | None) -> ScenePair:
        """Return the pair with values in the range of the weights, each date by its own rule.

        Both pairs read the same files: closing one closes both.
        """
        pair = copy(self)
        pair.stretches = (before, after)
        pair.dtype = _common_dtype((self.before, self.after), pair.stretches)
        return pair

    def read(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        """Read a window of the grid of ``before``.

        Returns:
            Pixels ``(bands of both, H, W)`` in :attr:`dtype`, and where both dates are valid
            ``(H, W)``. Nodata pixels hold any number.

        Raises:
            SceneError: if a file cannot be read there.
            ValueError: if the window leaves the grid.
        """
        if self.window.intersection(window) != window:
            raise ValueError(f"{window} leaves {self.name} of {self.width} x {self.height} pixels")
        if self.overlap.intersection(window) is None:
            return self._nodata(window)
        before, valid_before = self.before.read(window)
        if not valid_before.any():
            return self._nodata(window)
        after, valid_after = self.after_on_grid.read(window)
        dates = [
            date if stretch is None else stretch.apply(date)
            for date, stretch in zip((before, after), self.stretches, strict=True)
        ]
        pixels = np.concatenate(dates, dtype=self.dtype)
        return pixels, valid_before & valid_after

    def close(self) -> None:
        """Close the files in all threads."""
        for scene in self._opened:
            scene.close()

    def __enter__(self) -> ScenePair:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"ScenePair({self.before!r}, {self.after!r})"

    def _nodata(self, window: Window) -> tuple[NDArray, NDArray[np.bool_]]:
        shape = (window.height, window.width)
        return np.zeros((self.num_bands, *shape), self.dtype), np.zeros(shape, bool)

    def _resample(self, resampling: WarpResampling) -> Scene | JoinedScenes:
        """Warp ``after`` to the grid of ``before``, its shift undone through the transform."""
        there = self.georeference.transform or Affine.identity()
        moved = Georeference(
            transform=there @ Affine.translation(self.dx_px, self.dy_px),
            crs_wkt=self.georeference.crs_wkt,
        )
        return on_grid_of(self.before, self.after, resampling, moved)


def _common_dtype(
    scenes: tuple[Scene, Scene], stretches: tuple[Stretch | None, Stretch | None]
) -> str:
    dtypes = [
        scene.dtype if stretch is None else "float32"
        for scene, stretch in zip(scenes, stretches, strict=True)
    ]
    return str(np.result_type(*dtypes))


def _refuse_unrelated(before: Scene, after: Scene) -> tuple[str, ...]:
    """Refuse two scenes of which nothing tells how they lie on one another.

    Returns:
        What is to be told where it has to be taken on trust.
    """
    for scene, other in ((before, after), (after, before)):
        _refuse_points_alone(scene, other)
    for scene, other in ((before, after), (after, before)):
        if scene.georeference.crs_wkt is None and other.georeference.crs_wkt is not None:
            raise SceneError(
                f"{scene.name}: has no CRS, while {other.name} has one; if it is the same, "
                f"gdal_edit.py -a_srs {_named_crs(other) or 'WKT'} {scene.path} states it"
            )
    if is_placed(before) and is_placed(after):
        return ()
    missing = "transform" if before.georeference.crs_wkt else "CRS"
    alike = (before.width, before.height) == (after.width, after.height)
    if not (alike and same_transform(before, after)):
        raise SceneError(
            f"{before.name} and {after.name}: have no {missing} to tell how they lie on one "
            f"another, and differ in size or transform ({_grid_text(before)}; "
            f"{_grid_text(after)}); gdal_translate -a_srs and -a_ullr state both"
        )
    return (f"no {missing}: taken to lie on one another pixel by pixel",)


def _told_of_coarse(before: Scene, after: Scene) -> tuple[str, ...]:
    """Tell where AFTER shows far less than BEFORE asks of it."""
    if before.gsd_m is None or after.gsd_m is None or after.gsd_m < _COARSE * before.gsd_m:
        return ()
    return (
        f"pixels of {after.gsd_m:.3g} m after {before.gsd_m:.3g} m before: what is smaller than "
        "the coarser ones is blurred, and may be taken for change; "
        f"gdalwarp -tr brings {before.name} to them",
    )


def _refuse_points_alone(scene: Scene, other: Scene) -> None:
    """Refuse a raster without a transform: its warped view reads zeros, and says nothing."""
    georeference = scene.georeference
    if georeference.transform is not None or not (georeference.gcps or georeference.rpcs):
        return
    what, option = ("RPCs", "-rpc ") if not georeference.gcps else ("ground control points", "")
    crs = _named_crs(other)
    target = f"-t_srs {crs} " if crs else ""
    raise SceneError(
        f"{scene.name}: is placed by {what} alone, a pair needs a transform: "
        f"gdalwarp {option}{target}-r cubic -dstalpha {scene.path} {scene.stem}_placed.tif"
    )


def _named_crs(scene: Scene) -> str | None:
    """Return the CRS as a command line takes it, None where it has no number."""
    wkt = scene.georeference.crs_wkt
    authority = CRS.from_wkt(wkt).to_authority() if wkt else None
    return ":".join(authority) if authority else None


def _grid_text(scene: Scene) -> str:
    transform = scene.georeference.transform
    numbers = "none" if transform is None else " ".join(f"{n:.10g}" for n in transform.to_gdal())
    return f"{scene.width} x {scene.height}, transform {numbers}"


def _overlap(
    before: Scene, after: Scene, is_on_grid: bool, *, dx_px: float, dy_px: float
) -> Window:
    """Return the smallest window of ``before`` with all of ``after``, ``dx_px, dy_px`` off."""
    if not is_on_grid:
        part_over(before, after)  # for what it says if there is none
    elif dx_px == dy_px == 0:
        return before.window
    there = before.georeference.transform or Affine.identity()
    outline = outline_in(before if is_on_grid else after, before.georeference.crs_wkt)
    moved = apply(there @ Affine.translation(-dx_px, -dy_px) @ ~there, outline)
    window = window_over(before, moved)
    if window is None:
        raise SceneError(
            f"{before.name} and {after.name}: a shift by {dx_px:.1f}, {dy_px:.1f} pixels leaves "
            "them nothing in common"
        )
    return window


def _resampling(before: Scene, after: Scene, overlap: Window) -> WarpResampling:
    """Average if a pixel of ``before``, amid the overlap, spans more than one of ``after``."""
    col, row = overlap.col_off + overlap.width / 2, overlap.row_off + overlap.height / 2
    pixels = np.array([(col, row), (col + 1, row), (col, row + 1)])
    places = apply(before.georeference.transform or Affine.identity(), pixels)
    there = reproject_points(places, before.georeference.crs_wkt, after.georeference.crs_wkt)
    corner, *ends = apply(~(after.georeference.transform or Affine.identity()), there)
    steps = np.column_stack(ends) - corner[:, None]
    if not np.isfinite(steps).all():
        return "cubic"
    longest, shortest = np.linalg.svd(steps, compute_uv=False)
    is_finer = np.sqrt(longest * shortest) > _FINER and shortest > _NOT_COARSER
    return "average" if is_finer else "cubic"
