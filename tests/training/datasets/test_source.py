import numpy as np

from lemevit_cli.geometry.window import Window
from lemevit_cli.training.datasets.source import Site, count_cells, count_pictures, merge_areas


def test_cells_are_counted_as_by_hand():
    ids = np.random.default_rng(0).choice([0, 1, 2, 255], (50, 71)).astype(np.uint8)
    places, counts = count_cells(ids, side=16, num_classes=3)
    covered = np.zeros(ids.shape, dtype=int)
    for (col, row, width, height), found in zip(places, counts, strict=True):
        cell = (slice(row, row + height), slice(col, col + width))
        covered[cell] += 1
        assert found.tolist() == [(ids[cell] == i).sum() for i in range(3)]
    assert (covered == 1).all() and len(places) == 4 * 5


def test_areas_side_by_side_are_joined_and_none_twice():
    def site(col, row, width, height, scene="a.tif"):
        area = Window(col_off=col, row_off=row, width=width, height=height)
        return Site(scene=scene, extent=area, core=area, gsd_m=None)

    squares = [site(10 * c, 10 * r, 10, 10) for r in range(3) for c in range(3)]
    (joined,) = merge_areas(squares)
    assert (joined.core.width, joined.core.height) == (30, 30)
    assert len(merge_areas([*squares, site(30, 0, 10, 10, "b.tif")])) == 2
    random = np.random.default_rng(0)
    for _ in range(20):
        chosen = [s for s in squares if random.random() < 0.6]
        covered, wanted = np.zeros((30, 30), dtype=int), np.zeros((30, 30), dtype=int)
        for s in merge_areas(chosen):
            covered[s.core.slices] += 1
        for s in chosen:
            wanted[s.core.slices] += 1
        np.testing.assert_array_equal(covered, wanted)


def test_two_later_dates_of_one_earlier_are_never_one_place():
    def site(col, after):
        area = Window(col_off=col, row_off=0, width=10, height=10)
        return Site(scene="a.tif", after=after, extent=area, core=area, gsd_m=None)

    first = [site(0, "b.tif"), site(10, "b.tif")]
    second = [site(0, "c.tif"), site(10, "c.tif"), site(20, "c.tif")]
    alone = [site(30, None)]
    joined = merge_areas([*second, *alone, *first])
    wanted = {("a.tif",): (30, 10), ("a.tif", "b.tif"): (0, 20), ("a.tif", "c.tif"): (0, 30)}
    assert {s.dates: (s.core.col_off, s.core.width) for s in joined} == wanted
    assert len(joined) == count_pictures(joined) == count_pictures([*first, *second, *alone]) == 3
