"""What pixels say that their file does not, on scenes made to say it."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from PIL import Image

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster import inspection
from lemevit_cli.raster.inspection import picture_warnings, value_warnings
from lemevit_cli.raster.scene import open_scene

TEN_METRES = Affine(10, 0, 458_000, 0, -10, 5_548_000)


def warnings_of(path, **options):
    with open_scene(path) as scene:
        return value_warnings(scene, **options)


def triangle(shape):
    rows, cols = np.indices(shape)
    return rows + cols < min(shape) // 2


@pytest.mark.parametrize(
    ("dtype", "value", "name"),
    [
        ("uint8", 0, "black"),
        ("uint8", 255, "white"),
        ("uint16", 0, "black"),
        ("float32", 0, "black"),
    ],
)
def test_a_border_without_nodata_is_told_with_the_option_that_mends_it(
    write_scene, rgb, dtype, value, name
):
    pixels = rgb.astype(dtype)
    border = triangle(pixels.shape[1:])
    pixels[:, border] = value
    (line,) = warnings_of(write_scene(pixels), option="--nodata-after")
    assert f"{border.mean():.1%} of the pixels are pure {name} ({value})" in line
    assert f"--nodata-after {value}" in line


def test_black_amid_the_scene_is_no_border(write_scene, rgb):
    rgb[:, 10:30, 10:30] = 0  # a shadow, a roof
    rgb[0, 0:4] = 0  # and a border of one band alone
    assert warnings_of(write_scene(rgb)) == ()


def test_a_border_winds_into_the_scene_in_one_piece(write_scene, rgb):
    spiral = np.zeros(rgb.shape[1:], bool)
    spiral[5, 0:60] = spiral[5:40, 59] = spiral[39, 5:60] = spiral[15:40, 5] = True
    spiral[20:22, 20:22] = True  # apart from it
    rgb[:, spiral] = 0
    (line,) = warnings_of(write_scene(rgb))
    assert f"{(spiral.sum() - 4) / spiral.size:.1%} of the pixels" in line


def test_stated_nodata_alpha_and_mask_are_believed(write_scene, rgb):
    border = triangle(rgb.shape[1:])
    rgb[:, border] = 0
    assert warnings_of(write_scene(rgb, nodata=0)) == ()
    assert warnings_of(write_scene(rgb, "m.tif", mask=np.where(border, 0, 255))) == ()


def test_a_huge_file_is_asked_in_its_corners(write_scene, rgb, monkeypatch):
    rgb[:, :20, :20] = 0
    monkeypatch.setattr(inspection, "_READ_WHOLE", 100)
    monkeypatch.setattr(inspection, "_SIDE", 10)
    (line,) = warnings_of(write_scene(rgb))
    assert "25.0% of the pixels of its corners are pure black" in line
    half = Window(col_off=32, row_off=0, width=32, height=48)
    assert warnings_of(write_scene(rgb), window=half) == ()


@pytest.mark.parametrize(
    ("dtype", "nodata", "what_becomes"),
    [
        ("float32", -9999, "left out"),
        ("float32", np.nan, "left out"),
        ("uint16", 65535, "left out"),
        ("uint16", 0, "read as ground"),
    ],
)
def test_gaps_of_one_band_are_counted(write_scene, rgb, dtype, nodata, what_becomes):
    pixels = rgb.astype(dtype)
    pixels[1, ::4] = nodata
    (line,) = warnings_of(write_scene(pixels, nodata=nodata))
    value = "NaN" if np.isnan(nodata) else f"{nodata}"
    assert f"25.0% of the pixels hold nodata ({value}) in some of their bands (2)" in line
    assert what_becomes in line


def test_a_colour_of_few_pixels_that_equals_nodata_is_no_gap(write_scene, rgb):
    rgb[1, 5, :6] = 0
    assert warnings_of(write_scene(rgb, nodata=0)) == ()


@pytest.mark.parametrize(("offset", "told"), [(1000, True), (0, False)])
def test_an_offset_of_sentinel_2_without_tags_is_told(write_scene, offset, told):
    pixels = np.random.default_rng(0).gamma(2, 500, (3, 48, 64)).astype(np.uint16) + 1 + offset
    pixels[:, :5] = 0
    lines = warnings_of(write_scene(pixels, transform=TEN_METRES, nodata=0))
    assert any("baseline 04.00" in line for line in lines) is told

    def setup(out):
        out.offsets = (-1000,) * 3

    assert not warnings_of(
        write_scene(pixels, "stated.tif", transform=TEN_METRES, nodata=0, setup=setup)
    )


def test_no_offset_is_sought_in_pixels_of_decimetres(write_scene):
    pixels = np.random.default_rng(0).integers(1100, 9000, (3, 48, 64)).astype(np.uint16)
    assert warnings_of(write_scene(pixels)) == ()


def test_of_many_pictures_the_first_of_each_kind_is_told(tmp_path):
    random = np.random.default_rng(0)
    paths = []
    for number in range(60):
        pixels = random.integers(1, 255, (32, 40, 3)).astype(np.uint8)
        if number >= 30:
            pixels[:, :20] = 0
        paths.append(str(tmp_path / f"{number:02}.png"))
        Image.fromarray(pixels).save(paths[-1])
    (line,) = picture_warnings(paths)
    assert line.startswith(f"{paths[30]}: 50.0% of the pixels are pure black (0)")
    assert line.endswith("(so in 12 of 24 that were looked at)")
    assert picture_warnings(paths[:30]) == () == picture_warnings([])
    assert "so in" not in picture_warnings(paths[-1:])[0]


@pytest.mark.parametrize(
    ("dtype", "value"), [("int16", -32768), ("float32", -9999), ("float32", 3.4028235e38)]
)
def test_a_value_far_beyond_the_others_is_told_with_its_band(write_scene, rgb, dtype, value):
    pixels = rgb.astype(dtype)
    pixels[1, :9] = value
    (line,) = warnings_of(write_scene(pixels), option="--nodata-before")
    share, stated = 9 / pixels.shape[1], float(line.split("--nodata-before ")[1].split()[0])
    assert f"{share:.1%} of the pixels hold {stated:.9g} in band 2, far beyond the others" in line
    assert np.dtype(dtype).type(stated) == pixels[1, 0, 0]
    others = np.delete(pixels[1], np.s_[:9], axis=0)
    assert f"({others.min():g} to {others.max():g})" in line
    assert not any("far beyond" in told for told in warnings_of(write_scene(rgb.astype(dtype))))
