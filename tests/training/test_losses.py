import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lemevit_cli.errors import DataError
from lemevit_cli.training.losses import grouped_cross_entropy, make_loss, weigh_classes

SINGLE = torch.arange(5).expand(2, 5)


@pytest.fixture
def logits():
    return torch.randn(2, 5, 6, 7, generator=torch.Generator().manual_seed(0)).requires_grad_()


@pytest.fixture
def ids():
    found = torch.randint(0, 5, (2, 6, 7), generator=torch.Generator().manual_seed(1))
    found[:, :2] = 255
    return found


def test_the_loss_of_single_classes_is_plain_cross_entropy(logits, ids):
    total, count = grouped_cross_entropy(logits, ids, SINGLE)
    expected = F.cross_entropy(logits, ids, ignore_index=255, reduction="sum")
    torch.testing.assert_close(total, expected)
    assert count == (ids != 255).sum()


def test_the_loss_of_a_group_sums_the_scores_of_its_classes():
    logits = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0]).view(1, 5, 1, 1)
    groups = torch.tensor([[0, 1, 0, 0, 0]])
    e = np.exp([1.0, 2.0, 3.0, 4.0, 5.0])
    background, _ = grouped_cross_entropy(logits, torch.tensor([[[0]]]), groups)
    building, _ = grouped_cross_entropy(logits, torch.tensor([[[1]]]), groups)
    assert background.item() == pytest.approx(-np.log((e[0] + e[2] + e[3] + e[4]) / e.sum()))
    assert building.item() == pytest.approx(-np.log(e[1] / e.sum()))


def test_samples_of_different_sources_may_share_a_batch(logits, ids):
    groups = torch.stack([SINGLE[0], torch.tensor([0, 1, 0, 0, 0])])
    ids[1][ids[1] != 255] %= 2
    total, count = grouped_cross_entropy(logits, ids, groups)
    parts = [
        grouped_cross_entropy(logits[i : i + 1], ids[i : i + 1], groups[i : i + 1]) for i in (0, 1)
    ]
    torch.testing.assert_close(total, parts[0][0] + parts[1][0])
    assert count == parts[0][1] + parts[1][1]


def test_ignored_pixels_give_neither_loss_nor_gradient(logits, ids):
    total, _ = grouped_cross_entropy(logits, ids, SINGLE)
    total.backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[:, :, :2] == 0).all() and (logits.grad[:, :, 2:] != 0).all()
    nothing, count = grouped_cross_entropy(logits, torch.full_like(ids, 255), SINGLE)
    assert nothing.item() == 0.0 and count.item() == 0


def test_a_class_that_the_model_lacks_teaches_nothing(logits, ids):
    groups = torch.tensor([[0, 1, 3, 4, -1]]).expand(2, 5)
    total, count = grouped_cross_entropy(logits, ids, groups)
    total.backward()
    assert torch.isfinite(logits.grad).all()
    assert count == ((ids != 255) & (ids != 2)).sum()


BUILDINGS = torch.tensor([0, 1, 0, 0, 0])  # a source that tells buildings from the rest
LOSSES = ["ce", "dice", "lovasz", "focal", "ce+dice"]


def dice(scores, ids):
    """Return 1 - Dice of scores (B, C, H, W), mean over classes; those without a pixel count 0."""
    seen = (ids != 255).numpy()
    losses = []
    for c in range(scores.shape[1]):
        truth, score = (ids == c).numpy()[seen], scores[:, c].numpy()[seen]
        missed = 1 - 2 * score[truth].sum() / (score.sum() + truth.sum())
        losses.append(missed if truth.any() else 0.0)
    return np.mean(losses)


def lovasz(scores, ids):
    """Return the area under the Jaccard loss of each class over its errors from 1 down to 0."""
    seen = (ids != 255).numpy()
    losses = []
    for c in ids[seen].unique():
        truth = (ids == c).numpy()[seen]
        errors = np.abs(truth - scores[:, c].numpy()[seen])
        steps = np.unique(np.concatenate([[0.0], errors]))
        # Between two errors the set of wrong pixels is one and the same.
        sets = [errors > low for low in steps[:-1]]
        jaccard = [1 - (truth & ~wrong).sum() / (truth | wrong).sum() for wrong in sets]
        losses.append(np.dot(np.diff(steps), jaccard))
    return np.mean(losses)


@pytest.mark.parametrize(("name", "by_hand"), [("dice", dice), ("lovasz", lovasz)])
def test_losses_of_regions_are_their_value_times_the_targets(name, by_hand, logits, ids):
    total, count = make_loss(name)(logits, ids, SINGLE)
    assert count == (ids != 255).sum()
    expected = by_hand(logits.detach().softmax(dim=1), ids)
    assert (total / count).item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("name", "by_hand"), [("dice", dice), ("lovasz", lovasz)])
def test_losses_of_regions_sum_the_scores_of_a_group(name, by_hand, logits, ids):
    ids[ids != 255] %= 2
    total, count = make_loss(name)(logits, ids, BUILDINGS.expand(2, 5))
    scores = logits.detach().softmax(dim=1)
    of_source = torch.stack([scores[:, [0, 2, 3, 4]].sum(dim=1), scores[:, 1]], dim=1)
    assert (total / count).item() == pytest.approx(by_hand(of_source, ids), rel=1e-4)


