import numpy as np
import pytest

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.tasks.classification.tally import ClassTally


def tally_of(names, data_names, scores, truth):
    tally = ClassTally(names, data_names)
    for of_window, class_id in zip(scores, truth, strict=True):
        tally.add(np.asarray(of_window, np.float32), class_id)
    return tally.figures()


def test_figures_are_those_of_the_counts():
    names = tuple("abcdefg")
    random = np.random.default_rng(0)
    truth = random.integers(0, 7, 200)
    scores = random.random((200, 7)) + 0.6 * np.eye(7)[truth]
    found = tally_of(names, names, scores, truth)
    best = scores.argmax(axis=1)
    assert found["top1"] == pytest.approx((best == truth).mean())
    ranks = (scores > scores[np.arange(200), truth][:, None]).sum(axis=1)
    assert found["top5"] == pytest.approx((ranks < 5).mean())
    f1 = [
        2 * ((best == c) & (truth == c)).sum() / ((best == c).sum() + (truth == c).sum())
        for c in range(7)
    ]
    assert found["f1"] == pytest.approx(np.mean(f1))
    assert [found["classes"][n]["f1"] for n in names] == pytest.approx(f1)
    assert np.array(found["confusion"]).sum() == found["windows"] == 200


def test_the_most_usual_mistake_is_named():
    eye = np.eye(3)
    found = tally_of("abc", "abc", eye[[0, 1, 1, 2]], [0, 0, 0, 0])
    assert found["classes"]["a"]["taken_for"] == "b 50%"
    assert found["classes"]["b"]["taken_for"] is None


def test_classes_are_matched_by_name_and_unknown_ones_are_wrong():
    eye = np.eye(3)
    found = tally_of("abc", "cax", eye[[0, 2, 1, 0]], [1, 0, 0, 2])
    assert found["top1"] == 0.5  # a and c are right, b is not of the data, x not of the model
    assert found["unmatched"] == [1, 0, 0]


def test_what_has_no_label_does_not_count():
    found = tally_of("ab", "ab", np.eye(2), [0, NODATA_CLASS])
    assert found["windows"] == 1 and found["top1"] == 1.0
