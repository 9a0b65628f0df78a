"""Layers with and without a CRS on scenes that are placed by a transform, by points, or not."""

import warnings

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.features import rasterize
from rasterio.rpc import RPC

from lemevit_cli.errors import SceneError
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.vector.layer import crs_of_map, on_the_map
from lemevit_cli.vector.scene_polygons import read_polygons_on

UTM = Affine(2, 0, 500_000, 0, -2, 5_538_000)
DEGREES = Affine(0.01, 0, 5, 0, -0.01, 48)
SHAPE = shapely.Polygon([(7.2, 4.3), (50.4, 9.1), (40.2, 40.3), (10.1, 30.2)])
FLAT = RPC(
    height_off=0, height_scale=1, lat_off=48, lat_scale=1, line_off=24, line_scale=24, long_off=5,
    long_scale=1, samp_off=32, samp_scale=32, line_num_coeff=[0, 0, -1] + [0] * 17,
    line_den_coeff=[1] + [0] * 19, samp_num_coeff=[0, 1] + [0] * 18,
    samp_den_coeff=[1] + [0] * 19,
)  # fmt: skip


def curved(col, row):
    """Return longitude and latitude of a pixel: a polynomial of the second order."""
    return 5 + 0.01 * col + 1e-5 * row * col, 48 - 0.01 * row + 2e-5 * col * col


@pytest.fixture
def open_as(write_raster, rgb):
    """Return a function that opens the scene as one placed by what its name says."""
    opened = []

    def points(place):
        grid = [(row, col) for row in range(0, 49, 12) for col in range(0, 65, 16)]
        return [
            GroundControlPoint(row=r, col=c, x=place(c, r)[0], y=place(c, r)[1]) for r, c in grid
        ]

    profiles = {
        "utm": {"transform": UTM},
        "degrees": {"transform": DEGREES, "crs": "EPSG:4326"},
        "no crs": {"transform": UTM, "crs": None},
        "points": {"gcps": points(lambda c, r: DEGREES @ (c, r)), "crs": "EPSG:4326"},
        "curved": {"gcps": points(curved), "crs": "EPSG:4326"},
        "across": {
            "gcps": points(lambda c, r: ((179.7 + 0.01 * c + 180) % 360 - 180, 48 - 0.01 * r)),
            "crs": "EPSG:4326",
        },
        "rpcs": {"rpcs": FLAT, "transform": Affine.identity(), "crs": None},
        "crs alone": {"transform": Affine.identity()},
        "nothing": {"transform": Affine.identity(), "crs": None},
    }

    def open_one(kind):
        profile = profiles[kind]
        if "gcps" in profile:
            profile = {**profile, "transform": None}
        opened.append(open_scene(write_raster(rgb, f"{kind}.tif", **profile)))
        return opened[-1]

    yield open_one
    for scene in opened:
        scene.close()


@pytest.fixture
def layer_of(write_polygons):
    """Return a function that writes polygons, with or without a CRS."""

    def write(polygons, name, crs, **fields):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            return write_polygons(polygons, name, crs=crs, **fields)

    return write


def drawn(scene, path):
    found, _ = read_polygons_on(scene, path)
    ones = np.ones(len(found.polygons), np.uint8)
    return found.burn(scene.window, ones, background=0), found.notes


EXPECTED = rasterize([SHAPE], out_shape=(48, 64))


@pytest.mark.parametrize("kind", ["points", "curved", "across", "utm", "degrees", "no crs"])
@pytest.mark.parametrize("name", ["x.gpkg", "x.shp", "x.geojson"])
def test_what_is_written_of_a_scene_lies_on_it_again(open_as, layer_of, kind, name):
    scene = open_as(kind)
    mapped = on_the_map(np.array([SHAPE]), scene.georeference)
    path = layer_of(mapped, name, crs_of_map(scene.georeference), area_px=[1.0])
    found, _ = drawn(scene, path)
    np.testing.assert_array_equal(found, EXPECTED)


@pytest.mark.parametrize("kind", ["rpcs", "crs alone", "nothing"])
@pytest.mark.parametrize("name", ["x.gpkg", "x.shp", "x.geojson"])
def test_without_a_place_outlines_are_pixels_and_name_no_crs(open_as, layer_of, kind, name):
    scene = open_as(kind)
    assert crs_of_map(scene.georeference) is None
    path = layer_of([SHAPE], name, None, area_px=[1.0])
    np.testing.assert_array_equal(drawn(scene, path)[0], EXPECTED)


