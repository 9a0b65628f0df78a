"""Figures of found boxes against counts by hand."""

import numpy as np
import pytest

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.tables import TABLES
from lemevit_cli.tasks.detection.tally import BoxTally, match_box_classes
from lemevit_cli.training.datasets.objects import IGNORED, Objects

LONG = np.array([50.0, 40.0, 40.0, 10.0, 0.2])
SQUARE = (120.0, 40.0, 20.0, 18.0, 0.0)


def moved(box, *, cx=0.0, cy=0.0, w=0.0, angle=0.0):
    return np.asarray(box) + np.array([cx, cy, w, 0.0, angle])


def objects(*boxes, ids=None, difficult=None):
    count = len(boxes)
    return Objects(
        np.array(boxes, float).reshape(-1, 5),
        np.array(ids if ids is not None else [0] * count, np.int64),
        np.array(difficult if difficult is not None else [False] * count, bool),
    )


def tally_of(truth, boxes, scores=None, ids=None, model=("ship",), data=("ship",)):
    tally = BoxTally(model)
    count = len(boxes)
    tally.add(
        np.array(boxes, float).reshape(-1, 5),
        np.array(scores if scores is not None else [0.9] * count),
        np.array(ids if ids is not None else [0] * count, np.int64),
        truth,
        match_box_classes(model, data),
    )
    return tally


def test_what_is_found_as_it_is_has_no_error():
    figures = tally_of(objects(LONG, SQUARE), [LONG, SQUARE]).figures()
    assert figures["ap50"] == figures["ap75"] == figures["ap50_95"] == 1.0
    assert figures["ap50_voc07"] == pytest.approx(1.0)
    assert (figures["precision"], figures["recall"]) == (1.0, 1.0)
    assert (figures["length_error"], figures["bearing_error_deg"]) == (0.0, 0.0)


def test_scores_of_the_best_f1_are_chosen_where_enough_is_labelled():
    boats = [moved(LONG, cy=60 * i) for i in range(12)]
    planes = [moved(LONG, cx=300, cy=60 * i) for i in range(9)]
    wrong = [moved(LONG, cx=900, cy=60 * i) for i in range(6)]
    scores = [*np.linspace(0.9, 0.515, 12), *[0.8] * 9, *np.linspace(0.52, 0.1, 6)]
    tally = tally_of(
        objects(*boats, *planes, ids=[0] * 12 + [1] * 9),
        [*boats, *planes, *wrong],
        scores,
        [0] * 12 + [1] * 9 + [0] * 6,
        model=("ship", "plane", "tank"),
        data=("ship", "plane"),
    )
    # All boats and one wrong box above 0.515; too few planes, no tank, for a score of their own.
    assert tally.best_scores() == (0.51, 0.51, 0.51)
    few = tally_of(objects(*planes), planes, [0.8] * 9)
    assert few.best_scores() == (0.3,)


def test_false_finds_are_counted_from_the_score_of_each_class_also_where_nothing_is():
    tally = BoxTally(("ship", "plane"), scores=(0.5, 0.2))
    boxes = np.array([LONG, moved(LONG, cx=200), moved(LONG, cx=400)])
    match = match_box_classes(("ship", "plane"), ("ship", "plane"))
    tally.add(boxes, np.array([0.9, 0.4, 0.3]), np.array([0, 0, 1]), objects(), match)
    figures = tally.figures()
    assert figures["false_finds"] == 2 and figures["precision"] is None


def test_the_table_says_that_classes_count_from_scores_of_their_own():
    (table,) = (table for table in TABLES if table.headline == "ap50")
    tally = BoxTally(("ship", "plane"), scores=(0.5, 0.2))
    match = match_box_classes(("ship", "plane"), ("ship", "plane"))
    tally.add(np.empty((0, 5)), np.empty(0), np.empty(0, np.int64), objects(LONG), match)
    assert "the weights' score of each class" in table.remark(tally.figures())
    tally = tally_of(objects(LONG), [LONG])
    assert table.remark(tally.figures()) == ""


