import numpy as np
import pytest

from lemevit_cli.inference.blend import axis_weights
from lemevit_cli.inference.window_grid import window_offsets


@pytest.mark.parametrize("overlap", [0, 1, 64, 128, 192])
@pytest.mark.parametrize("length", [1, 7, 255, 256, 257, 700])
def test_weights_sum_to_one_in_every_pixel(length, overlap):
    offsets = window_offsets(length, size=256, overlap=overlap)
    total = np.zeros(length)
    for offset, weight in axis_weights(offsets, length=length, size=256).items():
        assert (weight > 0).all()
        total[offset : offset + len(weight)] += weight
    np.testing.assert_allclose(total, 1.0, atol=1e-6)


def test_nothing_tapers_at_the_edge_of_the_scene():
    weights = axis_weights((0, 192), length=448, size=256)
    np.testing.assert_array_equal(weights[0][:192], 1.0)
    np.testing.assert_array_equal(weights[192][64:], 1.0)


def test_a_window_fades_linearly_into_its_neighbour():
    weights = axis_weights((0, 192), length=448, size=256)
    ramp = (np.arange(64) + 0.5) / 64
    np.testing.assert_allclose(weights[192][:64], ramp, atol=1e-6)
    np.testing.assert_allclose(weights[0][192:], ramp[::-1], atol=1e-6)
