"""Labels of scenes against rasterio's drawing of the whole, and Shapely's points in polygons."""

import pickle
import warnings

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning
from rasterio.features import rasterize

from lemevit_cli.errors import DataError, LemevitError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.training.datasets.labels import open_labels
from lemevit_cli.training.options import LabelledScene

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
SOUTH_UP = Affine(0.5, 0, 458_000, 0, 0.5, 5_548_000)
ROTATED = Affine.translation(458_000, 5_548_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
WINDOWS = [
    Window(col_off=0, row_off=0, width=64, height=48),
    Window(col_off=11, row_off=7, width=23, height=30),
    Window(col_off=60, row_off=44, width=4, height=4),
]
SHAPES = [
    shapely.box(3, 4, 30, 20),
    shapely.Point(25.2, 22.3).buffer(12).difference(shapely.Point(25.2, 22.3).buffer(5)),
    shapely.MultiPolygon([shapely.box(40, 2, 50, 12), shapely.box(52, 30, 63.3, 47.2)]),
]
NAMES = ["road", "building", "road"]


@pytest.fixture
def scene_on(write_scene, pixels):
    def make(transform, crs="EPSG:32633"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return open_scene(write_scene(pixels, transform=transform, crs=crs))

    return make


def drawn_whole(ids, background):
    """Draw shapes in pixels, by rasterio on the whole scene."""
    return rasterize(zip(SHAPES, ids, strict=True), out_shape=(48, 64), fill=background)


@pytest.mark.parametrize("transform", [NORTH_UP, SOUTH_UP, ROTATED])
@pytest.mark.parametrize("background", ["background", "ignore"])
def test_windows_are_parts_of_the_whole(scene_on, write_polygons, on_map, transform, background):
    scene = scene_on(transform)
    path = write_polygons(on_map(SHAPES, transform), kind=NAMES)
    labels = open_labels(
        scene,
        LabelledScene(scene=scene.path, labels=path, label_field="kind", background=background),
    )
    if background == "ignore":
        assert labels.classes == ("building", "road")
        expected = drawn_whole([1, 0, 1], 255)
    else:
        assert labels.classes == ("background", "building", "road")
        expected = drawn_whole([2, 1, 2], 0)
    assert labels.num_polygons == 3
    for window in WINDOWS:
        np.testing.assert_array_equal(labels.read(window), expected[window.slices])
        copy = pickle.loads(pickle.dumps(labels))
        np.testing.assert_array_equal(copy.read(window), expected[window.slices])


def test_polygons_of_another_crs_are_brought_to_the_scene(scene_on, write_polygons, on_map):
    scene = scene_on(ROTATED)
    fine = [shapely.segmentize(shape, 0.5) for shape in on_map(SHAPES, ROTATED)]
    degrees = rasterio.warp.transform_geom(
        "EPSG:32633", "EPSG:4326", [shapely.geometry.mapping(s) for s in fine]
    )
    path = write_polygons(
        map(shapely.geometry.shape, degrees), "degrees.geojson", crs="EPSG:4326", kind=NAMES
    )
    labels = open_labels(scene, LabelledScene(scene=scene.path, labels=path, label_field="kind"))
    found, expected = labels.read(scene.window), drawn_whole([2, 1, 2], 0)
    assert (found != expected).sum() <= 3  # centres within a hair of an edge


def test_without_georeference_polygons_are_pixels(scene_on, write_polygons):
    scene = scene_on(None, None)
    path = write_polygons(SHAPES, "pixels.shp", crs=None, kind=NAMES)
    labels = open_labels(scene, LabelledScene(scene=scene.path, labels=path, label_field="kind"))
    np.testing.assert_array_equal(labels.read(scene.window), drawn_whole([2, 1, 2], 0))


def test_the_later_polygon_wins(scene_on, write_polygons, on_map):
    scene = scene_on(NORTH_UP)
    squares = [shapely.box(0, 0, 20, 20), shapely.box(10, 10, 30, 30), shapely.box(12, 12, 14, 14)]
    path = write_polygons(on_map(squares, NORTH_UP), kind=["b", "a", "b"])
    labels = open_labels(
        scene,
        LabelledScene(scene=scene.path, labels=path, label_field="kind", background="ignore"),
    )
    ids = labels.read(scene.window)
    assert (ids[5, 5], ids[25, 25], ids[15, 15], ids[13, 13], ids[40, 5]) == (1, 0, 0, 1, 255)


def test_numbers_are_sorted_as_numbers_and_gaps_are_ignored(scene_on, write_polygons, on_map):
    scene = scene_on(NORTH_UP)
    boxes = [shapely.box(10 * i, 0, 10 * i + 8, 9) for i in range(5)]
    path = write_polygons(on_map(boxes, NORTH_UP), code=[10, 9, None, 100, 10])
    labels = open_labels(scene, LabelledScene(scene=scene.path, labels=path, label_field="code"))
    assert labels.classes == ("background", "9", "10", "100")
    row = labels.read(scene.window)[4]
    assert row[[4, 14, 24, 34, 44, 60]].tolist() == [2, 1, 255, 3, 2, 0]
    assert labels.notes == (f"{path}: 1 polygons without code are ignored",)


def test_lists_in_a_field_are_names_too(scene_on, write_polygons, on_map):
    scene = scene_on(NORTH_UP)
    boxes = [shapely.box(10 * i, 0, 10 * i + 8, 9) for i in (0, 1, -9)]
    path = write_polygons(on_map(boxes, NORTH_UP), "a.geojson", codes=[[1, 2], [3], [4, 5]])
    labels = open_labels(scene, LabelledScene(scene=scene.path, labels=path, label_field="codes"))
    assert labels.classes == ("background", "[1 2]", "[3]")
    assert labels.notes == (f"{path}: none of [4 5] touches {scene.name}",)


def test_the_background_may_be_a_class_of_the_layer(scene_on, write_polygons, on_map):
    scene = scene_on(NORTH_UP)
    path = write_polygons(on_map(SHAPES, NORTH_UP), kind=NAMES)
    labels = open_labels(
        scene,
        LabelledScene(scene=scene.path, labels=path, label_field="kind", background="road"),
    )
    assert labels.classes == ("road", "building")
    np.testing.assert_array_equal(labels.read(scene.window), drawn_whole([0, 1, 0], 0))


def test_without_a_field_all_polygons_are_one_class(scene_on, write_polygons, on_map):
    scene = scene_on(NORTH_UP)
    path = write_polygons(on_map(SHAPES, NORTH_UP), layer="roofs")
    plain = LabelledScene(scene=scene.path, labels=path)
    assert open_labels(scene, plain).classes == ("background", "roofs")
    named = LabelledScene(scene=scene.path, labels=path, class_name="house")
    assert open_labels(scene, named).classes == ("background", "house")


def test_a_filter_and_a_layer_choose_polygons(scene_on, write_polygons, on_map):
    scene = scene_on(NORTH_UP)
    write_polygons(on_map(SHAPES, NORTH_UP), layer="first", kind=NAMES)
    path = write_polygons(on_map(SHAPES, NORTH_UP), layer="second", kind=["x", "y", "z"])
    for labels, layer in ((f"{path}|layername=first", None), (path, "first")):
        found = open_labels(
            scene,
            LabelledScene(
                scene=scene.path,
                labels=labels,
                layer=layer,
                label_field="kind",
                where="kind = 'building'",
            ),
        )
        assert found.classes == ("background", "building")
        expected = rasterize([(SHAPES[1], 1)], out_shape=(48, 64))
        np.testing.assert_array_equal(found.read(scene.window), expected)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label_field": "sort"}, r"has no field 'sort'; its fields are kind, empty$"),
        ({"label_field": "kind", "class_name": "ship"}, "field kind names .* not --class ship"),
        ({"where": "kind = 'lake'"}, r"no polygon is left by the filter"),
        ({"where": "lake = 1"}, r"cannot be read with the filter 'lake = 1'"),
        ({"layer": "lakes"}, r"no layer 'lakes'; it holds labels"),
        ({"label_field": "empty"}, r"empty is empty in all polygons that touch"),
        ({"labels": "nowhere.gpkg"}, r"nowhere\.gpkg: cannot be read as polygons"),
    ],
)
def test_what_cannot_be_read_is_told_in_one_line(
    scene_on, write_polygons, on_map, changes, message
):
    scene = scene_on(NORTH_UP)
    path = write_polygons(on_map(SHAPES, NORTH_UP), kind=NAMES, empty=[None] * 3)
    with pytest.raises(LemevitError, match=message) as raised:
        open_labels(scene, LabelledScene(**{"scene": scene.path, "labels": path, **changes}))
    assert "\n" not in str(raised.value)


