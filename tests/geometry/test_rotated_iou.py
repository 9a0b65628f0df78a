"""Overlaps against Shapely's, and the symmetries that any overlap has."""

import numpy as np
import pytest
import shapely

from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.rotated_iou import paired_iou, paired_iou_of_corners, rotated_iou


def random_boxes(random, count):
    return np.column_stack(
        [
            random.uniform(-30, 30, (count, 2)),
            random.uniform(0.1, 50, (count, 2)),
            random.uniform(-7, 7, count),
        ]
    )


def iou_by_shapely(corners, others):
    some, other = shapely.polygons(corners), shapely.polygons(others)
    shared = shapely.area(shapely.intersection(some, other))
    union = shapely.area(some) + shapely.area(other) - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)


def random_pairs(random, count):
    return random_boxes(random, count), random_boxes(random, count)


def near_pairs(random, count):
    """Return pairs apart by less and less, down to the last digit."""
    boxes = random_boxes(random, count)
    apart = random.normal(0, 1, (count, 5)) * 10.0 ** random.uniform(-17, -1, (count, 1))
    others = boxes + apart
    others[:, 2:4] = np.abs(others[:, 2:4])
    return boxes, others


def turned_pairs(random, count):
    """Return the same rectangle by other numbers: sides exchanged, whole and quarter turns."""
    boxes = random_boxes(random, count)
    boxes[: count // 2, 2] = boxes[: count // 2, 3]
    turns = random.integers(-4, 5, count)
    others = boxes.copy()
    others[:, 4] += turns * np.pi / 2
    odd = turns % 2 == 1
    others[odd, 2:4] = others[odd, 3:1:-1]
    return boxes, others


def degenerate_pairs(random, count):
    """Return pairs without width, height, or both; touching; one inside the other; slivers."""
    boxes, others = random_boxes(random, count), random_boxes(random, count)
    kinds = np.arange(count) % 6
    others[kinds == 0, 2] = 0.0
    boxes[kinds == 1, 3] = 0.0
    boxes[kinds == 2, 2:4] = others[kinds == 2, 2:4] = 0.0
    # Neighbours that share an edge.
    others[kinds == 3] = boxes[kinds == 3]
    angle = boxes[kinds == 3, 4]
    step = np.column_stack([np.cos(angle), np.sin(angle)]) * boxes[kinds == 3, 2:3]
    others[kinds == 3, :2] += step
    others[kinds == 4] = boxes[kinds == 4] * [1, 1, 0.5, 0.25, 1]
    others[kinds == 5, 3] = 1e-5
    return boxes, others


@pytest.mark.parametrize("pairs", [random_pairs, near_pairs, turned_pairs, degenerate_pairs])
def test_overlaps_are_those_of_shapely(pairs):
    boxes, others = pairs(np.random.default_rng(0), 2500)
    expected = iou_by_shapely(corners_of(boxes), corners_of(others))
    np.testing.assert_allclose(paired_iou(boxes, others), expected, atol=1e-9)
    found = paired_iou_of_corners(corners_of(boxes), corners_of(others))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert (expected > 0).any()


def test_every_pair_is_compared():
    random = np.random.default_rng(1)
    boxes, others = random_boxes(random, 7), random_boxes(random, 5)
    found = rotated_iou(boxes, others)
    assert found.shape == (7, 5)
    for i, box in enumerate(boxes):
        expected = paired_iou(np.repeat(box[None], 5, axis=0), others)
        np.testing.assert_allclose(found[i], expected, atol=1e-15)
    assert rotated_iou(np.empty((0, 5)), others).shape == (0, 5)
    assert rotated_iou(boxes, np.empty((0, 5))).shape == (7, 0)


def test_nearly_identical_long_boxes_overlap_nearly_wholly():
    box = np.array([[100.0, 100.0, 200.0, 2.0, 0.7]])
    near = box + np.array([1e-9, 0, 0, 0, 1e-12])
    assert paired_iou(box, near)[0] == pytest.approx(1.0, abs=1e-6)
    assert paired_iou(box, box)[0] == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_overlaps_do_not_depend_on_who_is_first_where_they_lie_or_how_they_are_turned(seed):
    random = np.random.default_rng(seed)
    boxes, others = random_boxes(random, 400), random_boxes(random, 400)
    found = paired_iou(boxes, others)
    np.testing.assert_allclose(paired_iou(others, boxes), found, atol=1e-9)
    shift = np.array([*random.uniform(-1e6, 1e6, 2), 0, 0, 0])
    np.testing.assert_allclose(paired_iou(boxes + shift, others + shift), found, atol=1e-8)
    turn = random.uniform(-7, 7)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    turned = [
        np.column_stack([b[:, :2] @ matrix.T, b[:, 2:4], b[:, 4] + turn]) for b in (boxes, others)
    ]
    np.testing.assert_allclose(paired_iou(*turned), found, atol=1e-9)
    scaled = [b * [3, 3, 3, 3, 1] for b in (boxes, others)]
    np.testing.assert_allclose(paired_iou(*scaled), found, atol=1e-9)


def simple_quadrilaterals(random, count):
    """Return convex and dented ones, clockwise and not, whose edges do not cross."""
    angles = np.sort(random.uniform(0, 2 * np.pi, (count, 4)), axis=1)
    radii = random.uniform(2, 20, (count, 4))
    corners = np.stack([np.cos(angles), np.sin(angles)], axis=-1) * radii[..., None]
    corners += random.uniform(-10, 10, (count, 1, 2))
    corners[::2] = corners[::2, ::-1]
    return corners[shapely.is_valid(shapely.polygons(corners))]


def test_quadrilaterals_of_any_form_overlap_as_in_shapely():
    random = np.random.default_rng(2)
    some, others = simple_quadrilaterals(random, 3000), simple_quadrilaterals(random, 3000)
    count = min(len(some), len(others))
    some, others = some[:count], others[:count]
    hulls = shapely.convex_hull(shapely.polygons(some))
    assert (shapely.area(hulls) > shapely.area(shapely.polygons(some)) + 1e-6).any()
    expected = iou_by_shapely(some, others)
    np.testing.assert_allclose(paired_iou_of_corners(some, others), expected, atol=1e-9)
    far = np.array([5e5, 5.6e6])
    np.testing.assert_allclose(paired_iou_of_corners(some + far, others + far), expected, atol=1e-6)
