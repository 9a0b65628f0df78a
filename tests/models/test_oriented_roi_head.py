import pytest
import torch
import torch.nn.functional as F

from lemevit_cli.geometry.rotated_iou import rotated_iou
from lemevit_cli.models.oriented_rcnn.assignment import ASSIGNERS, Truth
from lemevit_cli.models.oriented_rcnn.coders import encode_rotated
from lemevit_cli.models.oriented_rcnn.roi_head import RoiHead, Samples, class_loss

CLASSES = 3


def head(samples=64, assigner="paper"):
    torch.manual_seed(0)
    return RoiHead(4, hidden=16, num_classes=CLASSES, samples=samples, assigner=ASSIGNERS[assigner])


def some_boxes(number, seed=0):
    generator = torch.Generator().manual_seed(seed)
    scale = torch.tensor([200.0, 200.0, 60.0, 40.0, 3.0])
    return torch.rand(number, 5, generator=generator) * scale + torch.tensor([0, 0, 9.0, 9.0, 0])


def truth(boxes, ignored=None, unknown=(False,) * CLASSES):
    class_ids = torch.arange(len(boxes)) % CLASSES
    ignored = torch.zeros(0, 5) if ignored is None else ignored
    return Truth(boxes, class_ids, ignored, torch.tensor(unknown))


def test_the_loss_of_classes_is_cross_entropy_where_all_is_labelled():
    logits = torch.randn(20, CLASSES + 1, generator=torch.Generator().manual_seed(0))
    ids = torch.arange(20) % (CLASSES + 1)
    unknown = torch.zeros(20, CLASSES, dtype=torch.bool)
    expected = F.cross_entropy(logits, ids, reduction="none")
    torch.testing.assert_close(class_loss(logits, ids, unknown), expected)


def test_background_may_be_an_object_of_a_class_without_labels():
    logits = torch.randn(2, CLASSES + 1, generator=torch.Generator().manual_seed(1))
    p = logits.softmax(dim=1)
    unknown = torch.tensor([[True, False, True]]).expand(2, -1)
    found = class_loss(logits, torch.tensor([CLASSES, 1]), unknown)
    expected = [-(p[0, 0] + p[0, 2] + p[0, 3]).log(), -p[1, 1].log()]
    torch.testing.assert_close(found, torch.stack(expected))


def test_objects_are_proposals_and_targets_are_theirs():
    objects = some_boxes(4)
    chosen = head().sample_proposals([some_boxes(300, 1)], [truth(objects)])
    positive = chosen.class_ids < CLASSES
    assert 4 <= positive.sum() <= 16 and len(chosen.boxes) == 64
    overlaps = rotated_iou(chosen.boxes, objects)
    assert (overlaps[positive].amax(dim=1) >= 0.5).all()
    assert (overlaps[~positive].amax(dim=1) < 0.5).all()
    nearest = overlaps[positive].argmax(dim=1)
    torch.testing.assert_close(chosen.objects[positive], objects[nearest])
    assert torch.equal(chosen.class_ids[positive], nearest % CLASSES)


def test_moved_copies_of_a_long_object_teach_to_turn_it_back():
    ship = torch.tensor([[100.0, 80.0, 90.0, 15.0, 0.7]])
    nowhere = torch.tensor([[20.0, 20.0, 9.0, 9.0, 0.0]])
    alone = head().sample_proposals([nowhere], [truth(ship)])
    assert (alone.class_ids < CLASSES).sum() == 1  # the ship itself, which is not turned at all
    chosen = head(assigner="generous").sample_proposals([nowhere], [truth(ship)])
    positive = chosen.class_ids < CLASSES
    assert 3 <= positive.sum() <= 9
    turns = encode_rotated(chosen.boxes, chosen.objects)[positive, 4]
    assert turns.abs().amax() > 0.1 and turns.unique().numel() == positive.sum()
    assert (rotated_iou(chosen.boxes[positive], ship) >= 0.5).all()
    assert torch.equal(chosen.objects[positive], ship.expand(int(positive.sum()), -1))


