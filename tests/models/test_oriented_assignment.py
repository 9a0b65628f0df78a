import torch

from lemevit_cli.models.oriented_rcnn.assignment import (
    ASSIGNERS,
    BACKGROUND,
    NEITHER,
    mark_hidden,
    match,
    sample,
    truths_of,
)

NOTHING_IGNORED = torch.zeros(5, dtype=torch.bool)


def test_candidates_go_to_their_best_object_or_are_background_or_neither():
    overlaps = torch.tensor([[0.8, 0.1], [0.2, 0.7], [0.5, 0.4], [0.29, 0.0], [0.3, 0.0]])
    found = match(overlaps, NOTHING_IGNORED, positive=0.7, negative=0.3)
    assert found.tolist() == [0, 1, NEITHER, BACKGROUND, NEITHER]


def test_an_object_without_a_good_candidate_gets_its_best_ones():
    overlaps = torch.tensor([[0.8, 0.1], [0.2, 0.4], [0.1, 0.4], [0.0, 0.0], [0.35, 0.0]])
    found = match(overlaps, NOTHING_IGNORED, positive=0.7, negative=0.3, rescue=0.3)
    assert found.tolist() == [0, 1, 1, BACKGROUND, NEITHER]
    faint = match(overlaps / 2, NOTHING_IGNORED, positive=0.7, negative=0.3, rescue=0.3)
    assert faint.tolist() == [0, BACKGROUND, BACKGROUND, BACKGROUND, BACKGROUND]


def test_an_object_gets_several_of_its_best_candidates_that_others_overlap_less():
    overlaps = torch.tensor([[0.6, 0.0], [0.4, 0.35], [0.32, 0.38], [0.31, 0.0], [0.29, 0.2]])
    found = match(overlaps, NOTHING_IGNORED, positive=0.5, negative=0.3, rescue=0.3, best=3)
    assert found.tolist() == [0, 0, 1, NEITHER, BACKGROUND]
    more = match(overlaps, NOTHING_IGNORED, positive=0.5, negative=0.3, rescue=0.3, best=9)
    assert more.tolist() == [0, 0, 1, 0, BACKGROUND]


def test_within_an_ignored_object_is_no_background_but_may_be_an_object():
    overlaps = torch.tensor([[0.8], [0.1], [0.1], [0.4], [0.0]])
    within = torch.tensor([[1.0, 0.0], [0.6, 0.0], [0.0, 0.6], [0.9, 0.9], [0.5, 0.5]])
    hidden = mark_hidden(torch.zeros(5, 5), torch.zeros(2, 5), lambda candidates, ignored: within)
    assert hidden.tolist() == [True, True, True, True, False]
    found = match(overlaps, hidden, positive=0.5, negative=0.5)
    assert found.tolist() == [0, NEITHER, NEITHER, NEITHER, BACKGROUND]


def test_of_many_ignored_objects_each_hides_its_candidates():
    ignored = torch.arange(600.0)[:, None].expand(-1, 5)  # more than are compared at once
    candidates = torch.tensor([0.0, 255.0, 256.0, 599.0, 600.0])[:, None].expand(-1, 5)
    hidden = mark_hidden(candidates, ignored, lambda a, b: (a[:, :1] == b[:, 0]).float())
    assert hidden.tolist() == [True, True, True, True, False]


def test_all_is_background_without_objects():
    found = match(torch.zeros(5, 0), NOTHING_IGNORED, positive=0.7, negative=0.3, rescue=0.3)
    assert found.tolist() == [BACKGROUND] * 5


def test_samples_have_their_number_and_share_and_differ_from_draw_to_draw():
    torch.manual_seed(0)
    matches = torch.cat(
        [torch.arange(100), torch.full((300,), BACKGROUND), torch.tensor([NEITHER])]
    )
    positive, negative = sample(matches, number=64, positive_share=0.25)
    assert (len(positive), len(negative)) == (16, 48)
    assert (matches[positive] >= 0).all() and (matches[negative] == BACKGROUND).all()
    assert len(set(positive.tolist())) == 16
    again, _ = sample(matches, number=64, positive_share=0.25)
    assert set(again.tolist()) != set(positive.tolist())


def test_background_fills_what_objects_leave():
    matches = torch.tensor([0, *[BACKGROUND] * 30])
    positive, negative = sample(matches, number=16, positive_share=0.5)
    assert (len(positive), len(negative)) == (1, 15)
    positive, negative = sample(matches[:4], number=16, positive_share=0.5)
    assert (len(positive), len(negative)) == (1, 3)


def test_truths_leave_out_empty_slots_and_set_ignored_and_thin_objects_aside():
    boxes = torch.arange(25.0).view(1, 5, 5) + 2
    boxes[0, 4, 3] = 0.4
    labels = torch.tensor([[2, -1, -2, 0, 1]])
    (truth,) = truths_of(boxes, labels, None, 3)
    torch.testing.assert_close(truth.boxes, boxes[0, [0, 3]])
    assert truth.class_ids.tolist() == [2, 0]
    torch.testing.assert_close(truth.ignored, boxes[0, [2, 4]])
    assert truth.unknown.tolist() == [False] * 3


def test_a_loss_of_boxes_is_a_mean_of_samples_or_a_weighted_one_of_objects():
    total = torch.tensor(12.0)
    assert ASSIGNERS["paper"].mean_offset(total, positive=3, samples=48) == 12 / 48
    weight = ASSIGNERS["generous"].offset_weight
    assert ASSIGNERS["generous"].mean_offset(total, positive=3, samples=48) == weight * 12 / 3
    for assigner in ASSIGNERS.values():
        assert assigner.mean_offset(torch.tensor(0.0), positive=0, samples=0) == 0
