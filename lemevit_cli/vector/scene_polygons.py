"""Polygons of a vector layer, brought onto a scene's grid and found by place.

pyogrio and geopandas are imported where a layer is read: most runs read none.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from pyproj.exceptions import CRSError, ProjError
from rasterio.features import rasterize

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.source import STDIN, WARNINGS_LOCK

if TYPE_CHECKING:
    import geopandas

_LONG = 200  # points of an outline that is worth being cut to a window
_DECIMALS = 6  # of pixels that corners are rounded to


class Grid(Protocol):
    """A grid that polygons are brought onto: of a scene, or of a picture of it."""

    @property
    def name(self) -> str: ...

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def georeference(self) -> Georeference: ...


@dataclass(frozen=True, eq=False)
class ScenePolygons:
    """The polygons of a layer that touch a scene, in its map units; in pixels without a transform.

    Args:
        polygons: single polygons, in the layer's order.
        rows: of the table, for each polygon: parts of one feature share theirs.
        index: finds polygons by place.
        transform: of the scene.
    """

    polygons: NDArray
    rows: NDArray[np.int64]
    index: shapely.STRtree
    transform: Affine

    def near(self, window: Window) -> NDArray[np.int64]:
        """Find the polygons that may touch a window of the scene, in the layer's order."""
        outline = shapely.box(window.col_off, window.row_off, window.right, window.bottom)
        corners = shapely.get_coordinates(outline)
        rows = self.index.query(shapely.Polygon([self.transform @ xy for xy in corners.tolist()]))
        return np.sort(rows)

    def burn(
        self, window: Window, values: NDArray[np.uint8], *, background: int
    ) -> NDArray[np.uint8]:
        """Draw the polygons on a window of the scene: ``(H, W)`` uint8.

        A pixel belongs to a polygon if its centre lies inside; to the later one of several.

        Args:
            values: one a polygon.
            background: where there is no polygon.
        """
        shape = (window.height, window.width)
        near = self.near(window)
        if len(near) == 0:
            return np.full(shape, background, dtype=np.uint8)
        parts, origin = _clip(
            self._in_pixels_of(window, near), width=window.width, height=window.height
        )
        if len(parts) == 0:
            return np.full(shape, background, dtype=np.uint8)
        with WARNINGS_LOCK:  # rasterio silences one while it draws
            drawn: NDArray[np.uint8] = rasterize(
                zip(parts, values[near[origin]].tolist(), strict=True),
                out_shape=shape,
                fill=background,
                transform=Affine.identity(),
                dtype=np.uint8,
            )
        return drawn

    def in_pixels(self, chosen: NDArray[np.int64] | slice = slice(None)) -> NDArray:
        """Return polygons in pixels of the scene, south-up or rotated as it may be."""
        inverse = ~self.transform
        matrix = np.array([[inverse.a, inverse.b], [inverse.d, inverse.e]])
        shift = (inverse.c, inverse.f)
        return shapely.transform(
            self.polygons[chosen], lambda xy: np.round(xy @ matrix.T + shift, _DECIMALS)
        )

    def _in_pixels_of(self, window: Window, near: NDArray[np.int64]) -> NDArray:
        """Return polygons in pixels of a window: GDAL then needs no transform."""
        corner = (window.col_off, window.row_off)
        # Rounded in pixels of the scene, before the window's corner is taken off: an edge through
        # pixel centres falls on the same side of them in every window.
        return shapely.transform(self.in_pixels(near), lambda xy: xy - corner)


def _clip(polygons: NDArray, *, width: int, height: int) -> tuple[NDArray, NDArray[np.int64]]:
    """Clip polygons to a window, in pixels of it; say which polygon each part is of.

    A coast of a million points is cut to the few that the window sees; small polygons stay as they
    are. A margin keeps the cut away from the pixels.
    """
    is_long = shapely.get_num_coordinates(polygons) > _LONG
    near = polygons.copy()
    near[is_long] = shapely.clip_by_rect(polygons[is_long], -2, -2, width + 2, height + 2)
    parts, origin = shapely.get_parts(near, return_index=True)
    is_polygon = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(
        parts
    )
    return parts[is_polygon], origin[is_polygon]


def is_vector(path: str) -> bool:
    """Say whether a file holds a vector layer; one that is missing counts as a vector.

    Stdin does not: a raster alone is taken from there.
    """
    if path == STDIN:
        return False
    import pyogrio

    file, _, layer = path.partition("|layername=")
    try:
        return len(pyogrio.list_layers(file)) > 0
    except (RuntimeError, OSError, ValueError):
        # Of a missing file the layer's reader tells more than GDAL's rasters do.
        return bool(layer) or (":" not in file and not Path(file).exists())


def field_names(path: str) -> tuple[str, ...]:
    """Return the names of the fields of a layer, see :func:`layer_name`.

    Raises:
        SceneError: if the file cannot be read as polygons.
    """
    import pyogrio

    file, name = layer_name(path)
    return tuple(pyogrio.read_info(file, layer=name)["fields"])


def layer_name(path: str, layer: str | None = None) -> tuple[str, str]:
    """Return file and layer of ``FILE``, or of ``FILE|layername=NAME`` as QGIS writes it.

    Raises:
        SceneError: if the file cannot be read as polygons, or holds several layers and none is
            named.
    """
    import pyogrio

    file, _, named = path.partition("|layername=")
    wanted = layer or named
    try:
        listed = pyogrio.list_layers(file)
    except (RuntimeError, OSError, ValueError) as error:  # pyogrio's are RuntimeErrors
        raise SceneError(f"{path}: cannot be read as polygons ({_line(error)})") from error
    layers = [str(name) for name, kind in listed if kind is not None]
    if wanted:
        if wanted not in layers:
            raise SceneError(
                f"{path}: cannot be read as polygons (no layer {wanted!r}; it holds "
                f"{', '.join(layers) or 'none'})"
            )
        return file, wanted
    if not layers:
        raise SceneError(f"{path}: a table without geometry; it takes polygons")
    if len(layers) > 1:
        raise SceneError(
            f"{path}: holds the layers {', '.join(layers)}; "
            f"name one as '{file}|layername={layers[0]}'"
        )
    return file, layers[0]


