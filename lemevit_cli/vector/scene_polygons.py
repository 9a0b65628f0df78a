"""Polygons of a vector layer, brought onto a scene's grid and found by place.

pyogrio and geopandas are imported where a layer is read: most runs read none.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from rasterio.features import rasterize

from lemevit_cli.errors import SceneError, reading
from lemevit_cli.geometry.georeference import Bounds, bounds_text
from lemevit_cli.geometry.window import Window
from lemevit_cli.inputs import is_there
from lemevit_cli.raster.network import give_up_silent_servers
from lemevit_cli.raster.source import STDIN, WARNINGS_LOCK
from lemevit_cli.vector.frames import LayerFacts, choose_way, facts_of
from lemevit_cli.vector.mending import single_polygons
from lemevit_cli.vector.placement import Grid, Placement
from lemevit_cli.vector.way import Way

if TYPE_CHECKING:
    import geopandas

_AS_POLYGONS = "cannot be read as polygons"
_MANY = 100_000  # features whose values take longer to read than the polygons of a scene
_SMALL = 4  # pixels: sides of polygons that may lie between the centres
_LONG = 200  # points of an outline that is worth being cut to a window
_DECIMALS = 6  # of pixels that corners are rounded to
_VECTOR_SUFFIXES = (".shp", ".geojson", ".fgb", ".kml", ".gml", ".topojson")  # no raster's
_SHX_HEADER, _SHX_RECORD = 100, 8  # bytes
_NOWHERE = (1e300, 1e300, 1e300, 1e300)  # a box that no feature touches
_IN_ORDER = (".geojson", ".json", ".csv")  # read in whole: their numbers need not be their order


@dataclass(frozen=True, eq=False)
class ScenePolygons:
    """The polygons of a layer that touch a scene, in pixels of it.

    Args:
        polygons: single valid polygons, in the layer's order.
        rows: of the table, for each polygon: parts of one feature share theirs.
        index: finds polygons by place.
        notes: what a user should know of how they were read, and what was left out.
    """

    polygons: NDArray
    rows: NDArray[np.int64]
    index: shapely.STRtree
    notes: tuple[str, ...] = ()

    def near(self, window: Window) -> NDArray[np.int64]:
        """Find the polygons that may touch a window of the scene, in the layer's order."""
        outline = shapely.box(window.col_off, window.row_off, window.right, window.bottom)
        return np.sort(self.index.query(outline))

    def moved(self, to_grid: Affine) -> ScenePolygons:
        """Return the polygons in pixels of another grid over the scene."""
        polygons = shapely.transform(self.polygons, lambda xy: _apply(to_grid, xy))
        return ScenePolygons(polygons, self.rows, shapely.STRtree(polygons), self.notes)

    def lie_between_centres(self) -> NDArray[np.bool_]:
        """Say which polygons, ``(N,)``, cover the centre of no pixel; long slivers are not seen."""
        left, top, right, bottom = shapely.bounds(self.polygons).T
        first_col, first_row = np.ceil(left - 0.5), np.ceil(top - 0.5)
        cols, rows = np.floor(right - 0.5) - first_col + 1, np.floor(bottom - 0.5) - first_row + 1
        between = np.maximum(cols, rows) <= _SMALL
        for col in range(_SMALL):
            for row in range(_SMALL):
                near = np.flatnonzero(between & (col < cols) & (row < rows))
                x, y = first_col[near] + col + 0.5, first_row[near] + row + 0.5
                between[near] = ~shapely.intersects_xy(self.polygons[near], x, y)
        return between

    def only(self, which: NDArray[np.bool_]) -> ScenePolygons:
        """Return some of the polygons, by a mask ``(N,)``."""
        polygons = self.polygons[which]
        return ScenePolygons(polygons, self.rows[which], shapely.STRtree(polygons), self.notes)

    def burn(
        self,
        window: Window,
        values: NDArray[np.uint8],
        *,
        background: int,
        all_touched: bool = False,
    ) -> NDArray[np.uint8]:
        """Draw the polygons on a window of the scene: ``(H, W)`` uint8.

        A pixel belongs to a polygon if its centre lies inside, or if the polygon touches it; to
        the later one of several.

        Args:
            values: one a polygon.
            background: where there is no polygon.
        """
        shape = (window.height, window.width)
        near = self.near(window)
        if len(near) == 0:
            return np.full(shape, background, dtype=np.uint8)
        parts, origin = self._in_pixels_of(window, near)
        if len(parts) == 0:
            return np.full(shape, background, dtype=np.uint8)
        with WARNINGS_LOCK:  # rasterio silences one while it draws
            drawn: NDArray[np.uint8] = rasterize(
                zip(parts, values[near[origin]].tolist(), strict=True),
                out_shape=shape,
                fill=background,
                transform=Affine.identity(),
                all_touched=all_touched,
                dtype=np.uint8,
            )
        return drawn

    def _in_pixels_of(
        self, window: Window, near: NDArray[np.int64]
    ) -> tuple[NDArray, NDArray[np.int64]]:
        """Return polygons in pixels of a window, for which GDAL needs no transform.

        A coast of a million points is cut to the few that the window sees; small polygons stay as
        they are. A margin keeps the cut away from the pixels.

        Returns:
            Polygons, and which of those near each is a part of.
        """
        corner = (window.col_off, window.row_off)
        seen = window.col_off - 2, window.row_off - 2, window.right + 2, window.bottom + 2
        polygons = self.polygons[near]
        is_long = shapely.get_num_coordinates(polygons) > _LONG
        polygons[is_long] = shapely.clip_by_rect(polygons[is_long], *seen)
        parts, origin = _polygons_in(polygons)
        return shapely.transform(parts, lambda xy: xy - corner), origin


