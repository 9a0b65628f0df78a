"""Scenes of every kind against rasterio's own reading."""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.control import GroundControlPoint
from rasterio.crs import CRS
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from rasterio.windows import Window as RasterioWindow

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.describe import describe
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.source import Source, stem_of
from lemevit_cli.settings import SceneOptions

RGB = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
BGRA = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.alpha]
WINDOW = Window(col_off=5, row_off=7, width=21, height=13)


def read_all(path, **options):
    with open_scene(path, SceneOptions(**options)) as scene:
        return scene.read(scene.window)


def message_of(path, **options):
    with pytest.raises(SceneError) as caught, open_scene(path, SceneOptions(**options)) as scene:
        scene.read(scene.window)
    message = str(caught.value)
    assert "\n" not in message
    return message


# What is read


def test_window_has_the_pixels_that_rasterio_reads(write_scene, rgb):
    path = write_scene(rgb)
    with open_scene(path) as scene:
        pixels, valid = scene.read(WINDOW)
    np.testing.assert_array_equal(pixels, rgb[:, 7:20, 5:26])
    assert valid.all() and valid.shape == (13, 21)


def test_window_that_leaves_the_scene_is_a_callers_mistake(write_scene, rgb):
    with open_scene(write_scene(rgb)) as scene, pytest.raises(ValueError, match="leaves"):
        scene.read(Window(col_off=60, row_off=0, width=5, height=5))


def test_bands_come_in_the_order_asked_for_and_may_repeat(write_scene, rgb):
    pixels, _ = read_all(write_scene(rgb), bidx=(3, 1, 3))
    np.testing.assert_array_equal(pixels, rgb[[2, 0, 2]])


def test_band_that_does_not_exist_is_refused_with_the_count(write_scene, rgb):
    message = message_of(write_scene(rgb), bidx=(1, 4))
    assert "band 4" in message and "3 bands" in message and "-b" in message


@pytest.mark.parametrize(
    "dtype",
    [
        "uint8",
        "int8",
        "uint16",
        "int16",
        "uint32",
        "int32",
        "int64",
        "uint64",
        "float32",
        "float64",
    ],
)
def test_any_real_dtype_is_read_as_it_is(write_scene, dtype):
    pixels = np.arange(12).reshape(1, 3, 4).astype(dtype)
    read, valid = read_all(write_scene(pixels))
    assert read.dtype == dtype and valid.all()
    np.testing.assert_array_equal(read, pixels)


def test_bands_of_different_dtypes_come_in_one_that_holds_both(write_scene, tmp_path):
    first = write_scene(np.full((1, 4, 4), 200, np.uint8), "a.tif")
    second = write_scene(np.full((1, 4, 4), -3, np.int16), "b.tif")
    band = (
        '<VRTRasterBand dataType="{}" band="{}"><SimpleSource><SourceFilename>{}</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand>"
    )
    bands = band.format("Byte", 1, first) + band.format("Int16", 2, second)
    vrt = tmp_path / "both.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="4" rasterYSize="4">{bands}</VRTDataset>')
    pixels, _ = read_all(str(vrt))
    assert pixels.dtype == np.int16 and (pixels[0] == 200).all() and (pixels[1] == -3).all()


def test_complex_numbers_are_refused_by_name(write_scene):
    assert "complex64" in message_of(write_scene(np.zeros((1, 4, 4), np.complex64)))


def test_overview_picks_pixels_and_keeps_the_shape_of_the_scene(write_scene, rgb):
    with open_scene(write_scene(rgb)) as scene:
        pixels, valid = scene.read_overview(32)
    assert pixels.shape == (3, 24, 32) and valid.shape == (24, 32)
    assert np.isin(pixels, rgb).all()


def test_scale_and_offset_are_applied_and_nodata_is_tested_on_the_raw_number(write_scene):
    raw = np.array([[[0, 10], [20, 30]], [[0, 10], [0, 30]]], np.int16)

    def setup(out):
        out.scales, out.offsets = (0.5, 0.001), (1000, 0)

    pixels, valid = read_all(write_scene(raw, nodata=0, setup=setup))
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels[0], [[1000, 1005], [1010, 1015]])
    np.testing.assert_allclose(pixels[1, :, 1], [0.01, 0.03])
    np.testing.assert_array_equal(valid, [[False, True], [True, True]])


