"""Average precision against the definition, written out with Shapely and plain loops."""

from dataclasses import replace

import numpy as np
import pytest
import shapely

from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.metrics.average_precision import (
    IOUS,
    Detections,
    Truth,
    area_under,
    average_precision,
    best_score,
    eleven_points,
)

NAMES = ("ship", "plane", "car")


def random_set(seed, *, pictures=6, objects=40, answers=90):
    """Return truths of three classes, some difficult; answers near and elsewhere, many twice."""
    random = np.random.default_rng(seed)
    boxes = np.column_stack(
        [
            random.uniform(0, 300, (objects, 2)),
            random.uniform(15, 50, (objects, 1)),
            random.uniform(6, 15, (objects, 1)),
            random.uniform(-1.5, 1.5, objects),
        ]
    )
    truth = Truth(
        boxes=boxes,
        class_ids=random.integers(0, 3, objects),
        image_ids=random.integers(0, pictures, objects),
        difficult=random.random(objects) < 0.25,
    )
    of = random.integers(0, objects, answers)
    spread = random.choice([0.2, 1.0, 3.0, 40.0], (answers, 1))
    near = boxes[of] + random.normal(0, 1, (answers, 5)) * spread * [1, 1, 0.7, 0.4, 0.03]
    near[:, 2:4] = np.abs(near[:, 2:4]) + 0.5
    found = Detections(
        boxes=near,
        scores=random.random(answers),
        class_ids=np.where(random.random(answers) < 0.9, truth.class_ids[of], 0),
        image_ids=truth.image_ids[of],
    )
    return found, truth


def by_definition(found, truth, class_id, limit):
    """Mark the boxes of a class in falling score: ``tp``, ``fp`` or nothing; and the truths."""
    polygons, true_polygons = (
        shapely.polygons(b if b.ndim == 3 else corners_of(b)) for b in (found.boxes, truth.boxes)
    )
    taken, marks = set(), []
    for i in sorted(np.flatnonzero(found.class_ids == class_id), key=lambda i: -found.scores[i]):
        best, most = None, -1.0
        for j in np.flatnonzero(truth.class_ids == class_id):
            if truth.image_ids[j] != found.image_ids[i]:
                continue
            shared = polygons[i].intersection(true_polygons[j]).area
            overlap = shared / (polygons[i].area + true_polygons[j].area - shared)
            if overlap > most:
                best, most = j, overlap
        if most > limit:
            if truth.difficult[best]:
                marks.append("")
            elif best in taken:
                marks.append("fp")
            else:
                taken.add(best)
                marks.append("tp")
        else:
            marks.append("fp")
    return marks, int(((truth.class_ids == class_id) & ~truth.difficult).sum())


def points_of(marks, truths):
    hits = wrong = 0
    points = []
    for mark in marks:
        hits, wrong = hits + (mark == "tp"), wrong + (mark == "fp")
        points.append((hits / truths, hits / max(hits + wrong, np.finfo(float).eps)))
    return points


def area_by_definition(points):
    """Sum each step of recall times the best precision that is reached there or later."""
    total, last = 0.0, 0.0
    for recall in sorted({r for r, _ in points}):
        total += (recall - last) * max(p for r, p in points if r >= recall)
        last = recall
    return total


def eleven_by_definition(points):
    steps = np.arange(0.0, 1.1, 0.1)
    return sum(max([p for r, p in points if r >= t], default=0.0) for t in steps) / 11


@pytest.mark.parametrize("seed", range(12))
def test_figures_are_those_of_the_definition(seed):
    found, truth = random_set(seed)
    figures = average_precision(found, truth, NAMES)
    areas, elevens = [], []
    for class_id, name in enumerate(NAMES):
        record = figures["classes"][name]
        by_limit = {}
        for limit in IOUS:
            marks, truths = by_definition(found, truth, class_id, limit)
            by_limit[limit] = area_by_definition(points_of(marks, truths))
            if limit == 0.5:
                assert record["precision"] == pytest.approx(
                    marks.count("tp") / max(marks.count("tp") + marks.count("fp"), 1)
                )
                assert record["recall"] == pytest.approx(marks.count("tp") / truths)
                elevens.append(eleven_by_definition(points_of(marks, truths)))
                assert record["ap50_voc07"] == pytest.approx(elevens[-1], abs=1e-9)
        assert record["ap50"] == pytest.approx(by_limit[0.5], abs=1e-9)
        assert record["ap75"] == pytest.approx(by_limit[0.75], abs=1e-9)
        assert record["ap50_95"] == pytest.approx(np.mean(list(by_limit.values())), abs=1e-9)
        areas.append(by_limit[0.5])
    assert figures["ap50"] == pytest.approx(np.mean(areas))
    assert figures["ap50_voc07"] == pytest.approx(np.mean(elevens))


def test_truths_and_answers_may_be_any_quadrilaterals():
    found, truth = random_set(3)
    random = np.random.default_rng(0)

    def askew(boxes):
        corners = corners_of(boxes.boxes)
        corners += random.normal(0, 1, corners.shape)
        kept = shapely.is_valid(shapely.polygons(corners))
        changed = {**vars(boxes), "boxes": corners}
        return type(boxes)(**{name: values[kept] for name, values in changed.items()})

    found, truth = askew(found), askew(truth)
    figures = average_precision(found, truth, NAMES)
    for class_id, name in enumerate(NAMES):
        marks, truths = by_definition(found, truth, class_id, 0.5)
        expected = area_by_definition(points_of(marks, truths))
        assert figures["classes"][name]["ap50"] == pytest.approx(expected, abs=1e-9)


