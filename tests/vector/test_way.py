"""Polygons brought to a grid against Shapely's points in polygons, projected pixel by pixel."""

from dataclasses import dataclass

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.vector.scene_polygons import polygons_on, read_polygons_on

WORLD = shapely.box(-180, -90, 180, 90)
EQUATOR_M = 2 * np.pi * 6_378_137
PERIODS = {4326: 360.0, 3857: EQUATOR_M, 3832: EQUATOR_M}


@dataclass(frozen=True)
class Grid:
    name: str
    width: int
    height: int
    georeference: Georeference

    @property
    def window(self):
        return Window(col_off=0, row_off=0, width=self.width, height=self.height)


def grid_on(crs, transform, width=60, height=44):
    wkt = pyproj.CRS.from_user_input(crs).to_wkt()
    return Grid("scene", width, height, Georeference(transform=transform, crs_wkt=wkt))


def inside(grid, polygons, crs):
    """Say of each pixel's centre whether it lies in a polygon, itself or a turn away."""
    cols, rows = np.meshgrid(np.arange(grid.width) + 0.5, np.arange(grid.height) + 0.5)
    x, y = grid.georeference.transform @ (cols, rows)
    way = pyproj.Transformer.from_crs(grid.georeference.crs_wkt, crs, always_xy=True)
    x, y = way.transform(x, y)
    turns = [k * PERIODS.get(crs, 0.0) for k in (-1, 0, 1)]
    return np.any([shapely.contains_xy(p, x + t, y) for p in polygons for t in turns], axis=0)


def burn(grid, polygons):
    ones = np.ones(len(polygons.polygons), np.uint8)
    return polygons.burn(grid.window, ones, background=0) == 1


def utm(zone, x, y, metres=2):
    return grid_on(32600 + zone, Affine(metres, 0, x, 0, -metres, y))


def degrees(west, north, step=0.05, width=60, height=44):
    return grid_on(4326, Affine(step, 0, west, 0, -step, north), width, height)


def project(polygon, crs, to):
    return geopandas.GeoSeries([polygon], crs=crs).to_crs(to)[0]


GERMANY = utm(33, 500_000, 5_538_000)
NEAR = project(shapely.box(500_020.3, 5_537_930.2, 500_084.6, 5_537_974.4), 32633, 4326)
FIJI = utm(60, 685_123, 5_538_000, 1000)  # 60 km west of 180 degrees to as much east
SPLIT = [shapely.box(178, 49.7, 180, 49.9), shapely.box(-180, 49.7, -179.7, 49.9)]
POLE = grid_on(3413, Affine(20_000, 0, -606_789, 0, -20_000, 404_321))
EUROPE = grid_on(3035, Affine(50_000, 0, 2_503_000, 0, -50_000, 5_002_000))
MERCATOR = grid_on(
    3857, Affine(EQUATOR_M / 60, 0, -EQUATOR_M / 2, 0, -EQUATOR_M / 60, EQUATOR_M / 2), 60, 60
)


@pytest.mark.parametrize(
    "grid, polygons, crs",
    [
        pytest.param(GERMANY, [shapely.box(-79, -1, -78, 0.5), NEAR], 4326, id="one in Ecuador"),
        pytest.param(GERMANY, [WORLD.difference(NEAR)], 4326, id="the world but a hole"),
        pytest.param(GERMANY, [shapely.box(-2e7, -2e7, 1_669_870, 2e7)], 3857, id="half of 3857"),
        pytest.param(EUROPE, [WORLD, shapely.box(-10, 40, 10, 50)], 4326, id="LAEA"),
        pytest.param(POLE, [WORLD], 4326, id="the world on a pole"),
        pytest.param(POLE, [shapely.box(91, 75, 301, 88)], 4326, id="0 to 360 around a pole"),
        pytest.param(MERCATOR, [WORLD], 4326, id="poles on Mercator"),
        pytest.param(
            degrees(-180, 90, 6), [shapely.Point(0, 0).buffer(2e6)], 3031, id="Antarctica"
        ),
        pytest.param(
            degrees(-180, 90, 6),
            [shapely.Point(0, 0).buffer(3e6).difference(shapely.Point(1e5, 1e5).buffer(1e6))],
            3031,
            id="a ring around a pole",
        ),
        pytest.param(FIJI, SPLIT, 4326, id="UTM 60, split at 180"),
        pytest.param(FIJI, [shapely.box(179, 49.7, 180.3, 49.9)], 4326, id="UTM 60, to 180.3"),
        pytest.param(FIJI, [shapely.box(-181, 49.7, -179.7, 49.9)], 4326, id="UTM 60, from -181"),
        pytest.param(
            FIJI, [project(box, 4326, 3857) for box in SPLIT], 3857, id="UTM 60, 3857 split"
        ),
        pytest.param(
            utm(1, 160_000, 5_538_000, 1000),
            [shapely.box(179, 49.7, 180.3, 49.9)],
            4326,
            id="UTM 1",
        ),
        pytest.param(degrees(-180, 50), [shapely.box(170, 48, 181.02, 49)], 4326, id="170 to 181"),
        pytest.param(degrees(179, 50), SPLIT, 4326, id="scene to 182, split layer"),
        pytest.param(degrees(0, 88, 6), [shapely.box(-17, -30, 50, 30)], 4326, id="scene 0 to 360"),
        pytest.param(
            degrees(-180, 88, 6), [shapely.box(100, -30, 250, 30)], 4326, id="layer 0 to 360"
        ),
        pytest.param(
            degrees(0, 88, 6), [shapely.box(-1e7, -2e7, 1e7, 1e7)], 3857, id="3857 on 0 to 360"
        ),
        pytest.param(
            grid_on(3832, Affine(20_000, 0, 2_900_000, 0, -20_000, 6e6)),
            [shapely.box(178, 40, 180, 45), shapely.box(-180, 40, -177, 45)],
            4326,
            id="3832, split layer",
        ),
        pytest.param(
            grid_on(3857, Affine(20_000, 0, -EQUATOR_M / 2, 0, -20_000, 6e6)),
            [shapely.box(170, 40, 184.03, 45)],
            4326,
            id="3857 at its edge",
        ),
        pytest.param(
            degrees(170, 14, 0.3),
            [project(shapely.box(177, 10, 179, 12), 4326, 32660).buffer(300_000)],
            32660,
            id="UTM across 180, on degrees",
        ),
    ],
)
def test_a_pixel_belongs_to_what_its_centre_lies_in(tmp_path, grid, polygons, crs):
    path = tmp_path / "layer.gpkg"
    geopandas.GeoDataFrame(geometry=polygons, crs=crs).to_file(path)
    expected = inside(grid, polygons, crs)
    assert expected.any()
    found, _ = read_polygons_on(grid, str(path))
    assert found.notes == ()
    np.testing.assert_array_equal(burn(grid, found), expected)
    whole = polygons_on(grid, geopandas.read_file(path), "table")
    np.testing.assert_array_equal(burn(grid, whole), expected)