def test_sparse_scene_of_nan_is_wholly_nodata(write_scene):
    pixels, valid = read_all(
        write_scene(np.full((1, 64, 48), np.nan, np.float32), nodata=np.nan, SPARSE_OK=True)
    )
    assert np.isnan(pixels).all() and not valid.any()


# What is valid


def test_pixel_is_nodata_only_where_every_band_is(write_scene, rgb):
    rgb[:, 0, 0] = 255
    rgb[1, 5, 5] = 255
    path = write_scene(rgb, nodata=255)
    _, valid = read_all(path)
    with rasterio.open(path) as dataset:
        np.testing.assert_array_equal(valid, dataset.dataset_mask() > 0)
    assert not valid[0, 0] and valid[5, 5]


@pytest.mark.parametrize(
    ("dtype", "nodata", "lacks"),
    [
        ("float32", -9999, True),
        ("float64", -3.4e38, True),
        ("int16", -32768, True),
        ("uint16", 65535, True),
        ("uint16", 0, False),  # may be the brightness of a band
        ("float32", 255, False),
        ("uint8", 255, False),
    ],
)
def test_a_value_that_is_no_colour_is_nodata_in_any_band(write_scene, rgb, dtype, nodata, lacks):
    pixels = (rgb // 2 + 10).astype(dtype)
    pixels[1, 5, 6] = nodata
    pixels[:, 7, 8] = nodata
    _, valid = read_all(write_scene(pixels, nodata=nodata))
    expected = np.ones(valid.shape, bool)
    expected[7, 8], expected[5, 6] = False, not lacks
    np.testing.assert_array_equal(valid, expected)


def test_bands_may_differ_in_nodata(write_scene, tmp_path):
    source = write_scene(np.array([[[1, 1, 9]], [[2, 7, 2]]], np.uint8))
    band = (
        '<VRTRasterBand dataType="Byte" band="{0}"><NoDataValue>{0}</NoDataValue><SimpleSource>'
        "<SourceFilename>{1}</SourceFilename><SourceBand>{0}</SourceBand>"
        "</SimpleSource></VRTRasterBand>"
    )
    bands = band.format(1, source) + band.format(2, source)
    vrt = tmp_path / "differ.vrt"
    vrt.write_text(f'<VRTDataset rasterXSize="3" rasterYSize="1">{bands}</VRTDataset>')
    np.testing.assert_array_equal(read_all(str(vrt))[1], [[False, True, True]])
    np.testing.assert_array_equal(read_all(str(vrt), bidx=(2, 2))[1], [[False, True, False]])


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixel_that_is_not_finite_in_any_band_is_nodata(write_scene, value):
    pixels = np.ones((2, 3, 4), np.float32)
    pixels[1, 2, 3] = value
    _, valid = read_all(write_scene(pixels))
    assert valid.sum() == 11 and not valid[2, 3]


def test_lowest_float32_written_as_text_is_nodata(write_scene):
    pixels = np.array([[[np.finfo(np.float32).min, 1.0]]], np.float32)
    _, valid = read_all(write_scene(pixels), nodata=-3.4028234663852886e38)
    np.testing.assert_array_equal(valid, [[False, True]])


def test_stated_nodata_replaces_the_files(write_scene, rgb):
    rgb[:, :4] = 0
    rgb[:, 10] = 255
    _, valid = read_all(write_scene(rgb, nodata=255), nodata=0)
    assert not valid[:4].any() and valid[4:].all()


def test_nodata_that_the_dtype_cannot_hold_masks_nothing(write_scene, rgb):
    _, valid = read_all(write_scene(rgb), nodata=-9999)
    assert valid.all()


def test_alpha_is_a_mask_whatever_its_range_and_no_band(write_scene):
    pixels = np.full((4, 6, 8), 10_000, np.uint16)
    pixels[3] = 0
    pixels[3, 2:4, 3:5] = 255  # in a uint16 file, as gdalwarp -dstalpha wrote it once
    pixels[3, 5, 5] = 1
    path = write_scene(pixels, colors=[*RGB, ColorInterp.alpha])
    with open_scene(path) as scene:
        _, valid = scene.read(scene.window)
        assert scene.bidx == (1, 2, 3)
    np.testing.assert_array_equal(valid, pixels[3] > 0)


def test_alpha_is_a_band_when_asked_for(write_scene):
    pixels = np.random.default_rng(0).integers(0, 3, (4, 6, 8), dtype=np.uint8)
    read, valid = read_all(write_scene(pixels, colors=[*RGB, ColorInterp.alpha]), bidx=(4, 1))
    np.testing.assert_array_equal(read, pixels[[3, 0]])
    np.testing.assert_array_equal(valid, pixels[3] > 0)


@pytest.mark.parametrize("internal", ["YES", "NO"])
def test_mask_inside_and_beside_the_file_is_honoured(write_scene, rgb, internal):
    mask = np.zeros((48, 64), bool)
    mask[3:40, 10:50] = True
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=internal):
        path = write_scene(rgb, mask=mask)
    assert Path(f"{path}.msk").exists() == (internal == "NO")
    with open_scene(path) as scene:
        _, valid = scene.read(WINDOW)
        assert scene.mask_kind == "mask"
    np.testing.assert_array_equal(valid, mask[7:20, 5:26])


