"""Rectangles of pixels against numpy's own slicing."""

from __future__ import annotations

import numpy as np
import pytest

from lemevit_cli.geometry.window import Window

WINDOW = Window(col_off=3, row_off=5, width=7, height=4)


def test_slices_cut_the_window_out_of_its_frame():
    rows, cols = np.mgrid[:20, :30]
    assert rows[WINDOW.slices].min() == 5 and rows[WINDOW.slices].max() == WINDOW.bottom - 1
    assert cols[WINDOW.slices].min() == 3 and cols[WINDOW.slices].max() == WINDOW.right - 1


@pytest.mark.parametrize("cols", range(-8, 9, 2))
@pytest.mark.parametrize("rows", range(-5, 6))
def test_intersection_has_the_pixels_in_both(cols, rows):
    other = WINDOW.shift(cols=cols, rows=rows)
    counts = np.zeros((20, 30), int)
    for window in (WINDOW.shift(cols=8, rows=6), other.shift(cols=8, rows=6)):
        counts[window.slices] += 1
    common = WINDOW.intersection(other)
    assert (common is None) == (counts.max() < 2)
    if common is not None:
        inside = np.zeros((20, 30), bool)
        inside[common.shift(cols=8, rows=6).slices] = True
        np.testing.assert_array_equal(inside, counts == 2)


def test_relative_window_is_counted_from_the_frames_corner():
    frame = Window(col_off=2, row_off=1, width=20, height=20)
    assert WINDOW.relative_to(frame) == Window(col_off=1, row_off=4, width=7, height=4)


@pytest.mark.parametrize("size", [(0, 4), (4, 0), (-1, 2)])
def test_window_without_a_pixel_is_refused(size):
    with pytest.raises(ValueError, match="at least one pixel"):
        Window(col_off=0, row_off=0, width=size[0], height=size[1])
