"""Two rasters on the earth: the same grid, another one, or nothing in common."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pyproj
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.crs import CRS

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.progress import Progress
from lemevit_cli.raster.class_raster import ClassRaster, check_class_raster
from lemevit_cli.raster.scene import Scene, open_scene

_SAME_PX = 1e-3  # grids whose corners lie closer are one
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
    part = window_around(scene, outline)
    if part is None:
        raise SceneError(
            f"{scene.name} and {other.name} do not overlap: in the CRS of the first they span "
            f"{_extent(outline_in(scene, scene.georeference.crs_wkt))} and {_extent(outline)} "
            "(west south east north)"
        )
    return part


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
    try:
        transformer = pyproj.Transformer.from_crs(from_wkt, to_wkt, always_xy=True)
    except (ProjError, CRSError) as error:
        raise SceneError(f"their CRS cannot be brought together ({error})") from error
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
def classes_on_grid_of(scene: Scene, raster: Scene) -> Iterator[ClassRaster]:
    """Open the class ids of ``raster`` on the grid of ``scene``: those under its pixels' centres.

    Both are placed.

    Raises:
        SceneError: if GDAL cannot warp it.
    """
    warped = raster.on_grid(
        scene.georeference, width=scene.width, height=scene.height, resampling="nearest"
    )
    with warped:
        yield ClassRaster(warped)


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
        if not same_grid(scene, raster):
            part = part_over(scene, raster)
            with classes_on_grid_of(scene, raster) as warped:
                yield raster, warped, part
            return
        if not (is_placed(scene) and is_placed(raster)):
            progress.warn(
                f"{scene.name} and {path} are compared pixel by pixel: not both say where on the "
                "earth they lie"
            )
        yield raster, ClassRaster(raster), scene.window
