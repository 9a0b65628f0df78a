"""Mended polygons against GDAL's even-odd filling of the outlines as they were."""

import struct

import geopandas
import numpy as np
import pyogrio
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from lemevit_cli.raster.scene import open_scene
from lemevit_cli.vector.mending import single_polygons
from lemevit_cli.vector.scene_polygons import read_polygons_on

NORTH_UP = Affine(2, 0, 500_000, 0, -2, 5_400_000)
EIGHT = shapely.Polygon([(5, 5), (55, 41), (55, 5), (5, 41)])
_TURN = 4 * np.pi * np.arange(5) / 5
PENTAGRAM = shapely.Polygon(np.column_stack([32 + 20 * np.sin(_TURN), 24 + 20 * np.cos(_TURN)]))
HOLE_OVER_EDGE = shapely.Polygon(
    shapely.box(5.2, 5.2, 40.2, 40.2).exterior, [shapely.box(30.3, 10.3, 50.3, 20.3).exterior]
)
HOLED_EIGHT = shapely.Polygon(EIGHT.exterior, [shapely.box(8.1, 12.1, 12.1, 30.1).exterior])
TAILED = shapely.Polygon([(5, 5), (30, 5), (30, 30), (50, 30), (30, 30), (5, 30)])
SHAPES = [EIGHT, PENTAGRAM, HOLE_OVER_EDGE, HOLED_EIGHT, TAILED]


@pytest.fixture
def scene(write_raster, rgb):
    with open_scene(write_raster(rgb, transform=NORTH_UP)) as opened:
        yield opened


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", None])
def test_polygons_that_cross_themselves_are_filled_as_gdal_fills_them(
    scene, on_map, write_polygons, shape, crs
):
    ring = geopandas.GeoSeries(on_map([shape], NORTH_UP), crs="EPSG:32633")
    ring = ring.to_crs(crs) if crs else ring
    path = write_polygons(ring, "layer.gpkg" if crs else "layer.shp", crs=crs)
    found, _ = read_polygons_on(scene, path)
    ones = np.ones(len(found.polygons), np.uint8)
    drawn = found.burn(scene.window, ones, background=0)
    # Centres on an edge may fall to either side once an edge has another corner.
    expected = rasterize([shape], out_shape=(48, 64))
    doubtful = rasterize([shape.boundary], out_shape=(48, 64), all_touched=True) == 1
    assert expected.sum() > 100
    np.testing.assert_array_equal(drawn[~doubtful], expected[~doubtful])
    assert shapely.is_valid(found.polygons).all()
    counted = [note for note in found.notes if "1 of its features cross" in note]
    assert len(counted) == 1


@pytest.mark.filterwarnings("ignore:invalid value encountered in linearrings")
def test_what_mending_leaves_of_no_area_is_dropped_and_counted():
    flat = shapely.Polygon([(0, 0), (5, 5), (0, 0)])
    broken = shapely.Polygon([(0, 0), (np.nan, 3), (5, 5)])
    square, point = shapely.box(0, 0, 3, 3), shapely.Point(1, 1)
    deep = shapely.GeometryCollection([shapely.MultiPolygon([square, EIGHT]), point])
    geometries = np.array([flat, square, None, broken, TAILED, deep, shapely.Polygon()], object)
    found = single_polygons(geometries)
    assert found.rows.tolist() == [1, 4, 5, 5, 5]
    assert (found.mended.tolist(), found.lost.tolist(), found.others.tolist()) == (
        [4, 5],
        [0, 3],
        [5],
    )
    assert found.missing.tolist() == [2, 6]
    assert shapely.equals(found.polygons[0], square)
    np.testing.assert_allclose(shapely.area(found.polygons[1]), 625)


def wkb(*points):
    """Write a polygon of one ring, closed or not."""
    head = struct.pack("<BIII", 1, 3, 1, len(points))
    return head + b"".join(struct.pack("<dd", *point) for point in points)


@pytest.mark.parametrize("name", ["open.gpkg", "open.shp", "open.geojson"])
def test_open_rings_are_closed_and_those_of_a_point_told(scene, tmp_path, name):
    x, y = 500_010, 5_399_990
    square = wkb((x, y), (x + 40, y), (x + 40, y - 20), (x, y - 20))
    pyogrio.raw.write(
        tmp_path / name,
        geometry=np.array([square, wkb((x, y))], object),
        field_data=[np.array([1, 2], np.int32)],
        fields=["id"],
        geometry_type="Polygon",
        crs="EPSG:32633",
    )
    found, _ = read_polygons_on(scene, str(tmp_path / name))
    assert [polygon.bounds for polygon in found.polygons] == [(5, 5, 25, 15)]
    told = f"{tmp_path / name}: 1 of its features have no geometry that can be read"
    assert [note.partition(", and")[0] for note in found.notes] == [told]


def test_valid_polygons_stay_as_they_are():
    touching = shapely.box(0, 0, 9, 9).difference(shapely.Polygon([(0, 4), (3, 2), (3, 6)]))
    found = single_polygons(np.array([touching, shapely.box(0, 0, 1, 1)], object))
    assert found.polygons.tolist() == [touching, shapely.box(0, 0, 1, 1)]
    assert found.notes("layer") == ()
