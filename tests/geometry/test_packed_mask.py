import numpy as np
import pytest

from lemevit_cli.geometry.packed_mask import PackedMask
from lemevit_cli.geometry.window import Window

PLACE = Window(col_off=100, row_off=40, width=29, height=11)


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_parts_are_those_of_the_mask_that_was_packed(share):
    mask = np.random.default_rng(0).random((11, 29)) < share
    packed = PackedMask.of(PLACE, mask)
    for part in (
        PLACE,
        Window(col_off=103, row_off=41, width=19, height=3),
        Window(col_off=128, row_off=50, width=1, height=1),
    ):
        np.testing.assert_array_equal(packed.part(part), mask[part.relative_to(PLACE).slices])


def test_a_mask_takes_a_bit_a_pixel_and_none_where_it_says_one_thing():
    mask = np.zeros((64, 80), bool)
    window = Window(col_off=0, row_off=0, width=80, height=64)
    assert PackedMask.of(window, mask).bits is False and PackedMask.of(window, ~mask).bits is True
    mask[3, 5] = True
    assert PackedMask.of(window, mask).bits.nbytes == mask.size / 8