def _polygons_in(geometries: NDArray) -> tuple[NDArray, NDArray[np.int64]]:
    """Take polygons out of what clipping left, and say which geometry each is of."""
    parts, origin = shapely.get_parts(geometries, return_index=True)
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

    give_up_silent_servers()
    file, _, layer = path.partition("|layername=")
    try:
        with reading(path):
            return len(pyogrio.list_layers(file)) > 0
    except SceneError:
        # Of a file that is missing or broken the layer's reader tells more than GDAL's rasters do.
        is_named_so = Path(file).suffix.lower() in _VECTOR_SUFFIXES
        return bool(layer) or is_named_so or (":" not in file and not is_there(file))


def field_names(path: str, layer: str | None = None) -> tuple[str, ...]:
    """Return the names of the fields of a layer, see :func:`layer_name`.

    Raises:
        SceneError: if the file cannot be read as polygons.
    """
    import pyogrio

    file, name = layer_name(path, layer)
    with reading(path, _AS_POLYGONS):
        return tuple(pyogrio.read_info(file, layer=name)["fields"])


def field_values(
    path: str, field: str, *, layer: str | None = None, where: str | None = None
) -> list[object]:
    """Read the different values of a field, without geometries; none of a layer that is large.

    Raises:
        SceneError: if the file cannot be read as polygons.
    """
    import pyogrio

    file, name = layer_name(path, layer)
    with reading(path, _AS_POLYGONS), warnings.catch_warnings():
        if pyogrio.read_info(file, layer=name, force_feature_count=True)["features"] > _MANY:
            return []
        warnings.simplefilter("ignore", RuntimeWarning)  # as of read_layer
        table = pyogrio.read_dataframe(
            file, layer=name, columns=[field], where=where, read_geometry=False
        )
    try:
        return list(table[field].unique())
    except TypeError:  # lists, which fields of JSON may hold, do not compare
        return list(table[field].astype(str).unique())


def layer_name(path: str, layer: str | None = None) -> tuple[str, str]:
    """Return file and layer of ``FILE``, or of ``FILE|layername=NAME`` as QGIS writes it.

    Raises:
        SceneError: if the file cannot be read as polygons, or holds several layers and none is
            named.
    """
    import pyogrio

    give_up_silent_servers()
    file, _, named = path.partition("|layername=")
    wanted = layer or named
    with reading(path, _AS_POLYGONS):
        listed = pyogrio.list_layers(file)
    _check_shapefile(Path(file))
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


