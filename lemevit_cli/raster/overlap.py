"""Two rasters on the earth: the same grid, another one, or nothing in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.crs import CRS

from lemevit_cli.errors import SceneError, reading
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import period_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.progress import Progress
from lemevit_cli.raster.class_raster import (
    NO_WHITE,
    ClassRaster,
    check_class_raster,
    white_note,
    white_of,
)
from lemevit_cli.raster.joined import JoinedScenes
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.source import WarpResampling

_SAME_PX = 1e-3  # grids whose corners lie closer are one
_FOLD = 1e-3  # of a raster's sides, that a place may be off after there and back
_OUTLINE_STEPS = 64  # points on each side of an outline, which curves in another CRS


def is_placed(scene: Scene) -> bool:
    """Say whether a transform and a CRS tell where the raster lies."""
    return scene.georeference.transform is not None and scene.georeference.crs_wkt is not None


def same_grid(scene: Scene, other: Scene) -> bool:
    """Say whether two rasters have the same pixels; what only one states does not differ.

    Raises:
        SceneError: if that cannot be told, because one is not placed and their sizes differ.
    """
    alike = (scene.width, scene.height) == (other.width, other.height)
    if is_placed(scene) and is_placed(other):
        return alike and _same_crs(scene, other) and same_transform(scene, other)
    known = [s.georeference.transform for s in (scene, other)]
    if alike and (None in known or same_transform(scene, other)):
        return True
    loose = other if is_placed(scene) else scene
    has_points = bool(loose.georeference.gcps or loose.georeference.rpcs)
    advice = "gdalwarp" if has_points else "gdal_translate -a_srs and -a_ullr"
    raise SceneError(
        f"{loose.name}: no CRS and transform tell where it lies, and its grid of {loose.width} x "
        f"{loose.height} pixels is not that of {(scene if loose is other else other).name}; "
        f"{advice} places it"
    )


def _same_crs(scene: Scene, other: Scene) -> bool:
    ours, theirs = scene.georeference.crs_wkt, other.georeference.crs_wkt
    return ours == theirs or CRS.from_wkt(ours) == CRS.from_wkt(theirs)


def same_transform(scene: Scene, other: Scene) -> bool:
    """Say whether two rasters of one size map their corners alike, or neither maps them at all."""
    ours, theirs = scene.georeference.transform, other.georeference.transform
    if ours is None or theirs is None:
        return ours is theirs
    corners = [(0, 0), (scene.width, 0), (0, scene.height)]
    between = ~ours @ theirs
    return all(
        max(abs(a - b) for a, b in zip(between @ corner, corner, strict=True)) < _SAME_PX
        for corner in corners
    )


def part_over(scene: Scene, other: Scene) -> Window:
    """Return the smallest window of ``scene`` with all that it shares with ``other``; both placed.

    Raises:
        SceneError: if they share nothing, with both extents in the CRS of ``scene``, or nothing
            leads from one CRS to the other.
    """
    try:
        outline = outline_in(other, scene.georeference.crs_wkt)
    except SceneError as error:
        raise SceneError(f"{scene.name} and {other.name}: {error}") from error
    if _comes_back(outline, scene, other):
        part = window_over(scene, outline)
    else:  # so large a raster that the scene's CRS folds it
        lies_on = outlines_of(scene, other).values()
        part = scene.window if any(window_around(other, on) for on in lies_on) else None
    if part is None:
        raise SceneError(
            f"{scene.name} and {other.name} do not overlap: in the CRS of the first they span "
            f"{_extent(outline_in(scene, scene.georeference.crs_wkt))} and {_extent(outline)} "
            "(west south east north)"
        )
    return part


def _comes_back(outline: NDArray[np.float64], scene: Scene, other: Scene) -> bool:
    """Say whether the outline of ``other`` in the CRS of ``scene`` leads back to where it is."""
    crs_wkt = other.georeference.crs_wkt
    start = outline_in(other, crs_wkt)
    apart = reproject_points(outline, scene.georeference.crs_wkt, crs_wkt) - start
    period = None if crs_wkt is None else period_of(crs_wkt)
    if period is not None:
        apart[:, 0] -= period * np.round(apart[:, 0] / period)
    sides = np.ptp(start, axis=0)
    return bool((np.abs(apart) <= _FOLD * sides).all())


def outlines_of(
    scene: Scene, other: Scene, window: Window | None = None
) -> dict[float, NDArray[np.float64]]:
    """Return how a scene, or a window of it, lies on another raster, round the globe.

    A raster from 170 to 190 degrees lies on a scene from -180 to -170 once it is moved by a turn of
    -360, one from 0 to 360 degrees lies on one from -10 to 10 as it is and moved by a turn.

    Returns:
        For each turn, in map units of ``other`` to the east, points ``(N, 2)`` on the outline, in
        the CRS of ``other`` as it is; those that may meet it. No turn, 0, if none does.
    """
    crs_wkt = other.georeference.crs_wkt
    points = outline_in(scene, crs_wkt, window)
    period = None if crs_wkt is None else period_of(crs_wkt)
    corners = outline_in(other, crs_wkt)
    if period is None or not np.isfinite(points).all():
        return {0.0: points}
    west, east = corners[:, 0].min(), corners[:, 0].max()
    points[:, 0] = np.unwrap(points[:, 0], period=period)
    # PROJ answers within half a turn of the CRS's middle, whatever the raster counts.
    is_wrapped = not _same_crs(scene, other)
    found = {}
    for turn in (0.0, -period, period):
        for around in (0.0, -period, period) if is_wrapped else (0.0,):
            low, high = points[:, 0].min() + around, points[:, 0].max() + around
            if is_wrapped:
                low, high = max(low, -period / 2), min(high, period / 2)
            if min(high, east + turn) > max(low, west + turn) and turn not in found:
                found[turn] = points + np.array([around - turn, 0.0])
    return found or {0.0: points}


def window_over(scene: Scene, outline: NDArray[np.float64]) -> Window | None:
    """Return the smallest window under an outline ``(N, 2)`` in the scene's CRS, round the globe.

    None if it lies outside; see :func:`window_around`.
    """
    return _hull(window_around(scene, points) for points in _turns_of(scene, outline))


def _turns_of(scene: Scene, outline: NDArray[np.float64]) -> Iterator[NDArray[np.float64]]:
    """Yield an outline in a scene's CRS, in one piece, as it is and a turn to either side."""
    crs_wkt = scene.georeference.crs_wkt
    period = None if crs_wkt is None else period_of(crs_wkt)
    if period is None or not np.isfinite(outline).all():
        yield outline
        return
    x = np.unwrap(outline[:, 0], period=period)
    for turn in (0.0, -period, period):
        yield np.column_stack([x + turn, outline[:, 1]])


