"""Labelled scenes: counted, divided and read as the whole scene would be."""

import pickle

import numpy as np
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.vector.scene_polygons import ScenePolygons

ROTATED = Affine.translation(458_000, 5_548_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
SIZE = (300, 420)  # rows and columns
CROP = 32


def random_boxes(number, seed=0):
    random = np.random.default_rng(seed)
    cols, rows = random.integers(0, 400, number), random.integers(0, 280, number)
    sides = random.integers(4, 30, (2, number))
    return [
        shapely.box(c + 0.2, r + 0.2, c + w + 0.3, r + h + 0.3)
        for c, r, w, h in zip(cols, rows, *sides, strict=True)
    ]


@pytest.fixture
def labelled(write_scene, write_polygons, on_map):
    """Return a scene of 420 x 300 pixels with nodata, polygons of two classes, and the truth."""

    def make(number=60, *, dtype="uint8", bands=3, nodata=0, **changes):
        pixels = np.random.default_rng(1).integers(1, 250, (bands, *SIZE)).astype(dtype)
        pixels[:, :50, :70] = nodata
        nodata = None if np.isnan(nodata) else nodata
        scene = write_scene(pixels, transform=ROTATED, nodata=nodata)
        boxes = random_boxes(number)
        kinds = ["roof" if i % 3 else "pond" for i in range(number)]
        labels = write_polygons(on_map(boxes, ROTATED), kind=kinds)
        settings = {"label_field": "kind", **changes}
        ids = [2 if kind == "roof" else 1 for kind in kinds]
        truth = rasterize(zip(boxes, ids, strict=True), out_shape=SIZE).astype(np.uint8)
        if settings.get("background") == "ignore":
            truth = truth - 1  # 0 wraps to 255
        truth[:50, :70] = 255
        return LabelledScene(scene=scene, labels=labels, **settings), pixels, truth

    return make


def opened(labelled_scene, **changes):
    return open_labelled_scene(labelled_scene, Division(crop=CROP, **changes))


@pytest.mark.parametrize("background", ["background", "ignore"])
def test_counts_are_those_of_the_whole_truth(labelled, background):
    scene, _, truth = labelled(split="train", background=background)
    source = opened(scene).training
    cells = source.count_classes()
    expected = np.bincount(truth.ravel(), minlength=256)[: len(source.classes)]
    np.testing.assert_array_equal(cells.counts.sum(axis=0), expected)
    for (index, col, row, width, height), counts in zip(cells.places, cells.counts, strict=True):
        cell = truth[row : row + height, col : col + width]
        np.testing.assert_array_equal(
            counts, np.bincount(cell.ravel(), minlength=256)[: len(source.classes)]
        )
        area = source.sites[index].core
        assert area.intersection(Window(col_off=col, row_off=row, width=width, height=height))
    assert cells.counts.any(axis=1).all()


@pytest.mark.parametrize(
    ("dtype", "bands", "nodata"), [("uint8", 3, 0), ("uint16", 4, 0), ("float32", 2, np.nan)]
)
def test_windows_hold_pixels_validity_and_ids(labelled, dtype, bands, nodata):
    scene, pixels, truth = labelled(split="train", dtype=dtype, bands=bands, nodata=nodata)
    source = opened(scene).training
    assert (source.bands, source.dtype, source.split) == (bands, dtype, "train")
    window = Window(col_off=40, row_off=30, width=90, height=77)
    for reader in (source, pickle.loads(pickle.dumps(source))):
        sample = reader.read(source.sites[0], window)
        np.testing.assert_array_equal(sample.pixels, pixels[(slice(None), *window.slices)])
        np.testing.assert_array_equal(sample.ids, truth[window.slices])
        expected = np.ones(SIZE, bool)
        expected[:50, :70] = False
        np.testing.assert_array_equal(sample.valid, expected[window.slices])


def test_a_divided_scene_holds_back_the_fraction(labelled):
    scene, _, truth = labelled()
    for fraction in (0.1, 0.2, 0.35):
        parts = opened(scene, val_fraction=fraction)
        totals = [s.count_classes().counts.sum(axis=0) for s in (parts.training, parts.validation)]
        np.testing.assert_array_equal(
            totals[0] + totals[1], np.bincount(truth.ravel(), minlength=256)[:3]
        )
        np.testing.assert_allclose(totals[1] / (totals[0] + totals[1]), fraction, atol=0.05)
        assert "blocks are held back for validation" in parts.notes[-1]


def test_no_validation_pixel_lies_in_a_rooms_window(labelled):
    scene, _, _ = labelled()
    for seed in range(5):
        parts = opened(scene, val_fraction=0.3, seed=seed)
        held_back = np.zeros(SIZE, dtype=bool)
        for site in parts.validation.sites:
            held_back[site.core.slices] = True
        assert held_back.mean() > 0.15
        for site in parts.training.sites:
            assert not held_back[site.extent.slices].any()
            assert site.extent.intersection(site.core) == site.core


def test_a_fifth_is_held_back_where_labels_suffice_and_nothing_else(labelled):
    many, _, _ = labelled(60)
    parts = opened(many)
    shares = [s.count_classes().counts.sum() for s in (parts.training, parts.validation)]
    assert shares[1] / sum(shares) == pytest.approx(0.2, abs=0.05)
    few, _, _ = labelled(20)
    parts = opened(few)
    assert parts.validation is None
    assert (
        "too few labels to hold some back for validation unasked (20 polygons, it takes 30)"
        in parts.notes[-1]
    )
    assert opened(many, val_fraction=0.0).validation is None


def test_a_stated_split_takes_the_whole_scene(labelled):
    scene, _, truth = labelled(split="val")
    parts = opened(scene, val_fraction=0.5)
    assert parts.training is None
    assert parts.validation.count_classes().counts.sum() == (truth != 255).sum()
    assert {site.extent for site in parts.validation.sites} == {
        Window(col_off=0, row_off=0, width=420, height=300)
    }


def test_an_ignored_background_is_never_read(labelled, monkeypatch):
    scene, _, _ = labelled(1, split="train", background="ignore")
    read, burn = [], ScenePolygons.burn

    def watched(self, window, values, **how):
        read.append(window)
        return burn(self, window, values, **how)

    monkeypatch.setattr(ScenePolygons, "burn", watched)
    source = opened(scene).training
    box = random_boxes(1)[0].bounds
    # Found by what surrounds the polygon: some blocks beside it are read too, most are not.
    assert 0 < sum(window.width * window.height for window in read) < 0.5 * 420 * 300
    assert 1 <= len(source.sites) <= 4
    for site in source.sites:
        assert shapely.box(*box).intersects(
            shapely.box(site.core.col_off, site.core.row_off, site.core.right, site.core.bottom)
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "test"}, "split 'test'; it is train, val, or not set"),
        ({"scene": "nowhere.tif"}, "nowhere.tif: cannot be opened as a raster"),
        ({"label_field": "sort"}, "has no field 'sort'; its fields are kind"),
        ({"labels": "nowhere.gpkg"}, "nowhere.gpkg: cannot be read as polygons"),
    ],
)
def test_mistakes_are_data_errors_of_one_line(labelled, count_handles, changes, message):
    scene, _, _ = labelled()
    wrong = LabelledScene(
        **{"scene": scene.scene, "labels": scene.labels, "label_field": "kind", **changes}
    )
    with pytest.raises(DataError, match=message) as raised:
        opened(wrong)
    assert "\n" not in str(raised.value)
    assert count_handles(scene.scene) == 0


def test_labels_on_nodata_pixels_alone_are_refused(labelled, write_polygons, on_map):
    scene, _, _ = labelled()
    path = write_polygons(on_map([shapely.box(5, 5, 20, 20)], ROTATED), "nodata.gpkg")
    with pytest.raises(DataError, match=r"no pixel has a label of .*nodata\.gpkg"):
        opened(LabelledScene(scene=scene.scene, labels=path, background="ignore"))


def test_labels_in_one_block_cannot_be_divided(labelled, write_polygons, on_map, count_handles):
    scene, _, _ = labelled()
    path = write_polygons(on_map([shapely.box(200, 200, 204, 204)], ROTATED), "one.gpkg")
    one = LabelledScene(scene=scene.scene, labels=path, background="ignore")
    with pytest.raises(DataError, match=r"20% of its labels cannot be held back") as raised:
        opened(one, val_fraction=0.2)
    assert count_handles(scene.scene) == 0, raised