def _check_shapefile(path: Path) -> None:
    """Refuse a shapefile whose table has another number of rows than there are shapes.

    Raises:
        SceneError: OGR passes over the rest of the longer one without a word.
    """
    index, table = path.with_suffix(".shx"), path.with_suffix(".dbf")
    if path.suffix.lower() != ".shp" or not (index.is_file() and table.is_file()):
        return
    shapes = (index.stat().st_size - _SHX_HEADER) // _SHX_RECORD
    with table.open("rb") as file:
        rows = int.from_bytes(file.read(8)[4:], "little")
    if shapes != rows:
        raise SceneError(
            f"{path}: holds {shapes} shapes, and {table.name} {rows} rows; they are of two layers, "
            "or one was cut off"
        )


def read_layer(
    path: str, *, layer: str | None = None, where: str | None = None, bbox: Bounds | None = None
) -> geopandas.GeoDataFrame:
    """Read a layer of a vector file; see :func:`layer_name` for how one is named.

    Args:
        where: an OGR filter of its features.
        bbox: west, south, east, north in the layer's CRS, that they touch; the index then holds
            their numbers in the file.

    Raises:
        SceneError: if the file, the layer or the filter cannot be understood.
    """
    return _read_table(path, *layer_name(path, layer), where=where, bbox=bbox)


def _read_table(
    path: str, file: str, name: str, *, where: str | None, bbox: Bounds | None = None
) -> geopandas.GeoDataFrame:
    """Read a layer whose name is known: a text of a million corners is parsed at each opening."""
    import geopandas

    what = f"cannot be read with the filter {where!r}" if where else _AS_POLYGONS
    with reading(path, what), warnings.catch_warnings():
        # GDAL's doubts about a filter; an error says what is wrong in one line.
        warnings.simplefilter("ignore", RuntimeWarning)
        return geopandas.read_file(
            file,
            layer=name,
            where=where,
            bbox=bbox,
            fid_as_index=bbox is not None,
            on_invalid="fix",  # open rings are closed; else they are errors of GEOS
        )


def read_polygons_on(
    scene: Grid,
    path: str,
    *,
    layer: str | None = None,
    where: str | None = None,
    with_points: bool = False,
) -> tuple[ScenePolygons, geopandas.GeoDataFrame]:
    """Read the polygons of a layer that touch a scene, as :func:`polygons_on` brings them to it.

    Of formats that know where their features lie, only those around the scene are read.

    Returns:
        The polygons, and the table that their rows are of: what was read, in the layer's order.

    Raises:
        SceneError: as :func:`read_layer` and :func:`polygons_on`; not for a layer without features.
    """
    import pyogrio

    file, name = layer_name(path, layer)
    with reading(path, _AS_POLYGONS):
        info = pyogrio.read_info(file, layer=name, force_total_bounds=True)
    facts = facts_of(path, info["crs"], info["total_bounds"], info["fields"])
    way, notes = choose_way(Placement(scene), facts)
    table = _read_near(path, name, where, way, facts)
    if len(table) == 0 and _has_features(path, name, where):
        raise _none_touches(scene, way, facts)
    if len(table) == 0:
        return ScenePolygons(np.empty(0, object), np.empty(0, np.int64), shapely.STRtree([])), table
    return _bring(scene, table, facts, way, notes, with_points=with_points), table


def polygons_on(
    scene: Grid, table: geopandas.GeoDataFrame, path: str, *, with_points: bool = False
) -> ScenePolygons:
    """Bring the polygons of a table to a scene.

    Polygons that are not valid are mended in the layer's CRS (``vector/mending.py``); those that
    the scene's CRS cannot hold are left out. Both are told by number. Which map the numbers of a
    table lie on: see :func:`choose_way`.

    Args:
        path: what messages call the table.
        with_points: whether points count, as the pixel that each lies in.

    Raises:
        SceneError: if there are no polygons, they cannot be reprojected, or none touches the scene.
    """
    facts = facts_of(path, table.crs, table.total_bounds, table.columns)
    way, notes = choose_way(Placement(scene), facts)
    return _bring(scene, table, facts, way, notes, with_points=with_points)


def _read_near(
    path: str, name: str, where: str | None, way: Way, facts: LayerFacts
) -> geopandas.GeoDataFrame:
    """Read the features around the scene, in the order of the layer."""
    import geopandas

    try:
        with reading(path):
            boxes = way.boxes(facts.bounds)
    except SceneError:
        boxes = None  # told where the polygons are brought to the scene
    file = path.partition("|")[0]
    if boxes is None or facts.bounds is None or file.lower().endswith(_IN_ORDER):
        return _read_table(path, file, name, where=where)
    tables = [_read_table(path, file, name, where=where, bbox=box) for box in boxes or [_NOWHERE]]
    some = [table for table in tables if len(table)] or tables[:1]
    table = some[0] if len(some) == 1 else geopandas.GeoDataFrame(geopandas.pd.concat(some))
    # A spatial index answers in its own order, and of overlapping polygons the later one counts.
    return table[~table.index.duplicated()].sort_index().reset_index(drop=True)