def test_polygons_elsewhere_are_told_with_both_extents(scene_on, write_polygons):
    scene = scene_on(NORTH_UP)
    path = write_polygons([shapely.box(0, 0, 5, 5)])
    with pytest.raises(LemevitError, match=r"span 0 0 5 5, none touches .* spans 458000 5547976"):
        open_labels(scene, LabelledScene(scene=scene.path, labels=path))


IDS = np.random.default_rng(0).choice([3, 7, 20, 99], (48, 64)).astype(np.uint8)


def test_a_raster_on_the_grid_is_read_as_it_is(scene_on, write_scene):
    scene = scene_on(ROTATED)
    path = write_scene(IDS[None], "ids.tif", transform=ROTATED, nodata=99)
    labels = open_labels(scene, LabelledScene(scene=scene.path, labels=path))
    assert labels.classes == ("class_3", "class_7", "class_20")
    expected = np.select([IDS == 3, IDS == 7, IDS == 20], [0, 1, 2], 255)
    for window in WINDOWS:
        np.testing.assert_array_equal(labels.read(window), expected[window.slices])
        copy = pickle.loads(pickle.dumps(labels))
        np.testing.assert_array_equal(copy.read(window), expected[window.slices])


def test_a_raster_is_complete_unless_its_background_is_ignored(scene_on, write_scene):
    scene = scene_on(NORTH_UP)
    path = write_scene(IDS[None], "ids.tif", transform=NORTH_UP, nodata=99)
    whole = open_labels(scene, LabelledScene(scene=scene.path, labels=path))
    part = open_labels(scene, LabelledScene(scene=scene.path, labels=path, background="ignore"))
    assert whole.is_complete and not part.is_complete
    assert part.classes == whole.classes
    np.testing.assert_array_equal(part.read(scene.window), whole.read(scene.window))
    np.testing.assert_array_equal(part.read(scene.window) == 255, IDS == 99)


