"""Parts of scenes against rasterio's windows and Shapely's points in polygons."""

from __future__ import annotations

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from making.collector import Collector

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.bounds import extent, polygons_mask, window_of_bounds
from lemevit_cli.inference.scene_input import area_of
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import ReadingOptions

NORTH_UP = Affine(2, 0, 500_000, 0, -2, 5_400_000)
SOUTH_UP = Affine(2, 0, 500_000, 0, 2, 5_400_000)
ROTATED = Affine.translation(500_000, 5_400_000) @ Affine.rotation(30) @ Affine.scale(2, -2)


@pytest.fixture
def scene_on(write_raster, rgb):
    scenes = []

    def make(transform, crs="EPSG:32633"):
        scenes.append(open_scene(write_raster(rgb, transform=transform, crs=crs)))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


def test_bounds_take_the_pixels_wholly_inside(scene_on):
    window = window_of_bounds(scene_on(NORTH_UP), (500_009, 5_399_949, 500_031, 5_399_990.5))
    assert window == Window(col_off=5, row_off=5, width=10, height=20)


def test_bounds_on_pixel_edges_lose_nothing_to_rounding(scene_on):
    scene = scene_on(Affine(0.1, 0, 404211.9, 0, -0.1, 3285142.9))
    west, north = 404211.9 + 0.1 * 7, 3285142.9 - 0.1 * 3
    window = window_of_bounds(scene, (west, north - 0.1 * 11, west + 0.1 * 13, north))
    assert window == Window(col_off=7, row_off=3, width=13, height=11)


def test_bounds_on_a_south_up_scene_count_rows_from_the_south(scene_on):
    window = window_of_bounds(scene_on(SOUTH_UP), (500_010, 5_400_010, 500_030, 5_400_050))
    assert window == Window(col_off=5, row_off=5, width=10, height=20)


def test_bounds_on_a_rotated_scene_are_contained(scene_on):
    scene = scene_on(ROTATED)
    centre = ROTATED @ (30, 25)
    bounds = (centre[0] - 8, centre[1] - 8, centre[0] + 8, centre[1] + 8)
    window = window_of_bounds(scene, bounds)
    outline = shapely.Polygon(
        [
            ROTATED @ (c, r)
            for c in (window.col_off, window.right)
            for r in (window.row_off, window.bottom)
        ]
    ).convex_hull
    assert outline.contains(shapely.box(*bounds))
    assert window.width <= 14 and window.height <= 14


def test_bounds_on_a_rotated_scene_in_degrees_are_contained(scene_on):
    turned = Affine.translation(10, 50) @ Affine.rotation(20) @ Affine.scale(5e-6, -5e-6)
    scene = scene_on(turned, "EPSG:4326")
    x, y = turned @ (30.3, 25.2)
    bounds = (x - 2e-5, y - 2e-5, x + 2e-5, y + 2e-5)
    window = window_of_bounds(scene, bounds)
    corners = [~turned @ (bx, by) for bx in bounds[::2] for by in bounds[1::2]]
    assert window.col_off <= min(c for c, _ in corners) and window.right >= max(
        c for c, _ in corners
    )
    assert window.row_off <= min(r for _, r in corners) and window.bottom >= max(
        r for _, r in corners
    )


def test_bounds_are_cut_at_the_scenes_edge(scene_on):
    scene = scene_on(NORTH_UP)
    assert window_of_bounds(scene, (0, 0, 1e7, 1e7)) == scene.window


def test_bounds_without_georeference_are_pixels(scene_on):
    window = window_of_bounds(scene_on(None, None), (3, 20, 13, 5))
    assert window == Window(col_off=3, row_off=5, width=10, height=15)


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ((0, 0, 10, 10), "outside .* spans 500000 5399904 500128 5400000"),
        ((500_000.5, 5_399_990, 500_001.5, 5_399_999), "no whole pixel"),
        ((10, 0, 0, 10), "WEST < EAST"),
        ((0, 0, float("nan"), 10), "WEST < EAST"),
    ],
)
def test_bounds_that_cannot_be_are_refused(scene_on, bounds, message):
    with pytest.raises(SceneError, match=message):
        window_of_bounds(scene_on(NORTH_UP), bounds)


def polygons_file(tmp_path, geometries, crs):
    path = tmp_path / "polygons.gpkg"
    if crs is None:  # GeoPackage demands a CRS
        path = path.with_suffix(".shp")
    geopandas.GeoDataFrame(geometry=geometries, crs=crs).to_file(path)
    return str(path)


def inside_by_shapely(polygon, transform, window):
    rows, cols = np.mgrid[window.slices[0], window.slices[1]]
    x, y = transform @ (cols.ravel() + 0.5, rows.ravel() + 0.5)
    return shapely.contains_xy(polygon, x, y).reshape(window.height, window.width)


@pytest.mark.parametrize("transform", [NORTH_UP, SOUTH_UP, ROTATED])
def test_mask_has_the_pixels_whose_centre_is_inside(scene_on, tmp_path, transform):
    scene = scene_on(transform)
    centre = shapely.Point(transform @ (33.3, 22.2))
    ring = centre.buffer(31).difference(centre.buffer(9))
    mask = polygons_mask(polygons_file(tmp_path, [ring], "EPSG:32633"), scene)
    window = Window(col_off=11, row_off=4, width=40, height=37)
    np.testing.assert_array_equal(mask.read(window), inside_by_shapely(ring, transform, window))
    assert not mask.read(Window(col_off=0, row_off=0, width=3, height=3)).any()


