"""Two georeferenced dates with polygons of change: read on the earlier one's grid, divided."""

import pickle

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize
from rasterio.warp import transform_geom

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.tasks.change.datasets.scenes import open_labelled_pair
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.options import LabelledScene

BEFORE = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
# Coarser, and shifted: of `before` it lacks the columns from 320 on.
AFTER = Affine(0.7, 0, 457_990, 0, -0.7, 5_548_010)
SIZE, SIZE_AFTER = (240, 400), (220, 243)


@pytest.fixture
def make(tmp_path, write_scene):
    """Return a pair and 60 polygons in degrees, alternately built and torn down, as options."""
    random = np.random.default_rng(0)

    def build(*, fields=True, **changes):
        pixels = random.integers(1, 255, (3, *SIZE)).astype(np.uint8)
        before = write_scene(pixels, "before.tif", transform=BEFORE)
        later = random.integers(1, 255, (3, *SIZE_AFTER)).astype(np.uint8)
        after = write_scene(later, "after.tif", transform=AFTER)
        corners = random.uniform((0, 0), (SIZE[1] - 12, SIZE[0] - 12), (60, 2))
        boxes = [shapely.box(*xy, *(xy + 11)) for xy in corners]
        on_map = [shapely.transform(b, lambda xy: [BEFORE @ tuple(p) for p in xy]) for b in boxes]
        table = geopandas.GeoDataFrame(
            {"kind": ["built", "torn down"] * 30} if fields else {},
            geometry=on_map,
            crs="EPSG:32633",
        ).to_crs("EPSG:4326")
        table.to_file(tmp_path / "changes.gpkg")
        labelled = {"scene": before, "after": after, "labels": str(tmp_path / "changes.gpkg")}
        return LabelledScene(**labelled, **changes), table

    return build


def opened(labelled, *, val_fraction=0.25, crop=32):
    return open_labelled_pair(labelled, Division(crop=crop, val_fraction=val_fraction))


def burnt(table):
    shapes = [
        (transform_geom("EPSG:4326", "EPSG:32633", shapely.geometry.mapping(g)), value)
        for g, value in zip(table.geometry, [1, 2] * 30, strict=True)
    ]
    return rasterize(shapes, out_shape=SIZE, transform=BEFORE)


def test_windows_of_both_dates_come_with_what_changed(make):
    labelled, table = make(label_field="kind")
    source = pickle.loads(pickle.dumps(opened(labelled).training))
    assert source.classes == ("unchanged", "built", "torn down")
    assert (source.bands, source.dtype) == (3, "uint8")
    window = Window(col_off=270, row_off=30, width=100, height=64)
    sample = source.read(source.sites[0], window)
    pixels, valid, ids = sample.pixels, sample.valid, sample.ids
    rows, cols = window.slices
    with rasterio.open(labelled.scene) as file:
        np.testing.assert_array_equal(pixels[:3], file.read()[:, rows, cols])
    with open_pair(labelled.scene, labelled.after) as pair:
        expected, is_valid = pair.read(window)
    np.testing.assert_array_equal(pixels[3:, is_valid], expected[3:, is_valid])
    np.testing.assert_array_equal(valid, is_valid)
    assert valid[:, :45].all() and not valid[:, 55:].any()
    truth = burnt(table)[rows, cols]
    np.testing.assert_array_equal(ids, np.where(valid, truth, 255))


def test_no_training_window_shares_a_pixel_with_what_is_held_back(make):
    labelled, _ = make()
    parts = opened(labelled)
    held = np.zeros(SIZE, bool)
    for site in parts.validation.sites:
        held[site.core.slices] = True
    assert 0.1 < held.mean() < 0.45
    assert all(not held[site.extent.slices].any() for site in parts.training.sites)
    assert any("blocks are held back for validation" in note for note in parts.notes)
    sites = (*parts.training.sites, *parts.validation.sites)
    assert {site.after for site in sites} == {labelled.after}
    # Blocks where the later date has nothing are no sites.
    assert max(site.core.col_off for site in sites) < 330


