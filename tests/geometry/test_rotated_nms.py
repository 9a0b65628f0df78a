"""Suppression through the index against the quadratic definition, with Shapely's overlaps."""

import numpy as np
import pytest
import shapely

from lemevit_cli.geometry import rotated_nms as module
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.rotated_nms import rotated_nms


def quadratic_nms(boxes, scores, class_ids, limit):
    polygons = shapely.polygons(corners_of(boxes))
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        rivals = [k for k in kept if class_ids[k] == class_ids[i]]
        shared = shapely.area(shapely.intersection(polygons[rivals], polygons[i]))
        union = shapely.area(polygons[rivals]) + shapely.area(polygons[i]) - shared
        if not (shared > limit * union).any():
            kept.append(i)
    return kept


def scattered(random, count):
    return np.column_stack(
        [
            random.uniform(0, 150, (count, 2)),
            random.uniform(2, 40, (count, 2)),
            random.uniform(-2, 2, count),
        ]
    )


def clustered(random, count):
    """Return ten answers for each of some objects."""
    objects = scattered(random, count // 10)
    boxes = np.repeat(objects, 10, axis=0) + random.normal(0, 0.5, (count, 5)) * [1, 1, 1, 1, 0.05]
    boxes[:, 2:4] = np.abs(boxes[:, 2:4])
    return random.permutation(boxes)


def piled(random, count):
    """Return boxes that all lie in one place."""
    return random.normal(0, 1, (count, 5)) * [3, 3, 4, 1, 0.3] + [50, 50, 30, 8, 0]


@pytest.mark.parametrize("make", [scattered, clustered, piled])
@pytest.mark.parametrize("limit", [0.1, 0.5, 0.9])
def test_the_same_boxes_stay_as_by_the_definition(make, limit, monkeypatch):
    # Small rounds, so that several of them meet in few boxes.
    monkeypatch.setattr(module, "_ROUND", 32)
    monkeypatch.setattr(module, "_QUERY", 8)
    monkeypatch.setattr(module, "_PAIRS", 100)
    random = np.random.default_rng(3)
    boxes = make(random, 400)
    boxes[:, 2:4] = np.abs(boxes[:, 2:4])
    scores, class_ids = random.random(400), random.integers(0, 3, 400)
    found = rotated_nms(boxes, scores, class_ids, limit)
    assert found.tolist() == quadratic_nms(boxes, scores, class_ids, limit)


def test_of_equal_scores_the_first_box_goes_before():
    boxes = np.array([[10, 10, 8, 4, 0.1], [10.1, 10, 8, 4, 0.1], [90, 10, 8, 4, 0]])
    assert rotated_nms(boxes, [0.5, 0.5, 0.5], [0, 0, 0], 0.5).tolist() == [0, 2]
    assert rotated_nms(boxes, [0.5, 0.5, 0.9], [0, 0, 0], 0.5).tolist() == [2, 0]


def test_other_classes_do_not_disturb():
    boxes = np.array([[10, 10, 8, 4, 0.1], [10, 10, 8, 4, 0.1]])
    assert rotated_nms(boxes, [0.5, 0.9], [0, 1], 0.1).tolist() == [1, 0]


def test_a_box_that_has_fallen_strikes_nobody():
    # The second falls to the first; the third overlaps the second alone.
    boxes = np.array([[0.0, 0, 10, 4, 0], [6, 0, 10, 4, 0], [12, 0, 10, 4, 0]])
    assert rotated_nms(boxes, [0.9, 0.8, 0.7], [0, 0, 0], 0.2).tolist() == [0, 2]


def test_no_boxes_and_boxes_without_area_pass():
    assert rotated_nms(np.empty((0, 5)), [], [], 0.5).tolist() == []
    assert rotated_nms([[1, 1, 0, 0, 0], [1, 1, 0, 0, 0]], [1, 1], [0, 0], 0.1).tolist() == [0, 1]


def test_turning_and_moving_all_boxes_changes_nothing():
    random = np.random.default_rng(4)
    boxes, scores = clustered(random, 600), random.random(600)
    expected = rotated_nms(boxes, scores, np.zeros(600), 0.3)
    matrix = np.array([[np.cos(0.7), -np.sin(0.7)], [np.sin(0.7), np.cos(0.7)]])
    turned = np.column_stack([boxes[:, :2] @ matrix.T + 1e5, boxes[:, 2:4], boxes[:, 4] + 0.7])
    np.testing.assert_array_equal(rotated_nms(turned, scores, np.zeros(600), 0.3), expected)