def test_focal_loss_is_cross_entropy_that_forgets_what_is_right(logits, ids):
    total, _ = make_loss("focal")(logits, ids, SINGLE)
    surprise = F.cross_entropy(logits, ids, ignore_index=255, reduction="none")
    expected = ((1 - torch.exp(-surprise)) ** 2 * surprise).sum()
    torch.testing.assert_close(total, expected)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_take_sources_apart(name, logits, ids):
    groups = torch.stack([SINGLE[0], BUILDINGS])
    ids[1][ids[1] != 255] %= 2
    total, count = make_loss(name)(logits, ids, groups)
    parts = [make_loss(name)(logits[i : i + 1], ids[i : i + 1], groups[i : i + 1]) for i in (0, 1)]
    torch.testing.assert_close(total, parts[0][0] + parts[1][0])
    assert count == parts[0][1] + parts[1][1]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_give_ignored_pixels_no_gradient(name, logits, ids):
    groups = torch.tensor([[0, 1, 3, 4, -1]]).expand(2, 5)  # the model has no class for id 2
    total, count = make_loss(name)(logits, ids, groups)
    total.backward()
    taught = (ids != 255) & (ids != 2)
    assert count == taught.sum()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad.abs().sum(dim=1)[~taught] == 0).all()
    assert (logits.grad.abs().sum(dim=1)[taught] > 0).any()


@pytest.mark.parametrize("name", LOSSES)
def test_losses_without_a_target_are_zero_and_can_be_followed_back(name, logits, ids):
    total, count = make_loss(name)(logits, torch.full_like(ids, 255), SINGLE)
    total.backward()
    assert total.item() == 0.0 and count.item() == 0
    assert (logits.grad == 0).all()


def test_names_joined_by_a_plus_are_added(logits, ids):
    parts = [make_loss(name)(logits, ids, SINGLE)[0] for name in ("ce", "dice")]
    total, count = make_loss("ce+dice")(logits, ids, SINGLE)
    torch.testing.assert_close(total, parts[0] + parts[1])
    assert count == (ids != 255).sum()


def test_class_weights_enter_the_cross_entropy(logits, ids):
    weights = (1.0, 2.0, 0.5, 0.0, 3.0)
    total, count = make_loss("ce", weights)(logits, ids, SINGLE)
    expected = F.cross_entropy(
        logits, ids, weight=torch.tensor(weights), ignore_index=255, reduction="sum"
    )
    torch.testing.assert_close(total, expected)
    assert count == (ids != 255).sum()


def test_a_group_has_the_mean_weight_of_its_classes(logits, ids):
    ids[ids != 255] = 0
    groups = BUILDINGS.expand(2, 5)
    weighted, _ = make_loss("ce", (1.0, 9.0, 2.0, 3.0, 6.0))(logits, ids, groups)
    torch.testing.assert_close(weighted, 3.0 * make_loss("ce")(logits, ids, groups)[0])


def test_an_auxiliary_answer_counts_less(logits, ids):
    other = logits.detach().flip(1)
    together, count = make_loss("ce")((logits, other), ids, SINGLE)
    apart = [make_loss("ce")(answer, ids, SINGLE) for answer in (logits, other)]
    torch.testing.assert_close(together, apart[0][0] + 0.4 * apart[1][0])
    assert count == apart[0][1]


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_computed_in_float32_under_autocast(name, logits, ids):
    half = logits.detach().bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        total, _ = make_loss(name)(half, ids, SINGLE)
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, make_loss(name)(half.float(), ids, SINGLE)[0])


def test_an_unknown_loss_lists_the_known():
    with pytest.raises(DataError, match=r"no loss 'hinge' \(of 'ce\+hinge'\); .*ce, dice, lovasz"):
        make_loss("ce+hinge")


def test_balanced_weights_go_by_the_root_of_a_class_and_have_a_mean_of_one():
    counts = np.array([800, 0, 200])
    weights = np.array(weigh_classes("balanced", ("land", "road", "water"), counts.tolist()))
    assert weights[2] / weights[0] == pytest.approx(2.0)
    assert weights[1] == 1.0
    assert (weights * counts).sum() / counts.sum() == pytest.approx(1.0)


def test_class_weights_are_given_by_name():
    assert weigh_classes("none", ("land", "road"), (1, 2)) is None
    assert weigh_classes("road=2, land=0.5", ("land", "road", "sea"), (1, 2, 3)) == (0.5, 2.0, 1.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lake=2", "no class 'lake' in land, road"),
        ("road=-1", "'-1' is no number from 0 on"),
        ("road", "'' is no number from 0 on"),
        ("road=nan", "'nan' is no number"),
    ],
)
def test_class_weights_that_mean_nothing_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        weigh_classes(text, ("land", "road"), (1, 2))


@pytest.mark.parametrize("loss", ["dice", "Focal + lovasz"])
def test_class_weights_that_no_term_of_the_loss_heeds_are_refused(loss):
    assert weigh_classes("none", ("land", "road"), (1, 2), loss=loss) is None
    assert weigh_classes("road=2", ("land", "road"), (1, 2), loss=f"{loss} + CE") == (1.0, 2.0)
    with pytest.raises(DataError, match="only ce has them"):
        weigh_classes("road=2", ("land", "road"), (1, 2), loss=loss)
