"""Polygons drawn window by window against rasterio's drawing of the whole."""

from concurrent.futures import ThreadPoolExecutor

import geopandas
import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.vector.scene_polygons import is_vector, layer_name, polygons_on, read_layer

ROTATED = Affine.translation(500_000, 5_400_000) @ Affine.rotation(30) @ Affine.scale(2, -2)


def on_map(polygon):
    a, b, c, d, e, f, *_ = ROTATED
    return shapely.affinity.affine_transform(polygon, (a, b, d, e, c, f))


@pytest.fixture
def scene(write_raster, rgb):
    with open_scene(write_raster(rgb, transform=ROTATED)) as opened:
        yield opened


def windows():
    random = np.random.default_rng(0)
    for _ in range(40):
        col, row = int(random.integers(0, 60)), int(random.integers(0, 44))
        width, height = int(random.integers(1, 65 - col)), int(random.integers(1, 49 - row))
        yield Window(col_off=col, row_off=row, width=width, height=height)


def test_long_outlines_are_drawn_as_the_whole(scene):
    angle = np.linspace(0, 2 * np.pi, 4000, endpoint=False)
    radius = 20 + 6 * np.sin(25 * angle)
    star = np.column_stack([32.2 + 1.6 * radius * np.cos(angle), 24.1 + radius * np.sin(angle)])
    hole = shapely.Point(30.3, 20.2).buffer(6, quad_segs=300)
    shapes = [shapely.Polygon(star).difference(hole), shapely.Point(50.1, 30.2).buffer(7)]
    table = geopandas.GeoDataFrame(geometry=[on_map(s) for s in shapes], crs="EPSG:32633")
    polygons = polygons_on(scene, table, "stars")
    values = np.array([4, 9], dtype=np.uint8)
    whole = rasterize(zip(shapes, [4, 9], strict=True), out_shape=(48, 64), fill=1)
    for window in windows():
        drawn = polygons.burn(window, values, background=1)
        np.testing.assert_array_equal(drawn, whole[window.slices])


@pytest.mark.parametrize("pixel", [Affine.scale(0.3, -0.3), Affine.scale(0.3, 0.3)])
def test_edges_through_pixel_centres_are_drawn_alike_in_all_windows(write_raster, pixel):
    transform = Affine.translation(500_000, 5_600_000) @ pixel
    a, b, c, d, e, f, *_ = transform
    random = np.random.default_rng(0)
    corners = random.integers(0, 240, (200, 2)) + 0.5
    shapes = [
        shapely.box(x, y, x + w, y + h)
        for (x, y), (w, h) in zip(corners, random.integers(1, 12, (200, 2)), strict=True)
    ]
    on_ground = [shapely.affinity.affine_transform(s, (a, b, d, e, c, f)) for s in shapes]
    rgb = np.zeros((3, 256, 256), dtype=np.uint8)
    with open_scene(write_raster(rgb, transform=transform)) as scene:
        table = geopandas.GeoDataFrame(geometry=on_ground, crs="EPSG:32633")
        polygons = polygons_on(scene, table, "boxes")
        values = np.arange(1, 201, dtype=np.uint8)
        whole = rasterize(zip(shapes, values.tolist(), strict=True), out_shape=(256, 256))
        for row in range(0, 256, 16):
            for col in range(0, 256, 16):
                window = Window(col_off=col, row_off=row, width=16, height=16)
                drawn = polygons.burn(window, values, background=0)
                np.testing.assert_array_equal(drawn, whole[window.slices])


def test_parts_of_collections_belong_to_their_row(scene):
    squares = [shapely.box(5 * i, 5, 5 * i + 3, 9) for i in range(5)]
    pair = shapely.MultiPolygon(squares[1:3])
    geometries = [
        squares[0],
        None,
        shapely.GeometryCollection([pair, shapely.Point(3, 3), squares[3]]),
        shapely.Point(8, 8),
        squares[4],
    ]
    table = geopandas.GeoDataFrame(
        geometry=[None if g is None else on_map(g) for g in geometries], crs="EPSG:32633"
    )
    polygons = polygons_on(scene, table, "parts")
    assert polygons.rows.tolist() == [0, 2, 2, 2, 4]
    drawn = polygons.burn(scene.window, np.arange(1, 6, dtype=np.uint8), background=0)
    assert drawn[7, [1, 6, 11, 16, 21, 26]].tolist() == [1, 2, 3, 4, 5, 0]


def test_threads_that_draw_at_once_do_not_undo_each_others_silence(scene):
    square = geopandas.GeoDataFrame(geometry=[on_map(shapely.box(3, 3, 9, 9))], crs="EPSG:32633")
    polygons = polygons_on(scene, square, "square")

    def draw(_):
        return polygons.burn(scene.window, np.ones(1, dtype=np.uint8), background=0).sum()

    with ThreadPoolExecutor(4) as threads:
        assert set(threads.map(draw, range(400))) == {36}


def test_polygons_beyond_the_scene_are_left_out(scene):
    shapes = [shapely.box(900, 900, 910, 910), shapely.box(3, 3, 9, 9)]
    table = geopandas.GeoDataFrame(geometry=[on_map(s) for s in shapes], crs="EPSG:32633")
    assert polygons_on(scene, table, "two").rows.tolist() == [1]


def test_vectors_are_told_from_rasters(scene, tmp_path):
    path = tmp_path / "a.gpkg"
    geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326).to_file(path)
    assert is_vector(str(path)) and is_vector(f"{path}|layername=a")
    assert not is_vector(scene.path)
    assert is_vector(str(tmp_path / "missing.gpkg"))


def test_a_layer_that_is_not_there_lists_those_that_are(tmp_path):
    path = tmp_path / "a.gpkg"
    for layer in ("roofs", "roads"):
        table = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=4326)
        table.to_file(path, layer=layer)
    assert layer_name(f"{path}|layername=roads") == layer_name(str(path), "roads")
    with pytest.raises(SceneError, match=r"no layer 'lakes'; it holds roofs, roads"):
        read_layer(str(path), layer="lakes")


def test_a_broken_shapefile_is_told_as_such(tmp_path):
    table = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1), shapely.box(2, 0, 3, 1)])
    for name in ("index", "rows", "one"):
        part = table.iloc[: 1 if name == "one" else 2]
        part.set_crs(32633).to_file(tmp_path / f"{name}.shp")
    (tmp_path / "index.shx").unlink()
    assert is_vector(str(tmp_path / "index.shp"))
    with pytest.raises(SceneError, match=r"cannot be read as polygons \(.*index\.shx"):
        read_layer(str(tmp_path / "index.shp"))
    (tmp_path / "rows.dbf").write_bytes((tmp_path / "one.dbf").read_bytes())
    with pytest.raises(SceneError, match=r"rows\.shp: holds 2 shapes, and rows\.dbf 1 rows"):
        read_layer(str(tmp_path / "rows.shp"))


def test_a_name_that_no_file_can_have_is_told_as_a_layer_that_is_not_there(tmp_path):
    path = str(tmp_path / ("b" * 5000))
    assert is_vector(path)
    with pytest.raises(SceneError, match="cannot be read as polygons"):
        layer_name(path)
