from math import cos, log, pi, sin

import torch

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds, canonical, corners_of
from lemevit_cli.models.oriented_rcnn.coders import (
    SMALLEST_SIDE_PX,
    decode_midpoints,
    decode_rotated,
    encode_midpoints,
    encode_rotated,
)


def random_boxes(number, seed):
    generator = torch.Generator().manual_seed(seed)
    low = torch.tensor([0.0, 0.0, 6.0, 4.0, -pi / 2], dtype=torch.float64)
    high = torch.tensor([500.0, 500.0, 200.0, 100.0, pi / 2], dtype=torch.float64)
    random = torch.rand(number, 5, generator=generator, dtype=torch.float64)
    return canonical(low + random * (high - low))


def shaken(boxes, seed):
    """Return boxes near others, of other sizes and angles: proposals."""
    noise = torch.randn(boxes.shape, generator=torch.Generator().manual_seed(seed)).double()
    sizes = boxes[:, 2:4] * (0.3 * noise[:, 2:4]).exp()
    centres = boxes[:, :2] + 5 * noise[:, :2]
    return canonical(torch.cat([centres, sizes, boxes[:, 4:] + noise[:, 4:]], dim=1))


def distances(boxes, others):
    """Return the largest distance of a box's corners from the nearest of the other, and back."""
    between = torch.cdist(corners_of(boxes), corners_of(others))
    return torch.cat([between.amin(dim=2), between.amin(dim=1)], dim=1).amax(dim=1)


def test_midpoints_lead_from_any_anchor_to_the_box_and_back():
    boxes = random_boxes(5000, 0)
    anchors = axis_aligned_bounds(shaken(boxes, 1))
    found = decode_midpoints(anchors, encode_midpoints(anchors, boxes))
    apart = distances(found, boxes)
    x, y = corners_of(boxes).sort(dim=1).values.unbind(-1)
    tie = ((y[:, 1] - y[:, 0]) < 0.1) & ((x[:, 3] - x[:, 2]) < 0.1)
    assert apart[~tie].max() < 1e-6
    # A box that is axis-aligned to a tenth of a pixel is taken for it.
    assert apart[tie].max() < 0.15 and 0 < tie.sum() < 100


def test_axis_aligned_boxes_survive_midpoints():
    boxes = random_boxes(200, 2)
    boxes[:, 4] = torch.tensor([0.0, -pi / 2]).double().repeat(100)
    anchors = axis_aligned_bounds(shaken(boxes, 3))
    deltas = encode_midpoints(anchors, boxes)
    # 0.5 over 0.5
    torch.testing.assert_close(deltas[:, 4:], torch.ones(200, 2).double(), atol=1e-4, rtol=0)
    assert distances(decode_midpoints(anchors, deltas), boxes).max() < 1e-6


def test_midpoints_are_those_of_the_paper():
    box = torch.tensor([[50.0, 40.0, 40.0, 20.0, pi / 6]])
    anchor = torch.tensor([[30.0, 20.0, 62.0, 52.0]])
    width, height = 40 * cos(pi / 6) + 20 * sin(pi / 6), 40 * sin(pi / 6) + 20 * cos(pi / 6)
    # Turned clockwise, the top left corner is the highest, the top right one farthest right.
    top_x = -20 * cos(pi / 6) + 10 * sin(pi / 6)
    right_y = 20 * sin(pi / 6) - 10 * cos(pi / 6)
    expected = [4 / 32, 4 / 32, log(width / 32), log(height / 32)]
    expected += [top_x / width / 0.5, right_y / height / 0.5]
    found = encode_midpoints(anchor, box)
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_any_midpoints_give_a_canonical_rectangle_of_at_least_a_pixel():
    generator = torch.Generator().manual_seed(4)
    deltas = torch.randn(1000, 6, generator=generator) * 5
    deltas[0] = torch.tensor([0.0, 0.0, 0.0, 0.0, 1.0, -1.0])  # top and right corner are one
    anchors = torch.tensor([[0.0, 0.0, 32.0, 32.0]]).expand(1000, -1)
    boxes = decode_midpoints(anchors, deltas)
    assert boxes.isfinite().all()
    assert (boxes[:, 2] >= boxes[:, 3]).all() and (boxes[:, 3] >= SMALLEST_SIDE_PX).all()
    assert (boxes[:, 4] >= -pi / 2).all() and (boxes[:, 4] < pi / 2).all()
    torch.testing.assert_close(boxes[0, 4].abs(), torch.tensor(pi / 4))


def test_midpoints_work_on_any_leading_dimensions():
    boxes = random_boxes(12, 5)
    anchors = axis_aligned_bounds(shaken(boxes, 6))
    deltas = encode_midpoints(anchors, boxes)
    whole = decode_midpoints(anchors, deltas)
    parts = decode_midpoints(anchors.view(3, 4, 4), deltas.view(3, 4, 6))
    torch.testing.assert_close(parts.flatten(0, 1), whole)


def test_the_rotated_frame_leads_from_any_proposal_to_the_box_and_back():
    boxes = random_boxes(5000, 7)
    proposals = shaken(boxes, 8)
    deltas = encode_rotated(proposals, boxes)
    apart = distances(decode_rotated(proposals, deltas), boxes)
    reached = deltas[:, 2:4].abs().amax(dim=1) < log(1000 / 16) / 0.2  # growth has a limit
    assert apart[reached].max() < 1e-6 and reached.double().mean() > 0.99
    assert deltas[:, 4].abs().max() <= pi / 4 / 0.1 + 1e-9  # the smaller of two turns


def test_the_rotated_frame_is_the_proposals_own():
    proposal = torch.tensor([[50.0, 40.0, 40.0, 20.0, pi / 2]])  # its width points down
    box = torch.tensor([[48.0, 44.0, 60.0, 10.0, pi / 2 - 0.2]])
    found = encode_rotated(proposal, box)
    expected = [4 / 40 / 0.1, 2 / 20 / 0.1, log(60 / 40) / 0.2, log(10 / 20) / 0.2, -0.2 / 0.1]
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-5, rtol=1e-5)


def test_a_box_that_lies_across_its_proposal_swaps_its_sides():
    proposal = torch.tensor([[0.0, 0.0, 20.0, 18.0, 0.1]])
    box = torch.tensor([[0.0, 0.0, 24.0, 16.0, 0.1 - pi / 2]])
    found = encode_rotated(proposal, box)
    expected = [0.0, 0.0, log(16 / 20) / 0.2, log(24 / 18) / 0.2, 0.0]
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-5, rtol=1e-5)


def test_nothing_is_coded_as_nothing():
    none = torch.zeros(0, 5)
    assert encode_midpoints(torch.zeros(0, 4), none).shape == (0, 6)
    assert encode_rotated(none, none).shape == (0, 5)
