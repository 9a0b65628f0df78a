import numpy as np
import pytest
import torch

from lemevit_cli.geometry.triangle_filter import triangle_filter


@pytest.mark.parametrize(("source", "target"), [(7, 7), (10, 3), (3, 10), (1, 5), (5, 1), (97, 31)])
def test_weights_are_those_of_torch(source, target):
    taps = triangle_filter(0, target, source=source, target=target)
    matrix = np.zeros((target, source))
    for row in range(target):
        np.add.at(matrix[row], taps.taps[row] + taps.start, taps.weights[row])
    unit = torch.eye(source, dtype=torch.float64)[:, None, None]  # one picture a source pixel
    expected = torch.nn.functional.interpolate(
        unit, size=(1, target), mode="bilinear", antialias=True
    )
    np.testing.assert_allclose(matrix, expected[:, 0, 0].T.numpy(), atol=1e-5)


def test_a_range_has_the_rows_of_the_whole():
    whole = triangle_filter(0, 50, source=123, target=50)
    part = triangle_filter(17, 23, source=123, target=50)
    assert part.first == 17 and part.start > 0
    np.testing.assert_array_equal(part.weights, whole.weights[17:23])
    used = part.weights > 0
    np.testing.assert_array_equal(
        (part.taps + part.start)[used], (whole.taps + whole.start)[17:23][used]
    )
