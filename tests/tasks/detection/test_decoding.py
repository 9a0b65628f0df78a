"""From candidates to boxes: what is asked for, best first, and a higher score as a filter."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from lemevit_cli.geometry.rotated_iou import rotated_iou
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.oriented_rcnn import build_detector
from lemevit_cli.models.weights import Card
from lemevit_cli.settings import DetectionOptions
from lemevit_cli.tasks.detection.decoding import (
    Decoding,
    decode,
    decode_candidates,
    share_of_equal_boxes,
)
from lemevit_cli.tasks.detection.merge import SURE


@pytest.fixture(scope="module")
def candidates():
    """Return candidates of two pictures, of an untrained network that is sure at random."""
    torch.manual_seed(0)
    head_args = {"channels": 16, "hidden": 32, "proposals": 150}
    classes = classes_from_names(("ship", "plane", "tank"))
    card = Card(task="det", backbone="test_resnet", head_args=head_args, classes=classes)
    model = build_detector(card).eval()
    nn.init.normal_(model.roi_head.classify.weight, std=1.0)
    nn.init.normal_(model.roi_head.regress.weight, std=0.1)
    with torch.inference_mode():
        return model(torch.rand(2, 3, 96, 128) * 255).numpy()


def test_the_overlap_that_a_user_allows_holds_within_a_window():
    boxes = np.float32([[50, 50, 40, 20, 0], [50, 63, 40, 20, 0]])  # an IoU of 0.21
    seen = np.hstack([boxes, np.float32([[0.9], [0.8]])])[None]
    for nms_iou, count in ((None, 1), (0.15, 1), (0.5, 2)):
        found = decode(seen, DetectionOptions(score=0.5, nms_iou=nms_iou))
        assert (found[0, :, 6] >= 0).sum() == count


def test_decoding_is_what_is_asked_for(candidates):
    rows = decode_candidates(candidates, Decoding(score=0.0, nms_iou=0.3, max_per_window=40))
    assert rows.shape == (2, 41, 7) and rows.dtype == np.float32
    for found in rows:
        assert (found[:, 5] > 0).all() and (np.diff(found[:, 5]) <= 0).all()
        overlaps = rotated_iou(found[:, :5], found[:, :5])
        np.fill_diagonal(overlaps, 0)
        assert overlaps[found[:, None, 6] == found[None, :, 6]].max() <= 0.3
    nothing = decode_candidates(candidates, Decoding(score=1.0))
    assert nothing.shape == (2, 301, 7)
    assert (nothing == np.float32([0, 0, 0, 0, 0, 0, -1])).all()


@pytest.mark.parametrize("rows", [3, 20, 300])
@pytest.mark.parametrize("nms_iou", [0.1, 0.5])
def test_boxes_of_a_higher_score_are_those_of_a_lower_one_that_have_it(candidates, rows, nms_iou):
    for low in (0.0, 0.02, 0.05, 0.3):
        every = decode_candidates(candidates, Decoding(low, nms_iou, rows))
        assert ((every[..., 6] >= 0).sum(axis=1) >= min(rows, 10)).all()
        for high in np.linspace(low + 0.01, 0.99, 12):
            found = decode_candidates(candidates, Decoding(high, nms_iou, rows))
            for of_low, of_high in zip(every, found, strict=True):
                expected = of_low[of_low[:, 5] >= np.float32(high)]
                np.testing.assert_array_equal(of_high[: len(expected)], expected)
                assert (of_high[len(expected) :, 6] == -1).all()


def test_a_window_is_decoded_for_the_merge_and_by_itself(candidates):
    np.testing.assert_array_equal(decode(candidates), decode_candidates(candidates, Decoding()))
    # What is surer than the merge asks for is chosen after the merge.
    options = DetectionOptions(score=0.9, max_per_window=7)
    expected = decode_candidates(candidates, Decoding(SURE, max_per_window=7))
    np.testing.assert_array_equal(decode(candidates, options), expected)
    expected = decode_candidates(candidates, Decoding(0.01, max_per_window=7))
    np.testing.assert_array_equal(decode(candidates, replace(options, score=0.01)), expected)


def test_a_box_that_does_not_count_takes_no_room_of_one_of_another_class():
    # Three ships of 0.25 that count from 0.6 on, one vehicle of 0.2 that counts from 0.1 on.
    ships = [[20.0 + 40 * i, 50, 20, 10, 0, 0.25, 0.0] for i in range(3)]
    candidates = np.array([[*ships, [90.0, 90, 20, 10, 0, 0.0, 0.2]]])
    options = DetectionOptions(scores=(0.6, 0.1), max_per_window=1)
    (found,) = decode(candidates, options)
    np.testing.assert_allclose(found[:, 5:], [[0.2, 1], [0, -1]], atol=1e-6)
    # The merge of a scene hears of ships that are as sure as any box may have to be.
    surer = np.where(candidates == 0.25, 0.4, candidates)
    (found,) = decode(surer, options)
    np.testing.assert_allclose(found[:, 5:], [[0.4, 0], [0.4, 0]], atol=1e-6)


def test_the_row_after_the_last_holds_the_best_box_without_room(candidates):
    # Of one class: a box that answers for two is in no other's way.
    every = decode_candidates(candidates[..., :6], Decoding(score=0.0, max_per_window=300))[:, :-1]
    for most in (1, 7, 25):
        found = decode_candidates(candidates[..., :6], Decoding(score=0.0, max_per_window=most))
        np.testing.assert_array_equal(found, every[:, : most + 1])
    # Suppression first makes room: twenty copies of a box are one, and two more boxes follow.
    copies = np.tile([50.0, 50, 20, 10, 0, 0.9], (20, 1))
    apart = [[90.0, 50, 20, 10, 0, 0.5], [10.0, 50, 20, 10, 0, 0.4]]
    (found,) = decode_candidates(np.vstack([copies, apart])[None], Decoding(max_per_window=1))
    np.testing.assert_allclose(found[:, 5], [0.9, 0.5])


def test_a_picture_without_an_answer_spoils_no_other(candidates):
    broken = candidates.copy()
    broken[0, 5, 6] = np.inf
    found = decode_candidates(broken, Decoding())
    assert np.isnan(found[0]).all()
    np.testing.assert_array_equal(found[1], decode_candidates(candidates, Decoding())[1])


def test_boxes_are_equal_that_both_find_in_one_class():
    boxes = np.zeros((1, 4, 7), np.float32)  # of two classes
    boxes[0, :, :4] = [(20, 20, 10, 4), (60, 20, 10, 4), (20, 60, 10, 4), (60, 60, 10, 4)]
    boxes[0, :, 5] = 0.9
    others = boxes.copy()
    others[0, 0, 0] += 1  # still the same box
    others[0, 1, 1] += 20  # another one
    others[0, 2, 5:] = (0, 0.9)  # another class
    others[0, 3, 5] = 0.1  # not sure enough
    assert share_of_equal_boxes(boxes, boxes) == 1
    assert share_of_equal_boxes(boxes, others) == share_of_equal_boxes(others, boxes)
    assert share_of_equal_boxes(boxes, others) == pytest.approx(2 / 7)
    assert share_of_equal_boxes(boxes[:, :0], boxes[:, :0]) == 1


def test_classes_that_are_not_asked_for_take_no_room(candidates):
    every = decode_candidates(candidates, Decoding(score=0.0))
    for most in (3, 20):
        wanted = Decoding(score=0.0, max_per_window=most, class_ids=(0, 2))
        for found, of_all in zip(decode_candidates(candidates, wanted), every, strict=True):
            expected = of_all[:-1][np.isin(of_all[:-1, 6], (0, 2))]
            np.testing.assert_array_equal(found[:most], expected[:most])


@pytest.mark.parametrize("most", [300, 299])
def test_a_box_from_the_last_proposals_is_told(most):
    """Of two scales: all that a detector can propose of one of them holds a box."""
    places = np.arange(300.0)
    rows = np.column_stack(
        [20 * (places % 20), 20 * (places // 20), *np.tile([[12.0], [8], [0], [0.6]], 300)]
    )
    decoding = Decoding(max_per_window=most, proposals=300)
    empty = np.zeros_like(rows)
    for scales in ([rows, empty], [empty, rows]):
        (full,) = decode_candidates(np.concatenate(scales)[None], decoding)
        assert full[-1, 6] == (-1 if most == 300 else 0) and full[-1, 5] == np.float32(0.6)
    rows[280:, 5] = 0.0  # suppression has left fewer proposals
    (found,) = decode_candidates(rows[None], decoding)
    assert (found[-1, 5], found[-1, 6]) == (0, -1)
