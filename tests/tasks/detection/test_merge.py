"""Boxes of overlapping windows become one set: the promises of the merge."""

import numpy as np
import pytest
import shapely

from lemevit_cli.geometry.oriented_boxes import box_of_polygon, corners_of
from lemevit_cli.geometry.rotated_nms import rotated_nms
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.tasks.detection.merge import SURE, RawBoxes, merge_boxes

SIDE, SIZE, OVERLAP = 256, 96, 40


def raw_of(rows):
    """Return rows of ``(cx, cy, w, h, angle, score, class id, cut)``."""
    table = np.array(rows, dtype=float).reshape(-1, 8)
    ids, cut = table[:, 6].astype(int), table[:, 7].astype(bool)
    return RawBoxes(table[:, :5], table[:, 5], ids, cut, np.ones(len(table), bool))


def merged(raw, nms_iou=0.1):
    return merge_boxes(raw, nms_iou=nms_iou)


def seen_through_windows(objects, random, *, jitter=0.3, least=16.0):
    """Answer as a good detector: the box of each object's visible part, in every window."""
    grid = WindowGrid(width=SIDE, height=SIDE, size=SIZE, overlap=OVERLAP)
    rows = []
    for window in grid.windows_over(Window(col_off=0, row_off=0, width=SIDE, height=SIDE)):
        frame = shapely.box(window.col_off, window.row_off, window.right, window.bottom)
        for polygon in shapely.polygons(corners_of(objects)):
            part = shapely.intersection(polygon, frame)
            if part.area <= least:
                continue
            cut = part.area < polygon.area * 0.999
            box = box_of_polygon(shapely.get_coordinates(part))
            box += random.normal(0, jitter, 5) * [1, 1, 1, 1, 0.02]
            # Parts are scored higher than wholes: the hard case.
            score = random.uniform(0.8, 1.0) if cut else random.uniform(0.3, 0.7)
            rows.append([*box, score, 0, cut])
    return raw_of(rows)


def iou_by_shapely(box, other):
    one, two = shapely.polygons(corners_of([box, other]))
    return one.intersection(two).area / one.union(two).area


@pytest.mark.parametrize("seed", range(8))
def test_one_object_across_four_windows_gives_one_box(seed):
    random = np.random.default_rng(seed)
    # Windows start at 0, 56, 112, 160 and end 96 further on.
    for centre in ((96, 96), (112, 96), (56, 60), (56, 152), (165, 115)):
        ship = np.array([[*centre, 36, 9, random.uniform(-1.5, 1.5)]])
        raw = seen_through_windows(ship, random)
        kept = merged(raw)
        assert len(raw.boxes) >= 3 and raw.cut.any()
        assert len(kept) == 1
        assert iou_by_shapely(raw.boxes[kept[0]], ship[0]) > 0.75


@pytest.mark.parametrize("angle", [0.0, 0.3, np.pi / 4, 1.2, -0.8])
def test_ten_touching_parallel_ships_stay_ten(angle):
    random = np.random.default_rng(1)
    across = np.array([-np.sin(angle), np.cos(angle)])
    places = np.array([128, 128]) + (np.arange(10) - 4.5)[:, None] * 9 * across
    ships = np.column_stack([places, np.tile([36, 9, angle], (10, 1))])
    raw = seen_through_windows(ships, random)
    kept = merged(raw, nms_iou=0.3)
    assert raw.cut.sum() > 10 and len(kept) == 10
    overlaps = [max(iou_by_shapely(raw.boxes[k], ship) for k in kept) for ship in ships]
    assert min(overlaps) > 0.7


def test_suppression_alone_would_not_do():
    """What the cut boxes are told apart for: parts are scored higher, and touch wholes little."""
    random = np.random.default_rng(2)
    raw = seen_through_windows(np.array([[96, 96, 36, 9, 0.4]]), random)
    assert len(rotated_nms(raw.boxes, raw.scores, raw.class_ids, 0.5)) > 1
    assert len(merged(raw, nms_iou=0.5)) == 1


@pytest.mark.parametrize("seed", range(5))
def test_the_result_does_not_depend_on_the_order_of_the_boxes(seed):
    random = np.random.default_rng(seed)
    ships = np.column_stack(
        [
            random.uniform(10, 246, (60, 2)),
            random.uniform(10, 40, (60, 1)),
            random.uniform(4, 12, (60, 1)),
            random.uniform(-1.5, 1.5, 60),
        ]
    )
    raw = seen_through_windows(ships, random)
    # Equal scores, equal boxes: order may decide nothing.
    raw = RawBoxes(
        np.concatenate([raw.boxes, raw.boxes[:20]]),
        np.round(np.concatenate([raw.scores, raw.scores[:20]]), 1),
        random.integers(0, 2, len(raw.boxes) + 20),
        np.concatenate([raw.cut, raw.cut[:20]]),
        np.ones(len(raw.boxes) + 20, bool),
    )
    expected = merged(raw)
    for _ in range(3):
        shuffled = random.permutation(len(raw.boxes))
        again = RawBoxes(*(array[shuffled] for array in vars(raw).values()))
        kept = merged(again)
        np.testing.assert_array_equal(again.boxes[kept], raw.boxes[expected])
        np.testing.assert_array_equal(again.scores[kept], raw.scores[expected])
        np.testing.assert_array_equal(again.class_ids[kept], raw.class_ids[expected])


