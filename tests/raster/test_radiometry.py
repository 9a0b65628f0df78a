"""Stretches against numpy's own percentiles, over whole scenes."""

from __future__ import annotations

import numpy as np
import pytest
from making.collector import Collector

from lemevit_cli.errors import LemevitError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.radiometry import Stretch, check_stretch, choose_stretch, tell_stretch
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import SceneOptions

CARD = {"dtype": "uint8", "value_range": (0.0, 255.0)}


@pytest.fixture
def uint16_pixels():
    pixels = np.random.default_rng(1).integers(100, 3000, (2, 48, 64)).astype(np.int16)
    pixels[1] += 500
    pixels[:, :10, :20] = -9999
    return pixels


def test_scene_of_the_cards_dtype_is_read_as_it_is(write_scene, rgb):
    with open_scene(write_scene(rgb)) as scene:
        assert choose_stretch(scene, spec="auto", **CARD) is None
        assert choose_stretch(scene, spec="0,100", **CARD) is not None


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("darker", [1, 8])
def test_numbers_of_the_weights_are_read_as_they_are_in_any_dtype(write_scene, rgb, dtype, darker):
    pixels = (rgb // darker).astype(dtype)
    pixels[:, 0] = -9999 if dtype != "uint16" else 65535
    with open_scene(write_scene(pixels, nodata=int(pixels[0, 0, 0]))) as scene:
        assert choose_stretch(scene, spec="auto", **CARD) is None


@pytest.mark.parametrize("scale", [1 / 255, 1 / 510, 8, 40])
def test_numbers_of_another_range_are_stretched(write_scene, rgb, scale):
    with open_scene(write_scene(rgb.astype(np.float32) * np.float32(scale))) as scene:
        assert choose_stretch(scene, spec="auto", **CARD) is not None


@pytest.mark.parametrize(("spread", "warned"), [(30, True), (1500, False)])
def test_the_noise_of_one_cover_is_not_stretched_in_silence(write_scene, spread, warned):
    noise = np.random.default_rng(0).normal(0, 1, (3, 48, 64)).clip(-2.5, 2.5)
    progress = Collector()
    with open_scene(write_scene((4000 + spread * noise).astype(np.uint16))) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
        tell_stretch(stretch, scene, spec="auto", dtype="uint8", progress=progress)
    assert len(progress.notes) == 1
    assert [("one cover" in line and "--stretch min=A,max=B" in line) for line in
            progress.warnings] == ([True] if warned else [])  # fmt: skip


def test_numbers_that_are_read_as_they_are_are_told(write_scene, rgb):
    progress = Collector()
    with open_scene(write_scene(rgb.astype(np.float32))) as scene:
        tell_stretch(None, scene, spec="auto", dtype="uint8", progress=progress)
    assert "are read as they are" in progress.notes[0] and not progress.warnings


def test_other_dtype_is_stretched_by_percentiles_of_valid_pixels(write_scene, uint16_pixels):
    with open_scene(write_scene(uint16_pixels, nodata=-9999)) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
    valid = uint16_pixels[:, uint16_pixels[0] != -9999]
    expected = np.percentile(valid, (2, 98), axis=1)
    np.testing.assert_allclose([stretch.low, stretch.high], expected)
    assert stretch.describe().endswith("to 0..255 (percentiles 2 and 98 of the scene)")


def test_nodata_of_a_band_alone_is_left_out_of_that_bands_percentiles(write_scene, uint16_pixels):
    uint16_pixels[0, :, 40:] = -9999

    def setup(out):
        out.scales, out.offsets = (0.5, 1), (10, 0)

    path = write_scene(uint16_pixels, nodata=-9999, setup=setup)
    with open_scene(path, SceneOptions(bidx=(2, 1, 2))) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
        _, valid = scene.read(scene.window)
    assert not valid[:, 40:].any()  # a pixel that lacks a band is none
    own = [band[band != -9999] for band in uint16_pixels]
    first, second = np.percentile(own[0] * 0.5 + 10, (2, 98)), np.percentile(own[1], (2, 98))
    np.testing.assert_allclose(
        [stretch.low, stretch.high], np.transpose([second, first, second]), rtol=1e-6
    )


def test_a_band_of_nothing_but_nodata_leaves_the_others_their_percentiles(
    write_scene, uint16_pixels
):
    uint16_pixels[0] = -9999
    with open_scene(write_scene(uint16_pixels, nodata=-9999)) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
    own = uint16_pixels[1][uint16_pixels[1] != -9999]
    assert (stretch.low[0], stretch.high[0]) == (0, 255)
    assert [stretch.low[1], stretch.high[1]] == pytest.approx(np.percentile(own, (2, 98)))


def test_nan_and_infinite_values_are_left_out_of_the_percentiles(write_scene, uint16_pixels):
    floats = uint16_pixels.astype(np.float32)
    floats[0, 20, :], floats[1, 30, :5], floats[1, 30, 5:] = np.nan, np.inf, -np.inf
    with open_scene(write_scene(floats, nodata=-9999)) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
    valid = floats[:, np.isfinite(floats).all(axis=0) & (uint16_pixels[0] != -9999)]
    np.testing.assert_allclose(
        [stretch.low, stretch.high], np.percentile(valid.astype(np.float64), (2, 98), axis=1)
    )


def test_given_limits_hold_for_every_band(write_scene, uint16_pixels):
    with open_scene(write_scene(uint16_pixels)) as scene:
        stretch = choose_stretch(scene, spec="min=0,max=3e3", **CARD)
    assert (stretch.low, stretch.high) == ((0.0, 0.0), (3000.0, 3000.0))
    out = stretch.apply(np.array([[[-50, 0, 1500, 3000, 9000]]] * 2, np.int16))
    np.testing.assert_allclose(out[0, 0], [0, 0, 127.5, 255, 255])
    assert out.dtype == np.float32


def test_none_passes_values_of_any_dtype(write_scene, uint16_pixels):
    with open_scene(write_scene(uint16_pixels.astype(np.float32))) as scene:
        assert choose_stretch(scene, spec="none", **CARD) is None


def test_constant_band_becomes_the_middle_of_the_range(write_scene):
    with open_scene(write_scene(np.full((1, 8, 8), 700, np.uint16))) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
    np.testing.assert_array_equal(stretch.apply(np.full((1, 2, 2), 700, np.uint16)), 127.5)


def test_scene_without_a_valid_pixel_gets_a_stretch_that_does_no_harm(write_scene):
    with open_scene(write_scene(np.full((1, 8, 8), np.nan, np.float32))) as scene:
        stretch = choose_stretch(scene, spec="auto", **CARD)
    assert "no valid pixel" in stretch.describe()
    assert np.isfinite([*stretch.low, *stretch.high]).all()


def test_speck_of_data_that_the_overview_misses_is_still_measured(write_scene):
    pixels = np.zeros((1, 2100, 8), np.uint16)
    pixels[:, 1000, 3] = 500
    with open_scene(write_scene(pixels, nodata=0)) as scene:
        assert not scene.read_overview(1024)[1].any()
        stretch = choose_stretch(scene, spec="auto", **CARD)
    assert stretch.low == (500.0,)


@pytest.mark.parametrize("dtype", ["uint16", "int64", "uint64", "float32", "float64"])
def test_wide_numbers_lose_no_contrast(dtype):
    base = 60_000 if dtype == "uint16" else 10_000_000
    pixels = (base + np.arange(5)).astype(dtype).reshape(1, 1, 5)
    out = Stretch((base,), (base + 4,), (0.0, 4.0)).apply(pixels)
    np.testing.assert_allclose(out[0, 0], [0, 1, 2, 3, 4])


@pytest.mark.parametrize(
    "spec", ["", "2", "98,2", "-1,98", "2,101", "min=3,max=3", "min=0", "2;98", "nan,98", "auto,2"]
)
def test_malformed_stretch_is_refused_in_one_line(spec):
    with pytest.raises(LemevitError, match="--stretch") as caught:
        check_stretch(spec)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("spec", ["auto", "none", "2,98", "0.5, 99.5", "min=-1e3,max=3000"])
def test_every_form_of_the_manual_is_understood(spec):
    assert check_stretch(spec) is None


def test_percentiles_may_be_of_a_part_alone(write_scene):
    values = np.zeros((1, 48, 64), np.uint16)
    values[:, :, 32:] = np.random.default_rng(2).integers(1000, 3000, (48, 32))
    right = Window(col_off=32, row_off=0, width=32, height=48)
    with open_scene(write_scene(values)) as scene:
        stretch = choose_stretch(
            scene, spec="auto", dtype="uint8", value_range=(0.0, 255.0), window=right
        )
    assert stretch.low == pytest.approx(np.percentile(values[:, :, 32:], 2))
    assert stretch.high == pytest.approx(np.percentile(values[:, :, 32:], 98))
