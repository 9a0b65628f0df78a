import numpy as np
import pytest

from lemevit_cli.errors import DataError
from lemevit_cli.metrics.confusion import Confusion, match_classes

FIVE = ("land", "building", "road", "vegetation", "water")


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
    f1s = [figures["classes"][name]["f1"] for name in ("a", "b", "c")]
    assert figures["f1"] == pytest.approx(np.mean(f1s))
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
