import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.training.datasets.folders import PictureReader, open_folder, open_splits
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.naming import Naming


def test_pictures_classes_and_ids_are_read(make_folder):
    source = open_folder(make_folder(), "train")
    assert [Path(site.scene).stem for site in source.sites] == ["scene0", "scene1"]
    assert (source.classes, source.bands, source.dtype) == (("land", "building"), 3, "uint8")
    window = Window(col_off=0, row_off=2, width=20, height=10)
    sample = source.read(source.sites[0], window)
    assert sample.valid.all()
    stored = np.asarray(Image.open(source.sites[0].scene))[2:12, :20]
    np.testing.assert_array_equal(sample.pixels, stored.transpose(2, 0, 1))
    expected = np.zeros((10, 20), dtype=np.uint8)
    expected[6:, 16:] = 1
    expected[:2, :4] = 255
    np.testing.assert_array_equal(sample.ids, expected)
    np.testing.assert_array_equal(source.read_ids(source.sites[0], window), expected)


def test_a_source_is_pickled_without_its_pictures(make_folder):
    source = open_folder(make_folder(size=(200, 300)), "train")
    site = source.sites[0]
    before = source.read(site, site.core)
    text = pickle.dumps(source)
    assert len(text) < 200 * 300
    after = pickle.loads(text).read(site, site.core)
    for name in ("pixels", "valid", "ids"):
        np.testing.assert_array_equal(getattr(before, name), getattr(after, name))


def test_pictures_that_exif_turns_and_not_their_masks_are_told_of(make_folder):
    folder = make_folder()
    assert open_folder(folder, "train").notes == ()
    image = Image.new("RGB", (32, 32))
    exif = image.getexif()
    exif[0x112] = 3  # upside down
    image.save(folder / "train/images/turned.jpg", exif=exif)
    Image.new("L", (32, 32)).save(folder / "train/masks/turned.png")
    (note,) = open_folder(folder, "train").notes
    assert "turned.jpg: EXIF turns it" in note and "(so with 1)" in note


def test_counts_of_cells_add_up_to_the_masks(make_folder):
    source = open_folder(make_folder(size=(200, 300)), "train")
    cells = source.count_classes()
    assert cells.places[:, 3:].prod(axis=1).sum() == 2 * 200 * 300
    np.testing.assert_array_equal(
        cells.counts.sum(axis=0), [2 * (200 * 300 - 16 * 24 - 16), 2 * 16 * 24]
    )


def test_without_classes_json_ids_get_names_and_255_is_ignored(make_folder):
    folder = make_folder()
    (folder / "classes.json").unlink()
    source = open_folder(folder, "train")
    assert source.classes == ("class_0", "class_1")
    ids = source.read_ids(source.sites[0], source.sites[0].core)
    assert (ids[:4, :4] == 255).all() and (ids == 255).sum() == 16


def mask_of(folder, stem="scene1"):
    return folder / "train" / "masks" / f"{stem}.png"


def test_a_missing_split_is_named(make_folder):
    with pytest.raises(DataError, match=r"test/images: no such folder"):
        open_folder(make_folder(), "test")


def test_an_empty_folder_is_named(make_folder):
    folder = make_folder()
    for path in (folder / "val" / "images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match=r"val/images: empty folder"):
        open_folder(folder, "val")


def test_a_picture_without_mask_is_named(make_folder):
    folder = make_folder()
    mask_of(folder).unlink()
    with pytest.raises(DataError, match=r"scene1.png has no mask of the same stem"):
        open_folder(folder, "train")


def test_masks_without_a_picture_are_told(make_folder):
    folder = make_folder()
    shutil.copy(mask_of(folder), mask_of(folder, "scene8"))
    shutil.copy(mask_of(folder), mask_of(folder, "scene9"))
    (note,) = open_folder(folder, "train").notes
    assert "scene8.png and 1 more: without a picture of the same stem, left out" in note


def test_a_mask_of_another_size_names_both_files(make_folder):
    folder = make_folder()
    Image.fromarray(np.zeros((40, 64), dtype=np.uint8)).save(mask_of(folder))
    with pytest.raises(
        DataError, match=r"masks/scene1.png has 64 x 40.*images/scene1.png has 64 x 48"
    ):
        open_folder(folder, "train")


def test_a_coloured_mask_is_refused(make_folder):
    folder = make_folder()
    Image.fromarray(np.zeros((48, 64, 3), dtype=np.uint8)).save(mask_of(folder))
    with pytest.raises(DataError, match=r"scene1.png has 3 bands.*one band of integer class ids"):
        open_folder(folder, "train")


def test_an_unknown_id_names_file_and_id(make_folder):
    folder = make_folder()
    Image.fromarray(np.full((48, 64), 7, dtype=np.uint8)).save(mask_of(folder))
    source = open_folder(folder, "train")
    with pytest.raises(DataError, match=r"scene1.png holds the id 7; known are 0 to 1"):
        source.count_classes()


def black_and_white(folder, *, grey=None):
    for split in ("train", "val"):
        for mask in (folder / split / "masks").iterdir():
            values = np.eye(48, 64, dtype=np.uint8) * 255
            if grey is not None and split == "val":
                values[-1] = grey
            Image.fromarray(values).save(mask)


@pytest.mark.parametrize("named", [True, False])
def test_masks_of_black_and_white_alone_are_two_classes(make_folder, named):
    folder = make_folder(ignore_index=None)
    if not named:
        (folder / "classes.json").unlink()
    black_and_white(folder)
    source = open_folder(folder, "train")
    assert source.classes == (("land", "building") if named else ("class_0", "class_1"))
    window = source.sites[0].core
    np.testing.assert_array_equal(source.read_ids(source.sites[0], window), np.eye(48, 64))


def test_white_is_no_class_beside_others_even_of_another_split(make_folder):
    folder = make_folder()
    (folder / "classes.json").unlink()
    black_and_white(folder, grey=1)
    source = open_folder(folder, "train")
    expected = np.where(np.eye(48, 64), 255, 0)
    np.testing.assert_array_equal(source.read_ids(source.sites[0], source.sites[0].core), expected)


def test_white_that_classes_json_ignores_stays_ignored(make_folder):
    folder = make_folder(ignore_index=255)
    black_and_white(folder)
    source = open_folder(folder, "train")
    expected = np.where(np.eye(48, 64), 255, 0)
    np.testing.assert_array_equal(source.read_ids(source.sites[0], source.sites[0].core), expected)


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"classes": ["one"]}', '{"classes": ["a", "a"]}', '{"classes": [1, 2]}']
)
def test_an_unreadable_classes_file_is_named(make_folder, content):
    folder = make_folder()
    (folder / "classes.json").write_text(content)
    with pytest.raises(DataError, match=r"classes.json: "):
        open_folder(folder, "train")


