import itertools

import numpy as np
import pytest

from lemevit_cli.geometry.window import Window
from lemevit_cli.metrics.boundary import BoundaryTally, dilate, disc_of, mark_boundary

SQUARE = np.eye(2)
SHEARED = np.array([[0.25, 0.1], [0.1, 0.5]])
FLAT = np.array([[1.0, 0.0], [0.0, 9.0]])


def blobs(seed, shape=(24, 31), classes=3):
    """Return patches of classes with a few nodata pixels."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, classes, (shape[0] // 5 + 1, shape[1] // 5 + 1))
    return np.kron(coarse, np.ones((5, 5), int))[: shape[0], : shape[1]].astype(np.uint8)


def length(metric, cols, rows):
    step = np.array([cols, rows], float)
    return np.sqrt(step @ metric @ step)


def brute_boundary(ids, valid, class_id):
    """Return positions of a class's boundary, pixel by pixel as the definition says."""
    height, width = ids.shape
    found = []
    for y, x in itertools.product(range(height), range(width)):
        if not valid[y, x] or ids[y, x] != class_id:
            continue
        around = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
        if any(
            0 <= v < height and 0 <= u < width and valid[v, u] and ids[v, u] != class_id
            for v, u in around
        ):
            found.append((x, y))
    return found


def brute_f1(truth, found, valid, class_id, metric, tolerance):
    true = brute_boundary(truth, valid, class_id)
    answers = brute_boundary(found, valid, class_id)
    if not true and not answers:
        return None

    def share_near(points, others):
        near = [
            any(length(metric, x - u, y - v) <= tolerance + 1e-9 for u, v in others)
            for x, y in points
        ]
        return sum(near) / len(near) if near else 0.0

    precision, recall = share_near(answers, true), share_near(true, answers)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def tally(truth, found, valid, disc, *, block):
    counted = BoundaryTally(3, disc)
    height, width = truth.shape
    for top, left in itertools.product(range(0, height, block), range(0, width, block)):
        first_row, first_col = max(0, top - counted.halo), max(0, left - counted.halo)
        rows = slice(first_row, min(height, top + block + counted.halo))
        cols = slice(first_col, min(width, left + block + counted.halo))
        core = Window(
            col_off=left - first_col,
            row_off=top - first_row,
            width=min(block, width - left),
            height=min(block, height - top),
        )
        counted.add(truth[rows, cols], found[rows, cols], valid[rows, cols], core)
    return counted.f1()


@pytest.mark.parametrize(
    ("metric", "tolerance"),
    [(SQUARE, 0.0), (SQUARE, 1.0), (SQUARE, 2.3), (SHEARED, 1.5), (FLAT, 4.0)],
)
def test_the_figure_is_that_of_the_definition(metric, tolerance):
    truth, found = blobs(1), np.roll(blobs(1), (1, 2), (0, 1))
    found[15:18, 3:25] = 1
    valid = np.ones(truth.shape, bool)
    valid[3:9, 18:27] = False
    expected = [brute_f1(truth, found, valid, c, metric, tolerance) for c in range(3)]
    assert expected == pytest.approx(
        tally(truth, found, valid, disc_of(metric, tolerance), block=64)
    )
    assert 0 < expected[0] < 1


@pytest.mark.parametrize("block", [7, 16, 25])
def test_blocks_do_not_change_the_figure(block):
    truth, found = blobs(2), blobs(3)
    valid = np.random.default_rng(0).random(truth.shape) > 0.02
    disc = disc_of(SHEARED, 2.0)
    assert tally(truth, found, valid, disc, block=block) == tally(
        truth, found, valid, disc, block=99
    )


def test_a_shift_within_the_tolerance_is_perfect_and_beyond_it_is_not():
    truth = np.zeros((40, 40), np.uint8)
    truth[10:20, 10:20] = 1
    found = np.roll(truth, 2, axis=1)
    valid = np.ones(truth.shape, bool)
    assert tally(truth, found, valid, disc_of(SQUARE, 2.0), block=40)[:2] == [1.0, 1.0]
    assert tally(truth, found, valid, disc_of(SQUARE, 1.9), block=40)[1] < 1.0
    assert tally(truth, found, valid, disc_of(SQUARE, 2.0), block=40)[2] is None


def test_a_class_that_is_never_found_scores_zero():
    truth = blobs(1)
    found = np.where(truth == 2, 0, truth)
    figures = tally(truth, found, np.ones(truth.shape, bool), disc_of(SQUARE, 2.0), block=64)
    assert figures[2] == 0.0


@pytest.mark.parametrize("metric", [SQUARE, SHEARED, FLAT])
@pytest.mark.parametrize("tolerance", [0.0, 0.7, 1.0, 3.0])
def test_the_disc_holds_every_step_within_the_tolerance(metric, tolerance):
    disc = disc_of(metric, tolerance)
    steps = {(x, y) for y, (first, last) in disc.items() for x in range(first, last + 1)}
    every = itertools.product(range(-12, 13), repeat=2)
    assert steps == {(x, y) for x, y in every if length(metric, x, y) <= tolerance * (1 + 1e-5)}


def test_the_edges_of_the_scene_and_of_nodata_are_no_boundary():
    valid = np.ones((6, 6), bool)
    valid[2:4, 2:4] = False
    assert not mark_boundary(np.ones((6, 6), bool), valid).any()


def test_a_point_reaches_as_far_as_the_disc_also_at_the_edge():
    points = np.zeros((9, 12), bool)
    points[0, 0] = points[4, 11] = True
    near = dilate(points, disc_of(SQUARE, 3.0))
    for y, x in itertools.product(range(9), range(12)):
        distance = min(np.hypot(x, y), np.hypot(x - 11, y - 4))
        assert near[y, x] == (distance <= 3.0)