def test_errors_are_medians_over_long_objects_that_are_right():
    truth = [moved(LONG, cy=60 * i) for i in range(3)]
    errors = [(2.0, 0.01), (-4.0, -0.05), (8.0, 0.02)]
    found = [moved(t, w=w, angle=a) for t, (w, a) in zip(truth, errors, strict=True)]
    # A square has no direction, an unsure box is not shown, a far one is not right.
    unsure, far = moved(LONG, cy=180, w=9), moved(LONG, cx=300, w=9)
    more = [SQUARE, unsure, far]
    scores = [0.9] * 4 + [0.1, 0.9]
    all_true = objects(*truth, SQUARE, moved(LONG, cy=180))
    figures = tally_of(all_true, [*found, *more], scores).figures()
    assert figures["length_error"] == pytest.approx(4 / 40)
    assert figures["bearing_error_deg"] == pytest.approx(np.degrees(0.02))
    assert (figures["precision"], figures["recall"]) == (4 / 5, 4 / 5)


def test_a_bearing_knows_no_front_and_no_back():
    vertical = (50.0, 40.0, 40.0, 10.0, np.pi / 2 - 0.01)
    found = (50.0, 40.0, 40.0, 10.0, -np.pi / 2 + 0.01)
    figures = tally_of(objects(vertical), [found]).figures()
    assert figures["bearing_error_deg"] == pytest.approx(np.degrees(0.02))


def test_classes_that_one_side_alone_knows_do_not_count():
    truth = objects(LONG, SQUARE, ids=[0, 1])
    tally = tally_of(
        truth, [LONG, SQUARE, SQUARE], ids=[1, 0, 1], model=("car", "ship"), data=("ship", "pond")
    )
    figures = tally.figures()
    assert list(figures["classes"]) == ["ship"]
    # The second ship is a pond in truth; the car is not judged.
    assert (figures["precision"], figures["recall"]) == (0.5, 1.0)
    with pytest.raises(
        DataError, match="no class is shared; labelled are pond, the model knows ship"
    ):
        match_box_classes(["ship"], ["pond"])


def test_difficult_and_ignored_objects_are_neither_right_nor_wrong():
    truth = objects(LONG, SQUARE, ids=[IGNORED, 0], difficult=[False, True])
    model = ("ship", "plane")
    tally = tally_of(truth, [LONG, LONG, SQUARE], ids=[0, 1, 0], model=model, data=model)
    figures = tally.figures()
    assert figures["ap50"] is None and figures["precision"] is None
    assert figures["length_error"] is None and tally.curves() == {}


def test_boxes_of_different_pictures_do_not_meet():
    tally = tally_of(objects(LONG), [])
    match = match_box_classes(["ship"], ["ship"])
    tally.add(np.array([LONG]), np.array([0.9]), np.array([0]), objects(), match)
    figures = tally.figures()
    assert (figures["ap50"], figures["recall"]) == (0.0, 0.0)
    recall, precision = tally.curves()["ship"]
    assert recall.tolist() == [0.0] and precision.tolist() == [0.0]


def test_each_class_is_judged_where_it_is_labelled():
    tally = tally_of(objects(LONG), [LONG, SQUARE], ids=[0, 1], model=("ship", "car"))
    lake = match_box_classes(["ship", "car"], ["car"])
    tally.add(
        np.array([LONG, SQUARE]), np.array([0.9, 0.8]), np.array([0, 1]), objects(SQUARE), lake
    )
    figures = tally.figures()
    assert list(figures["classes"]) == ["ship", "car"]
    assert figures["ap50"] == figures["precision"] == figures["recall"] == 1.0


def test_what_lies_in_an_ignored_area_is_no_mistake_however_much_it_is():
    area = (200.0, 100.0, 80.0, 60.0, 0.3)
    truth = objects(LONG, area, ids=[0, IGNORED])
    inside = [(190.0, 95.0, 12.0, 8.0, 0.0), (210.0, 105.0, 12.0, 8.0, 1.0)]
    beside = (250.0, 100.0, 60.0, 20.0, 0.0)  # most of it
    figures = tally_of(truth, [LONG, *inside, beside]).figures()["classes"]["ship"]
    assert (figures["truths"], figures["recall"]) == (1, 1.0)
    assert figures["precision"] == 0.5  # the long one is right, that beside is wrong