def _hull(windows: Iterable[Window | None]) -> Window | None:
    """Return the smallest window with all of these, None of none."""
    there = [window for window in windows if window is not None]
    if not there:
        return None
    left, top = min(w.col_off for w in there), min(w.row_off for w in there)
    right, bottom = max(w.right for w in there), max(w.bottom for w in there)
    return Window(col_off=left, row_off=top, width=right - left, height=bottom - top)


def on_grid_of(
    scene: Scene, other: Scene, resampling: WarpResampling, georeference: Georeference | None = None
) -> Scene | JoinedScenes:
    """Put ``other`` on the grid of ``scene``, from whichever side of the world it reaches it.

    Args:
        georeference: of the grid, where it is not that of the scene.
    """
    grid = georeference or scene.georeference
    size = {"width": scene.width, "height": scene.height}
    turns = list(outlines_of(scene, other))
    if turns == [0.0]:
        return other.on_grid(grid, **size, resampling=resampling)
    views = [other.on_grid(grid, **size, resampling=resampling, turn=turn) for turn in turns]
    return views[0] if len(views) == 1 else JoinedScenes(views)


def window_around(scene: Scene, points: NDArray[np.float64]) -> Window | None:
    """Return the smallest window with these points ``(N, 2)``, map units; None if outside.

    Points that the CRS cannot hold are not finite: then the whole scene, to be safe.
    """
    if not np.isfinite(points).all():
        return scene.window if np.isfinite(points).any() else None
    cols, rows = apply(~(scene.georeference.transform or Affine.identity()), points).T
    left, top = max(0, int(np.floor(cols.min()))), max(0, int(np.floor(rows.min())))
    right = min(scene.width, int(np.ceil(cols.max())))
    bottom = min(scene.height, int(np.ceil(rows.max())))
    if right <= left or bottom <= top:
        return None
    return Window(col_off=left, row_off=top, width=right - left, height=bottom - top)


