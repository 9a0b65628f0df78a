import numpy as np
import pytest
import shapely
from rasterio.features import rasterize, shapes
from rasterio.windows import Window

from lemevit_cli.vector import outlines
from lemevit_cli.vector.outlines import (
    Regions,
    areas_of,
    create_draft,
    outline_regions,
    simplify_regions,
    sums_within,
)


@pytest.fixture
def write(tmp_path):
    """Return a function that writes a draft of an array and gives its path."""

    def write(values, name="draft.tif"):
        path, (height, width) = tmp_path / name, values.shape
        with create_draft(path, width=width, height=height, dtype=values.dtype.name) as draft:
            draft.write(values, 1, window=Window(0, 0, width, height))
        return path

    return write


def blobs(seed, shape=(60, 80), values=2):
    """Return speckled blobs of the values 0 to ``values - 1``, with holes and touching corners."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, values, (shape[0] // 5, shape[1] // 5))
    ids = np.kron(coarse, np.ones((5, 5))).astype(np.uint8)
    speckles = rng.random(shape) < 0.1
    ids[speckles] = rng.integers(0, values, speckles.sum())
    return ids


def drawn(polygons, values, shape):
    pairs = list(zip(polygons, np.broadcast_to(values, len(polygons)).tolist(), strict=True))
    return rasterize(pairs, out_shape=shape, dtype="int32") if pairs else np.zeros(shape, int)


@pytest.mark.parametrize("values", [2, 4])
def test_outlines_drawn_again_give_the_raster(write, values):
    ids = blobs(0, values=values)
    regions = outline_regions(write(ids))
    np.testing.assert_array_equal(drawn(regions.polygons, regions.values, ids.shape), ids)
    assert shapely.is_valid(regions.polygons).all()
    assert any(shapely.get_num_interior_rings(regions.polygons))
    assert len(regions.polygons) == sum(value > 0 for _, value in shapes(ids, connectivity=4))


def test_regions_are_in_the_order_of_their_first_pixels(write):
    ids = blobs(1)
    labels = drawn(outline_regions(write(ids)).polygons, 1, ids.shape)
    regions = outline_regions(write(ids))
    labels = drawn(regions.polygons, np.arange(1, len(regions.polygons) + 1), ids.shape)
    _, first = np.unique(labels[labels > 0], return_index=True)
    assert (np.diff(first) > 0).all()


@pytest.mark.parametrize("values", [2, 4])
def test_strips_are_outlined_as_the_whole(write, monkeypatch, values):
    path = write(blobs(6, values=values))
    whole = outline_regions(path)
    monkeypatch.setattr(outlines, "_strip_height", lambda width: 7)
    strips = outline_regions(path)
    np.testing.assert_array_equal(strips.values, whole.values)
    assert shapely.equals_exact(strips.polygons, whole.polygons).all()
    assert [other.name for other in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(("rows", "sums"), [(1, 10**6), (7, 10**6), (1000, 10**6), (7, 1)])
def test_sums_are_those_of_the_pixels_within(write, monkeypatch, rows, sums):
    monkeypatch.setattr(outlines, "_ROWS_AT_ONCE", rows)
    monkeypatch.setattr(outlines, "_SUMS_AT_ONCE", sums)
    ids = blobs(2, values=3)
    ids[0], ids[:, -1] = 1, 2  # to the edges
    scores = np.random.default_rng(3).integers(0, 65536, ids.shape, dtype=np.uint16)
    regions = outline_regions(write(ids))
    labels = drawn(regions.polygons, np.arange(1, len(regions.polygons) + 1), ids.shape)
    expected = np.bincount(labels.ravel(), weights=scores.ravel())[1:]
    sums = sums_within(regions, write(scores, "scores.tif"))
    np.testing.assert_array_equal(sums, expected)
    np.testing.assert_array_equal(areas_of(regions), np.bincount(labels.ravel())[1:])


def test_nothing_has_no_outlines_and_no_sums(write):
    path = write(np.zeros((20, 30), np.uint8))
    regions = outline_regions(path)
    assert len(regions) == len(regions.polygons) == len(areas_of(regions)) == 0
    assert len(sums_within(regions, path)) == len(simplify_regions(regions, 1.0)) == 0
    assert [len(part) for part in regions.parts()] == [0]


@pytest.mark.parametrize(("values", "share"), [(2, 1.0), (4, 1.0), (4, 0.3)])
def test_parts_of_any_size_are_drawn_as_the_whole(write, monkeypatch, values, share):
    ids = blobs(5, values=values)
    ids *= np.kron(np.random.default_rng(7).random((6, 8)) < share, np.ones((10, 10), bool))
    regions = outline_regions(write(ids))
    whole = simplify_regions(regions, 1.0).polygons
    monkeypatch.setattr(outlines, "_CORNERS_AT_ONCE", 40)
    parts = list(regions.parts())
    assert len(parts) > 3 and min(map(len, parts)) >= 1
    polygons = np.concatenate([part.polygons for part in parts])
    assert shapely.equals_exact(polygons, regions.polygons).all()
    np.testing.assert_array_equal(np.concatenate([p.values for p in parts]), regions.values)
    thin = simplify_regions(regions, 1.0).polygons
    if values == 2:
        assert shapely.equals_exact(thin, whole).all()
    elif outlines._HAS_COVERAGES:  # edges between two parts keep their steps
        assert shapely.coverage_is_valid(thin) and shapely.coverage_is_valid(whole)
        counts = [shapely.get_num_coordinates(p).sum() for p in (whole, thin, regions.polygons)]
        assert counts[0] < counts[1]
        gone = shapely.union_all(regions.polygons).area - shapely.union_all(thin).area
        assert abs(gone) < 0.02 * ids.size


@pytest.mark.parametrize("tolerance", [0.5, 2.0, 6.0])
@pytest.mark.parametrize("values", [2, 4])
def test_simplified_polygons_are_valid_and_lie_beside_one_another(write, tolerance, values):
    regions = outline_regions(write(blobs(4, values=values)))
    thin = simplify_regions(regions, tolerance).polygons
    assert len(thin) == len(regions.polygons)
    assert shapely.is_valid(thin).all() and not shapely.is_empty(thin).any()
    assert (
        shapely.get_num_coordinates(thin).sum()
        < 0.99 * shapely.get_num_coordinates(regions.polygons).sum()
    )
    together = shapely.union_all(thin)
    assert shapely.area(thin).sum() == pytest.approx(together.area, rel=1e-9)
    if values == 2:
        apart = shapely.hausdorff_distance(regions.polygons, thin)
        assert apart.max() <= tolerance + 1e-9


@pytest.mark.parametrize("has_coverages", [True, False])
def test_an_edge_of_two_values_stays_one(write, monkeypatch, has_coverages):
    monkeypatch.setattr(outlines, "_HAS_COVERAGES", has_coverages and outlines._HAS_COVERAGES)
    rows, cols = np.indices((60, 80))
    ids = np.where(cols + rows // 3 < 45, 1, 2).astype(np.uint8)
    thin = simplify_regions(outline_regions(write(ids)), 2.0).polygons
    assert shapely.intersection(thin[0], thin[1]).area == 0
    if outlines._HAS_COVERAGES:
        assert shapely.union_all(thin).area == ids.size
        assert shapely.get_num_coordinates(thin).sum() < 25


def test_a_tolerance_in_metres_knows_the_sides_of_a_pixel():
    # Steps of one row every four columns: half a metre high where a row is half a metre.
    steps = [(0, 0), *((4 * i + d, i) for i in range(10) for d in (0, 4)), (40, 20), (0, 20)]
    _, corners, ends = shapely.to_ragged_array([shapely.Polygon(steps)])
    regions = Regions(corners, *ends, np.array([1], np.int32))
    corners = [
        len(simplify_regions(regions, 0.6, sides=sides).corners)
        for sides in ((1.0, 0.5), (1.0, 2.0))
    ]
    assert corners[0] < 8 and corners[1] == shapely.get_num_coordinates(regions.polygons)[0] - 1
