import numpy as np
import pytest

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.mosaic import Mosaic
from lemevit_cli.inference.window_grid import WindowGrid


def collect(grid, area, predict, skip=lambda window: False):
    """Run windows through a mosaic; the rows put together by plain slicing."""
    mosaic = Mosaic(grid, area, num_classes=2)
    scores = np.full((2, area.height, area.width), np.nan, dtype=np.float32)
    valid = np.zeros((area.height, area.width), dtype=bool)
    tallest = 0

    def take(row):
        nonlocal tallest
        for rows in mosaic.rows_above(row):
            place = rows.window.relative_to(area).slices
            scores[:, *place] = rows.scores
            valid[place] = rows.valid
            tallest = max(tallest, rows.window.height)

    for window in grid.windows_over(area):
        if skip(window):
            continue
        take(window.row_off)
        mosaic.add(window, predict(window), np.ones((window.height, window.width), dtype=bool))
    take(area.bottom)
    return scores, valid, tallest


def constant(window):
    return np.tile(np.float32([[[0.3]], [[0.7]]]), (window.height, window.width))


def random(window):
    generator = np.random.default_rng(window.row_off * 10_007 + window.col_off)
    return generator.random((2, window.height, window.width), dtype=np.float32)


def whole(width, height):
    return Window(col_off=0, row_off=0, width=width, height=height)


@pytest.mark.parametrize("overlap", [0, 64, 128, 192])
@pytest.mark.parametrize("width", [1, 7, 255, 256, 257, 700])
@pytest.mark.parametrize("height", [1, 255, 257, 700])
def test_a_constant_model_gives_its_constant_in_every_pixel(width, height, overlap):
    grid = WindowGrid(width=width, height=height, size=256, overlap=overlap)
    scores, valid, _ = collect(grid, whole(width, height), constant)
    np.testing.assert_allclose(scores[0], 0.3, atol=1e-6)
    np.testing.assert_allclose(scores[1], 0.7, atol=1e-6)
    assert valid.all()


def test_blending_equals_the_weighted_mean_over_the_whole_scene():
    grid = WindowGrid(width=70, height=90, size=32, overlap=12)
    area = whole(70, 90)
    total = np.zeros((2, 90, 70))
    for window in grid.windows_over(area):
        weight = np.outer(grid.row_weights[window.row_off], grid.col_weights[window.col_off])
        total[:, *window.slices] += random(window) * weight
    scores, _, tallest = collect(grid, area, random)
    np.testing.assert_allclose(scores, total, atol=1e-6)
    assert tallest <= 32


@pytest.mark.parametrize(
    "block",
    [
        Window(col_off=0, row_off=0, width=33, height=90),
        Window(col_off=33, row_off=17, width=37, height=41),
        Window(col_off=69, row_off=89, width=1, height=1),
    ],
)
def test_a_block_has_the_same_pixels_as_the_whole(block):
    grid = WindowGrid(width=70, height=90, size=32, overlap=12)
    scores, _, _ = collect(grid, whole(70, 90), random)
    part, _, _ = collect(grid, block, random)
    np.testing.assert_array_equal(part, scores[:, *block.slices])


def test_windows_left_out_are_not_valid_and_leave_their_neighbours_whole():
    grid = WindowGrid(width=96, height=96, size=32, overlap=0)
    empty = Window(col_off=32, row_off=0, width=32, height=96)
    scores, valid, _ = collect(
        grid, whole(96, 96), constant, skip=lambda w: w.intersection(empty) is not None
    )
    assert not valid[empty.slices].any()
    assert valid.sum() == 96 * 64
    np.testing.assert_allclose(scores[1][valid], 0.7, atol=1e-6)


def test_a_window_above_the_band_is_refused():
    grid = WindowGrid(width=64, height=128, size=64, overlap=0)
    mosaic = Mosaic(grid, whole(64, 128), num_classes=2)
    list(mosaic.rows_above(64))
    above = Window(col_off=0, row_off=0, width=64, height=64)
    with pytest.raises(ValueError, match="does not fit the band at row 64"):
        mosaic.add(above, constant(above), np.ones((64, 64), dtype=bool))
