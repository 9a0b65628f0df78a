import numpy as np
import pytest
import shapely
from affine import Affine
from making.sources import sources_of

from lemevit_cli.errors import DataError
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.draw import WindowDraw
from lemevit_cli.training.options import AugmentationOptions, LabelledScene, TrainingOptions
from lemevit_cli.training.statistics import statistics_of

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


@pytest.fixture
def draw_from(write_raster, write_polygons, on_map):
    """Return windows drawn from a scene of these pixels, the right half of which is a class."""

    def make(pixels, **profile):
        height, width = pixels.shape[1:]
        scene = write_raster(pixels, transform=NORTH_UP, **profile)
        labels = write_polygons(on_map([shapely.box(width / 2, 0, width, height)], NORTH_UP))
        source = open_labelled_scene(
            LabelledScene(scene=scene, labels=labels, split="train"),
            Division(crop=32, val_fraction=None),
        ).training
        options = TrainingOptions(crop=32, augmentation=AugmentationOptions.none(), balance=1.0)
        return WindowDraw(sources_of(source), options)

    return make


def test_four_bands_of_16_bits_are_measured(draw_from):
    random = np.random.default_rng(0)
    levels = np.array([500, 1000, 4000, 9000])[:, None, None]
    pixels = random.normal(levels, levels / 10, (4, 96, 128)).astype(np.uint16)
    found = statistics_of(draw_from(pixels), bands=4, dtype="uint16")
    np.testing.assert_allclose(found.mean, levels[:, 0, 0], rtol=0.01)
    np.testing.assert_allclose(found.std, levels[:, 0, 0] / 10, rtol=0.05)
    assert 300 < found.value_range[0] < 500 and 9000 < found.value_range[1] < 13000


def test_nodata_and_nan_pixels_do_not_count(draw_from):
    pixels = np.random.default_rng(0).normal(0.3, 0.1, (2, 96, 128)).astype(np.float32)
    pixels[:, :40] = np.nan
    found = statistics_of(draw_from(pixels), bands=2, dtype="float32")
    np.testing.assert_allclose(found.mean, 0.3, atol=0.01)
    np.testing.assert_allclose(found.std, 0.1, atol=0.01)
    assert np.isfinite([*found.mean, *found.std, *found.value_range]).all()


def test_nodata_of_a_single_band_does_not_count_in_it(draw_from):
    pixels = np.random.default_rng(0).normal(3000, 300, (2, 96, 128)).astype(np.int16)
    pixels[1, ::2] = -9999

    def setup(scene):
        scene.scales, scene.offsets = (0.001, 0.001), (-1.0, -1.0)

    for profile, mean, std in (({}, 3000, 300), ({"setup": setup}, 2.0, 0.3)):
        found = statistics_of(draw_from(pixels, nodata=-9999, **profile), bands=2, dtype="int16")
        np.testing.assert_allclose(found.mean, mean, rtol=0.01)
        np.testing.assert_allclose(found.std, std, rtol=0.05)
        assert mean - 5 * std < found.value_range[0] < found.value_range[1] < mean + 5 * std


def test_a_band_without_a_valid_value_is_refused(draw_from):
    pixels = np.random.default_rng(0).normal(3000, 300, (2, 96, 128)).astype(np.int16)
    pixels[1] = 0  # a colour of a band alone: the pixel is valid
    with pytest.raises(DataError, match="none that is valid"):
        statistics_of(draw_from(pixels, nodata=0), bands=2, dtype="int16")


def test_windows_weigh_as_in_training(draw_from):
    pixels = np.zeros((1, 96, 128), dtype=np.uint16)
    pixels[..., 64:] = 1000
    found = statistics_of(draw_from(pixels), bands=1, dtype="uint16")
    assert 400 < found.mean[0] < 600


def test_8_bit_rgb_keeps_the_customary_numbers(draw_from):
    pixels = np.random.default_rng(0).integers(0, 9, (3, 96, 128)).astype(np.uint8)
    found = statistics_of(draw_from(pixels), bands=3, dtype="uint8")
    assert found.mean == (123.675, 116.28, 103.53)
    assert found.value_range == (0.0, 255.0)


def test_an_empty_scene_is_refused(draw_from):
    with pytest.raises(DataError, match="a single value"):
        statistics_of(draw_from(np.full((1, 96, 128), 7, np.uint16)), bands=1, dtype="uint16")
