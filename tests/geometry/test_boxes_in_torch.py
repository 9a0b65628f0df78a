from math import pi

import numpy as np
import pytest
import shapely
import torch

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds, canonical, corners_of
from lemevit_cli.geometry.rotated_iou import (
    intersection_over_own_area,
    intersections,
    paired_iou,
    rotated_iou,
    shared_areas,
)


def random_boxes(number, seed, *, side=60.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([80.0, 80.0, side, side, 4 * pi], dtype=dtype)
    return torch.rand(number, 5, generator=generator, dtype=dtype) * scale


def shapely_areas(boxes, others):
    ours, theirs = (shapely.polygons(corners_of(b).numpy()) for b in (boxes, others))
    return torch.from_numpy(shapely.area(shapely.intersection(ours, theirs)))


def test_boxes_are_the_same_as_in_numpy():
    boxes = random_boxes(200, 0)
    for function in (corners_of, axis_aligned_bounds, canonical):
        np.testing.assert_allclose(function(boxes).numpy(), function(boxes.numpy()), atol=1e-9)
    others = random_boxes(200, 7)
    for function in (paired_iou, rotated_iou, intersection_over_own_area):
        found = function(boxes.numpy(), others.numpy())
        np.testing.assert_allclose(function(boxes, others).numpy(), found, atol=1e-9)


def test_boxes_of_any_shape_keep_shape_dtype_and_gradient():
    boxes = random_boxes(12, 8, dtype=torch.float32).view(2, 6, 5).requires_grad_()
    assert canonical(boxes).shape == (2, 6, 5) and corners_of(boxes).shape == (2, 6, 4, 2)
    assert axis_aligned_bounds(boxes).dtype == torch.float32
    corners_of(canonical(boxes)).square().sum().backward()
    assert boxes.grad.isfinite().all() and (boxes.grad != 0).any()


def test_canonical_boxes_are_the_same_rectangles_in_range():
    boxes = random_boxes(500, 1)
    found = canonical(boxes)
    assert (found[:, 2] >= found[:, 3]).all()
    assert (found[:, 4] >= -pi / 2).all() and (found[:, 4] < pi / 2).all()
    areas = boxes[:, 2] * boxes[:, 3]
    torch.testing.assert_close(shapely_areas(boxes, found), areas)


def test_an_angle_just_below_the_range_is_not_rounded_out_of_it():
    found = canonical(torch.tensor([[0.0, 0.0, 4.0, 2.0, -pi / 2 - 1e-8]]))
    assert -pi / 2 - 1e-6 <= found[0, 4] < pi / 2


def test_shared_areas_equal_shapelys():
    boxes, others = random_boxes(3000, 2), random_boxes(3000, 3)
    others[:300] = boxes[:300]  # identical
    others[300:900] = boxes[300:900] + 1e-7 * torch.randn(600, 5, dtype=torch.float64)
    others[900:1200, 4] = boxes[900:1200, 4] + pi / 2 * torch.arange(300)  # parallel edges
    others[1200:1300, 2:4] = boxes[1200:1300, 2:4] * 0.1  # one in the other, often
    found = shared_areas(boxes, others)
    torch.testing.assert_close(found, shapely_areas(boxes, others), atol=1e-6, rtol=1e-9)


def test_boxes_that_touch_share_nothing():
    boxes = torch.tensor([[10.0, 10.0, 8.0, 4.0, 0.0]])
    others = torch.tensor([[18.0, 10.0, 8.0, 4.0, 0.0], [10.0, 14.0, 8.0, 4.0, pi]])
    assert intersections(boxes, others).abs().max() < 1e-4


def test_alike_boxes_overlap_wholly_in_single_precision():
    boxes = random_boxes(500, 4, dtype=torch.float32) + torch.tensor([0, 0, 5.0, 5.0, 0])
    nearly = boxes * (1 + 1e-7)
    overlaps = rotated_iou(boxes, nearly).diagonal()
    assert (overlaps - 1).abs().max() < 1e-3


def test_every_pair_is_looked_at_closely_or_lies_apart():
    boxes, others = random_boxes(40, 5), random_boxes(30, 6, side=20.0)
    rows, columns = (
        i.flatten() for i in torch.meshgrid(*map(torch.arange, (40, 30)), indexing="ij")
    )
    expected = shapely_areas(boxes[rows], others[columns]).view(40, 30)
    torch.testing.assert_close(intersections(boxes, others), expected, atol=1e-6, rtol=0)


def test_overlap_over_union_and_over_the_own_area():
    box = torch.tensor([[0.0, 0.0, 4.0, 2.0, 0.0]])
    other = torch.tensor([[0.0, 0.0, 8.0, 2.0, pi]])
    assert rotated_iou(box, other).item() == pytest.approx(0.5)
    assert intersection_over_own_area(box, other).item() == pytest.approx(1.0)
    assert intersection_over_own_area(other, box).item() == pytest.approx(0.5)


def test_boxes_without_an_area_overlap_nothing():
    flat = torch.tensor([[5.0, 5.0, 8.0, 0.0, 0.3], [5.0, 5.0, 0.0, 0.0, 0.0]])
    box = torch.tensor([[5.0, 5.0, 8.0, 4.0, 0.0]])
    for pair in ((flat, box), (box, flat), (flat, flat)):
        assert (rotated_iou(*pair) == 0).all()
        assert (intersection_over_own_area(*pair) == 0).all()


def test_no_boxes_give_an_empty_table():
    assert rotated_iou(torch.zeros(0, 5), torch.zeros(3, 5)).shape == (0, 3)
    assert rotated_iou(torch.zeros(3, 5), torch.zeros(0, 5)).shape == (3, 0)