@pytest.mark.filterwarnings("error")
def test_nodata_and_mask_apply_together(write_scene, rgb):
    mask = np.ones((48, 64), bool)
    mask[20:] = False
    rgb[:, :5] = 0
    _, valid = read_all(write_scene(rgb, nodata=0, mask=mask))
    np.testing.assert_array_equal(valid, mask & (np.arange(48) >= 5)[:, None])


def test_nodata_tuple_of_all_bands_is_honoured_until_replaced(write_scene):
    pixels = np.array([[[1, 1, 9]], [[2, 7, 2]]], np.uint8)
    path = write_scene(pixels, setup=lambda out: out.update_tags(NODATA_VALUES="1 2"))
    np.testing.assert_array_equal(read_all(path)[1], [[False, True, True]])
    np.testing.assert_array_equal(read_all(path, nodata=9)[1], [[True, True, True]])


# Colours


def test_blue_green_red_is_read_as_red_green_blue_and_told(write_scene):
    pixels = np.random.default_rng(0).integers(1, 9, (4, 6, 8), dtype=np.uint16)
    path = write_scene(pixels, colors=BGRA)
    with open_scene(path) as scene:
        assert scene.bidx == (3, 2, 1)
        assert any("blue, green, red" in line for line in scene.warnings)
    np.testing.assert_array_equal(read_all(path, bidx=(1, 2, 3))[0], pixels[:3])