def test_ground_control_points_place_polygons(open_as, layer_of):
    polygon = shapely.box(5.102, 47.752, 5.302, 47.902)
    path = layer_of([polygon], "map.gpkg", "EPSG:4326")
    found, notes = drawn(open_as("points"), path)
    expected = rasterize([polygon], out_shape=(48, 64), transform=DEGREES)
    np.testing.assert_array_equal(found, expected)
    assert notes == ()
    utm = geopandas.GeoSeries([polygon.segmentize(0.01)], crs=4326).to_crs(32631)
    path = layer_of(utm, "utm.gpkg", "EPSG:32631")
    found, _ = drawn(open_as("points"), path)
    assert (found != expected).sum() <= 2  # centres within a hair of an edge


def test_points_across_180_degrees_place_polygons_of_either_side(open_as, layer_of):
    east = shapely.box(179.8, 47.7, 180, 47.9)
    west = shapely.box(-180, 47.7, -179.85, 47.9)
    found, _ = drawn(open_as("across"), layer_of([east, west], "fiji.gpkg", "EPSG:4326"))
    place = Affine(0.01, 0, 179.7, 0, -0.01, 48)
    expected = rasterize(
        [shapely.box(179.8, 47.7, 180.15, 47.9)], out_shape=(48, 64), transform=place
    )
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    "kind, message", [("rpcs", "RPCs, gdalwarp -rpc places"), ("crs alone", "no transform")]
)
def test_a_map_is_never_taken_for_pixels(open_as, layer_of, kind, message):
    path = layer_of([shapely.box(5.1, 7.7, 5.3, 17.9)], "map.gpkg", "EPSG:4326")
    with pytest.raises(SceneError, match=rf"lies on a map \(WGS 84\), and .* has {message}"):
        read_polygons_on(open_as(kind), path)


def test_a_layer_without_crs_on_the_scenes_map_is_taken_to_be_there(open_as, layer_of, on_map):
    path = layer_of(on_map([SHAPE], UTM), "plain.shp", None)
    found, notes = drawn(open_as("utm"), path)
    np.testing.assert_array_equal(found, EXPECTED)
    assert len(notes) == 1 and "has no CRS and is taken to be in that of" in notes[0]
    assert drawn(open_as("no crs"), path)[1] == ()
    path = layer_of(on_map([SHAPE], UTM), "plain.geojson", None)
    found, notes = drawn(open_as("utm"), path)
    np.testing.assert_array_equal(found, EXPECTED)
    assert "has no CRS and is taken to be in that of" in notes[0]


def test_a_local_crs_is_named_where_its_numbers_are_taken_for_the_map(open_as, layer_of, on_map):
    site = 'LOCAL_CS["building site",UNIT["metre",1],AXIS["E",EAST],AXIS["N",NORTH]]'
    found, notes = drawn(open_as("utm"), layer_of(on_map([SHAPE], UTM), "site.gpkg", site))
    np.testing.assert_array_equal(found, EXPECTED)
    assert len(notes) == 1 and "has a local CRS (building site) and is taken" in notes[0]


def test_a_layer_without_crs_in_pixels_is_taken_so_and_told(open_as, layer_of):
    found, notes = drawn(open_as("utm"), layer_of([SHAPE], "pixels.shp", None))
    np.testing.assert_array_equal(found, EXPECTED)
    assert len(notes) == 1 and "has no CRS and is taken as pixels of" in notes[0]


def test_a_scene_without_crs_takes_that_of_the_layer_and_says_so(open_as, layer_of, on_map):
    found, notes = drawn(open_as("no crs"), layer_of(on_map([SHAPE], UTM), "x.gpkg", "EPSG:32633"))
    np.testing.assert_array_equal(found, EXPECTED)
    assert len(notes) == 1 and "has no CRS and is taken to be in that of" in notes[0]


@pytest.mark.parametrize(
    "polygon, crs, message",
    [
        (shapely.box(15.0003, 49.9945, 15.0009, 49.998), None, r"has no CRS; .* degrees on .*4326"),
        (shapely.box(300_000, 1e6, 300_100, 1.1e6), None, r"has no CRS; .* cannot be degrees"),
        (shapely.box(500_010, 5_537_910, 500_090, 5_537_990), "EPSG:4326", "cannot be degrees"),
        (shapely.box(200, 100, 290, 199), None, r"lie neither on .* nor within its 64 x 48 pixels"),
    ],
)
def test_numbers_that_fit_nowhere_are_said_to(open_as, layer_of, polygon, crs, message):
    path = layer_of([polygon], "far.gpkg", crs)
    with pytest.raises(SceneError, match=message):
        read_polygons_on(open_as("utm"), path)


def test_a_crs_that_proj_does_not_understand_is_told(open_as, tmp_path):
    geopandas.GeoDataFrame(geometry=[SHAPE], crs="EPSG:32633").to_file(tmp_path / "a.shp")
    prj = tmp_path / "a.prj"
    prj.write_text(prj.read_text().replace("0.0174532925199433", "0"))
    with pytest.raises(SceneError, match=r"a\.shp: its CRS cannot be understood; state another"):
        read_polygons_on(open_as("degrees"), str(tmp_path / "a.shp"))
