"""Blocks against masks of the whole scene, pixel by pixel."""

import numpy as np
import pytest

from lemevit_cli.training.datasets.blocks import block_grid, choose_held_back, extent_of


@pytest.mark.parametrize(("width", "height"), [(2048, 2048), (5000, 700), (300, 200), (7, 9)])
def test_blocks_cover_every_pixel_once(width, height):
    grid = block_grid(width, height, crop=256)
    covered = np.zeros((height, width), dtype=int)
    for row in range(grid.shape[0]):
        for col in range(grid.shape[1]):
            covered[grid.block(row, col).slices] += 1
    assert (covered == 1).all()


def test_blocks_are_two_crops_wide_and_less_in_a_small_scene():
    sides = {}
    for size in (8192, 2048, 600):
        block = block_grid(size, size, crop=256).block(0, 0)
        sides[size] = block.width
    assert sides[8192] == 512
    assert sides[2048] == 256
    assert 100 <= sides[600] <= 150


def counts_of(rows, cols, classes, seed):
    random = np.random.default_rng(seed)
    counts = random.integers(0, 5000, (rows * cols, classes)) * (
        random.random((rows * cols, classes)) < 0.5
    )
    return counts + 1, [divmod(i, cols) for i in range(rows * cols)]


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4])
def test_about_the_fraction_of_every_class_is_held_back(fraction):
    counts, places = counts_of(12, 10, 4, seed=1)
    held = choose_held_back(counts, places, fraction, seed=3)
    shares = counts[held].sum(axis=0) / counts.sum(axis=0)
    np.testing.assert_allclose(shares, fraction, atol=0.03)


def test_the_seed_draws_the_blocks():
    counts, places = counts_of(8, 8, 2, seed=0)
    first = choose_held_back(counts, places, 0.2, seed=1)
    np.testing.assert_array_equal(first, choose_held_back(counts, places, 0.2, seed=1))
    assert (first != choose_held_back(counts, places, 0.2, seed=2)).any()


def test_every_class_keeps_half_its_pixels_for_training():
    counts = np.full((40, 3), 100)
    counts[:, 2] = 0
    counts[17, 2], counts[5, 2] = 50, 10
    places = [divmod(i, 8) for i in range(40)]
    for seed in range(20):
        held = choose_held_back(counts, places, 0.3, seed=seed)
        assert held.any() and not held[17]
        assert (2 * counts[held].sum(axis=0) <= counts.sum(axis=0)).all()


def test_a_single_block_is_never_held_back():
    assert not choose_held_back(np.array([[9, 3]]), [(0, 0)], 0.9, seed=0).any()


def test_a_room_holds_its_block_and_no_validation_pixel():
    grid = block_grid(1000, 900, crop=64)
    random = np.random.default_rng(0)
    for share in (0.05, 0.3, 0.8):
        held_back = random.random(grid.shape) < share
        validation = np.zeros((900, 1000), dtype=bool)
        for row, col in np.argwhere(held_back):
            validation[grid.block(row, col).slices] = True
        for row, col in np.argwhere(~held_back):
            extent = extent_of(row, col, grid, held_back)
            assert extent.intersection(grid.block(row, col)) == grid.block(row, col)
            assert not validation[extent.slices].any()


def test_a_room_grows_to_all_sides():
    grid = block_grid(8192, 8192, crop=256)
    held_back = np.zeros(grid.shape, dtype=bool)
    extent = extent_of(8, 8, grid, held_back)
    assert (extent.col_off, extent.row_off, extent.right, extent.bottom) == (0, 0, 8192, 8192)
    held_back[8, 9] = True
    extent = extent_of(8, 8, grid, held_back)
    assert (extent.right, extent.width) == (9 * 512, 9 * 512)