def test_without_a_field_all_polygons_are_one_kind_of_change(make):
    parts = opened(make(fields=False)[0])
    assert parts.training.classes == ("unchanged", "changed")


def test_a_raster_may_say_what_changed(make, write_scene):
    labelled, table = make()
    truth = (burnt(table) > 0).astype(np.uint8)
    path = write_scene(truth[None], "change.tif", transform=BEFORE)
    labelled = LabelledScene(scene=labelled.scene, after=labelled.after, labels=path, split="val")
    source = opened(labelled).validation
    assert source.classes == ("unchanged", "changed")
    window = Window(col_off=40, row_off=0, width=50, height=60)
    np.testing.assert_array_equal(source.read_ids(source.sites[0], window), truth[window.slices])


@pytest.mark.parametrize(
    ("ids", "nodata", "names"),
    [
        ((0, 1, 2), 0, None),
        ((1, 2, 3), None, {1: "built", 2: "torn down", 3: "Unchanged"}),
        ((0, 1, 2), None, {0: "built", 1: "unchanged", 2: "torn down"}),
    ],
)
def test_no_change_is_taken_for_what_stayed_as_it_was(make, write_scene, ids, nodata, names):
    labelled, table = make()
    truth = np.array(ids, np.uint8)[burnt(table)]
    path = write_scene(truth[None], "change.tif", transform=BEFORE, nodata=nodata)
    if names:
        with rasterio.open(path, "r+") as file:
            file.update_tags(1, **{f"CLASS_{i}": name for i, name in names.items()})
    with pytest.raises(DataError, match=r"change\.tif: .* labels of change need unchanged first"):
        opened(LabelledScene(scene=labelled.scene, after=labelled.after, labels=path))


def test_two_ids_without_names_are_unchanged_and_changed(make, write_scene):
    labelled, table = make()
    path = write_scene((burnt(table) > 0).astype(np.uint8)[None] + 1, "ids.tif", transform=BEFORE)
    parts = opened(LabelledScene(scene=labelled.scene, after=labelled.after, labels=path))
    assert f"{path}: 1 is taken for what stayed as it was, 2 for change" in parts.notes
    assert parts.training.classes == ("unchanged", "changed")
    assert np.argmax(parts.training.count_classes().counts.sum(axis=0)) == 0


def test_mistakes_are_told_in_one_line(make, write_scene, tmp_path, count_handles):
    labelled, _ = make()
    single = LabelledScene(scene=labelled.scene, labels=labelled.labels)
    grey = write_scene(np.ones((1, *SIZE), np.uint8), "grey.tif", transform=BEFORE)
    wide = write_scene(np.ones((3, *SIZE), np.uint16), "wide.tif", transform=BEFORE)
    away = write_scene(
        np.ones((3, *SIZE), np.uint8), "away.tif",
        transform=Affine.translation(9_000, 0) @ BEFORE,
    )  # fmt: skip
    for changes, message in (
        ({"after": grey}, r"grey\.tif has 1 bands of uint8, .*before\.tif has 3 of uint8"),
        ({"after": wide}, r"wide\.tif has 3 bands of uint16, .*before\.tif has 3 of uint8"),
        ({"after": away}, r"away\.tif"),
        ({"after": str(tmp_path / "none.tif")}, r"none\.tif"),
        ({"background": "ignore"}, "no ground is known to be unchanged"),
        ({"split": "test"}, "split 'test'"),
        ({"label_field": "year"}, "has no field 'year'"),
    ):
        given = {"scene": labelled.scene, "after": labelled.after, "labels": labelled.labels}
        with pytest.raises(DataError, match=message) as raised:
            opened(LabelledScene(**given | changes))
        assert "\n" not in str(raised.value)
        assert count_handles(given["scene"]) == count_handles(labelled.after) == 0
    with pytest.raises(DataError, match=r"before\.tif: is one date; .* --before and --after"):
        opened(single)
