"""The calibration error against sums by hand."""

import numpy as np
import pytest

from lemevit_cli.metrics.confusion import match_classes
from lemevit_cli.metrics.reliability import Reliability


def of(certainty, num_right, count):
    answers = np.full(count, certainty, dtype=np.float32)
    return answers, np.arange(count) < num_right


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([of(0.8, 8, 10)], 0.0),
        ([of(0.9, 5, 10)], 0.4),
        ([of(1.0, 10, 10), of(0.6, 9, 10)], (0.0 * 10 + 0.3 * 10) / 20),
        # In one bin too sure and too unsure make up for each other.
        ([of(0.61, 0, 10), of(0.61, 10, 10)], 0.11),
    ],
)
def test_it_is_how_far_certainty_and_truth_are_apart(answers, expected):
    reliability = Reliability()
    for one in answers:
        reliability.add(*one)
    assert reliability.error() == pytest.approx(expected, abs=1e-6)


def test_of_nothing_there_is_none():
    assert Reliability().error() is None


def test_how_sure_a_background_is_adds_up_all_that_it_stands_for():
    match = match_classes(["land", "building", "water"], ["background", "building"])
    scores = np.array([[[0.5, 0.3]], [[0.1, 0.6]], [[0.4, 0.1]]], dtype=np.float32)
    found = match.prediction(scores.argmax(axis=0).astype(np.uint8))
    np.testing.assert_allclose(match.certainty(scores, found), [[0.9, 0.6]], rtol=1e-6)
