"""The model's grid against torch's antialiased interpolation of whole scenes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster import view as view_module
from lemevit_cli.raster.radiometry import Stretch
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.view import SceneView

FILL = (100.0, 101.0, 102.0)


def whole(view):
    return view.read(Window(col_off=0, row_off=0, width=view.width, height=view.height))


def resized_by_torch(pixels, shape):
    batch = torch.from_numpy(pixels.astype(np.float64))[None]  # in float32, torch misses by 1e-3
    return F.interpolate(batch, size=shape, mode="bilinear", antialias=True)[0].numpy()


def test_native_grid_gives_the_scenes_own_pixels(write_scene, rgb):
    with open_scene(write_scene(rgb)) as scene:
        pixels, valid = whole(SceneView(scene, fill=FILL))
    assert pixels.dtype == np.uint8 and valid.all()
    np.testing.assert_array_equal(pixels, rgb)


@pytest.mark.parametrize("dtype", ["int16", "uint16", "float32", "float64"])
def test_dtypes_beyond_uint8_come_as_float32(write_scene, rgb, dtype):
    with open_scene(write_scene(rgb.astype(dtype))) as scene:
        pixels, _ = whole(SceneView(scene, fill=FILL))
    assert pixels.dtype == np.float32
    np.testing.assert_array_equal(pixels, rgb)


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_nodata_pixels_hold_the_fill_and_never_their_number(write_scene, scale):
    pixels = np.full((3, 48, 64), 50, np.int16)
    pixels[:, :20, :30] = -9999
    with open_scene(write_scene(pixels, nodata=-9999)) as scene:
        read, valid = whole(SceneView(scene, scale=scale, fill=FILL))
    rows, cols = round(20 * scale), round(30 * scale)
    assert not valid[:rows, :cols].any() and valid.sum() == valid.size - rows * cols
    np.testing.assert_array_equal(read[:, 0, 0], FILL)
    np.testing.assert_allclose(read[:, valid], 50, rtol=1e-6)


@pytest.mark.parametrize("scale", [0.9, 0.5, 0.37, 0.2, 0.05, 0.01, 1.5, 3.0])
def test_resampled_scene_equals_torchs_antialiased_interpolation(write_scene, rgb, scale):
    with open_scene(write_scene(rgb)) as scene:
        view = SceneView(scene, scale=scale, fill=FILL)
        pixels, valid = whole(view)
    assert (view.height, view.width) == (max(1, round(48 * scale)), max(1, round(64 * scale)))
    np.testing.assert_allclose(pixels, resized_by_torch(rgb, (view.height, view.width)), atol=2e-4)
    assert valid.all()


@pytest.mark.parametrize("scale", [0.7, 0.23, 1.7])
def test_windows_agree_bit_for_bit_with_the_whole(write_scene, rgb, scale, monkeypatch):
    rgb[:, 10:20, 30:50] = 0
    with open_scene(write_scene(rgb, nodata=0)) as scene:
        view = SceneView(scene, scale=scale, fill=FILL)
        pixels, valid = whole(view)
        monkeypatch.setattr(view_module, "_PIXELS_AT_ONCE", 500)  # many groups of rows
        for row_off in range(0, view.height - 5, 3):
            for col_off in range(0, view.width - 7, 4):
                window = Window(col_off=col_off, row_off=row_off, width=7, height=5)
                part, part_valid = view.read(window)
                np.testing.assert_array_equal(part, pixels[:, *window.slices])
                np.testing.assert_array_equal(part_valid, valid[window.slices])


@pytest.mark.parametrize("scale", [0.5, 0.3, 2.0])
def test_partly_nodata_surroundings_weigh_valid_pixels_alone(write_scene, rgb, scale):
    is_nodata = np.random.default_rng(2).random((48, 64)) < 0.3
    rgb[:, is_nodata] = 0
    with open_scene(write_scene(rgb, nodata=0)) as scene:
        view = SceneView(scene, scale=scale, fill=FILL)
        pixels, valid = whole(view)
    shape = (view.height, view.width)
    weight = resized_by_torch((~is_nodata)[None], shape)
    expected = resized_by_torch(rgb, shape) / np.maximum(weight, 1e-9)
    np.testing.assert_allclose(pixels[:, valid], expected[:, valid], atol=2e-3)


@pytest.mark.parametrize("scale", [0.5, 0.3, 2.0])
def test_masks_say_where_the_scenes_own_pixels_under_a_window_are_valid(
    write_scene, rgb, scale, monkeypatch
):
    rgb[:, np.random.default_rng(2).random((48, 64)) < 0.3] = 0
    rgb[:, 20:, 30:] = 0
    monkeypatch.setattr(view_module, "_PIXELS_AT_ONCE", 500)  # many groups of rows
    with open_scene(write_scene(rgb, nodata=0)) as scene:
        view = SceneView(scene, scale=scale, fill=FILL)
        window = Window(col_off=3, row_off=2, width=view.width - 8, height=view.height - 6)
        *read, masks = view.read_with_masks(window)
        np.testing.assert_equal(read, list(view.read(window)))
        covered = np.zeros((48, 64), bool)
        for mask in masks:
            place = mask.window.slices
            np.testing.assert_array_equal(mask.part(mask.window), rgb[0][place] > 0)
            covered[place] = True
        *_, none = SceneView(scene, fill=FILL).read_with_masks(scene.window)
    top, left = int(2 / scale), int(3 / scale)
    assert covered[top : round(window.bottom / scale), left : round(window.right / scale)].all()
    assert none == ()


@pytest.mark.parametrize("scale", [0.5, 0.3, 2.0])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_number_that_is_not_finite_weighs_as_little_as_a_declared_nodata(
    write_scene, rgb, scale, value
):
    declared, found = rgb.astype(np.float32), rgb.astype(np.float32)
    is_nodata = np.random.default_rng(2).random((48, 64)) < 0.05
    declared[:, is_nodata], found[1, is_nodata] = -9999, value
    views = []
    for pixels, nodata in ((declared, -9999), (found, None)):
        with open_scene(write_scene(pixels, nodata=nodata)) as scene:
            views.append(whole(SceneView(scene, scale=scale, fill=FILL)))
    np.testing.assert_equal(views[1], views[0])


def test_model_pixel_is_valid_if_any_scene_pixel_under_it_is(write_scene):
    pixels = np.zeros((1, 48, 64), np.uint8)
    pixels[0, 13, 22] = 9
    with open_scene(write_scene(pixels, nodata=0)) as scene:
        _, valid = whole(SceneView(scene, scale=0.25, fill=(0.0,)))
    np.testing.assert_array_equal(np.argwhere(valid), [[3, 5]])


def test_constant_scene_stays_constant_at_any_scale(write_scene):
    with open_scene(write_scene(np.full((1, 48, 64), 77, np.uint8))) as scene:
        for scale in (0.11, 0.5, 1.0, 1.3, 4.0):
            pixels, _ = whole(SceneView(scene, scale=scale, fill=(0.0,)))
            np.testing.assert_allclose(pixels, 77, rtol=1e-6)


def test_stretch_comes_before_the_fill(write_scene):
    pixels = np.full((1, 8, 8), 2000, np.int16)
    pixels[0, 0, 0] = -9999
    stretch = Stretch((0.0,), (4000.0,), (0.0, 255.0))
    with open_scene(write_scene(pixels, nodata=-9999)) as scene:
        read, valid = whole(SceneView(scene, stretch=stretch, fill=(33.0,)))
    assert read.dtype == np.float32 and not valid[0, 0]
    assert read[0, 0, 0] == 33 and read[0, 1, 1] == 127.5


def test_scene_of_one_pixel_has_a_grid_of_one(write_scene):
    with open_scene(write_scene(np.array([[[115]]], np.uint8))) as scene:
        view = SceneView(scene, scale=0.1, fill=(0.0,))
        assert (view.width, view.height) == (1, 1)
        assert whole(view)[0].tolist() == [[[115]]]


def test_misuse_is_named(write_scene, rgb):
    with open_scene(write_scene(rgb)) as scene:
        with pytest.raises(ValueError, match="scale"):
            SceneView(scene, scale=0, fill=FILL)
        with pytest.raises(ValueError, match="fill"):
            SceneView(scene, fill=(0.0,))
        with pytest.raises(ValueError, match="leaves"):
            SceneView(scene, fill=FILL).read(Window(col_off=60, row_off=0, width=5, height=5))
