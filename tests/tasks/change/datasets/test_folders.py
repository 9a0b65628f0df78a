"""Folders of pairs: layouts, what masks mean, and mistakes told in one line."""

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from making.sources import with_one_earlier_date
from PIL import Image

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.tasks.change.datasets.folders import open_pair_folder

SIZE = (40, 56)


@pytest.fixture
def make_pairs(tmp_path):
    """Make a folder of pairs; masks hold ``values`` at random."""

    def make(names=("A", "B", "label"), *, values=(0, 255), suffix=".png", classes=None):
        random = np.random.default_rng(0)
        for split, stems in (("train", ("one", "two")), ("val", ("three",))):
            for name, shape in zip(names, ((*SIZE, 3), (*SIZE, 3), SIZE), strict=True):
                place = tmp_path / "pairs" / split / name
                place.mkdir(parents=True)
                for stem in stems:
                    is_mask = name == names[2]
                    picture = (
                        random.choice(values, shape)
                        if is_mask
                        else random.integers(256, size=shape)
                    )
                    Image.fromarray(picture.astype(np.uint8)).save(
                        place / f"{stem}{suffix if is_mask else '.png'}"
                    )
        if classes is not None:
            (tmp_path / "pairs" / "classes.json").write_text(json.dumps(classes))
        return tmp_path / "pairs"

    return make


def stored(path):
    return np.asarray(Image.open(path))


@pytest.mark.parametrize(
    "names",
    [("A", "B", "label"), ("A", "B", "OUT"), ("before", "after", "mask"), ("t1", "t2", "label")],
)
def test_both_dates_and_the_mask_are_read_window_by_window(make_pairs, names):
    folder = make_pairs(names)
    source = pickle.loads(pickle.dumps(open_pair_folder(folder, "train")))
    assert (source.name, source.split, source.bands) == ("pairs", "train", 3)
    assert source.classes == ("unchanged", "changed")
    site = source.sites[1]
    assert site.scene.endswith("two.png") and site.after == str(
        folder / "train" / names[1] / "two.png"
    )
    window = Window(col_off=5, row_off=7, width=30, height=20)
    sample = source.read(site, window)
    rows, cols = window.slices
    for part, name in zip(np.split(sample.pixels, 2), names, strict=False):
        expected = stored(folder / "train" / name / "two.png")[rows, cols].transpose(2, 0, 1)
        np.testing.assert_array_equal(part, expected)
    mask = stored(folder / "train" / names[2] / "two.png")[rows, cols]
    np.testing.assert_array_equal(sample.ids, mask == 255)
    np.testing.assert_array_equal(source.read_ids(site, window), sample.ids)
    assert sample.valid.all() and sample.ids.dtype == np.uint8


def test_two_later_dates_of_one_earlier_keep_their_pixels_and_masks(make_pairs):
    source = open_pair_folder(make_pairs(), "train")
    shared = with_one_earlier_date(source)
    for site in shared.sites:
        sample = shared.read(site, site.core)
        first = source.sites[0].scene
        np.testing.assert_array_equal(sample.pixels[:3], stored(first).transpose(2, 0, 1))
        np.testing.assert_array_equal(sample.pixels[3:], stored(site.after).transpose(2, 0, 1))
        np.testing.assert_array_equal(
            sample.ids, stored(Path(site.after).parents[1] / "label" / Path(site.after).name) == 255
        )
    counted = shared.count_classes().counts.sum(axis=0)
    np.testing.assert_array_equal(counted, source.count_classes().counts.sum(axis=0))


def test_every_changed_pixel_is_counted(make_pairs):
    folder = make_pairs()
    counts = open_pair_folder(folder, "train").count_classes().counts.sum(axis=0)
    changed = sum((stored(p) > 0).sum() for p in (folder / "train" / "label").iterdir())
    assert counts.tolist() == [2 * SIZE[0] * SIZE[1] - changed, changed]


@pytest.mark.parametrize(
    ("values", "classes", "expected"),
    [
        ((0, 1), None, [0, 1]),
        ((0, 255), {"classes": ["no-change", "new house"]}, [0, 1]),
        ((0, 1, 255), {"classes": ["same", "new"], "ignore_index": 255}, [0, 1, 255]),
        ((0, 1, 2), {"classes": ["same", "built", "torn down"]}, [0, 1, 2]),
        ((0, 1, 2, 9), {"classes": ["same", "built", "torn down"], "ignore_index": 9},
         [0, 1, 2, 255]),
    ],
)  # fmt: skip
def test_what_the_values_of_masks_mean_is_recognised(make_pairs, values, classes, expected):
    folder = make_pairs(values=values, classes=classes)
    source = open_pair_folder(folder, "val")
    (site,) = source.sites
    mask = stored(folder / "val" / "label" / "three.png")
    ids = source.read_ids(site, site.core)
    for value, class_id in zip(values, expected, strict=True):
        assert set(ids[mask == value].tolist()) == {class_id}
    kinds = ("unchanged", "built", "torn down")
    assert source.classes == (kinds if 2 in values else ("unchanged", "changed"))


def test_one_folder_has_one_meaning_though_a_split_holds_zeros_alone(make_pairs):
    folder = make_pairs()
    Image.fromarray(np.zeros(SIZE, np.uint8)).save(folder / "val" / "label" / "three.png")
    source = open_pair_folder(folder, "val")
    assert source.count_classes().counts.sum(axis=0).tolist() == [SIZE[0] * SIZE[1], 0]