def read_layer(
    path: str, *, layer: str | None = None, where: str | None = None
) -> geopandas.GeoDataFrame:
    """Read a layer of a vector file; see :func:`layer_name` for how one is named.

    Args:
        where: an OGR filter of its features.

    Raises:
        SceneError: if the file, the layer or the filter cannot be understood.
    """
    import geopandas

    file, name = layer_name(path, layer)
    try:
        with warnings.catch_warnings():
            # GDAL's doubts about a filter; an error says what is wrong in one line.
            warnings.simplefilter("ignore", RuntimeWarning)
            return geopandas.read_file(file, layer=name, where=where)
    except (RuntimeError, OSError, ValueError) as error:
        what = f"with the filter {where!r}" if where else "as polygons"
        raise SceneError(f"{path}: cannot be read {what} ({_line(error)})") from error


def polygons_on(
    scene: Grid, table: geopandas.GeoDataFrame, path: str, *, with_points: bool = False
) -> ScenePolygons:
    """Bring the polygons of a table to a scene.

    A table without CRS is taken to be in the scene's, a scene without CRS in the table's; a scene
    without a transform takes the polygons as pixels, rows downward.

    Args:
        path: what messages call the table.
        with_points: whether points count, as the pixel that each lies in.

    Raises:
        SceneError: if there are no polygons, they cannot be reprojected, or none touches the scene.
    """
    crs_wkt = scene.georeference.crs_wkt
    if table.crs is not None and crs_wkt is not None and scene.georeference.transform is not None:
        try:
            table = _with_short_edges(table).to_crs(crs_wkt)
        except (ProjError, CRSError) as error:
            raise SceneError(
                f"{path}: cannot be brought to the CRS of {scene.name} ({_line(error)})"
            ) from error
    transform = scene.georeference.transform or Affine.identity()
    geometries = table.geometry.to_numpy()
    if with_points:
        geometries = _pixels_of_points(geometries, transform)
    polygons, rows = _single_polygons(geometries)
    if len(polygons) == 0:
        raise SceneError(f"{path}: holds no polygons")
    touching = np.sort(shapely.STRtree(polygons).query(footprint(scene), predicate="intersects"))
    if len(touching) == 0:
        west, south, east, north = (float(v) for v in shapely.total_bounds(polygons))
        raise SceneError(
            f"{path}: its polygons span {bounds_text((west, south, east, north))}, none touches "
            f"{scene.name}, which spans {bounds_text(extent(scene))}"
        )
    polygons, rows = polygons[touching], rows[touching]
    return ScenePolygons(polygons, rows, shapely.STRtree(polygons), transform)


def _pixels_of_points(geometries: NDArray, transform: Affine) -> NDArray:
    """Return geometries with the outline of its pixel, in map units, for every point."""
    found = geometries.copy()
    for place in np.flatnonzero(shapely.get_type_id(geometries) == shapely.GeometryType.POINT):
        col, row = np.floor(~transform @ (shapely.get_x(found[place]), shapely.get_y(found[place])))
        corners = ((col, row), (col + 1, row), (col + 1, row + 1), (col, row + 1))
        found[place] = shapely.Polygon([transform @ corner for corner in corners])
    return found


def _single_polygons(geometries: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Return polygons with the row that each is from; parts of collections are taken apart."""
    rows = np.flatnonzero(~shapely.is_missing(geometries))
    parts = geometries[rows]
    for _ in range(2):  # a collection may hold multipolygons
        parts, origin = shapely.get_parts(parts, return_index=True)
        rows = rows[origin]
    is_polygon = (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON) & ~shapely.is_empty(
        parts
    )
    return parts[is_polygon], rows[is_polygon]


def _with_short_edges(table: geopandas.GeoDataFrame) -> geopandas.GeoDataFrame:
    """Cut long edges: what is straight in one CRS is curved in another, corners alone miss it.

    An edge of a degree departs from its chord by about 240 m on the ground, a thousandth of that
    edge by a millionth: a quarter of a millimetre.
    """
    import geopandas

    if not is_tied_to_earth(table.crs.to_wkt()):
        return table
    metres_per_unit = table.crs.axis_info[0].unit_conversion_factor
    step = 1e-3 if table.crs.is_geographic else 100.0 / metres_per_unit
    cut = shapely.segmentize(table.geometry.to_numpy(), step)
    return table.set_geometry(geopandas.GeoSeries(cut, index=table.index, crs=table.crs))


def extent(scene: Grid) -> tuple[float, float, float, float]:
    """Return ``(west, south, east, north)`` in map units; in pixels without a transform."""
    west, south, east, north = footprint(scene).bounds
    return west, south, east, north


def footprint(scene: Grid) -> shapely.Polygon:
    """Return the scene's outline in map units; in pixels without a transform."""
    transform = scene.georeference.transform or Affine.identity()
    w, h = scene.width, scene.height
    return shapely.Polygon([transform @ corner for corner in ((0, 0), (w, 0), (w, h), (0, h))])


def bounds_text(bounds: tuple[float, float, float, float]) -> str:
    """Write four numbers as a message shows them."""
    return " ".join(f"{b:.10g}" for b in bounds)


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
