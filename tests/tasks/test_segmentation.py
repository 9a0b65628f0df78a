import numpy as np
import pytest
import torch
import torch.nn.functional as F

from lemevit_cli.errors import DataError, LemevitError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks import load_task
from lemevit_cli.tasks.segmentation import (
    SEGMENTATION,
    Confusion,
    grouped_cross_entropy,
    match_classes,
)

FIVE = ("land", "building", "road", "vegetation", "water")
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


def test_scores_sum_to_one(logits):
    torch.testing.assert_close(SEGMENTATION.scores(logits).sum(dim=1), torch.ones(2, 6, 7))


def test_figures_equal_counting_pixel_by_pixel():
    random = np.random.default_rng(0)
    confusion = Confusion(("a", "b", "c", "never"))
    true, found = [], []
    for _ in range(3):
        truth = random.choice([0, 1, 2, 255], size=(9, 11)).astype(np.uint8)
        predicted = random.integers(0, 3, size=(9, 11)).astype(np.uint8)
        confusion.add(truth, predicted)
        true += truth[truth != 255].tolist()
        found += predicted[truth != 255].tolist()
    figures = confusion.figures()
    pairs = list(zip(true, found, strict=True))
    for i, name in enumerate(("a", "b", "c")):
        hits = sum(t == i and f == i for t, f in pairs)
        either = sum(t == i or f == i for t, f in pairs)
        precision, recall = hits / found.count(i), hits / true.count(i)
        record = figures["classes"][name]
        assert record["iou"] == pytest.approx(hits / either)
        assert record["precision"] == pytest.approx(precision)
        assert record["recall"] == pytest.approx(recall)
        assert record["f1"] == pytest.approx(2 * precision * recall / (precision + recall))
    assert figures["accuracy"] == pytest.approx(np.mean([t == f for t, f in pairs]))
    ious = [figures["classes"][name]["iou"] for name in ("a", "b", "c")]
    assert figures["miou"] == pytest.approx(np.mean(ious))
    assert set(figures["classes"]["never"].values()) == {None}


def test_a_prediction_outside_the_classes_is_wrong():
    confusion = Confusion(("a", "b"))
    confusion.add(np.array([0, 0, 1]), np.array([0, 255, 1]))
    figures = confusion.figures()
    assert figures["classes"]["a"]["recall"] == 0.5
    assert figures["accuracy"] == pytest.approx(2 / 3)


def test_other_classes_count_as_background_on_data_of_buildings():
    match = match_classes(FIVE, ("background", "building"))
    assert match.classes == ("background", "building")
    np.testing.assert_array_equal(
        match.prediction(np.array([0, 1, 2, 3, 4, 255], dtype=np.uint8)), [0, 1, 0, 0, 0, 255]
    )
    np.testing.assert_array_equal(match.truth(np.array([0, 1, 255], dtype=np.uint8)), [0, 1, 255])


def test_data_of_five_classes_judge_weights_of_buildings_by_these():
    match = match_classes(("building", "background"), FIVE)
    assert match.classes == ("building", "background")
    np.testing.assert_array_equal(match.truth(np.arange(5, dtype=np.uint8)), [1, 0, 1, 1, 1])
    np.testing.assert_array_equal(match.prediction(np.array([0, 1], dtype=np.uint8)), [0, 1])


def test_classes_are_matched_by_name_not_by_place():
    match = match_classes(("water", "land"), ("land", "water"))
    np.testing.assert_array_equal(match.prediction(np.array([0, 1], dtype=np.uint8)), [1, 0])


def test_nothing_shared_is_refused():
    with pytest.raises(DataError, match="no class is shared"):
        match_classes(FIVE, ("background", "ship"))


def test_the_faster_model_answers_the_same():
    card = Card(
        task="seg",
        backbone="lemevit_tiny",
        head="upernet",
        classes=classes_from_names(FIVE),
        head_args={"decoder_channels": 64},
    )
    torch.manual_seed(0)
    model = SEGMENTATION.build_model(card).eval()
    pixels = torch.rand(1, 3, 64, 96) * 255
    with torch.inference_mode():
        expected = model(pixels)
        torch.testing.assert_close(
            SEGMENTATION.for_inference(model)(pixels), expected, atol=1e-4, rtol=1e-4
        )


def test_an_unknown_task_lists_the_known():
    assert load_task("seg") is SEGMENTATION
    with pytest.raises(LemevitError, match="no task 'segment'; tasks are seg"):
        load_task("segment")
