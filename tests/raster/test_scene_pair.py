"""Two dates on one grid, against the same ground drawn or warped there independently."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp, Resampling
from rasterio.transform import array_bounds
from rasterio.warp import calculate_default_transform, reproject

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.radiometry import Stretch
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.raster.validity_vrt import gdal_name
from lemevit_cli.settings import SceneOptions
from lemevit_cli.simulation.world import World, WorldSpec

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]


def window(col_off, row_off, width, height):
    return Window(col_off=col_off, row_off=row_off, width=width, height=height)


def smooth(transform=NORTH_UP, width=160, height=120):
    """Return waves 12 to 20 m long, three bands of them, by place on the map."""
    cols, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    x, y = transform @ (cols, rows)
    x, y = x - 458_000, y - 5_548_000
    waves = [np.sin(x / 2) * np.cos(y / 3), np.cos(x / 3 + 1), np.sin((x + y) / 3)]
    return np.round(128 + 100 * np.array(waves)).astype(np.uint8)


def on_other_grid(pixels, transform, crs, pixel_size):
    """Return pixels in another CRS, by rasterio, with nodata 0 around them, and transform."""
    height, width = pixels.shape[1:]
    bounds = array_bounds(height, width, transform)
    there, _, _ = calculate_default_transform("EPSG:32633", crs, width, height, *bounds)
    scale = pixel_size / 0.5
    there, cols, rows = (
        there @ Affine.scale(scale),
        int(width / scale * 1.2),
        int(height / scale * 1.2),
    )
    out = np.zeros((len(pixels), rows, cols), np.uint8)
    reproject(
        pixels, out, src_transform=transform, src_crs="EPSG:32633", dst_transform=there,
        dst_crs=crs, resampling=Resampling.cubic, src_nodata=None, dst_nodata=0,
    )  # fmt: skip
    return out, there


def read_pair(before, after, **options):
    with open_pair(before, after, **options) as pair:
        return pair.read(pair.window)


def message_of(before, after, **options):
    with pytest.raises(SceneError) as caught:
        open_pair(before, after, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# One grid


def test_on_one_grid_nothing_is_resampled(write_scene, rgb):
    before = write_scene(rgb, "a.tif", nodata=0)
    other = np.roll(rgb, 3, axis=2)
    other[:, :9, :13] = 0
    after = write_scene(other, "b.tif", nodata=0)
    with open_pair(before, after) as pair, open_scene(after) as scene:
        assert pair.resampling is None and pair.overlap == pair.window == pair.after_overlap
        pixels, valid = pair.read(window(5, 7, 21, 13))
        plain, there = scene.read(window(5, 7, 21, 13))
    np.testing.assert_array_equal(pixels, np.concatenate([rgb[:, 7:20, 5:26], plain]))
    np.testing.assert_array_equal(valid, there)
    assert not valid.all() and pixels.dtype == np.uint8


def test_each_date_has_its_own_order_of_bands(write_scene, rgb):
    before, after = write_scene(rgb, "a.tif"), write_scene(rgb, "b.tif")
    with open_pair(
        before, after, SceneOptions(bidx=(3, 2, 1)), SceneOptions(bidx=(1, 1, 2))
    ) as pair:
        pixels, _ = pair.read(pair.window)
        assert pair.bidx == (3, 2, 1, 1, 1, 2) and pair.num_bands == 6
    np.testing.assert_array_equal(pixels, rgb[[2, 1, 0, 0, 0, 1]])


def test_nodata_in_either_date_is_nodata(write_scene, rgb):
    left, right = rgb.copy(), rgb.copy()
    left[:, :, :10] = 0
    right[:, :, -10:] = 0
    _, valid = read_pair(
        write_scene(left, "a.tif", nodata=0), write_scene(right, "b.tif", nodata=0)
    )
    assert not valid[:, :10].any() and not valid[:, -10:].any() and valid[:, 10:-10].all()


# Other grids


@pytest.mark.parametrize(
    ("crs", "pixel_size", "resampling"),
    [
        ("EPSG:32632", 0.35, "average"),
        ("EPSG:32633", 0.8, "cubic"),
        ("EPSG:3857", 0.5, "cubic"),
        ("EPSG:4326", 0.25, "average"),
    ],
)
def test_after_lies_where_its_ground_does(write_scene, crs, pixel_size, resampling):
    pixels = smooth()
    there, transform = on_other_grid(pixels, NORTH_UP, crs, pixel_size)
    before = write_scene(pixels, "a.tif", transform=NORTH_UP)
    after = write_scene(there, "b.tif", transform=transform, crs=crs, nodata=0)
    with open_pair(before, after) as pair:
        assert pair.resampling == resampling
        found, valid = pair.read(pair.window)
    inner = (slice(8, -8), slice(8, -8))
    assert valid[inner].all()
    off = np.abs(found[3:].astype(int) - pixels)[:, *inner]
    # A pixel further along the waves differ by up to 25.
    assert off.mean() < 3 and off.max() < 16


@pytest.mark.parametrize(
    "transform",
    [
        Affine.translation(458_010, 5_547_930) @ Affine.scale(0.5, 0.5),
        Affine.translation(458_005, 5_547_990) @ Affine.rotation(30) @ Affine.scale(0.4, -0.4),
    ],
    ids=["south-up", "rotated"],
)
def test_after_may_be_south_up_or_rotated(write_scene, transform):
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(smooth(transform), "b.tif", transform=transform)
    pixels, valid = read_pair(before, after)
    off = np.abs(pixels[3:].astype(int) - pixels[:3])[:, valid]
    assert valid.mean() > 0.15 and off.mean() < 4


def test_before_may_be_south_up_and_rotated(write_scene):
    south_up = Affine.translation(458_010, 5_547_950) @ Affine.rotation(10) @ Affine.scale(0.5, 0.5)
    before = write_scene(smooth(south_up), "a.tif", transform=south_up)
    after = write_scene(smooth(), "b.tif", transform=NORTH_UP)
    with open_pair(before, after) as pair:
        pixels, valid = pair.read(pair.window)
        assert pair.georeference.transform == south_up
    off = np.abs(pixels[3:].astype(int) - pixels[:3])[:, valid]
    assert valid.mean() > 0.15 and off.mean() < 4


def test_means_over_area_are_those_of_blocks(write_scene):
    fine = np.random.default_rng(1).integers(0, 256, (3, 96, 128), dtype=np.uint8)
    before = write_scene(smooth(width=32, height=24), "a.tif", transform=NORTH_UP)
    after = write_scene(fine, "b.tif", transform=NORTH_UP @ Affine.scale(0.25))
    pixels, valid = read_pair(before, after)
    means = fine.reshape(3, 24, 4, 32, 4).mean(axis=(2, 4))
    assert valid.all()
    np.testing.assert_allclose(pixels[3:], means, atol=0.51)


def test_cubic_stays_within_the_numbers_of_the_dtype(write_scene):
    steps = np.zeros((1, 60, 80), np.uint8)
    steps[:, :, ::8] = 255
    steps[:, 30:] = 255
    before = write_scene(smooth()[:1], "a.tif", transform=NORTH_UP)
    after = write_scene(steps, "b.tif", transform=NORTH_UP @ Affine.scale(2))
    pixels, valid = read_pair(before, after)
    assert valid.all()
    # Overshooting must not wrap around: beside 255 nothing is near 0 in the lower half.
    assert pixels[1, 64:].min() == 255


# Nodata


def with_nodata(pixels, hole, write_scene, way, **profile):
    """Return the pixels with a hole of zeros, made nodata in one of the ways that files know."""
    pixels = np.where(hole, 0, pixels).astype(np.uint8)
    if way == "nodata":
        return write_scene(pixels, "b.tif", nodata=0, **profile)
    shown = np.where(hole, 0, 255).astype(np.uint8)
    if way == "alpha":
        return write_scene(np.concatenate([pixels, shown[None]]), "b.tif", colors=RGBA, **profile)
    if way == "mask":
        return write_scene(pixels, "b.tif", mask=shown, **profile)
    floats = np.where(hole, np.nan, pixels).astype(np.float32)
    return write_scene(floats, "b.tif", nodata=np.nan if way == "nan" else None, **profile)


@pytest.mark.parametrize("way", ["nodata", "alpha", "mask", "nan", "undeclared nan"])
@pytest.mark.parametrize("scale", [0.7, 1.6])
def test_no_dark_rim_grows_around_nodata(write_scene, way, scale):
    transform = NORTH_UP @ Affine.scale(scale)
    bright = np.full((3, int(120 / scale), int(160 / scale)), 200)
    hole = np.zeros(bright.shape[1:], bool)
    hole[20:40, 30:50] = True
    after = with_nodata(bright, hole, write_scene, way, transform=transform)
    pixels, valid = read_pair(write_scene(smooth(), "a.tif", transform=NORTH_UP), after)
    np.testing.assert_allclose(pixels[3:][:, valid], 200, atol=0.01)
    centre = (slice(int(21 * scale) + 3, int(39 * scale) - 3),) * 2
    assert not valid[centre[0], int(31 * scale) + 3 : int(49 * scale) - 3].any()
    assert valid[: int(16 * scale)].mean() > 0.9


VOID_BESIDE = {
    "nothing": {},
    "nodata": {"nodata": -9999},
    "nan": {"nodata": np.nan},
    "alpha": {"colors": RGBA},
    "mask": {"mask": True},
}


@pytest.mark.parametrize("beside", VOID_BESIDE)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scale", [1.0, 0.7, 2.0])
def test_a_number_that_is_not_finite_masks_as_a_declared_one_does(
    write_scene, beside, dtype, value, scale
):
    """One band of a pixel alone is not finite, beside other ways to be nodata."""
    grid = NORTH_UP @ Affine.translation(0.3, 0.3) @ Affine.scale(scale)
    floats = smooth(grid).astype(dtype)
    hole, speck = np.zeros(floats.shape[1:], bool), np.zeros(floats.shape[1:], bool)
    hole[20:30, 10:22], speck[[25, 41], [60, 32]] = beside != "nothing", True
    declared = np.where(hole | speck, dtype(np.nan), floats)
    profile, held = dict(VOID_BESIDE[beside]), floats.copy()
    held[:, hole] = profile.get("nodata", 0)
    held[1, speck] = value
    shown = np.where(hole, 0, 255).astype(np.uint8)
    if "colors" in profile:
        held = np.concatenate([held, shown[None].astype(dtype)])
    if "mask" in profile:
        profile["mask"] = shown
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    expected, valid = read_pair(
        before, write_scene(declared, "b.tif", transform=grid, nodata=np.nan)
    )
    options = SceneOptions(bidx=(1, 2, 3))
    after = write_scene(held, "c.tif", transform=grid, **profile)
    found, found_valid = read_pair(before, after, options_after=options)
    np.testing.assert_array_equal(found_valid, valid)
    np.testing.assert_array_equal(found[:, valid], expected[:, valid])
    if (scale, beside) == (1.0, "nothing"):
        assert (~valid[1:-1, 1:-1]).sum() == 2


@pytest.mark.parametrize("stated", ["by the file", "by an option"])
@pytest.mark.parametrize("beside", ["alpha", "mask"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize("scale", [1.0, 0.7, 1.6])
def test_integers_are_valid_where_each_statement_says_so(write_scene, beside, dtype, stated, scale):
    bright = np.full((3, int(120 / scale), int(160 / scale)), 200, dtype)
    hidden, empty = np.zeros(bright.shape[1:], bool), np.zeros(bright.shape[1:], bool)
    hidden[20:40, 20:40], empty[30:50, 30:50] = True, True
    bright[:, empty] = 0
    bright[0, 60:70, 60:70] = 0  # in one band of three: a colour, not a hole
    bright[:, hidden & ~empty] = 90
    shown, profile = np.where(hidden, 0, 255).astype(np.uint8), {}
    if beside == "alpha":
        bright, profile = np.concatenate([bright, shown[None].astype(dtype)]), {"colors": RGBA}
    else:
        profile = {"mask": shown}
    if stated == "by the file":
        profile["nodata"] = 0
    options = SceneOptions(nodata=None if stated == "by the file" else 0)
    grid = NORTH_UP @ Affine.scale(scale) @ Affine.translation(-3, 2)
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(bright, "b.tif", transform=grid, **profile)
    pixels, valid = read_pair(before, after, options_after=options)
    assert valid.mean() > 0.5 and (pixels[4:, valid] == 200).all()
    if scale == 1.0:
        np.testing.assert_array_equal(valid[2:, :-3], ~(hidden | empty)[:-2, 3:])


def test_nodata_of_the_bands_that_were_chosen_decides(write_scene):
    values = smooth()
    values[0, 20:30, 40:50] = 0
    values[1, 50:60, 40:50] = 0
    before = write_scene(smooth()[:1], "a.tif", transform=NORTH_UP)
    grid = NORTH_UP @ Affine.translation(-3, 2)
    after = write_scene(values, "b.tif", transform=grid, nodata=0)
    _, valid = read_pair(before, after, options_after=SceneOptions(bidx=(1,)))
    np.testing.assert_array_equal(valid[2:, :-3], values[0, :-2, 3:] != 0)


def test_an_archive_is_warped_by_the_name_that_rasterio_takes(write_scene, tmp_path):
    floats = smooth().astype(np.float32)
    floats[:, 40:60] = np.nan
    grid = NORTH_UP @ Affine.translation(0.3, 0.3)
    before, after = (
        write_scene(smooth(), "a.tif", transform=NORTH_UP),
        write_scene(floats, "b.tif", transform=grid),
    )
    with ZipFile(tmp_path / "b.zip", "w") as archive:
        archive.write(after, "folder/b.tif")
    plain, valid = read_pair(before, after)
    for name in (f"zip://{tmp_path}/b.zip!/folder/b.tif", f"file://{after}"):
        pixels, also_valid = read_pair(before, name)
        np.testing.assert_array_equal(also_valid, valid)
        np.testing.assert_array_equal(pixels[:, valid], plain[:, valid])
    assert not valid.all()


@pytest.mark.parametrize(
    ("name", "opened"),
    [
        ("a b!c.tif", "a b!c.tif"),
        ('NETCDF:"/d/e.nc":t', 'NETCDF:"/d/e.nc":t'),
        ("s3://bucket/k/a.tif", "/vsis3/bucket/k/a.tif"),
        ("https://h/a.tif?key=1&b=2", "/vsicurl/https://h/a.tif?key=1&b=2"),
        ("zip+https://h/a.zip!b/c.tif", "/vsizip/vsicurl/https://h/a.zip/b/c.tif"),
        ("zip+file:///t/a.zip!b.tif", "/vsizip//t/a.zip/b.tif"),
        ("gs://bucket/a!b.tif", "/vsigs/bucket/a!b.tif"),
    ],
)
def test_uris_have_names_of_gdal(name, opened):
    assert gdal_name(name) == opened


def test_doubles_beyond_single_precision_are_numbers(write_scene):
    doubles = smooth().astype(np.float64)
    doubles[:, 40:60], doubles[:, 60:80] = 1e300, -1e300
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    grid = NORTH_UP @ Affine.translation(0.5, 0)
    pixels, valid = read_pair(before, write_scene(doubles, "b.tif", transform=grid))
    assert valid[:, 1:].all() and pixels[3:, 50, 1:] == pytest.approx(1e300)


def test_a_band_that_was_not_chosen_masks_nothing(write_scene):
    floats = smooth().astype(np.float32)
    floats[2, 30:40] = np.nan
    before = write_scene(smooth()[:2], "a.tif", transform=NORTH_UP)
    after = write_scene(floats, "b.tif", transform=NORTH_UP @ Affine.translation(0.5, 0))
    _, valid = read_pair(before, after, options_after=SceneOptions(bidx=(1, 2)))
    assert valid[:, 1:].all()


def test_what_cannot_be_read_of_floats_on_another_grid_is_named(write_scene):
    floats = np.random.default_rng(0).random((2, 128, 128)).astype(np.float32)
    grid = NORTH_UP @ Affine.translation(0.3, 0.3)
    settings = {"tiled": True, "blockxsize": 64, "blockysize": 64, "compress": "deflate"}
    after = write_scene(floats, "b.tif", transform=grid, interleave="band", **settings)
    os.truncate(after, Path(after).stat().st_size - 3000)  # in the last tile of the second band
    before = write_scene(smooth(width=128, height=128)[:2], "a.tif", transform=NORTH_UP)
    with open_pair(before, after) as pair, pytest.raises(SceneError, match=r"b\.tif: cannot read"):
        pair.read(pair.window)


def test_a_value_between_two_that_equals_nodata_is_valid(write_scene):
    slope = np.broadcast_to(np.arange(80, dtype=np.uint8) * 2 + 1, (3, 60, 80))
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(slope, "b.tif", transform=NORTH_UP @ Affine.scale(2), nodata=60)
    pixels, valid = read_pair(before, after)
    assert valid.all() and (pixels[3:] == 60).any()


def test_nodata_that_the_dtype_cannot_hold_masks_nothing(write_scene, rgb):
    before = write_scene(rgb, "b.tif", transform=NORTH_UP)
    after = write_scene(rgb, "c.tif", transform=NORTH_UP @ Affine.translation(0.5, 0))
    options = SceneOptions(nodata=-9999)
    _, valid = read_pair(before, after, options_after=options)
    assert valid[:, 1:].all()


@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_a_gap_of_one_band_of_after_is_nodata_on_the_grid_of_before(write_scene, dtype):
    pixels = smooth().astype(dtype)
    pixels[1, 40:60] = -9999
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    grid = NORTH_UP @ Affine.translation(0, 0.3)
    _, valid = read_pair(before, write_scene(pixels, "b.tif", transform=grid, nodata=-9999))
    assert not valid[41:59].any() and valid[1:39].all() and valid[61:].all()


@pytest.mark.parametrize(("scale", "told"), [(0.5, False), (1.5, False), (3, True)])
def test_an_after_that_is_much_coarser_is_told(write_scene, scale, told):
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(smooth(), "b.tif", transform=NORTH_UP @ Affine.scale(scale))
    with open_pair(before, after) as pair:
        assert [f"pixels of {scale / 2:.3g} m after 0.5 m before" in line
                for line in pair.warnings] == ([True] if told else [])  # fmt: skip


def test_indexes_of_a_palette_are_not_resampled(write_scene):
    colours = {0: (1, 2, 3, 255), 1: (9, 90, 200, 255)}
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(
        np.ones((1, 120, 160), np.uint8),
        "b.tif",
        transform=NORTH_UP @ Affine.translation(0.3, 0),
        setup=lambda out: out.write_colormap(1, colours),
    )
    options = SceneOptions(expand_palette=True)
    assert "gdal_translate -expand rgb" in message_of(before, after, options_after=options)


def test_scale_and_offset_of_after_are_kept(write_scene):
    def setup(out):
        out.scales, out.offsets = (0.5,) * 3, (10.0,) * 3

    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(
        np.full((3, 60, 80), 100, np.uint16),
        "b.tif",
        transform=NORTH_UP @ Affine.scale(2),
        setup=setup,
    )
    pixels, valid = read_pair(before, after)
    assert valid.all() and pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[3:], 60)
    np.testing.assert_array_equal(pixels[:3], smooth())


# Overlap


def test_only_the_overlap_is_valid(write_scene):
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(smooth(), "b.tif", transform=NORTH_UP @ Affine.translation(100, -30))
    with open_pair(before, after) as pair:
        assert pair.overlap == window(100, 0, 60, 90)
        assert pair.after_overlap == window(0, 30, 60, 90)
        _, valid = pair.read(pair.window)
        nothing, outside = pair.read(window(0, 0, 50, 50))
    assert valid[:90, 100:].all() and valid.sum() == 90 * 60
    assert not outside.any() and nothing.shape == (6, 50, 50) and nothing.dtype == np.uint8


def test_window_that_leaves_the_grid_is_a_callers_mistake(write_scene, rgb):
    path = write_scene(rgb)
    with open_pair(path, path) as pair, pytest.raises(ValueError, match="leaves"):
        pair.read(window(60, 0, 5, 5))


def test_no_overlap_is_refused_with_both_extents_in_one_crs(write_scene, rgb):
    before = write_scene(rgb, "a.tif", transform=NORTH_UP)
    far = write_scene(
        rgb, "b.tif", transform=Affine(1e-5, 0, 10.0, 0, -1e-5, 45.0), crs="EPSG:4326"
    )
    message = message_of(before, far)
    assert "do not overlap" in message and "458000 5547976 458032 5548000" in message


# What cannot be placed


def test_without_crs_one_grid_is_taken_on_trust(write_scene, rgb):
    before = write_scene(rgb, "a.tif", crs=None)
    with open_pair(before, write_scene(rgb, "b.tif", crs=None)) as pair:
        pixels, valid = pair.read(pair.window)
        assert len(pair.warnings) == 1 and "no CRS" in pair.warnings[0]
    np.testing.assert_array_equal(pixels, np.concatenate([rgb, rgb]))
    assert valid.all()


def test_without_crs_other_grids_are_refused(write_scene, rgb):
    before = write_scene(rgb, "a.tif", crs=None, transform=NORTH_UP)
    moved = write_scene(rgb, "b.tif", crs=None, transform=NORTH_UP @ Affine.translation(1, 0))
    smaller = write_scene(rgb[:, 1:], "c.tif", crs=None, transform=NORTH_UP)
    assert "differ in size or transform" in message_of(before, moved)
    assert "64 x 47" in message_of(before, smaller)


def test_pictures_without_any_georeference_need_one_size(tmp_path, rgb):
    Image.fromarray(rgb.transpose(1, 2, 0)).save(tmp_path / "a.png")
    Image.fromarray(rgb.transpose(1, 2, 0)[1:]).save(tmp_path / "b.png")
    pixels, valid = read_pair(str(tmp_path / "a.png"), str(tmp_path / "a.png"))
    assert valid.all() and pixels.shape == (6, 48, 64)
    assert "transform none" in message_of(str(tmp_path / "a.png"), str(tmp_path / "b.png"))


@pytest.mark.parametrize("is_first", [True, False])
def test_a_crs_on_one_side_alone_is_refused(write_scene, rgb, is_first):
    named, bare = write_scene(rgb, "named.tif"), write_scene(rgb, "bare.tif", crs=None)
    message = message_of(*((named, bare) if is_first else (bare, named)))
    assert f"{bare}: has no CRS" in message and f"-a_srs EPSG:32633 {bare}" in message
    options = {
        "options_after" if is_first else "options_before": SceneOptions(src_crs="EPSG:32633")
    }
    with open_pair(*((named, bare) if is_first else (bare, named)), **options) as pair:
        assert pair.resampling is None


def ground_points(out):
    corners = ((0, 0), (0, 64), (48, 0), (48, 64))
    points = [GroundControlPoint(r, c, 458_000 + c / 2, 5_548_000 - r / 2) for r, c in corners]
    out.gcps = points, CRS.from_epsg(32633)


@pytest.mark.parametrize("is_first", [True, False])
def test_control_points_alone_are_refused_with_the_command_that_places_them(
    write_scene, rgb, is_first
):
    placed = write_scene(rgb, "placed.tif", transform=NORTH_UP)
    points = write_scene(rgb, "points.tif", crs=None, transform=None, setup=ground_points)
    message = message_of(*((placed, points) if is_first else (points, placed)))
    assert "ground control points alone" in message
    assert f"gdalwarp -t_srs EPSG:32633 -r cubic -dstalpha {points} points_placed.tif" in message


def test_rpcs_alone_are_refused_with_the_command_that_places_them(write_scene, rgb):
    coefficients = " ".join(["1"] + ["0"] * 19)
    rpcs = {
        **dict.fromkeys(["LINE_OFF", "SAMP_OFF", "LAT_OFF", "LONG_OFF", "HEIGHT_OFF"], "10"),
        **dict.fromkeys(
            ["LINE_SCALE", "SAMP_SCALE", "LAT_SCALE", "LONG_SCALE", "HEIGHT_SCALE"], "1"
        ),
        **dict.fromkeys(
            ["LINE_NUM_COEFF", "LINE_DEN_COEFF", "SAMP_NUM_COEFF", "SAMP_DEN_COEFF"], coefficients
        ),
    }
    path = write_scene(
        rgb, "r.tif", crs=None, transform=None, setup=lambda out: out.update_tags(ns="RPC", **rpcs)
    )
    message = message_of(write_scene(rgb, "a.tif"), path)
    assert "RPCs alone" in message and "gdalwarp -rpc -t_srs EPSG:32633" in message


# Stretches, shifts, threads


def test_each_date_is_stretched_by_its_own_rule(write_scene, rgb):
    wide = rgb.astype(np.uint16) * 40
    before, after = write_scene(rgb, "a.tif"), write_scene(wide, "b.tif")
    stretch = Stretch((0.0,) * 3, (10_200.0,) * 3, (0.0, 255.0))
    with open_pair(before, after) as pair:
        assert pair.dtype == "uint16"
        pixels, _ = pair.stretch(None, stretch).read(pair.window)
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels[:3], rgb)
    np.testing.assert_allclose(pixels[3:], rgb, atol=1e-3)


def test_a_shift_by_whole_pixels_is_undone_exactly(write_scene):
    world = World(WorldSpec(seed=2, width=160, height=120))
    before = write_scene(world.draw(window(0, 0, 160, 120)).pixels, "a.tif", transform=NORTH_UP)
    # What is at (col, row) of the first is at (col + 4, row - 3) of the second.
    after = write_scene(world.draw(window(-4, 3, 160, 120)).pixels, "b.tif", transform=NORTH_UP)
    with open_pair(before, after) as pair:
        moved = pair.shift(dx_px=1.5, dy_px=-3).shift(dx_px=2.5, dy_px=0)
        assert moved.overlap == window(0, 3, 156, 117)
        pixels, valid = moved.read(moved.window)
        moved.close()
    off = np.abs(pixels[3:].astype(int) - pixels[:3])[:, valid]
    assert valid.sum() == 156 * 117 and np.quantile(off, 0.99) <= 1


def test_pictures_without_georeference_can_be_shifted(tmp_path):
    pixels = smooth().transpose(1, 2, 0)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(np.roll(pixels, 5, axis=1)).save(tmp_path / "b.png")
    with open_pair(str(tmp_path / "a.png"), str(tmp_path / "b.png")) as pair:
        found, valid = pair.shift(dx_px=5, dy_px=0).read(pair.window)
    assert valid[:, :155].all() and not valid[:, 155:].any()
    np.testing.assert_allclose(found[3:, :, :150], found[:3, :, :150], atol=1)


def test_a_shift_that_leaves_nothing_is_refused(write_scene, rgb):
    path = write_scene(rgb)
    with open_pair(path, path) as pair, pytest.raises(SceneError, match="nothing in common"):
        pair.shift(dx_px=70, dy_px=0)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_threads_and_unpickled_pairs_read_the_same(write_scene, dtype):
    there, transform = on_other_grid(smooth(), NORTH_UP, "EPSG:32632", 0.35)
    there = there.astype(dtype)
    before = write_scene(smooth(), "a.tif", transform=NORTH_UP)
    after = write_scene(there, "b.tif", transform=transform, crs="EPSG:32632", nodata=0)
    windows = [window(col, row, 32, 32) for col in range(0, 128, 16) for row in range(0, 88, 16)]
    with open_pair(before, after) as pair, pickle.loads(pickle.dumps(pair)) as copy:
        alone = [pair.read(w)[0] for w in windows]
        with ThreadPoolExecutor(4) as threads:
            together = list(threads.map(lambda w: pair.read(w)[0], windows))
        unpickled = [copy.read(w)[0] for w in windows]
        whole = pair.read(pair.window)[0]
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(unpickled, alone)
    # Windows on one grid agree where they overlap.
    np.testing.assert_array_equal(alone, [whole[:, *w.slices] for w in windows])


def test_a_pair_that_fails_to_open_closes_what_it_opened(write_scene, rgb, tmp_path):
    path = write_scene(rgb)
    assert "missing.tif" in message_of(path, str(tmp_path / "missing.tif"))
    assert "missing.tif" in message_of(str(tmp_path / "missing.tif"), path)
