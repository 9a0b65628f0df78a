import numpy as np
import pytest

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import aligned_blocks


@pytest.mark.parametrize(("width", "height"), [(16, 16), (32, 7), (50, 30), (500, 500)])
def test_aligned_blocks_cover_an_area_once_and_count_from_its_corner(width, height):
    area = Window(col_off=5, row_off=9, width=50, height=30)
    covered = np.zeros((60, 60), dtype=int)
    for block in aligned_blocks(area, width=width, height=height):
        covered[block.slices] += 1
        assert (block.col_off - 5) % width == 0 and (block.row_off - 9) % height == 0
    assert (covered[area.slices] == 1).all() and covered.sum() == 50 * 30