def test_pictures_of_different_bands_are_refused(make_folder):
    folder = make_folder()
    Image.fromarray(np.zeros((48, 64), dtype=np.uint8)).save(folder / "train/images/scene1.png")
    with pytest.raises(DataError, match=r"scene1.png has 1 bands of uint8, .*scene0.png has 3"):
        open_folder(folder, "train")


def test_ignore_index_may_be_null(make_folder):
    source = open_folder(make_folder(ignore_index=None), "train")
    assert source.count_classes().counts.sum() == 2 * 48 * 64


def test_palettes_are_colours_of_pictures_and_ids_of_masks(make_folder):
    folder = make_folder()
    colours = [20, 30, 40, 200, 100, 50] + [0, 0, 0] * 254
    for path in Path(folder).rglob("*.*"):
        if "masks" in path.parts or "images" in path.parts:
            ids = np.asarray(Image.open(path).convert("L")) if "masks" in path.parts else None
            with Image.open(path) as opened:
                size = opened.size
            stripes = np.indices(size[::-1])[0] % 2
            picture = Image.fromarray((stripes if ids is None else ids).astype(np.uint8), mode="P")
            picture.putpalette(colours)
            picture.save(path.with_suffix(".png"))
            if path.suffix != ".png":
                path.unlink()
    source = open_folder(folder, "train")
    site = source.sites[0]
    assert (source.bands, source.dtype) == (3, "uint8")
    pixels, valid = source.read_pixels(site, site.core)
    assert valid.all()
    assert pixels[:, 0, 0].tolist() == [20, 30, 40] and pixels[:, 1, 0].tolist() == [200, 100, 50]
    assert set(np.unique(source.read_ids(site, site.core))) == {0, 1, 255}


@pytest.mark.parametrize(
    ("naming", "classes", "of_land", "of_building"),
    [
        (Naming(drop=("land",)), ("building",), 255, 0),
        (Naming(classes=("road", "land")), ("road", "land"), 1, 255),
        (Naming(rename={"land": "ground", "building": "ground"}), ("ground",), 0, 0),
        (Naming(rename={"building": "house"}), ("land", "house"), 0, 1),
    ],
)
def test_classes_of_masks_are_called_as_a_list_says(
    make_folder, naming, classes, of_land, of_building
):
    folder = make_folder()
    entry = LabelledFolder(path=str(folder), naming=naming)
    division = Division(crop=64, val_fraction=None, seed=0)
    source = open_splits(open_folder, entry, PictureReader(), division).training
    site = source.sites[0]
    plain = open_folder(folder, "train").read_ids(site, site.core)
    assert source.classes == classes
    expected = np.array([of_land, of_building, *[255] * 254], dtype=np.uint8)[plain]
    np.testing.assert_array_equal(source.read_ids(site, site.core), expected)
    assert source.is_complete == (255 not in (of_land, of_building))


@pytest.mark.parametrize("naming", [Naming(drop=("ship",)), Naming(classes=("ship",))])
def test_a_class_that_masks_do_not_have_is_named_with_those_they_have(make_folder, naming):
    entry = LabelledFolder(path=str(make_folder()), naming=naming)
    division = Division(crop=64, val_fraction=None, seed=0)
    with pytest.raises(DataError, match=r"no class 'ship'; they have land, building"):
        open_splits(open_folder, entry, PictureReader(), division)
