import pytest
import torch

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds
from lemevit_cli.geometry.rotated_iou import rotated_iou
from lemevit_cli.models.oriented_rcnn.anchors import anchors_of
from lemevit_cli.models.oriented_rcnn.assignment import ASSIGNERS, Truth
from lemevit_cli.models.oriented_rcnn.coders import encode_midpoints
from lemevit_cli.models.oriented_rcnn.rpn import (
    STRIDES,
    UNSURE_BACKGROUND_WEIGHT,
    RegionProposals,
    anchors_like,
)

SIZE = (128, 192)


def levels(channels=8, batch=1):
    generator = torch.Generator().manual_seed(0)
    return [
        torch.randn(batch, channels, -(-SIZE[0] // s), -(-SIZE[1] // s), generator=generator)
        for s in STRIDES
    ]


def network(**changes):
    torch.manual_seed(0)
    defaults = {"samples": 64, "proposals": 50, "assigner": ASSIGNERS["paper"]}
    return RegionProposals(8, **defaults | changes)


def truth(boxes=(), ignored=(), unknown=(False, False)):
    boxes = torch.tensor(boxes).view(-1, 5)
    class_ids = torch.zeros(len(boxes), dtype=torch.long)
    return Truth(boxes, class_ids, torch.tensor(ignored).view(-1, 5), torch.tensor(unknown))


def test_anchors_stand_on_the_corners_of_cells_in_three_shapes_of_one_area():
    (anchors,) = anchors_of([(3, 5)], [16], device=torch.device("cpu"))
    centres = (anchors[:, :2] + anchors[:, 2:]) / 2
    assert centres.view(3, 5, 3, 2)[2, 4].tolist() == [[64.0, 32.0]] * 3
    sides = anchors[:, 2:] - anchors[:, :2]
    torch.testing.assert_close(sides.prod(dim=1), torch.full((45,), 128.0**2))
    torch.testing.assert_close(sides[:3, 1] / sides[:3, 0], torch.tensor([0.5, 1.0, 2.0]))


def test_scores_and_offsets_are_in_the_order_of_the_anchors():
    net = network()
    torch.nn.init.zeros_(net.conv.weight)
    net.conv.weight.data[:, :, 1, 1] = torch.eye(8)  # the map as it is
    maps = [torch.zeros_like(level) for level in levels()]
    row, column = 2, 9
    maps[1][0, 3, row, column] = 1.0
    torch.nn.init.zeros_(net.objectness.weight)
    torch.nn.init.zeros_(net.deltas.weight)
    net.objectness.weight.data[1, 3] = 5.0  # second shape
    net.deltas.weight.data[1 * 6 + 4, 3] = 7.0  # its fifth number
    logits, deltas = net(maps)
    hit = int(logits[1][0].argmax())
    anchor = anchors_like(maps)[1][hit]
    assert ((anchor[:2] + anchor[2:]) / 2).tolist() == [column * 8, row * 8]
    assert (anchor[2:] - anchor[:2]).tolist() == [64.0, 64.0]
    assert deltas[1][0, hit].tolist() == [0, 0, 0, 0, 7.0, 0]
    assert sum(d.abs().sum().item() for d in deltas) == 7.0


def test_what_the_offsets_tell_is_proposed():
    boxes = torch.tensor([[60.0, 60.0, 50.0, 20.0, 0.6], [120.0, 70.0, 30.0, 28.0, -1.0]])
    anchors = anchors_like(levels())
    logits = [torch.full((1, len(a)), -5.0) for a in anchors]
    deltas = [torch.zeros(1, len(a), 6) for a in anchors]
    for score, box in enumerate(boxes, start=1):
        around = axis_aligned_bounds(box[None])
        nearest = (anchors[0] - around).abs().sum(dim=1).argmin()
        logits[0][0, nearest] = score
        deltas[0][0, nearest] = encode_midpoints(anchors[0][nearest][None], box[None])[0]
    found, exists = network().proposals(logits, deltas, anchors)
    assert found.shape == (1, 50, 5) and exists[:, :2].all()
    found = found[0]
    overlaps = rotated_iou(found[:2], boxes.flip(0)).diagonal()
    assert overlaps.min() > 0.999


def test_proposals_of_a_level_do_not_pile_up():
    net = network()
    logits, deltas = net(levels())
    first = [logits[1]], [deltas[1]], [anchors_like(levels())[1]]
    found, exists = net.proposals(*first)
    assert 0 < exists.sum() < exists.numel() == 50
    assert exists[0].int().diff().amax() <= 0  # what is free comes last
    around = axis_aligned_bounds(found[exists])
    sides = (around[:, 2:] - around[:, :2]).prod(dim=1)
    low = torch.maximum(around[:, None, :2], around[None, :, :2])
    high = torch.minimum(around[:, None, 2:], around[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    iou = shared / (sides[:, None] + sides - shared)
    assert (iou - torch.eye(len(iou))).max() <= 0.8 + 1e-5


def losses(net, *truths):
    maps = levels(batch=len(truths))
    torch.manual_seed(1)
    return net.losses(*net(maps), anchors_like(maps), truths, SIZE)


@pytest.mark.parametrize(
    "found",
    [truth(), truth(ignored=[96.0, 64.0, 400.0, 400.0, 0.0])],
    ids=["no object", "one ignored object over all"],
)
def test_losses_without_an_object_are_finite_and_offsets_cost_nothing(found):
    terms = losses(network(), found)
    assert torch.stack(list(terms.values())).isfinite().all()
    assert terms["rpn_offset"] == 0
    sum(terms.values()).backward()


def test_an_ignored_object_takes_background_away():
    everything = truth(ignored=[96.0, 64.0, 400.0, 400.0, 0.0])
    assert losses(network(), everything)["rpn_score"] == 0


def test_background_counts_less_where_objects_may_be_without_a_label():
    sure, unsure = truth(), truth(unknown=(False, True))
    expected = losses(network(), sure)["rpn_score"] * UNSURE_BACKGROUND_WEIGHT
    torch.testing.assert_close(losses(network(), unsure)["rpn_score"], expected)


def test_untrained_scores_cost_the_logarithm_of_two():
    net = network()
    torch.nn.init.zeros_(net.objectness.weight)
    terms = losses(net, truth([60.0, 60.0, 50.0, 20.0, 0.6]), truth())
    assert terms["rpn_score"].item() == pytest.approx(0.6931, abs=1e-4)
    assert terms["rpn_offset"] > 0


def test_a_picture_smaller_than_every_anchor_teaches_nothing():
    net, maps = network(), [torch.randn(1, 8, 1, 1) for _ in STRIDES]
    terms = net.losses(*net(maps), anchors_like(maps), [truth([8.0, 8.0, 9.0, 4.0, 0.1])], (16, 16))
    assert [term.item() for term in terms.values()] == [0.0, 0.0]


def test_values_beyond_all_numbers_do_not_reach_the_places():
    net = network()
    logits, deltas = net(levels())
    deltas[0][0, :50] = float("inf")
    logits[0][0, :50] = 9.0
    found, _ = net.proposals(logits, deltas, anchors_like(levels()))
    assert found.isfinite().all()