def test_a_cut_box_gives_way_to_a_less_sure_whole_one():
    raw = raw_of([[50, 50, 40, 10, 0, 0.3, 0, False], [38, 50, 16, 10, 0, 0.9, 0, True]])
    assert merged(raw).tolist() == [0]


def test_what_is_hardly_seen_speaks_against_nothing_surer():
    whole, part = [50, 50, 40, 10, 0, 0.29, 0, False], [38, 50, 16, 10, 0, 0.9, 0, True]
    assert merged(raw_of([whole, part]), nms_iou=0.5).tolist() == [1, 0]
    part[5] = 0.28
    assert merged(raw_of([whole, part]), nms_iou=0.5).tolist() == [0]
    large, small = [50, 50, 80, 10, 0, 0.2, 0, True], [85, 50, 14, 10, 0, 0.25, 0, True]
    assert merged(raw_of([large, small]), nms_iou=0.5).tolist() == [1, 0]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_of_a_score_do_not_depend_on_boxes_of_less(seed):
    random = np.random.default_rng(seed)
    places, sizes = random.uniform(0, 60, (400, 2)), random.uniform([10, 3], [40, 12], (400, 2))
    rest = random.uniform(-1.5, 1.5, 400), random.beta(0.6, 1.2, 400), random.integers(0, 2, 400)
    raw = raw_of(np.column_stack([places, sizes, *rest, random.random(400) < 0.5]))
    kept = merged(raw)
    assert raw.cut[kept].any() and not raw.cut[kept].all()
    for score in (0.01, 0.1, 0.2, SURE):
        asked = np.flatnonzero(raw.scores >= score)
        part = RawBoxes(*(array[asked] for array in vars(raw).values()))
        np.testing.assert_array_equal(asked[merged(part)], kept[raw.scores[kept] >= score])


def test_a_cut_box_that_nobody_else_saw_stays():
    raw = raw_of(
        [
            [50, 50, 40, 10, 0, 0.9, 0, False],
            [50, 60, 40, 10, 0, 0.5, 0, True],  # a neighbour, touching
            [38, 50, 16, 10, 0, 0.4, 1, True],  # of another class
            [24, 50, 20, 10, 0, 0.3, 0, True],  # mostly beside the whole
        ]
    )
    assert merged(raw).tolist() == [0, 1, 2, 3]


def test_a_higher_scored_part_never_strikes_the_whole():
    # A corner, its box askew: most of it sticks out, and its score is the highest.
    raw = raw_of([[56, 60, 36, 9, -1.24, 0.3, 0, False], [59, 65, 18, 9, -1.57, 0.9, 0, True]])
    assert merged(raw).tolist() == [0]


def test_small_wholes_inside_a_large_part_do_not_strike_it():
    raw = raw_of([[50, 50, 100, 40, 0, 0.9, 0, True], [40, 50, 20, 30, 0, 0.1, 0, False]])
    assert merged(raw).tolist() == [0]


def test_a_whole_box_does_not_fall_to_a_larger_whole_one():
    raw = raw_of([[50, 50, 60, 60, 0, 0.9, 0, False], [40, 40, 12, 12, 0, 0.5, 0, False]])
    assert merged(raw).tolist() == [0, 1]


def test_of_two_parts_the_larger_stays():
    raw = raw_of([[50, 50, 80, 10, 0, 0.3, 0, True], [85, 50, 14, 10, 0, 0.9, 0, True]])
    assert merged(raw).tolist() == [0]


def test_a_part_that_has_fallen_takes_nothing_with_it():
    # The second lies in the first, the third in the second alone.
    raw = raw_of(
        [
            [0, 0, 100, 10, 0, 0.3, 0, True],
            [45, 0, 40, 10, 0, 0.5, 0, True],
            [59, 0, 20, 10, 0, 0.9, 0, True],
        ]
    )
    assert merged(raw).tolist() == [2, 0]


def test_boxes_kept_come_best_first_and_none_from_none():
    raw = raw_of([[10 * i, 0, 8, 4, 0, s, 0, False] for i, s in enumerate((0.2, 0.9, 0.5))])
    assert merged(raw).tolist() == [1, 2, 0]
    assert merged(raw_of([])).tolist() == []


def test_truth_boxes_come_back_as_they_are():
    """Wholes from several windows, exact: one of each stays, to the last digit."""
    random = np.random.default_rng(5)
    places = np.stack(np.meshgrid(np.arange(20, 240, 40), np.arange(20, 240, 40)), axis=-1)
    sizes, angles = np.full((36, 2), [30, 8]), random.uniform(-1, 1, 36)
    ships = np.column_stack([places.reshape(-1, 2), sizes, angles])
    raw = seen_through_windows(ships, random, jitter=0.0, least=0.0)
    kept = merged(raw)
    assert len(kept) == 36
    found = raw.boxes[kept][np.lexsort(raw.boxes[kept, 1::-1].round().T)]
    expected = ships[np.lexsort(ships[:, 1::-1].round().T)]
    np.testing.assert_allclose(found, expected, atol=1e-9)
