import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lemevit_cli.geometry.packed_mask import PackedMask
from lemevit_cli.geometry.triangle_filter import triangle_filter
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.resample import MaskRows, RowResampler


def resampled(scores, *, height, width, chunk, rows=None, cols=None):
    """Feed rows in chunks; the scene's rows put together."""
    rows, cols = rows or (0, height), cols or (0, width)
    row_filter = triangle_filter(*rows, source=scores.shape[1], target=height)
    col_filter = triangle_filter(*cols, source=scores.shape[2], target=width)
    resampler = RowResampler(row_filter, col_filter)
    parts = []
    for top in range(row_filter.start, row_filter.stop, chunk):
        stop = min(top + chunk, row_filter.stop)
        parts += list(resampler.add(scores[:, top:stop, col_filter.start : col_filter.stop]))
    assert [top for top, _ in parts] == list(
        np.cumsum([rows[0], *(part.shape[1] for _, part in parts[:-1])])
    )
    return np.concatenate([part for _, part in parts], axis=1)


@pytest.mark.parametrize("shape", [(31, 47), (124, 188), (97, 200), (33, 50), (500, 3)])
@pytest.mark.parametrize("chunk", [1, 13, 200])
def test_rows_equal_torch_interpolation_of_the_whole(shape, chunk):
    scores = np.random.default_rng(1).random((3, 62, 94), dtype=np.float32)
    pictures = torch.from_numpy(scores)[None]
    expected = F.interpolate(pictures, size=shape, mode="bilinear", antialias=True)[0]
    result = resampled(scores, height=shape[0], width=shape[1], chunk=chunk)
    np.testing.assert_allclose(result, expected.numpy(), atol=1e-5, rtol=0)


def test_a_block_equals_its_part_of_the_whole():
    scores = np.random.default_rng(2).random((2, 40, 60), dtype=np.float32)
    whole = resampled(scores, height=101, width=149, chunk=8)
    block = resampled(scores, height=101, width=149, chunk=5, rows=(30, 77), cols=(11, 12))
    np.testing.assert_array_equal(block, whole[:, 30:77, 11:12])


def test_rows_of_masks_are_those_of_the_whole():
    whole = np.random.default_rng(3).random((60, 50)) < 0.5
    whole[:, :10], whole[:30, 30:] = True, False
    masks, taken = MaskRows(), []
    for top in range(0, 60, 15):
        for left in (0, 12, 30):
            window = Window(col_off=left, row_off=top, width=20, height=min(20, 60 - top))
            masks.add(PackedMask.of(window, whole[window.slices]))
        for row in (top, top + 4):
            height = 4 if row == top else 11
            taken.append(masks.take(Window(col_off=5, row_off=row, width=45, height=height)))
    np.testing.assert_array_equal(np.concatenate(taken), whole[:, 5:])
