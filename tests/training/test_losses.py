import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lemevit_cli.training.losses import grouped_cross_entropy

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
