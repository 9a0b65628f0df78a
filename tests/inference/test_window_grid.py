import numpy as np
import pytest

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.window_grid import WindowGrid, window_offsets

LENGTHS = [1, 7, 255, 256, 257, 700]
OVERLAPS = [0, 1, 64, 128, 192]


@pytest.mark.parametrize("overlap", OVERLAPS)
@pytest.mark.parametrize("length", LENGTHS)
def test_every_pixel_is_covered_and_no_window_leaves_the_scene(length, overlap):
    covered = np.zeros(length, dtype=int)
    for offset in window_offsets(length, size=256, overlap=overlap):
        assert 0 <= offset <= max(length - 256, 0)
        covered[offset : offset + 256] += 1
    assert covered.min() >= 1


def test_last_window_ends_on_the_scene_edge():
    assert window_offsets(700, size=256, overlap=64) == (0, 192, 384, 444)


def test_a_length_that_fits_exactly_has_no_shifted_window():
    assert window_offsets(448, size=256, overlap=64) == (0, 192)


@pytest.mark.parametrize("overlap", [-1, 256, 300])
def test_an_impossible_overlap_is_refused_with_its_value(overlap):
    with pytest.raises(ValueError, match=str(overlap)):
        window_offsets(700, size=256, overlap=overlap)


def test_windows_over_an_area_are_those_of_the_whole_that_touch_it():
    grid = WindowGrid(width=300, height=200, size=64, overlap=16)
    whole = list(grid.windows_over(Window(col_off=0, row_off=0, width=300, height=200)))
    area = Window(col_off=70, row_off=33, width=101, height=50)
    expected = [w for w in whole if w.intersection(area)]
    assert list(grid.windows_over(area)) == expected
    assert grid.count_over(area) == len(expected)


def test_windows_come_row_by_row():
    grid = WindowGrid(width=130, height=130, size=64, overlap=0)
    area = Window(col_off=0, row_off=0, width=130, height=130)
    order = [(w.row_off, w.col_off) for w in grid.windows_over(area)]
    assert order == sorted(order)


def test_a_scene_smaller_than_a_window_has_one_window_of_its_own_size():
    grid = WindowGrid(width=7, height=1, size=256, overlap=64)
    area = Window(col_off=0, row_off=0, width=7, height=1)
    assert list(grid.windows_over(area)) == [area]
