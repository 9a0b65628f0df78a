from pathlib import Path

import numpy as np
import pyproj
import pytest
from affine import Affine
from PIL import Image

from lemevit_cli.errors import SceneError
from lemevit_cli.raster.class_raster import NO_WHITE
from lemevit_cli.raster.overlap import (
    classes_on_grid_of,
    is_placed,
    outline_in,
    part_over,
    same_grid,
)
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.scene_pair import open_pair

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


@pytest.fixture
def open_ids(write_scene):
    """Return a function that opens a scene of one band of ones, 64 x 48 pixels."""
    opened = []

    def open_one(name, transform=NORTH_UP, shape=(48, 64), **profile):
        path = write_scene(np.ones((1, *shape), np.uint8), name, transform=transform, **profile)
        opened.append(open_scene(path))
        return opened[-1]

    yield open_one
    for scene in opened:
        scene.close()


def test_grids_are_the_same_to_a_thousandth_of_a_pixel(open_ids):
    scene = open_ids("a.tif")
    assert same_grid(scene, open_ids("b.tif", NORTH_UP @ Affine.translation(1e-5, 0)))
    assert not same_grid(scene, open_ids("c.tif", NORTH_UP @ Affine.translation(0.01, 0)))
    assert not same_grid(scene, open_ids("d.tif", NORTH_UP @ Affine.scale(1.01)))
    assert not same_grid(scene, open_ids("e.tif", shape=(48, 65)))
    assert not same_grid(scene, open_ids("f.tif", crs="EPSG:32634"))


def test_what_is_not_placed_needs_the_same_size(open_ids, tmp_path):
    scene = open_ids("a.tif")
    Image.fromarray(np.zeros((48, 64), np.uint8)).save(tmp_path / "same.png")
    Image.fromarray(np.zeros((47, 64), np.uint8)).save(tmp_path / "short.png")
    with (
        open_scene(str(tmp_path / "same.png")) as same,
        open_scene(str(tmp_path / "short.png")) as short,
    ):
        assert not is_placed(same) and same_grid(scene, same) and same_grid(same, scene)
        with pytest.raises(SceneError, match=r"short.png: no CRS and transform .* 64 x 47"):
            same_grid(scene, short)
        with pytest.raises(SceneError, match=r"short.png: no CRS"):
            same_grid(short, scene)


def test_the_shared_part_is_the_smallest_window(open_ids):
    scene = open_ids("a.tif")
    part = part_over(scene, open_ids("b.tif", NORTH_UP @ Affine.translation(10, -20)))
    assert (part.col_off, part.row_off, part.width, part.height) == (10, 0, 54, 28)
    inside = part_over(
        scene, open_ids("c.tif", NORTH_UP @ Affine.translation(3.5, 4) @ Affine.scale(0.25))
    )
    assert (inside.col_off, inside.row_off, inside.right, inside.bottom) == (3, 4, 20, 16)


def test_two_crs_that_nothing_joins_are_told_with_their_scenes(open_ids):
    scene = open_ids("a.tif")
    local = open_ids("plan.tif", NORTH_UP, crs='LOCAL_CS["plan",UNIT["metre",1]]')
    with pytest.raises(SceneError, match=r"a\.tif and \S+plan\.tif: their CRS"):
        part_over(scene, local)


def test_nothing_shared_is_told_with_both_extents_in_one_crs(open_ids):
    scene = open_ids("a.tif")
    degrees = Affine(1e-5, 0, 10.0, 0, -1e-5, 45.0)
    far = open_ids("far.tif", degrees, crs="EPSG:4326")
    with pytest.raises(SceneError, match="do not overlap") as raised:
        part_over(scene, far)
    x, y = pyproj.Transformer.from_crs(4326, 32633, always_xy=True).transform(10.0, 45.0)
    assert "458000 5547976 458032 5548000" in str(raised.value)
    extent = str(raised.value).partition(" and 1")[2].split()[:4]
    assert float("1" + extent[0]) == pytest.approx(x, abs=10)
    assert float(extent[3]) == pytest.approx(y, abs=10)


def test_an_outline_follows_curves(open_ids):
    wide = open_ids("wide.tif", Affine(0.5, 0, 0, 0, -0.5, 70), crs="EPSG:4326")
    points = outline_in(wide, "EPSG:3035")
    assert len(points) > 100 and np.isfinite(points).all()


def test_what_lies_outside_is_nodata(open_ids):
    scene = open_ids("a.tif")
    other = open_ids("b.tif", NORTH_UP @ Affine.translation(10, 20))
    with classes_on_grid_of(scene, other, white=NO_WHITE) as warped:
        ids = warped.read(scene.window)
    expected = np.full((48, 64), 255)
    expected[20:, 10:] = 1
    np.testing.assert_array_equal(ids, expected)