def test_only_what_lies_around_the_scene_is_read_and_given_corners(tmp_path):
    squares = [
        shapely.box(x, y, x + 8, y + 8) for x in range(0, 400, 10) for y in range(0, 400, 10)
    ]
    moved = [shapely.affinity.translate(s, 500_000, 5_537_700) for s in squares]
    coast = shapely.Point(2_000_000, 5_538_000).buffer(600_000, quad_segs=5000)
    path = tmp_path / "many.gpkg"
    table = geopandas.GeoDataFrame(geometry=[*moved, coast], crs=32633)
    table.to_crs(4326).to_file(path)
    small = grid_on(32633, Affine(2, 0, 500_101, 0, -2, 5_537_899), 15, 15)
    found, read = read_polygons_on(small, str(path))
    assert len(read) < 60
    footprint = shapely.box(500_101, 5_537_869, 500_131, 5_537_899)
    assert len(found.polygons) == shapely.intersects(table.geometry.to_numpy(), footprint).sum()
    assert shapely.get_num_coordinates(found.polygons).max() <= 9


def test_the_later_polygon_wins_in_whatever_order_an_index_answers(tmp_path):
    random = np.random.default_rng(0)
    corners = random.uniform(0, 100, (300, 2))
    boxes = [
        shapely.box(500_000 + x, 5_537_900 + y, 500_020 + x, 5_537_920 + y) for x, y in corners
    ]
    path = tmp_path / "pile.gpkg"
    geopandas.GeoDataFrame(geometry=boxes, crs=32633).to_file(path)
    found, _ = read_polygons_on(GERMANY, str(path))
    ids = (np.arange(300) % 250 + 1).astype(np.uint8)
    drawn = found.burn(GERMANY.window, ids[found.rows], background=0)
    top = np.zeros((44, 60), np.uint8)
    for number, box in zip(ids, boxes, strict=True):
        top[inside(GERMANY, [box], 32633)] = number
    np.testing.assert_array_equal(drawn, top)


def test_what_a_projection_cannot_hold_is_counted():
    disk = grid_on("+proj=ortho +lat_0=0 +lon_0=0", Affine(2e5, 0, -6e6, 0, -2e5, 4.4e6))
    seen, behind = shapely.box(-20, -20, 30, 31), shapely.box(60, 10, 150, 30)
    table = geopandas.GeoDataFrame(geometry=[seen, behind], crs=4326)
    found = polygons_on(disk, table, "two")
    assert found.notes == ("two: 1 of its features reach beyond the CRS of scene and are left out",)
    np.testing.assert_array_equal(burn(disk, found), inside(disk, [seen], 4326))
    with pytest.raises(SceneError, match="1 reach beyond its CRS"):
        polygons_on(disk, table[1:], "behind")


def test_small_polygons_keep_their_corners():
    table = geopandas.GeoDataFrame(geometry=[NEAR], crs=4326)
    assert shapely.get_num_coordinates(polygons_on(GERMANY, table, "near").polygons[0]) == len(
        NEAR.exterior.coords
    )


@pytest.mark.parametrize(
    "crs", ["+proj=geos +h=35785831 +lon_0=0 +datum=WGS84", "+proj=ortho +lat_0=48 +lon_0=15"]
)
def test_a_world_layer_does_not_coarsen_what_the_map_can_hold(crs):
    grid = grid_on(crs, Affine(55_000, 0, -5.5e6, 0, -55_000, 5.5e6), width=200, height=200)
    near, beyond = shapely.box(10, 35, 35, 55), shapely.box(60, -10, 120, 30)
    table = geopandas.GeoDataFrame(geometry=[WORLD, near, beyond], crs=4326)
    polygons = polygons_on(grid, table, "world.gpkg")
    assert set(polygons.rows.tolist()) == {1}
    np.testing.assert_array_equal(burn(grid, polygons), inside(grid, [near], 4326))
    assert "2 of its features reach beyond the CRS of scene and are left out" in polygons.notes[-1]