def test_cmyk_is_read_as_rgb_without_its_made_up_alpha(write_scene):
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16), dtype=np.uint8)
    path = write_scene(pixels, photometric="CMYK", interleave="pixel", crs=None, transform=None)
    with open_scene(path) as scene:
        read, valid = scene.read(scene.window)
        assert any("CMYK" in line for line in scene.warnings)
        assert scene.mask_kind == "none"
    ink, black = 255 - pixels[:3].astype(int), 255 - pixels[3].astype(int)
    np.testing.assert_array_equal(read, ink * black // 255)  # as GDAL turns CMYK to RGB
    assert valid.all()


def test_palette_indexes_are_told(write_scene):
    path = write_scene(
        np.eye(4, dtype=np.uint8)[None],
        setup=lambda out: out.write_colormap(1, {0: (0, 0, 0, 255), 1: (9, 9, 9, 255)}),
    )
    with open_scene(path) as scene:
        assert any("palette" in line for line in scene.warnings)


@pytest.mark.parametrize("bidx", [None, (1, 1, 1)])
def test_a_palette_is_expanded_to_its_colours_where_asked(write_scene, bidx):
    indexes = np.random.default_rng(0).integers(0, 4, (1, 6, 8), dtype=np.uint8)
    colours = {0: (0, 0, 0, 0), 1: (9, 90, 200, 255), 2: (255, 0, 7, 255), 3: (40, 50, 60, 255)}
    entries = "".join(
        f'<Entry c1="{r}" c2="{g}" c3="{b}" c4="{a}"/>' for r, g, b, a in colours.values()
    )
    vrt = Path(write_scene(indexes)).with_suffix(".vrt")  # a GeoTIFF keeps no alpha of colours
    vrt.write_text(
        '<VRTDataset rasterXSize="8" rasterYSize="6"><VRTRasterBand dataType="Byte" band="1">'
        f"<NoDataValue>3</NoDataValue><ColorInterp>Palette</ColorInterp><ColorTable>{entries}"
        '</ColorTable><SimpleSource><SourceFilename relativeToVRT="1">scene.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    path = str(vrt)
    with open_scene(path, SceneOptions(bidx=bidx, expand_palette=True)) as scene:
        pixels, valid = scene.read(scene.window)
        assert (scene.num_bands, scene.dtype, scene.bidx) == (3, "uint8", (1, 1, 1))
        assert any("palette" in line and "-b 1" in line for line in scene.warnings)
        overview, _ = scene.read_overview_by_band(64)
    expected = np.array([colours[i][:3] for i in indexes[0].flat]).reshape(6, 8, 3)
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
    np.testing.assert_array_equal(overview, pixels)
    np.testing.assert_array_equal(valid, (indexes[0] != 0) & (indexes[0] != 3))


def test_alpha_beside_a_palette_is_a_mask(write_scene):
    indexes = np.random.default_rng(0).integers(0, 2, (6, 8), dtype=np.uint8)
    alpha = np.full((6, 8), 255, np.uint8)
    alpha[:2] = 0
    colours = {0: (1, 2, 3, 255), 1: (9, 90, 200, 255)}

    def setup(out):
        out.write_colormap(1, colours)
        out.colorinterp = [ColorInterp.palette, ColorInterp.alpha]

    path = write_scene(np.stack([indexes, alpha]), setup=setup)
    pixels, valid = read_all(path, expand_palette=True)
    np.testing.assert_array_equal(pixels[2], np.where(indexes, 200, 3))
    np.testing.assert_array_equal(valid, alpha > 0)


def test_indexes_of_a_palette_stay_where_they_are_meant(write_scene):
    indexes = np.random.default_rng(0).integers(0, 2, (1, 6, 8), dtype=np.uint8)
    colours = {0: (1, 2, 3, 255), 1: (9, 90, 200, 255)}
    path = write_scene(indexes, setup=lambda out: out.write_colormap(1, colours))
    np.testing.assert_array_equal(read_all(path)[0], indexes)  # a raster of classes
    np.testing.assert_array_equal(read_all(path, bidx=(1,), expand_palette=True)[0], indexes)


# Georeference


def reference_of(path, **options):
    with open_scene(path, SceneOptions(**options)) as scene:
        return scene.georeference, scene


@pytest.mark.parametrize(
    ("transform", "crs"),
    [
        (Affine(17.3, 5.0, 5e5 + 0.1, 10.0, -8.66, 5.4e6), "EPSG:32633"),
        (Affine(10, 0, 5e5, 0, 10, 5.4e6), "EPSG:32633"),
        (Affine(0.0006, 0, -117.6, 0, -0.0005, 33.9), "EPSG:4326"),
    ],
    ids=["rotated", "south-up", "degrees"],
)
def test_transform_comes_out_exactly(write_scene, rgb, transform, crs):
    georeference, scene = reference_of(write_scene(rgb, transform=transform, crs=crs))
    assert tuple(georeference.transform) == tuple(transform)
    assert CRS.from_wkt(georeference.crs_wkt) == CRS.from_user_input(crs)
    assert scene.warnings == ()


def test_world_file_is_read_and_a_missing_crs_told(write_scene, rgb):
    path = write_scene(rgb, "picture.png", driver="PNG", transform=None, crs=None)
    Path(path).with_suffix(".wld").write_text("0,38\n-0,01\n0,01\n-0,38\n700000,5\n4287500,5\n")
    georeference, scene = reference_of(path)
    np.testing.assert_allclose(
        tuple(georeference.transform)[:6], (0.38, 0.01, 700000.305, -0.01, -0.38, 4287500.695)
    )
    assert georeference.crs_wkt is None and scene.gsd_m is None
    assert "no CRS" in scene.warnings[0]


def test_scene_without_georeference_is_told_once_and_never_by_python(write_scene, rgb, recwarn):
    georeference, scene = reference_of(write_scene(rgb, transform=None, crs=None))
    assert georeference.transform is None and georeference.crs_wkt is None
    assert len(scene.warnings) == 1 and "pixels" in scene.warnings[0]
    assert not recwarn.list


def test_area_or_point_shifts_nothing(write_scene, rgb):
    path = write_scene(rgb, setup=lambda out: out.update_tags(AREA_OR_POINT="Point"))
    georeference, _ = reference_of(path)
    assert georeference.area_or_point == "Point"
    with rasterio.open(path) as dataset:
        assert georeference.transform == dataset.transform


def test_ground_control_points_keep_their_crs(write_scene, rgb):
    points = [
        GroundControlPoint(row=r, col=c, x=10 + c, y=50 - r, z=3, id=f"p{r}{c}")
        for r, c in ((0, 0), (0, 64), (48, 0), (48, 64))
    ]
    path = write_scene(
        rgb,
        transform=None,
        crs=None,
        setup=lambda o: setattr(o, "gcps", (points, CRS.from_epsg(4326))),
    )
    georeference, scene = reference_of(path)
    assert georeference.transform is None and scene.gsd_m is None
    assert [g[:5] for g in georeference.gcps] == [(p.row, p.col, p.x, p.y, p.z) for p in points]
    assert CRS.from_wkt(georeference.gcps_crs_wkt) == CRS.from_epsg(4326)
    assert "4 ground control points" in scene.warnings[0]
    restated, _ = reference_of(path, src_crs="EPSG:4258")
    assert CRS.from_wkt(restated.gcps_crs_wkt) == CRS.from_epsg(4258)


COEFFICIENTS = " ".join(["1"] + ["0"] * 19)
RPCS = {
    f"{axis}_{kind}": "1"
    for axis in ("LINE", "SAMP", "LAT", "LONG", "HEIGHT")
    for kind in ("OFF", "SCALE")
} | {f"{a}_{b}_COEFF": COEFFICIENTS for a in ("LINE", "SAMP") for b in ("NUM", "DEN")}


def test_rpcs_alone_claim_no_degrees(write_scene, rgb):
    path = write_scene(
        rgb, transform=None, crs="EPSG:4326", setup=lambda out: out.update_tags(ns="RPC", **RPCS)
    )
    georeference, scene = reference_of(path)
    assert georeference.transform is None and scene.gsd_m is None
    assert georeference.rpcs["LINE_NUM_COEFF"].split()[0] == "1"
    assert "RPCs" in scene.warnings[0]


@pytest.mark.parametrize(
    "spoilt", [{"LINE_OFF": ""}, {"SAMP_NUM_COEFF": "1 0 0"}, {"LAT_OFF": "?"}]
)
def test_rpcs_that_lack_a_number_are_left_out_with_a_line(tmp_path, spoilt):
    items = "".join(f'<MDI key="{k}">{v}</MDI>' for k, v in (RPCS | spoilt).items())
    vrt = tmp_path / "scene.vrt"
    vrt.write_text(
        f'<VRTDataset rasterXSize="4" rasterYSize="4"><Metadata domain="RPC">{items}</Metadata>'
        '<VRTRasterBand dataType="Byte" band="1"/></VRTDataset>'
    )
    georeference, scene = reference_of(vrt)
    assert not georeference.rpcs
    assert any("RPCs lack numbers" in line for line in scene.warnings)


def test_local_crs_is_kept_and_gives_no_metres(write_scene, rgb):
    local = CRS.from_wkt('LOCAL_CS["site grid",UNIT["metre",1]]')
    georeference, scene = reference_of(write_scene(rgb, crs=local))
    assert "site grid" in georeference.crs_wkt and scene.gsd_m is None
    assert "local" in scene.warnings[0]


def test_stated_crs_replaces_the_files(write_scene, rgb):
    georeference, _ = reference_of(write_scene(rgb), src_crs="EPSG:3006")
    assert CRS.from_wkt(georeference.crs_wkt) == CRS.from_epsg(3006)


def test_stated_crs_that_is_none_is_refused(write_scene, rgb):
    message = message_of(write_scene(rgb), src_crs="EPSG:nonsense")
    assert "EPSG:nonsense" in message and "--src-crs" in message


# Ground sample distance


def test_gsd_in_web_mercator_at_60_north_is_half(write_scene, rgb):
    transform = from_origin(0, 8_399_737.89, 1, 1)  # 60 degrees north
    _, scene = reference_of(write_scene(rgb, crs="EPSG:3857", transform=transform))
    assert scene.gsd_m == pytest.approx(0.5, rel=3e-3)


def test_gsd_in_us_survey_feet_is_metres(write_scene, rgb):
    transform = from_origin(6_000_000, 2_000_000, 2, 2)
    _, scene = reference_of(write_scene(rgb, crs="EPSG:2227", transform=transform))
    assert scene.gsd_m == pytest.approx(2 * 1200 / 3937, rel=2e-4)


def test_gsd_outside_the_crs_domain_is_unknown_and_told(write_scene, rgb):
    path = write_scene(rgb, crs="EPSG:4326", transform=Affine(1, 0, 0, 0, -1, 200))
    _, scene = reference_of(path)
    assert scene.gsd_m is None and "domain" in scene.warnings[0]


def test_gsd_of_a_rotated_scene_is_the_side_of_its_pixel(write_scene, rgb):
    _, scene = reference_of(write_scene(rgb))
    assert scene.gsd_m == pytest.approx(2.0, rel=1e-3)


# Failures


def test_missing_file_is_named(tmp_path):
    message = message_of(str(tmp_path / "nowhere.tif"))
    assert "nowhere.tif" in message and "No such file" in message


def test_text_with_a_raster_suffix_is_refused(tmp_path):
    path = tmp_path / "text.tif"
    path.write_text("not a raster")
    assert "not recognized" in message_of(str(path))


def test_vrt_whose_source_is_missing_names_the_source(tmp_path):
    vrt = tmp_path / "lost.vrt"
    vrt.write_text(
        '<VRTDataset rasterXSize="20" rasterYSize="20"><VRTRasterBand dataType="Byte" band="1">'
        '<SimpleSource><SourceFilename relativeToVRT="1">gone.tif</SourceFilename>'
        "<SourceBand>1</SourceBand></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    message = message_of(str(vrt))
    assert "lost.vrt" in message and "gone.tif" in message


@pytest.mark.parametrize("where", ["main", "thread"])
def test_broken_tile_names_file_and_place(write_scene, where, capfd):
    pixels = np.random.default_rng(0).integers(0, 255, (1, 128, 128), dtype=np.uint8)
    path = write_scene(pixels, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    size = Path(path).stat().st_size
    os.truncate(path, size - 3000)  # in the last tile
    place = Window(col_off=64, row_off=64, width=64, height=64)
    with open_scene(path) as scene:
        scene.read(Window(col_off=0, row_off=0, width=64, height=64))
        with pytest.raises(SceneError, match="columns 64 to 127, rows 64 to 127") as caught:
            if where == "main":
                scene.read(place)
            else:
                with ThreadPoolExecutor(1) as pool:
                    pool.submit(scene.read, place).result()
    assert path in str(caught.value)
    assert capfd.readouterr().err == ""


def test_container_is_refused_with_the_names_of_its_subdatasets(tmp_path, write_scene, rgb):
    path = tmp_path / "two.gpkg"
    for table in ("first", "second"):
        with rasterio.open(
            path, "w", driver="GPKG", width=64, height=48, count=3, dtype="uint8",
            crs="EPSG:32633", transform=from_origin(500_000, 5_400_000, 2, 2),
            RASTER_TABLE=table, APPEND_SUBDATASET="YES",
        ) as out:  # fmt: skip
            out.write(rgb)
    message = message_of(str(path))
    assert "2 subdatasets" in message and f"GPKG:{path}:second" in message
    with open_scene(f"GPKG:{path}:second") as scene:
        assert (scene.width, scene.height, scene.stem) == (64, 48, "two_second")


# Other ways in


def feed_stdin(monkeypatch, data: bytes):
    monkeypatch.setattr(
        sys, "stdin", SimpleNamespace(buffer=io.BytesIO(data), closed=False, isatty=lambda: False)
    )


def test_stdin_is_spooled_and_removed_at_close(write_scene, rgb, monkeypatch, tmp_path):
    spool = tmp_path / "spool"
    spool.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(spool))
    feed_stdin(monkeypatch, Path(write_scene(rgb)).read_bytes())
    with open_scene("-") as scene:
        np.testing.assert_array_equal(scene.read(scene.window)[0], rgb)
        assert (scene.name, scene.stem) == ("stdin", "stdin")
        copy = pickle.loads(pickle.dumps(scene))
        np.testing.assert_array_equal(copy.read(WINDOW)[0], rgb[:, 7:20, 5:26])
        copy.close()
        assert len(list(spool.iterdir())) == 1
    assert list(spool.iterdir()) == []


@pytest.mark.parametrize(("data", "cause"), [(b"", "empty"), (b"some text", "not recognized")])
def test_stdin_without_a_raster_is_refused_and_leaves_nothing(monkeypatch, tmp_path, data, cause):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    feed_stdin(monkeypatch, data)
    message = message_of("-")
    assert message.startswith("stdin") and cause in message and str(tmp_path) not in message
    assert list(tmp_path.iterdir()) == []


def test_zip_on_gdals_file_system_is_read(write_scene, rgb, tmp_path):
    import zipfile

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(write_scene(rgb), "inner.tif")
    np.testing.assert_array_equal(read_all(f"/vsizip/{tmp_path}/a.zip/inner.tif")[0], rgb)


def test_letters_beyond_ascii_stay_as_they_are(write_scene, rgb):
    with open_scene(write_scene(rgb, "scène_øæöü.tif")) as scene:
        assert scene.stem == "scène_øæöü" and scene.name.endswith("scène_øæöü.tif")


@pytest.mark.parametrize(
    ("path", "stem"),
    [
        ("/data/a.b.tif", "a.b"),
        ("https://host/tiles/scene.tif?key=1", "scene"),
        ("s3://bucket/key/scene.tif", "scene"),
        ("NETCDF:/data/era5.nc:t2m", "era5_t2m"),
        ('HDF5:"/data/two subs.h5"://group/data', "two subs_group_data"),
        ("-", "stdin"),
    ],
)
def test_stem_names_results(path, stem):
    assert stem_of(path) == stem


# Threads, processes, folders


def test_many_threads_read_what_one_reads(write_scene):
    pixels = np.random.default_rng(0).integers(0, 255, (3, 256, 256), dtype=np.uint8)
    path = write_scene(pixels, tiled=True, blockxsize=64, blockysize=64, compress="deflate")
    windows = [
        Window(col_off=c, row_off=r, width=32, height=32)
        for r in range(0, 224, 16) for c in range(0, 224, 16)
    ]  # fmt: skip
    with open_scene(path) as scene, ThreadPoolExecutor(4) as pool:
        for window, (read, _) in zip(windows, pool.map(scene.read, windows), strict=True):
            np.testing.assert_array_equal(read, pixels[:, *window.slices])


def test_threads_have_handles_of_their_own_and_close_closes_all(write_scene, rgb):
    handles = []
    with open_scene(write_scene(rgb)) as scene:
        worker = threading.Thread(target=lambda: handles.append(scene.dataset()))
        worker.start()
        worker.join()
        handles.append(scene.dataset())
        assert handles[0] is not handles[1]
    assert all(handle.closed for handle in handles)
    with pytest.raises(ValueError, match="closed"):
        scene.read(WINDOW)


def _mean_in_worker(scene):
    return float(scene.read(scene.window)[0].mean())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_scene_travels_to_worker_processes(write_scene, rgb, method):
    with open_scene(write_scene(rgb), SceneOptions(bidx=(2,))) as scene:
        if method == "spawn":  # the pickle alone: a spawned interpreter cannot import this file
            copy = pickle.loads(pickle.dumps(scene))
            assert _mean_in_worker(copy) == rgb[1].mean() and copy.bidx == (2,)
            copy.close()
            return
        with multiprocessing.get_context("fork").Pool(1) as pool:
            assert pool.apply(_mean_in_worker, (scene,)) == rgb[1].mean()


def test_the_first_scene_that_is_opened_bounds_the_block_cache_and_no_object_does(
    write_scene, rgb, monkeypatch
):
    monkeypatch.setenv("GDAL_CACHEMAX", "set back afterwards")
    monkeypatch.delenv("GDAL_CACHEMAX")
    small, large = write_scene(rgb), write_scene(np.zeros((1, 4, 200_000), np.uint8), "large.tif")
    Scene(Source(small), SceneOptions()).close()
    assert "GDAL_CACHEMAX" not in os.environ
    for path, megabytes in ((large, "195"), (small, "195")):
        with open_scene(path):
            assert os.environ["GDAL_CACHEMAX"] == megabytes
    monkeypatch.setenv("GDAL_CACHEMAX", "7")
    with open_scene(large):
        assert os.environ["GDAL_CACHEMAX"] == "7"


def test_folder_of_the_scene_is_left_as_it_was(write_scene, rgb, tmp_path):
    path = write_scene(rgb, "picture.png", driver="PNG", transform=None, crs=None)
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    tmp_path.chmod(0o555)
    try:
        with open_scene(path) as scene:
            scene.read(scene.window)
            scene.read_overview(8)
    finally:
        tmp_path.chmod(0o755)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before


def test_scene_of_one_pixel_is_read(write_scene):
    pixels, valid = read_all(write_scene(np.array([[[115]]], np.uint8)))
    assert pixels.tolist() == [[[115]]] and valid.tolist() == [[True]]


def test_bil_raster_is_read_like_any_other(write_scene, rgb):
    path = write_scene(rgb, "raw.img", driver="ENVI", interleave="line")
    np.testing.assert_array_equal(read_all(path)[0], rgb)


def test_block_of_a_file_with_overviews_is_full_resolution(write_scene, rgb):
    path = write_scene(rgb)
    with rasterio.open(path, "r+") as dataset:
        dataset.build_overviews([2, 4])
    with open_scene(path) as scene, rasterio.open(path) as dataset:
        expected = dataset.read(window=RasterioWindow(5, 7, 21, 13))
        np.testing.assert_array_equal(scene.read(WINDOW)[0], expected)


VRT = """<VRTDataset rasterXSize="8" rasterYSize="6">{}<VRTRasterBand dataType="Byte" band="1">
<SimpleSource><SourceFilename>{}</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"""
NO_PROJECTION = (
    'PROJCS["n",GEOGCS["W",DATUM["W",SPHEROID["W",6378137,298.257]],PRIMEM["Greenwich",0],'
    'UNIT["degree",0.0174532925199433]],PROJECTION["No_Such_Projection"],UNIT["metre",1]]'
)


@pytest.mark.parametrize(
    "numbers",
    [
        "nan, nan, nan, nan, nan, nan",
        "458000, inf, 0, 5548000, 0, -1",
        "nan, 1, 0, 5548000, 0, -1",
        "458000, 1, 1, 5548000, 1, 1",
        "458000, 0, 0, 5548000, 0, -1",
        "458000, 1e300, 0, 5548000, 0, -1e300",
        "458000, 1e12, 0, 5548000, 0, -1e12",
        "458000, 1e-300, 0, 5548000, 0, -1e-300",
        "458000, 5e-308, 0, 5548000, 0, -0.5",
    ],
)
def test_a_transform_that_gives_pixels_no_place_is_refused(tmp_path, numbers):
    placed = f"<SRS>EPSG:32633</SRS><GeoTransform>{numbers}</GeoTransform>"
    (tmp_path / "odd.vrt").write_text(VRT.format(placed, "gone.tif"))
    with pytest.raises(SceneError, match=r"odd\.vrt: its transform \(.*no place.*-unsetgt"):
        open_scene(str(tmp_path / "odd.vrt"))


def test_a_crs_that_leads_nowhere_is_a_line(tmp_path):
    placed = f"<SRS>{NO_PROJECTION}</SRS><GeoTransform>0, 1, 0, 0, 0, -1</GeoTransform>"
    (tmp_path / "odd.vrt").write_text(VRT.format(placed, "gone.tif"))
    with pytest.raises(SceneError, match=r"odd\.vrt: cannot be understood as a raster \(.+\)"):
        open_scene(str(tmp_path / "odd.vrt"))


@pytest.mark.parametrize("places", [[(0, 0)], [(3, 3), (3, 3)], [(0, 0), (4, 4), (9, 9)]])
def test_ground_control_points_that_place_nothing_are_told_and_left_out(write_scene, rgb, places):
    points = [GroundControlPoint(r, c, 458_000 + c, 5_548_000 - r) for r, c in places]
    with open_scene(write_scene(rgb, transform=None, gcps=points)) as scene:
        assert scene.georeference.gcps == () and scene.georeference.gcps_crs_wkt is None
        assert any(f"points ({len(places)}) place nothing" in line for line in scene.warnings)


def test_a_name_that_is_no_text_is_a_line(write_scene, rgb, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/sc\xffne.tif")
    os.link(write_scene(rgb), path)
    with pytest.raises(SceneError, match="its name is not UTF-8"):
        open_scene(path)


@pytest.mark.parametrize("text", [VRT.format("", "g\xf6ne.tif"), VRT.replace("Byte", "B\xffte")])
def test_messages_of_gdal_that_are_no_text_are_a_line(tmp_path, text, monkeypatch):
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # as the program has it
    (tmp_path / "odd.vrt").write_bytes(text.encode("latin-1"))
    with pytest.raises(SceneError, match=r"odd\.vrt: .*not UTF-8"):
        describe(open_scene(str(tmp_path / "odd.vrt")))
