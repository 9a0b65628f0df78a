"""Noise depends on position alone."""

import numpy as np

from lemevit_cli.simulation.texture import grid_noise, hash_unit, octaves, point_noise


def test_points_see_the_noise_of_the_grid():
    x, y = np.linspace(-40, 55, 31), np.linspace(-90, 12, 17)
    grid = grid_noise(x, y, wavelength=7.0, salt=5)
    east, south = np.meshgrid(x, y)
    np.testing.assert_allclose(point_noise(east, south, wavelength=7.0, salt=5), grid, atol=1e-6)
    assert grid.shape == (17, 31)
    assert 0 <= grid.min() < grid.max() < 1


def test_noise_meets_its_lattice_and_is_smooth_between():
    lattice = grid_noise(np.arange(8) * 3.0, np.arange(6) * 3.0, wavelength=3.0, salt=1)
    expected = hash_unit(np.arange(8)[None], np.arange(6)[:, None], 1)
    np.testing.assert_array_equal(lattice, expected)
    fine = grid_noise(np.arange(0, 24, 0.01), np.zeros(1), wavelength=3.0, salt=1)
    assert np.abs(np.diff(fine)).max() < 0.01


def test_hashes_are_spread_evenly_and_differ_by_salt():
    values = hash_unit(np.arange(-200, 200)[None], np.arange(-200, 200)[:, None], 3)
    counts, _ = np.histogram(values, bins=20, range=(0, 1))
    assert np.abs(counts / values.size - 0.05).max() < 0.003
    assert abs(np.corrcoef(values[:, 1:].ravel(), values[:, :-1].ravel())[0, 1]) < 0.01
    assert not np.array_equal(values, hash_unit(np.arange(-200, 200)[None],
                                                np.arange(-200, 200)[:, None], 4))  # fmt: skip


def test_octaves_that_a_pixel_cannot_resolve_are_left_out():
    x = y = np.arange(20.0)
    np.testing.assert_array_equal(octaves(x, y, wavelengths=(0.5,), gsd_m=1.0, salt=0), 0.5)
    assert octaves(x, y, wavelengths=(0.5, 8.0), gsd_m=1.0, salt=0).std() > 0.05