def _has_features(path: str, name: str, where: str | None) -> bool:
    import pyogrio

    file = path.partition("|")[0]
    with reading(path, _AS_POLYGONS), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return len(pyogrio.read_dataframe(file, layer=name, where=where, max_features=1)) > 0


def _bring(
    scene: Grid,
    table: geopandas.GeoDataFrame,
    facts: LayerFacts,
    way: Way,
    notes: tuple[str, ...],
    *,
    with_points: bool,
) -> ScenePolygons:
    path, geometries = facts.path, table.geometry.to_numpy()
    with reading(path, f"cannot be brought to the CRS of {scene.name}"):
        near = way.find_near(shapely.bounds(geometries))
        found = single_polygons(geometries[near])
        points, point_rows = _points_of(geometries[near], found.others, wanted=with_points)
        if len(found.polygons) + len(points) == 0:
            if len(near) < len(geometries) and _hold_polygons(geometries):
                raise _none_touches(scene, way, facts)
            raise SceneError(f"{path}: holds no polygons")
        polygons, origin, broken = way.bring(found.polygons)
        squares, square_of = way.bring_points(points)
    rows = np.concatenate([found.rows[origin], point_rows[square_of]])
    polygons = np.concatenate([polygons, squares])
    order = np.argsort(rows, kind="stable")
    rows, polygons = rows[order], polygons[order]
    if len(polygons) == 0:
        raise _none_touches(scene, way, facts, num_broken=len(broken))
    polygons = shapely.transform(polygons, lambda xy: np.round(xy, _DECIMALS))
    told = replace(found, others=np.setdiff1d(found.others, point_rows)).notes(path, among=rows)
    num_broken = len(np.unique(found.rows[broken]))
    beyond = f"{path}: {num_broken} of its features reach beyond the CRS of {scene.name} and are "
    lost = (f"{beyond}left out",) if num_broken else ()
    index = shapely.STRtree(polygons)
    return ScenePolygons(polygons, near[rows], index, (*notes, *told, *lost))


def _hold_polygons(geometries: NDArray) -> bool:
    kinds = (
        shapely.GeometryType.POLYGON,
        shapely.GeometryType.MULTIPOLYGON,
        shapely.GeometryType.GEOMETRYCOLLECTION,
    )
    return bool(np.isin(shapely.get_type_id(geometries), kinds).any())


def _points_of(
    geometries: NDArray, rows: NDArray[np.int64], *, wanted: bool
) -> tuple[NDArray, NDArray[np.int64]]:
    """Return the points among geometries, with the row of each."""
    if not wanted:
        return np.empty(0, dtype=object), np.empty(0, dtype=np.int64)
    parts, origin = shapely.get_parts(shapely.force_2d(geometries[rows]), return_index=True)
    is_point = (shapely.get_type_id(parts) == shapely.GeometryType.POINT) & ~shapely.is_empty(parts)
    return parts[is_point], rows[origin[is_point]]


def _none_touches(scene: Grid, way: Way, facts: LayerFacts, *, num_broken: int = 0) -> SceneError:
    """Say that nothing of a layer touches a scene, with both extents in the layer's CRS."""
    around = way.surroundings
    if facts.bounds is None or around is None or num_broken:
        lost = f"; {num_broken} reach beyond its CRS" if num_broken else ""
        return SceneError(f"{facts.path}: none of its polygons touches {scene.name}{lost}")
    return SceneError(
        f"{facts.path}: its polygons span {bounds_text(facts.bounds)}, none touches "
        f"{scene.name}, which spans {bounds_text(around.scene)}"
    )


def _apply(transform: Affine, points: NDArray[np.float64]) -> NDArray[np.float64]:
    matrix = np.array([[transform.a, transform.b], [transform.d, transform.e]])
    moved: NDArray[np.float64] = points @ matrix.T + (transform.c, transform.f)
    return moved
