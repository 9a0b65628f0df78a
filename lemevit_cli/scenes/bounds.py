"""Parts of a scene: the window of a rectangle in map units, the pixels inside polygons."""

from __future__ import annotations

import math
from dataclasses import dataclass

import geopandas
import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import geometry_mask

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.ground import is_tied_to_earth
from lemevit_cli.geometry.window import Window
from lemevit_cli.scenes.scene import Scene

# Bounds copied from a file's own printout miss its pixel edges by rounding.
_ROUNDING_PX = 1e-3


def window_of_bounds(scene: Scene, bounds: tuple[float, float, float, float]) -> Window:
    """Pixels of the scene within ``(west, south, east, north)``, map units.

    * North-up and south-up: the pixels that lie wholly inside.
    * Rotated: the smallest window that contains the part of the rectangle within the scene.
    * No transform: the bounds are pixels, rows counted downward (north and south in any order).

    What reaches beyond the scene is cut off.

    Raises:
        SceneError: if the bounds are malformed, hold no whole pixel, or lie outside the scene.
    """
    west, south, east, north = bounds
    transform = scene.georeference.transform
    if transform is None:
        south, north = min(south, north), max(south, north)
    if not (west < east and south < north and all(math.isfinite(b) for b in bounds)):
        raise SceneError(f"--bounds {_text(bounds)}: needs WEST < EAST and SOUTH < NORTH")
    corners = [(west, south), (east, south), (east, north), (west, north)]
    to_pixels = ~(transform or Affine.identity())
    cols, rows = zip(*(to_pixels @ corner for corner in corners), strict=True)
    is_rotated = transform is not None and not transform.is_rectilinear
    col_off, right = _whole_pixels(min(cols), max(cols), outward=is_rotated)
    row_off, bottom = _whole_pixels(min(rows), max(rows), outward=is_rotated)
    outside = min(right, scene.width) <= max(col_off, 0) or min(bottom, scene.height) <= max(
        row_off, 0
    )
    if outside and (right <= col_off or bottom <= row_off):
        raise SceneError(f"--bounds {_text(bounds)}: hold no whole pixel of {scene.name}")
    if outside:
        raise SceneError(
            f"--bounds {_text(bounds)}: outside {scene.name}, which spans {_text(extent(scene))}"
        )
    col_off, row_off = max(col_off, 0), max(row_off, 0)
    return Window(
        col_off=col_off,
        row_off=row_off,
        width=min(right, scene.width) - col_off,
        height=min(bottom, scene.height) - row_off,
    )


def _whole_pixels(low: float, high: float, *, outward: bool) -> tuple[int, int]:
    if outward:
        return math.floor(low + _ROUNDING_PX), math.ceil(high - _ROUNDING_PX)
    return math.ceil(low - _ROUNDING_PX), math.floor(high + _ROUNDING_PX)


def extent(scene: Scene) -> tuple[float, float, float, float]:
    """``(west, south, east, north)`` of the scene in map units; in pixels without a transform."""
    west, south, east, north = footprint(scene).bounds
    return west, south, east, north


def footprint(scene: Scene) -> shapely.Polygon:
    """The scene's outline in map units; in pixels without a transform."""
    transform = scene.georeference.transform or Affine.identity()
    w, h = scene.width, scene.height
    return shapely.Polygon([transform @ corner for corner in ((0, 0), (w, 0), (w, h), (0, h))])


def _text(bounds: tuple[float, float, float, float]) -> str:
    return " ".join(f"{b:.10g}" for b in bounds)


@dataclass(frozen=True, eq=False)
class PolygonsMask:
    """Polygons of a vector file, in the scene's map units, burnt window by window."""

    polygons: NDArray
    index: shapely.STRtree
    transform: Affine

    def read(self, window: Window) -> NDArray[np.bool_]:
        """Pixels ``(H, W)`` whose centre lies inside a polygon."""
        shape = (window.height, window.width)
        transform = self.transform @ Affine.translation(window.col_off, window.row_off)
        corners = ((0, 0), (window.width, 0), (window.width, window.height), (0, window.height))
        near = self.index.query(shapely.Polygon([transform @ corner for corner in corners]))
        if len(near) == 0:
            return np.zeros(shape, bool)
        # In pixels of the window: GDAL then needs no transform, south-up and rotated alike.
        inverse = ~transform
        matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        shift = np.array([inverse.c, inverse.f])
        local = shapely.transform(self.polygons[near], lambda xy: xy @ matrix.T + shift)
        return geometry_mask(local, shape, Affine.identity(), invert=True)


def polygons_mask(path: str, scene: Scene) -> PolygonsMask:
    """Read the polygons of a vector file and bring them to the scene's CRS.

    ``FILE|layername=NAME``, as QGIS writes it, names a layer of a file that holds several. A file
    without CRS is taken to be in the scene's, a scene without CRS in the file's; a scene without a
    transform takes the polygons as pixels, rows downward.

    Raises:
        SceneError: if the file cannot be read, has no polygons, cannot be reprojected, or none of
            its polygons touches the scene.
    """
    table = _read_layer(path)
    crs_wkt = scene.georeference.crs_wkt
    if table.crs is not None and crs_wkt is not None and scene.georeference.transform is not None:
        try:
            table = _with_short_edges(table).to_crs(crs_wkt)
        except (ProjError, CRSError) as error:
            raise SceneError(
                f"{path}: cannot be brought to the CRS of {scene.name} ({_line(error)})"
            ) from error
    parts = shapely.get_parts(table.geometry.dropna().to_numpy())
    polygons = parts[shapely.get_type_id(parts) == shapely.GeometryType.POLYGON]
    if len(polygons) == 0:
        raise SceneError(f"{path}: holds no polygons")
    index = shapely.STRtree(polygons)
    if len(index.query(footprint(scene), predicate="intersects")) == 0:
        west, south, east, north = (float(v) for v in shapely.total_bounds(polygons))
        raise SceneError(
            f"{path}: its polygons span {_text((west, south, east, north))}, none touches "
            f"{scene.name}, which spans {_text(extent(scene))}"
        )
    transform = scene.georeference.transform or Affine.identity()
    return PolygonsMask(polygons, index, transform)


def _with_short_edges(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Cut long edges: what is straight in one CRS is curved in another, corners alone miss it.

    An edge of a degree departs from its chord by about 240 m on the ground, a thousandth of that
    edge by a millionth: a quarter of a millimetre.
    """
    if not is_tied_to_earth(table.crs.to_wkt()):
        return table
    metres_per_unit = table.crs.axis_info[0].unit_conversion_factor
    step = 1e-3 if table.crs.is_geographic else 100.0 / metres_per_unit
    cut = shapely.segmentize(table.geometry.to_numpy(), step)
    return table.set_geometry(geopandas.GeoSeries(cut, index=table.index, crs=table.crs))


def _read_layer(path: str) -> geopandas.GeoDataFrame:
    file, _, layer = path.partition("|layername=")
    try:
        table = geopandas.list_layers(file)
        layers = table.name[table.geometry_type.notna()].tolist()
        if layer or len(layers) == 1:
            return geopandas.read_file(file, layer=layer or layers[0])
    except (RuntimeError, OSError, ValueError) as error:  # pyogrio's are RuntimeErrors
        raise SceneError(f"{path}: cannot be read as polygons ({_line(error)})") from error
    if not layers:
        raise SceneError(f"{path}: a table without geometry; --mask needs polygons")
    raise SceneError(
        f"{path}: holds the layers {', '.join(layers)}; name one as '{file}|layername={layers[0]}'"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