def test_masks_in_jpeg_are_read_as_what_they_were(make_pairs):
    folder = make_pairs(suffix=".jpg")
    blocks = np.kron(np.random.default_rng(1).integers(0, 2, (5, 7)), np.ones((8, 8)))
    blocks = np.roll(blocks, (3, 3), axis=(0, 1))  # JPEG keeps edges between its own blocks
    for path in folder.glob("*/label/*.jpg"):
        Image.fromarray((blocks * 255).astype(np.uint8)).save(path, quality=60)
    assert len(np.unique(stored(path))) > 2
    source = open_pair_folder(folder, "val")
    ids = source.read_ids(source.sites[0], source.sites[0].core)
    np.testing.assert_array_equal(ids, blocks)


def test_where_a_date_is_nodata_nothing_is_known(make_pairs):
    folder = make_pairs()
    for name, nodata in (("A", np.s_[:9]), ("B", np.s_[-5:])):
        pixels = np.full((3, *SIZE), 99, np.uint8)
        pixels[:, nodata] = 0
        (folder / "val" / name / "three.png").unlink()
        with rasterio.open(
            folder / "val" / name / "three.tif", "w", driver="GTiff", count=3, dtype="uint8",
            height=SIZE[0], width=SIZE[1], nodata=0, crs="EPSG:32633",
            transform=Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
        ) as file:  # fmt: skip
            file.write(pixels)
    source = open_pair_folder(folder, "val")
    site = source.sites[0]
    assert site.gsd_m == pytest.approx(0.5, rel=1e-2)
    sample = source.read(site, site.core)
    expected = np.ones(SIZE, bool)
    expected[:9] = expected[-5:] = False
    np.testing.assert_array_equal(sample.valid, expected)
    np.testing.assert_array_equal(sample.ids == 255, ~expected)


def _shift_after(folder):
    for name, left in (("A", 500_000), ("B", 500_007)):
        path = folder / "train" / name / "one.png"
        path.unlink()
        with rasterio.open(
            path.with_suffix(".tif"), "w", driver="GTiff", count=3, dtype="uint8", height=SIZE[0],
            width=SIZE[1], crs="EPSG:32633", transform=Affine(0.5, 0, left, 0, -0.5, 5_000_000),
        ) as file:  # fmt: skip
            file.write(np.zeros((3, *SIZE), np.uint8))


def _save(folder, place, pixels):
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(folder / place)


MISTAKES = {
    "a partner is missing": (
        lambda f: (f / "train/B/two.png").unlink(),
        r"A/two\.png has no partner of the same stem in .*B",
    ),
    "an earlier date is missing": (
        lambda f: (f / "train/A/two.png").unlink(),
        r"B/two\.png has no partner of the same stem in .*A",
    ),
    "a mask is missing": (
        lambda f: (f / "train/label/one.png").unlink(),
        r"A/one\.png has no partner of the same stem in .*label",
    ),
    "another size": (
        lambda f: _save(f, "train/B/one.png", np.zeros((10, 12, 3))),
        r"B/one\.png has 12 x 10 pixels, .*A/one\.png has 56 x 40",
    ),
    "a mask of another size": (
        lambda f: _save(f, "train/label/one.png", np.zeros((10, 12))),
        r"label/one\.png has 12 x 10 pixels",
    ),
    "other bands": (
        lambda f: _save(f, "train/B/two.png", np.zeros(SIZE)),
        r"B/two\.png has 1 bands of uint8, .*A/one\.png has 3",
    ),
    "a mask in colour": (
        lambda f: _save(f, "train/label/two.png", np.zeros((*SIZE, 3))),
        r"label/two\.png has 3 bands",
    ),
    "an unknown value": (
        lambda f: _save(f, "val/label/three.png", np.full(SIZE, 128)),
        r"val/label/three\.png holds the value 128, .* 0, 128, 255",
    ),
    "two meanings": (
        lambda f: _save(f, "train/label/two.png", np.full(SIZE, 1)),
        r"holds the value 255, and the masks of .* 0, 1, 255",
    ),
    "nothing changed": (
        lambda f: [_save(f, p, np.zeros(SIZE)) for p in f.glob("*/label/*")],
        "no pixel of its masks is changed",
    ),
    "no folder of masks": (
        lambda f: (f / "train/label").rename(f / "train/labels"),
        "train: needs the folders A and B",
    ),
    "empty": (
        lambda f: [path.unlink() for path in (f / "train/A").iterdir()],
        "A: empty folder",
    ),
    "another place": (_shift_after, "lies on another grid than"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_in_one_line(make_pairs, mistake):
    spoil, message = MISTAKES[mistake]
    folder = make_pairs()
    spoil(folder)
    with pytest.raises(DataError, match=message) as raised:
        open_pair_folder(folder, "train")
    assert "\n" not in str(raised.value)


def test_an_id_that_the_list_of_classes_does_not_know_is_told(make_pairs):
    folder = make_pairs(values=(0, 1, 3), classes={"classes": ["same", "built", "torn down"]})
    with pytest.raises(DataError, match=r"holds the value 3; .*classes\.json knows 0 \(same\), 1"):
        open_pair_folder(folder, "train")


def test_masks_without_a_pair_are_told(make_pairs):
    folder = make_pairs()
    _save(folder, "train/label/nine.png", np.zeros(SIZE))
    (note,) = open_pair_folder(folder, "train").notes
    assert note.endswith("label/nine.png: without a picture of the same stem, left out")


def test_a_kind_of_change_that_comes_first_is_refused(make_pairs):
    folder = make_pairs(classes={"classes": ["built", "unchanged"]})
    with pytest.raises(DataError, match=r"classes\.json: its first class, 'built' \(id 0\)"):
        open_pair_folder(folder, "train")


def test_a_missing_split_is_told(make_pairs, tmp_path):
    with pytest.raises(DataError, match=r"test: no such folder; .*\{A,B,label\}"):
        open_pair_folder(make_pairs(), "test")
