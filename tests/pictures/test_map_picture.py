import numpy as np
import pytest
from PIL import Image

from lemevit_cli.legend import classes_from_names
from lemevit_cli.pictures.map_picture import TITLE_HEIGHT, ScaleBar, round_scale_bar, write_map

GREY = (120, 130, 140)


def draw(tmp_path, shape=(600, 800), *, legend=(), scale_bar=None, north=None, rgb=None):
    if rgb is None:
        rgb = np.full((*shape, 3), GREY, np.uint8)
    target = tmp_path / "map.png"
    write_map(target, rgb, title="a map", legend=legend, scale_bar=scale_bar, north=north)
    return np.asarray(Image.open(target).convert("RGB"))


def test_every_pixel_is_shown_as_it_is(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (601, 803, 3), dtype=np.uint8)
    picture = draw(tmp_path, rgb=rgb, legend=classes_from_names(["land", "water"]))
    np.testing.assert_array_equal(picture[TITLE_HEIGHT : TITLE_HEIGHT + 601], rgb)
    assert (66, 135, 245) in {tuple(c) for c in picture[-36:].reshape(-1, 3).tolist()}


@pytest.mark.parametrize("name", ["a$_$b", "$x_1_2$"])
def test_names_are_no_mathematics(tmp_path, name):
    plain = draw(tmp_path, legend=classes_from_names(["land"]))
    named = draw(tmp_path, legend=classes_from_names([name]))
    assert (plain != named).any() and plain.shape == named.shape


def test_a_small_map_is_enlarged_by_whole_pixels(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    picture = draw(tmp_path, rgb=rgb)
    assert picture.shape == (320 + TITLE_HEIGHT, 480, 3)
    np.testing.assert_array_equal(picture[TITLE_HEIGHT:], rgb.repeat(8, 0).repeat(8, 1))


@pytest.mark.parametrize(
    ("metres_per_pixel", "metres", "label"),
    [
        (0.5, 100, "100 m"),
        (0.05, 10, "10 m"),
        (13.0, 2000, "2 km"),
        (2.5, 500, "500 m"),
        (5.0, 1000, "1 km"),
        (0.001, 0.2, "20 cm"),
    ],
)
def test_the_bar_has_a_round_length_and_at_most_the_room_given(metres_per_pixel, metres, label):
    bar = round_scale_bar(metres_per_pixel, most_px=200)
    assert bar.label == label
    assert bar.length_px == pytest.approx(metres / metres_per_pixel) and bar.length_px <= 200.1


def test_the_bar_is_as_long_as_it_says(tmp_path):
    picture = draw(tmp_path, scale_bar=ScaleBar(173.0, "100 m"))
    row = picture[TITLE_HEIGHT + 600 - 18]
    assert abs((row == 0).all(axis=1).sum() - 173) <= 1


@pytest.mark.parametrize("degrees", [0, 45, 90, 180, 250])
def test_the_arrow_points_to_the_north(tmp_path, degrees):
    angle = np.radians(degrees)
    north = (float(np.sin(angle)), float(-np.cos(angle)))
    picture = draw(tmp_path, north=north)
    rows, cols = np.nonzero((picture[TITLE_HEIGHT:] == 0).all(axis=2))
    # The head and the letter weigh more than the tail.
    ahead = (cols.mean() - (800 - 42), rows.mean() - 42)
    assert np.dot(ahead, north) > 0.9 * np.hypot(*ahead) > 2


def test_nothing_is_drawn_without_a_place(tmp_path):
    assert (draw(tmp_path)[TITLE_HEIGHT:] == GREY).all()