def one_class(boxes, scores=None, difficult=None, pictures=None):
    boxes = np.array(boxes, dtype=float).reshape(-1, 5)
    ids = np.zeros(len(boxes), dtype=int)
    pictures = ids if pictures is None else np.array(pictures)
    if scores is None:
        difficult = np.zeros(len(boxes), bool) if difficult is None else np.array(difficult)
        return Truth(boxes=boxes, class_ids=ids, image_ids=pictures, difficult=difficult)
    return Detections(boxes=boxes, scores=np.array(scores), class_ids=ids, image_ids=pictures)


SHIP, OTHER = [50, 50, 40, 10, 0.3], [150, 50, 40, 10, 0.3]


def test_the_truth_itself_is_perfect():
    found, truth = one_class([SHIP, OTHER], [0.9, 0.8]), one_class([SHIP, OTHER])
    figures = average_precision(found, truth, ["a"])
    assert figures["ap50"] == figures["ap75"] == figures["ap50_95"] == 1.0
    assert figures["ap50_voc07"] == pytest.approx(1.0)
    assert figures["precision"] == figures["recall"] == 1.0


def test_finding_or_missing_a_difficult_object_changes_nothing():
    truth = one_class([SHIP, OTHER], difficult=[False, True])
    for boxes, scores in (([SHIP], [0.5]), ([SHIP, OTHER, OTHER], [0.5, 0.9, 0.8])):
        figures = average_precision(one_class(boxes, scores), truth, ["a"])
        assert figures["ap50"] == 1.0 and figures["precision"] == 1.0
        assert figures["classes"]["a"]["truths"] == figures["classes"]["a"]["difficult"] == 1


def test_a_second_answer_for_one_object_is_wrong():
    figures = average_precision(one_class([SHIP, SHIP], [0.9, 0.8]), one_class([SHIP]), ["a"])
    assert figures["precision"] == 0.5 and figures["ap50"] == 1.0


def test_an_overlap_of_exactly_the_threshold_does_not_reach_it():
    half = [50, 50, 20, 10, 0]
    figures = average_precision(one_class([half], [1.0]), one_class([[50, 50, 40, 10, 0]]), ["a"])
    assert figures["ap50"] == 0.0


def test_boxes_of_other_pictures_never_meet():
    found = one_class([SHIP, SHIP], [0.9, 0.8], pictures=[7, 3])
    assert average_precision(found, one_class([SHIP], pictures=[3]), ["a"])["precision"] == 0.5


def test_a_class_without_truth_has_no_figure_and_does_not_count():
    found, truth = random_set(1)
    figures = average_precision(found, truth, (*NAMES, "nobody"))
    assert figures["classes"]["nobody"]["ap50"] is None
    assert figures["ap50"] == average_precision(found, truth, NAMES)["ap50"]


def test_nothing_found_and_nothing_true():
    nothing = one_class([], [])
    figures = average_precision(nothing, one_class([SHIP]), ["a"])
    assert figures["ap50"] == 0.0 and figures["recall"] == 0.0 and figures["precision"] is None
    figures = average_precision(nothing, one_class([]), ["a"])
    assert figures["ap50"] is None and figures["recall"] is None


def test_precision_and_recall_are_those_at_the_score():
    found = one_class([SHIP, [90, 90, 9, 9, 0], OTHER], [0.9, 0.5, 0.3])
    truth = one_class([SHIP, OTHER])
    all_in = average_precision(found, truth, ["a"])
    assert (all_in["precision"], all_in["recall"]) == (pytest.approx(2 / 3), 1.0)
    best = average_precision(found, truth, ["a"], score=0.6)
    assert (best["precision"], best["recall"]) == (1.0, 0.5)
    assert best["classes"]["a"]["found"] == 1
    assert best["ap50"] == all_in["ap50"] == pytest.approx(0.5 + 0.5 * 2 / 3)


@pytest.mark.parametrize("seed", range(4))
def test_the_best_score_is_that_of_the_best_f1_of_all(seed):
    found, truth = random_set(seed)
    found = replace(found, scores=np.round(found.scores, 1))  # many are alike

    def f1(score):
        kept = Detections(**{k: v[found.scores >= score] for k, v in vars(found).items()})
        record = average_precision(kept, truth, NAMES)["classes"]["plane"]
        both = (record["precision"] or 0.0) + record["recall"]
        return 2 * record["precision"] * record["recall"] / both if both else 0.0

    best = best_score(found, truth, 1)
    assert best is not None and f1(best) > 0
    assert f1(best) == pytest.approx(max(f1(score) for score in np.unique(found.scores)))


def test_both_forms_of_a_curve_that_was_reckoned_by_hand():
    recall, precision = np.array([0.25, 0.25, 0.5, 0.75]), np.array([1.0, 0.5, 2 / 3, 0.75])
    assert area_under(recall, precision) == pytest.approx(0.25 * 1 + 0.5 * 0.75)
    assert eleven_points(recall, precision) == pytest.approx((3 * 1 + 5 * 0.75) / 11)


def test_figures_do_not_change_with_the_order_of_the_boxes():
    found, truth = random_set(5)
    random = np.random.default_rng(1)
    some, other = random.permutation(len(found.scores)), random.permutation(len(truth.difficult))
    shuffled = average_precision(
        Detections(**{k: v[some] for k, v in vars(found).items()}),
        Truth(**{k: v[other] for k, v in vars(truth).items()}),
        NAMES,
    )
    assert shuffled == average_precision(found, truth, NAMES)
