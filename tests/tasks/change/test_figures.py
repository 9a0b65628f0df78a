"""Figures of change, by hand and by brute force."""

import numpy as np
import pytest

from lemevit_cli.geometry.window import Window
from lemevit_cli.metrics.confusion import Confusion
from lemevit_cli.tasks.change.figures import BatchTally, change_figures, match_changes

ONE, KINDS = ("unchanged", "changed"), ("unchanged", "built", "torn down")


def confusion_of(truth, found, classes):
    confusion = Confusion(classes)
    confusion.add(np.array(truth), np.array(found))
    return confusion


def test_change_is_scored_over_all_pixels():
    truth = [0] * 80 + [1] * 20 + [255] * 9
    found = [1] * 5 + [0] * 75 + [1] * 15 + [0] * 5 + [1] * 9
    figures = change_figures(confusion_of(truth, found, ONE))
    assert figures == pytest.approx(
        {"precision": 15 / 20, "recall": 15 / 20, "f1": 0.75, "iou": 15 / 25}
    )


def test_one_kind_taken_for_another_is_change_all_the_same():
    figures = change_figures(confusion_of([0, 1, 1, 2, 2], [0, 1, 2, 2, 0], KINDS))
    assert (figures["precision"], figures["recall"]) == (1.0, 0.75)
    assert figures["classes"]["built"]["recall"] == 0.5
    assert figures["classes"]["torn down"] == pytest.approx(
        {"iou": 1 / 3, "f1": 0.5, "precision": 0.5, "recall": 0.5}
    )


def test_without_change_there_is_nothing_to_score():
    assert change_figures(confusion_of([0, 0], [0, 0], ONE)) == dict.fromkeys(
        ("f1", "iou", "precision", "recall")
    )
    assert change_figures(confusion_of([0, 0], [0, 1], ONE))["f1"] == 0.0


def test_kinds_are_matched_by_name_or_become_one():
    same = match_changes(("unchanged", "torn down", "built"), KINDS)
    assert same.classes == KINDS
    assert same.prediction(np.array([0, 1, 2], np.uint8)).tolist() == [0, 2, 1]
    for model, data in ((ONE, KINDS), (KINDS, ONE), (KINDS, ("unchanged", "felled", "grown"))):
        match = match_changes(model, data)
        assert match.classes == ONE
        assert match.truth(np.array([0, len(data) - 1, 255], np.uint8)).tolist() == [0, 1, 255]
        assert match.prediction(np.array([0, len(model) - 1], np.uint8)).tolist() == [0, 1]


def test_batches_are_sixteen_windows_in_the_order_of_the_files():
    random = np.random.default_rng(0)
    areas = [(1300, 1000), (256, 700), (600, 300)]  # 6 * 4 + 1 * 3 + 3 * 2 windows
    tally, windows = BatchTally(), []
    for number, (height, width) in enumerate(areas):
        truth = (random.random((height, width)) < 0.02 * number + 0.01).astype(np.uint8)
        found = np.where(random.random((height, width)) < 0.3, 1 - truth, truth).astype(np.uint8)
        truth[:40, :50] = 255
        area = Window(col_off=7, row_off=11, width=width, height=height)
        tally.begin(area)
        for top in range(0, height, 90):  # rows come in stripes that know no windows
            rows = slice(top, min(top + 90, height))
            stripe = Window(col_off=7, row_off=11 + top, width=width, height=rows.stop - top)
            tally.add(stripe, truth[rows], found[rows])
        windows += [
            (truth[r : r + 256, c : c + 256], found[r : r + 256, c : c + 256])
            for r in range(0, height, 256)
            for c in range(0, width, 256)
        ]
    assert len(windows) == 33
    expected = []
    for first in range(0, 33, 16):
        truth, found = (
            np.concatenate([w[i].ravel() for w in windows[first : first + 16]]) for i in (0, 1)
        )
        known = truth != 255
        hits = ((truth == 1) & (found == 1))[known].sum()
        precision, recall = hits / (found == 1)[known].sum(), hits / (truth == 1)[known].sum()
        expected.append((2 * precision * recall / (precision + recall), precision, recall))
    names = ("batch_f1", "batch_precision", "batch_recall")
    figures = tally.figures()
    assert [figures[name] for name in names] == pytest.approx(np.mean(expected, axis=0))


def test_batches_without_change_are_left_out_and_missed_change_counts_zero():
    tally = BatchTally()
    assert tally.figures() == dict.fromkeys(("batch_f1", "batch_precision", "batch_recall"))
    for truth, found in ((0, 0), (1, 0), (1, 1)):
        area = Window(col_off=0, row_off=0, width=256 * 16, height=4)
        tally.begin(area)
        ids = np.ones((4, 256 * 16), np.uint8)
        tally.add(area, ids * np.uint8(truth), ids * np.uint8(found))
    assert set(tally.figures().values()) == {0.5}
