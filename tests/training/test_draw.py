import numpy as np
import pytest
import torch

from lemevit_cli.geometry.window import Window
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Cells
from lemevit_cli.training.draw import aims_of, draw_frame_around_pixel


@pytest.fixture
def source(make_folder):
    return open_folder(make_folder(), "train")


def aims_in(source, cells=None, balance=0.5):
    return aims_of(source, cells or source.count_classes(), balance=balance)


def test_a_cell_without_the_class_that_it_was_counted_with_is_aimed_at_in_its_middle(source):
    counts = np.array([[0, 1]])
    cells = Cells(places=np.array([[0, 0, 32, 16, 16]]), counts=counts)  # has no building
    aims = aims_in(source, cells)
    site = source.sites[0]
    cell = Window(col_off=0, row_off=32, width=16, height=16)
    assert not (source.read_ids(site, cell) == 1).any()
    found = [
        draw_frame_around_pixel(aims, 1, 1, torch.Generator().manual_seed(3)) for _ in range(2)
    ]
    assert found[0] == found[1]
    _, frame = found[0]
    assert frame.side == 1
    assert frame.window == Window(col_off=8, row_off=40, width=1, height=1)


def test_balance_draws_rare_classes_more_often(source):
    cells = Cells(
        places=np.array([[0, 40, 0, 24, 48], [1, 16, 8, 24, 16]]),
        counts=np.array([[990, 0], [0, 10]]),
    )
    share = {}
    for balance in (0.0, 1.0):
        aims = aims_in(source, cells, balance)
        generator = torch.Generator().manual_seed(0)
        sites = [draw_frame_around_pixel(aims, 16, 16, generator)[0] for _ in range(500)]
        share[balance] = sites.count(source.sites[1]) / 500
    assert share[0.0] < 0.04
    assert 0.4 < share[1.0] < 0.6


def test_a_cell_counts_once_where_cells_are_drawn_evenly(source):
    cells = Cells(
        places=np.array([[0, 0, 0, 24, 24], [1, 0, 0, 24, 24]]), counts=np.array([[99, 0], [1, 1]])
    )
    aims = aims_of(source, cells, balance=0.0, evenly=True)
    np.testing.assert_allclose(aims.class_shares, [2 / 3, 1])
    np.testing.assert_array_equal(aims.cell_counts, [[1, 2], [0, 1]])


def test_windows_lie_inside_the_picture_as_far_as_it_goes(source):
    generator = torch.Generator().manual_seed(0)
    for side in (20, 48, 64, 100):
        site, frame = draw_frame_around_pixel(aims_in(source), side, 32, generator)
        window = frame.window.intersection(site.extent)
        assert max(window.width, window.height) <= frame.side <= max(48, 32)
        assert (window.col_off, window.row_off) == (frame.window.col_off, frame.window.row_off)
        assert window.col_off >= 0 and window.right <= 64
        assert window.row_off >= 0 and window.bottom <= 48
