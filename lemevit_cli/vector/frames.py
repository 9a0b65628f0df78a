"""Which map the numbers of a layer lie on, and how they are brought to a scene."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj

from lemevit_cli.errors import SceneError, reading
from lemevit_cli.geometry.georeference import Bounds, Georeference, bounds_text
from lemevit_cli.geometry.ground import is_tied_to_earth
from lemevit_cli.vector.layer import crs_of_map
from lemevit_cli.vector.placement import Grid, Placement
from lemevit_cli.vector.way import Way, touch

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

_DEGREES = (-540.0, -90.001, 540.0, 90.001)  # nothing beyond is a longitude and a latitude
_PIXEL_FIELD = "length_px"  # what detect writes of boxes on no map
_AREA_FIELD = "area_px"  # what predict and change write of polygons without CRS
_GEOJSON = (".geojson", ".json", ".geojsonl", ".geojsons")
_PIXEL_MARGIN = 0.05  # of a scene, that polygons in its pixels may reach beyond it


@dataclass(frozen=True)
class LayerFacts:
    """What a layer says of itself.

    Args:
        path: what messages call it.
        crs: None where it has none that is tied to the earth.
        local_crs: the name of one that is not; None without it.
        bounds: of all its features, in its own numbers; None where there are none.
        fields: their names.
    """

    path: str
    crs: pyproj.CRS | None
    bounds: Bounds | None
    fields: frozenset[str]
    local_crs: str | None = None

    @property
    def lack(self) -> str:
        """Say why its numbers may lie anywhere."""
        return "has no CRS" if self.local_crs is None else f"has a local CRS ({self.local_crs})"

    @property
    def is_geojson(self) -> bool:
        """Say whether it is a GeoJSON, which GDAL takes for degrees where it names no CRS."""
        return self.path.partition("|")[0].lower().endswith(_GEOJSON)


def facts_of(path: str, crs: Any, bounds: Any, fields: Iterable[Any]) -> LayerFacts:
    """Gather the facts of a layer, from its CRS in any form and its bounds, finite or not.

    Raises:
        SceneError: if PROJ does not understand the CRS.
    """
    with reading(path, "its CRS cannot be understood; state another one by ogr2ogr -a_srs"):
        known: pyproj.CRS | None = None if crs is None else pyproj.CRS.from_user_input(crs)
        local = None if known is None or is_tied_to_earth(known.to_wkt()) else str(known.name)
    if local is not None:
        known = None
    numbers = None
    if bounds is not None and np.isfinite(bounds).all():
        west, south, east, north = (float(v) for v in bounds)
        numbers = west, south, east, north
    return LayerFacts(path, known, numbers, frozenset(map(str, fields)), local)


def choose_way(place: Placement, layer: LayerFacts) -> tuple[Way, tuple[str, ...]]:
    """Decide how the numbers of a layer are read, and say so where it was not stated.

    * A layer with a CRS is brought to the scene's; a scene without one is taken to be in the
      layer's.
    * A layer without a CRS (GeoJSON that holds no degrees is one, too) is on the scene's map if it
      touches the scene there, else in pixels, y down, if it lies within the scene as such.
    * On a scene without a transform and ground control points polygons are pixels.

    Raises:
        SceneError: if nothing ties a layer to the scene: see the messages.
    """
    scene = place.grid
    pixels = Way(Placement(_in_pixels(scene)), None)
    if _PIXEL_FIELD in layer.fields:
        return pixels, ()
    crs = _stated_crs(layer)
    if not place.is_placed:
        return pixels, _taken_as_pixels(scene, layer, crs)
    if crs is None:
        return _way_without_crs(place, pixels, layer)
    if place.crs_wkt is None:
        if crs_of_map(scene.georeference) is not None:
            raise SceneError(
                f"{layer.path}: lies on the earth ({crs.name}), and the CRS of {scene.name} is "
                "local; state the true one by --src-crs or gdal_translate -a_srs"
            )
        note = f"{scene.name} has no CRS and is taken to be in that of {layer.path}, {crs.name}"
        return Way(place, None), (note,)
    if crs.is_geographic and layer.bounds is not None and not touch(layer.bounds, _DEGREES):
        raise SceneError(
            f"{layer.path}: is said to be in {crs.name}, and its polygons span "
            f"{bounds_text(layer.bounds)}, which cannot be degrees; state its CRS (ogr2ogr -a_srs)"
        )
    return Way(place, crs), ()


def _stated_crs(layer: LayerFacts) -> pyproj.CRS | None:
    """Return the CRS that a layer states: not what GDAL takes a GeoJSON for."""
    if layer.crs is None or not layer.is_geojson or not layer.crs.is_geographic:
        return layer.crs
    is_ours = _AREA_FIELD in layer.fields
    beyond = layer.bounds is not None and not _within(layer.bounds, _DEGREES)
    return None if is_ours or beyond else layer.crs


def without_false_degrees(table: GeoDataFrame, path: str) -> GeoDataFrame:
    """Take away the CRS that GDAL gives to a GeoJSON in pixels."""
    facts = facts_of(path, table.crs, table.total_bounds, table.columns)
    if facts.crs is None or _stated_crs(facts) is not None:
        return table
    return table.set_crs(None, allow_override=True)


def _taken_as_pixels(scene: Grid, layer: LayerFacts, crs: pyproj.CRS | None) -> tuple[str, ...]:
    """Return what is said of a layer on a scene that lies nowhere.

    Raises:
        SceneError: if the layer lies on a map.
    """
    if crs is None:
        return ()
    if layer.is_geojson and not scene.georeference.rpcs:
        return (f"{layer.path}: is taken as pixels of {scene.name}, which lies on no map",)
    advice = "RPCs, gdalwarp -rpc" if scene.georeference.rpcs else "no transform, gdal_translate"
    raise SceneError(
        f"{layer.path}: lies on a map ({crs.name}), and {scene.name} has {advice} places it there "
        "first"
    )


def _way_without_crs(
    place: Placement, pixels: Way, layer: LayerFacts
) -> tuple[Way, tuple[str, ...]]:
    scene, on_map = place.grid, Way(place, None)
    around = on_map.surroundings
    if layer.bounds is None or around is None:
        return on_map, ()
    if any(touch(layer.bounds, box) for box in on_map.boxes() or ()):
        return on_map, _taken_for_the_map(place, layer)
    span = f"{layer.path}: {layer.lack}; its polygons span {bounds_text(layer.bounds)}"
    if _lies_on_as_degrees(place, layer.bounds):
        raise SceneError(
            f"{span}, which are degrees on {scene.name}; state its CRS (ogr2ogr -a_srs EPSG:4326)"
        )
    cols, rows = _PIXEL_MARGIN * scene.width, _PIXEL_MARGIN * scene.height
    if _within(layer.bounds, (-cols, -rows, scene.width + cols, scene.height + rows)):
        note = f"{layer.path}: {layer.lack} and is taken as pixels of {scene.name}, rows downward"
        return pixels, (note,)
    no_degrees = "" if _within(layer.bounds, _DEGREES) else "cannot be degrees, and "
    raise SceneError(
        f"{span}, which {no_degrees}lie neither on {scene.name}, which spans "
        f"{bounds_text(around.scene)}, nor within its {scene.width} x {scene.height} pixels; state "
        "its CRS (ogr2ogr -a_srs)"
    )


def _taken_for_the_map(place: Placement, layer: LayerFacts) -> tuple[str, ...]:
    if place.crs_wkt is None:
        return ()
    name = pyproj.CRS.from_wkt(place.crs_wkt).name
    return (f"{layer.path}: {layer.lack} and is taken to be in that of {place.grid.name}, {name}",)


def _lies_on_as_degrees(place: Placement, bounds: Bounds) -> bool:
    if place.crs_wkt is None or not _within(bounds, _DEGREES):
        return False
    boxes = Way(place, pyproj.CRS.from_epsg(4326)).boxes()
    return any(touch(bounds, box) for box in boxes or ())


@dataclass(frozen=True)
class _PixelGrid:
    """A grid whose map are its own pixels."""

    name: str
    width: int
    height: int
    georeference: Georeference


def _in_pixels(scene: Grid) -> Grid:
    nowhere = Georeference(transform=None, crs_wkt=None)
    return _PixelGrid(scene.name, scene.width, scene.height, nowhere)


def _within(inner: Bounds, outer: Bounds) -> bool:
    is_above = inner[0] >= outer[0] and inner[1] >= outer[1]
    return is_above and inner[2] <= outer[2] and inner[3] <= outer[3]


def one_line(error: BaseException) -> str:
    """Return what an error says in one line."""
    return " ".join(str(error).split())