def test_nothing_is_moved_where_there_is_no_object():
    chosen = head(assigner="generous").sample_proposals([some_boxes(40, 4)], [truth(some_boxes(0))])
    assert (chosen.class_ids == CLASSES).all() and len(chosen.boxes) == 40


def test_samples_know_their_picture():
    chosen = head(8).sample_proposals(
        [some_boxes(50, 2), some_boxes(50, 3)],
        [truth(some_boxes(0)), truth(some_boxes(2), unknown=(True, False, False))],
    )
    assert chosen.pictures.tolist() == [0] * 8 + [1] * 8
    assert chosen.unknown[:, 0].tolist() == [False] * 8 + [True] * 8
    assert (chosen.class_ids[:8] == CLASSES).all()


def test_proposals_within_ignored_objects_are_not_chosen():
    everywhere = torch.tensor([[100.0, 100.0, 900.0, 900.0, 0.3]])
    objects = some_boxes(2)
    chosen = head().sample_proposals([some_boxes(300, 4)], [truth(objects, ignored=everywhere)])
    assert len(chosen.boxes) >= 2 and (chosen.class_ids < CLASSES).all()
    none = head().sample_proposals([some_boxes(300, 4)], [truth(objects[:0], ignored=everywhere)])
    assert len(none.boxes) == 0


def test_losses_are_means_over_all_samples():
    objects, boxes = some_boxes(2), some_boxes(8, 5)
    boxes[:2] = objects + torch.tensor([1.0, -2.0, 3.0, 1.0, 0.05])
    ids = torch.tensor([0, 2, *[CLASSES] * 6])
    targets = torch.cat([objects, boxes[2:]])
    unknown = torch.zeros(8, CLASSES, dtype=torch.bool)
    samples = Samples(boxes, torch.zeros(8, dtype=torch.long), ids, targets, unknown)
    logits, deltas = torch.zeros(8, CLASSES + 1), torch.zeros(8, 5)
    terms = head().losses(logits, deltas, samples)
    assert terms["class"].item() == pytest.approx(1.3863, abs=1e-4)  # ln 4
    size = encode_rotated(boxes[:2], objects).abs()
    expected = torch.where(size < 1, size**2 / 2, size - 0.5).sum() / 8
    torch.testing.assert_close(terms["box"], expected)


def test_no_samples_cost_nothing():
    none = torch.zeros(0, dtype=torch.long)
    unknown = torch.zeros(0, CLASSES, dtype=torch.bool)
    samples = Samples(torch.zeros(0, 5), none, none, torch.zeros(0, 5), unknown)
    net = head()
    terms = net.losses(*net(torch.zeros(0, 49, 4)), samples)
    assert [term.item() for term in terms.values()] == [0.0, 0.0]
    sum(terms.values()).backward()


def test_the_head_looks_a_little_beyond_the_box():
    net = head()
    seen = []
    net.forward = lambda features: seen.append(features)
    ramp = ((torch.arange(64.0) + 0.5) * 4).expand(1, 4, 64, 64)  # x in pixels
    boxes = torch.tensor([[128.0, 128.0, 70.0, 20.0, 0.0], [128.0, 128.0, 20.0, 50.0, 1.5708]])
    net.predict([ramp], (4,), boxes, torch.zeros(2, dtype=torch.long))
    across, down = seen[0][..., 0].unflatten(1, (7, 7))
    assert (across[3, 6] - across[3, 0]).item() == pytest.approx(70 * 1.2 * 6 / 7, rel=1e-4)
    # Turned by a quarter, the box's height lies along the picture's x, backwards.
    assert (down[0, 3] - down[6, 3]).item() == pytest.approx(50 * 1.4 * 6 / 7, rel=1e-3)
