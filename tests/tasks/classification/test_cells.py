from itertools import product

import numpy as np
import pytest

from lemevit_cli.geometry.window import Window
from lemevit_cli.tasks.classification.cells import CellGrid


def is_inside(inner, outer):
    return outer.intersection(inner) == inner


@pytest.mark.parametrize(
    "sides",
    [(100, 70, 32, 16), (100, 70, 32, 32), (101, 64, 33, 8), (20, 90, 32, 16), (5, 5, 8, 3)],
)
def test_cells_cover_every_pixel_once_amid_windows_that_stay_inside(sides):
    width, height, size, stride = sides
    grid = CellGrid(width=width, height=height, size=size, stride=stride)
    whole = Window(col_off=0, row_off=0, width=width, height=height)
    covered = np.zeros((height, width), int)
    for col, row in product(range(grid.whole.width), range(grid.whole.height)):
        core, window = grid.core(col, row), grid.window(col, row)
        covered[core.slices] += 1
        assert is_inside(core, window) and is_inside(window, whole)
        assert (window.width, window.height) == (min(size, width), min(size, height))
    assert (covered == 1).all()
    assert grid.count_windows(grid.whole) == len(
        {grid.window(*cell) for cell in product(range(grid.whole.width), range(grid.whole.height))}
    )


def test_shares_of_cells_add_up_to_the_area():
    grid = CellGrid(width=100, height=70, size=32, stride=16)
    whole = Window(col_off=0, row_off=0, width=100, height=70)
    part = Window(col_off=5, row_off=20, width=50, height=31)
    for area in (whole, part):
        cells = grid.cells_over(area)
        shares = grid.shares_within(area, cells)
        assert shares.shape == (cells.height, cells.width) and 0 < shares.min() <= shares.max() == 1
        assert shares.sum() * 16**2 == pytest.approx(area.width * area.height)


def test_a_window_reaches_as_far_to_all_sides_of_its_cell():
    grid = CellGrid(width=200, height=200, size=40, stride=20)
    core, window = grid.core(4, 5), grid.window(4, 5)
    assert (core.col_off - window.col_off, window.right - core.right) == (10, 10)
    assert (core.row_off - window.row_off, window.bottom - core.bottom) == (10, 10)


def test_cells_over_an_area_are_those_that_share_a_pixel_with_it():
    grid = CellGrid(width=200, height=200, size=40, stride=20)
    area = Window(col_off=19, row_off=40, width=2, height=20)
    assert grid.cells_over(area) == Window(col_off=0, row_off=2, width=2, height=1)
