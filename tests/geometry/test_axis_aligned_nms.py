import numpy as np
import pytest
import torch
from torchvision.ops import nms

from lemevit_cli.geometry.axis_aligned_nms import suppress_axis_aligned


def boxes_of(count, spread, seed):
    rng = np.random.default_rng(seed)
    middle, sides = rng.uniform(0, spread, (count, 2)), rng.uniform(20, 60, (count, 2))
    return np.hstack([middle - sides / 2, middle + sides / 2]).astype(np.float32)


@pytest.mark.parametrize("iou", [0.0, 0.3, 0.8, 1.0])
@pytest.mark.parametrize("spread", [3, 40, 400])
def test_the_boxes_that_stay_are_torchvisions(spread, iou):
    boxes = boxes_of(300, spread, seed=1)
    scores = np.random.default_rng(2).normal(size=300).astype(np.float32)
    stays = suppress_axis_aligned(boxes, scores, iou)
    expected = nms(torch.from_numpy(boxes), torch.from_numpy(scores), iou)
    assert np.flatnonzero(stays).tolist() == sorted(expected.tolist())
    assert stays.sum() > 0 and (iou == 1.0 or spread == 400 or stays.sum() < 300)


def test_of_equal_scores_the_first_stays_and_a_fallen_box_strikes_none():
    boxes = np.array([[0, 0, 10, 10], [2, 0, 12, 10], [4, 0, 14, 10]], dtype=np.float32)
    # Neighbours share 8 of 12 columns, the outer ones 6 of 14.
    equal = np.zeros(3, dtype=np.float32)
    assert suppress_axis_aligned(boxes, equal, 0.5).tolist() == [True, False, True]
    middle_first = np.array([0.1, 0.9, 0.2], dtype=np.float32)
    assert suppress_axis_aligned(boxes, middle_first, 0.5).tolist() == [False, True, False]


def test_boxes_without_an_area_and_no_boxes_stay():
    points = np.array([[5, 5, 5, 5], [5, 5, 5, 5], [0, 0, 10, 10]], dtype=np.float32)
    assert suppress_axis_aligned(points, np.ones(3, dtype=np.float32), 0.5).all()
    none = np.empty((0, 4), dtype=np.float32)
    assert suppress_axis_aligned(none, np.empty(0, dtype=np.float32), 0.5).shape == (0,)