def outline_in(
    scene: Scene, crs_wkt: str | None, window: Window | None = None
) -> NDArray[np.float64]:
    """Return points ``(N, 2)`` on the outline of a scene, or of a window of it, in another CRS."""
    window = window or scene.window
    ring = shapely.box(window.col_off, window.row_off, window.right, window.bottom).exterior
    pixels = shapely.get_coordinates(ring.segmentize(max(ring.length / 4 / _OUTLINE_STEPS, 1e-9)))
    points = apply(scene.georeference.transform or Affine.identity(), pixels)
    return reproject_points(points, scene.georeference.crs_wkt, crs_wkt)


def reproject_points(
    points: NDArray[np.float64], from_wkt: str | None, to_wkt: str | None
) -> NDArray[np.float64]:
    """Bring points ``(N, 2)`` from one CRS to another, infinite where it has no place for them."""
    if from_wkt is None or to_wkt is None or from_wkt == to_wkt:
        return points
    with reading("their CRS", "cannot be brought together"):
        transformer = pyproj.Transformer.from_crs(from_wkt, to_wkt, always_xy=True)
    return np.column_stack(transformer.transform(points[:, 0], points[:, 1]))


def apply(transform: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map points ``(N, 2)`` by an affine."""
    matrix = np.array([[transform.a, transform.b], [transform.d, transform.e]])
    moved: NDArray[np.float64] = points @ matrix.T + (transform.c, transform.f)
    return moved


def _extent(points: NDArray[np.float64]) -> str:
    finite = points[np.isfinite(points).all(axis=1)]
    if not len(finite):
        return "nothing"
    return " ".join(f"{value:.10g}" for value in (*finite.min(axis=0), *finite.max(axis=0)))


@contextlib.contextmanager
def classes_on_grid_of(scene: Scene, raster: Scene, *, white: int) -> Iterator[ClassRaster]:
    """Open the class ids of ``raster`` on the grid of ``scene``: those under its pixels' centres.

    Both are placed.

    Args:
        white: as of a :class:`ClassRaster`.

    Raises:
        SceneError: if GDAL cannot warp it.
    """
    with contextlib.closing(on_grid_of(scene, raster, "nearest")) as warped:
        yield ClassRaster(warped, white)


@contextlib.contextmanager
def open_classes_on_grid_of(
    scene: Scene, path: str, progress: Progress
) -> Iterator[tuple[Scene, ClassRaster, Window]]:
    """Open a raster of class ids, its ids on the grid of ``scene``, and the part that both reach.

    Raises:
        SceneError: if it cannot be read, holds no class ids, or shares nothing with the scene.
    """
    with open_scene(path) as raster:
        check_class_raster(raster)
        white = white_of(raster)
        if white != NO_WHITE:
            progress.note(white_note(path, white))
        if not same_grid(scene, raster):
            part = part_over(scene, raster)
            with classes_on_grid_of(scene, raster, white=white) as warped:
                yield raster, warped, part
            return
        if not (is_placed(scene) and is_placed(raster)):
            progress.warn(
                f"{scene.name} and {path} are compared pixel by pixel: not both say where on the "
                "earth they lie"
            )
        yield raster, ClassRaster(raster, white), scene.window