def test_an_alpha_band_says_what_is_nodata(open_ids, write_scene):
    values = np.ones((2, 48, 64), np.uint8)
    values[1] = 255
    values[1, :, :7] = 0
    shifted = NORTH_UP @ Affine.translation(4, 0)
    path = write_scene(values, "alpha.tif", transform=shifted, alpha="yes")
    with (
        open_scene(path) as other,
        classes_on_grid_of(open_ids("a.tif"), other, white=NO_WHITE) as warped,
    ):
        ids = warped.read(other.window)
    assert (ids[:, 11:] == 1).all() and (ids[:, :11] == 255).all()


def test_half_a_file_is_named(open_ids, write_scene):
    values = np.random.default_rng(0).integers(0, 5, (1, 400, 400), dtype=np.uint8)
    path = Path(write_scene(values, "half.tif", transform=NORTH_UP, blockysize=16))
    path.write_bytes(path.read_bytes()[:90_000])
    scene = open_ids("a.tif", NORTH_UP @ Affine.translation(0.5, 300), shape=(100, 100))
    with (
        open_scene(str(path)) as half,
        classes_on_grid_of(scene, half, white=NO_WHITE) as warped,
        pytest.raises(SceneError, match=r"half.tif: cannot read columns .* \("),
    ):
        warped.read(scene.window)


def ids_under(scene, crs, transform, ids):
    """Find ids (H, W) of another grid under the scene's centres, a turn away too; 255 of none."""
    cols, rows = np.meshgrid(np.arange(scene.width) + 0.5, np.arange(scene.height) + 0.5)
    x, y = scene.georeference.transform @ (cols, rows)
    x, y = pyproj.Transformer.from_crs(scene.georeference.crs_wkt, crs, always_xy=True).transform(
        x, y
    )
    found = np.full(cols.shape, 255, np.uint8)
    for turn in (0, -360, 360) if crs == "EPSG:4326" else (0,):
        col, row = (np.floor(v) for v in ~transform @ (x + turn, y))
        there = (col >= 0) & (row >= 0) & (col < ids.shape[1]) & (row < ids.shape[0])
        found[there] = ids[row[there].astype(int), col[there].astype(int)]
    return found


FIJI = ("EPSG:32660", Affine(2000, 0, 690_123, 0, -2000, 5.5e6))


@pytest.mark.parametrize(
    "crs, transform, west, step, north, shape",
    [
        ("EPSG:4326", Affine(0.1, 0, -180, 0, -0.1, 50), 170, 0.1, 51, (60, 200)),
        ("EPSG:4326", Affine(0.1, 0, 177, 0, -0.1, 50), -180, 0.1, 51, (60, 60)),
        ("EPSG:4326", Affine(0.1, 0, -3, 0, -0.1, 50), 0, 2.0, 90, (90, 180)),
        ("EPSG:4326", Affine(0.1, 0, 177, 0, -0.1, 50), -180, 2.0, 90, (90, 180)),
        ("EPSG:3857", Affine(9000, 0, -20_037_508, 0, -9000, 6e6), 170, 0.1, 50, (60, 200)),
        (*FIJI, 175, 0.1, 51, (60, 100)),
        (*FIJI, -185, 0.1, 51, (60, 100)),
        (*FIJI, -180, 2.0, 90, (90, 180)),
        (*FIJI, 0, 2.0, 90, (90, 180)),
        ("EPSG:32633", Affine(2000, 0, 400_123, 0, -2000, 5.5e6), 0, 2.0, 90, (90, 180)),
    ],
)
def test_ids_are_found_round_the_globe(
    open_ids, write_scene, crs, transform, west, step, north, shape
):
    scene = open_ids("scene.tif", transform, crs=crs)
    ids = np.random.default_rng(0).integers(0, 9, shape, dtype=np.uint8)
    place = Affine(step, 0, west, 0, -step, north)
    path = write_scene(ids[None], "ids.tif", transform=place, crs="EPSG:4326")
    expected = ids_under(scene, "EPSG:4326", place, ids)
    assert (expected != 255).any()
    with open_scene(path) as other, classes_on_grid_of(scene, other, white=NO_WHITE) as warped:
        np.testing.assert_array_equal(warped.read(scene.window), expected)
        part = part_over(scene, other)
    outside = np.ones(expected.shape, bool)
    outside[part.slices] = False
    assert (expected[outside] == 255).all()
    assert (part != scene.window) == (expected == 255).all(axis=0).any()


def test_dates_on_either_side_of_180_degrees_are_a_pair(write_scene, pixels):
    first = write_scene(
        pixels, "first.tif", transform=Affine(0.1, 0, -180, 0, -0.1, 50), crs="EPSG:4326"
    )
    second = write_scene(
        pixels, "second.tif", transform=Affine(0.1, 0, 180, 0, -0.1, 50), crs="EPSG:4326"
    )
    with open_pair(first, second) as pair:
        read, valid = pair.read(pair.window)
    assert valid.all()
    np.testing.assert_array_equal(read[:3], read[3:])