def test_a_raster_on_another_grid_is_read_by_the_nearest_pixel(scene_on, write_scene):
    scene = scene_on(ROTATED)
    coarse = Affine.translation(457_990, 5_548_040) @ Affine.scale(1.3, -1.7)
    ids = np.random.default_rng(0).choice([3, 7], (1, 30, 20)).astype(np.uint8)
    labels = open_labels(
        scene,
        LabelledScene(scene=scene.path, labels=write_scene(ids, "coarse.tif", transform=coarse)),
    )
    rows, cols = np.mgrid[0:48, 0:64]
    there = ~coarse @ ROTATED
    x, y = there @ (cols + 0.5, rows + 0.5)
    inside = (x >= 0) & (x < 20) & (y >= 0) & (y < 30)
    nearest = ids[0][np.clip(y.astype(int), 0, 29), np.clip(x.astype(int), 0, 19)]
    expected = np.where(inside, (nearest == 7).astype(int), 255)
    assert 0.2 < inside.mean() < 0.98
    for window in WINDOWS[:2]:
        np.testing.assert_array_equal(labels.read(window), expected[window.slices])


def test_a_raster_of_another_crs_lies_where_its_pixels_are(scene_on, write_scene):
    scene = scene_on(NORTH_UP)
    bounds = rasterio.warp.transform_bounds(
        "EPSG:32633", "EPSG:4326", 457_990, 5_547_960, 458_060, 5_548_010
    )
    transform = rasterio.transform.from_bounds(*bounds, 400, 300)
    rows, cols = np.mgrid[0:300, 0:400]
    lon, lat = transform @ (cols.ravel() + 0.5, rows.ravel() + 0.5)
    x, _ = rasterio.warp.transform("EPSG:4326", "EPSG:32633", lon, lat)
    ids = (np.array(x) > 458_016).astype(np.uint8).reshape(1, 300, 400)
    labels = open_labels(
        scene,
        LabelledScene(
            scene=scene.path,
            labels=write_scene(ids, "deg.tif", crs="EPSG:4326", transform=transform),
        ),
    )
    found = labels.read(scene.window)
    expected = np.broadcast_to(np.arange(64) >= 32, (48, 64))
    assert (found != expected).mean() < 0.02 and set(np.unique(found)) == {0, 1}


def test_names_of_a_raster_are_kept_and_other_ids_refused(scene_on, write_scene):
    scene = scene_on(NORTH_UP)
    path = write_scene(IDS[None] % 3, "named.tif", transform=NORTH_UP)
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(1, CLASS_0="land", CLASS_1="water")
    labels = open_labels(scene, LabelledScene(scene=scene.path, labels=path))
    assert labels.classes == ("land", "water")
    with pytest.raises(DataError, match=r"named.tif holds the id 2; known are 0 \(land\), 1"):
        labels.read(scene.window)


def test_rasters_that_are_no_labels_are_refused(scene_on, write_scene, pixels, count_handles):
    scene = scene_on(NORTH_UP)
    cases = [
        (pixels, {}, "has 3 bands"),
        (np.zeros((1, 48, 64), np.uint8), {}, "holds the class ids 0, apart from 255"),
        (IDS[None], {"label_field": "kind"}, "is a raster, a field such as 'kind' is for polygons"),
        (IDS[None], {"class_name": "roof"}, "is a raster, a class name such as 'roof' is for"),
        (IDS[None], {"layer": "roofs"}, "is a raster, a layer such as 'roofs' is for polygons"),
        (IDS[None], {"where": "a = 1"}, "is a raster, a filter such as 'a = 1' is for polygons"),
        (IDS[None], {"background": "land"}, "is a raster, a background such as 'land' is for"),
        (IDS[None][:, :9, :9], {"crs": None}, "no CRS and transform tell where it lies"),
    ]
    for values, changes, message in cases:
        profile = {"crs": changes.pop("crs")} if "crs" in changes else {}
        path = write_scene(values, "wrong.tif", transform=NORTH_UP, **profile)
        with pytest.raises(LemevitError, match=message) as raised:
            open_labels(scene, LabelledScene(scene=scene.path, labels=path, **changes))
        assert "\n" not in str(raised.value)
        assert count_handles(path) == 0


def test_a_raster_elsewhere_is_told(scene_on, write_scene):
    far = Affine(0.5, 0, 400_000, 0, -0.5, 5_000_000)
    path = write_scene(IDS[None], "far.tif", transform=far)
    scene = scene_on(NORTH_UP)
    with pytest.raises(LemevitError, match=r"do not overlap: .*458000.*400000"):
        open_labels(scene, LabelledScene(scene=scene.path, labels=path))