def test_polygons_of_another_crs_are_reprojected(scene_on, tmp_path):
    scene = scene_on(NORTH_UP)
    square = shapely.box(500_020, 5_399_930, 500_060, 5_399_970)
    degrees = geopandas.GeoSeries([square.segmentize(1)], crs="EPSG:32633").to_crs("EPSG:4326")
    mask = polygons_mask(polygons_file(tmp_path, list(degrees), "EPSG:4326"), scene)
    np.testing.assert_array_equal(
        mask.read(scene.window), inside_by_shapely(square, NORTH_UP, scene.window)
    )


def test_polygons_on_a_scene_without_georeference_are_pixels(scene_on, tmp_path):
    scene = scene_on(None, None)
    mask = polygons_mask(polygons_file(tmp_path, [shapely.box(2, 3, 7, 9)], None), scene)
    expected = np.zeros((48, 64), bool)
    expected[3:9, 2:7] = True
    np.testing.assert_array_equal(mask.read(scene.window), expected)


def test_polygons_elsewhere_are_refused_with_both_extents(scene_on, tmp_path):
    path = polygons_file(tmp_path, [shapely.box(0, 0, 5, 5)], "EPSG:32633")
    with pytest.raises(SceneError, match=r"span 0 0 5 5, none touches .* spans 500000"):
        polygons_mask(path, scene_on(NORTH_UP))


def test_file_that_is_no_polygons_is_refused(scene_on, tmp_path):
    scene = scene_on(NORTH_UP)
    with pytest.raises(SceneError, match=r"nowhere\.gpkg: cannot be read as polygons"):
        polygons_mask(str(tmp_path / "nowhere.gpkg"), scene)
    points = polygons_file(tmp_path, [shapely.Point(500_010, 5_399_990)], "EPSG:32633")
    with pytest.raises(SceneError, match="holds no polygons"):
        polygons_mask(points, scene)


def test_layer_of_several_is_named_as_in_qgis(scene_on, tmp_path):
    scene = scene_on(NORTH_UP)
    path = tmp_path / "two.gpkg"
    for layer, side in (("small", 10), ("large", 60)):
        square = shapely.box(500_000, 5_400_000 - side, 500_000 + side, 5_400_000)
        table = geopandas.GeoDataFrame(geometry=[square], crs="EPSG:32633")
        table.to_file(path, layer=layer)
    with pytest.raises(SceneError, match=r"layers small, large; name one as .*\|layername=small"):
        polygons_mask(str(path), scene)
    assert polygons_mask(f"{path}|layername=large", scene).read(scene.window).sum() == 30 * 30
    with pytest.raises(SceneError, match="cannot be read as polygons"):
        polygons_mask(f"{path}|layername=none", scene)


def test_extent_of_a_rotated_scene_holds_all_corners(scene_on):
    west, south, east, north = extent(scene_on(ROTATED))
    corners = np.array([ROTATED @ corner for corner in ((0, 0), (64, 0), (64, 48), (0, 48))])
    np.testing.assert_allclose((west, south), corners.min(axis=0))
    np.testing.assert_allclose((east, north), corners.max(axis=0))


def test_a_wide_polygon_in_degrees_keeps_its_curved_edges(tmp_path):
    size, pixel_m = 200, 500.0
    transform = Affine(pixel_m, 0, 300_000, 0, -pixel_m, 6_700_000)
    path = tmp_path / "wide.tif"
    profile = {"driver": "GTiff", "width": size, "height": size, "count": 1, "dtype": "uint8"}
    with rasterio.open(path, "w", **profile, crs="EPSG:32633", transform=transform) as target:
        target.write(np.ones((1, size, size), np.uint8))
    box = shapely.box(11.6, 59.7, 12.9, 60.3)
    geopandas.GeoDataFrame(geometry=[box], crs=4326).to_file(tmp_path / "box.gpkg")
    cols, rows = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    x, y = transform.c + pixel_m * cols, transform.f - pixel_m * rows
    to_degrees = pyproj.Transformer.from_crs(32633, 4326, always_xy=True)
    expected = shapely.contains_xy(box, *to_degrees.transform(x, y))
    with open_scene(str(path)) as scene:
        mask = polygons_mask(str(tmp_path / "box.gpkg"), scene)
        found = mask.read(scene.window)
    assert 0.2 < expected.mean() < 0.9
    assert (found != expected).sum() <= 2  # centres within a hair of the edge


def test_what_was_mended_in_a_mask_is_told(scene_on, tmp_path):
    scene = scene_on(NORTH_UP)
    eight = shapely.Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])
    eight = shapely.affinity.translate(eight, 500_010, 5_399_930)
    options = ReadingOptions(mask=polygons_file(tmp_path, [eight], "EPSG:32633"))
    said = Collector()
    assert area_of(scene, options, said).mask.read(scene.window).sum() == 200
    assert len(said.notes) == 1 and "1 of its features cross" in said.notes[0]
