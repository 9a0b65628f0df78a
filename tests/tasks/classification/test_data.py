import numpy as np
import pytest
import shapely
from affine import Affine
from PIL import Image

from lemevit_cli.errors import DataError
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.classification.data import WINDOWS, open_split
from lemevit_cli.tasks.classification.windows import class_of
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.source import Source
from lemevit_cli.training.options import DataOptions, LabelledScene
from lemevit_cli.training.sources import open_sources


def open_all(*paths, **changes):
    data = DataOptions(paths=tuple(map(str, paths)), **changes)
    return open_sources(data, crop=32, openers=WINDOWS)


def labelled(source):
    """The classes of a source's pictures, by their paths."""
    return {
        site.scene: source.classes[source.read_ids(site, site.core)[0, 0]] for site in source.sites
    }


def test_folders_of_both_splits_are_read(tmp_path, write_pictures):
    for split, count in (("train", 5), ("val", 2)):
        write_pictures(tmp_path / "data" / split, count=count)
    sources = open_all(tmp_path / "data")
    assert sources.classes == ("blue", "green", "red")
    (training,), (validation,) = sources.training, sources.validation
    assert (len(training.sites), len(validation.sites)) == (15, 6)
    assert all(name in path for path, name in labelled(training).items())
    assert sources.num_labels == 15 * 32**2  # a picture counts as a window
    note, _ = open_all(tmp_path / "data", val_fraction=0.5).notes
    assert note.endswith("data: divides itself into train and val, without --val-fraction")


def test_a_tree_of_classes_is_divided_class_by_class(tmp_path, write_pictures):
    write_pictures(tmp_path, count=10)
    write_pictures(tmp_path, classes=("red",), count=2)
    (found,) = open_all(tmp_path, val_fraction=0.3).validation
    assert sorted(labelled(found).values()) == ["blue"] * 3 + ["green"] * 3 + ["red"] * 3
    (same,) = open_all(tmp_path, val_fraction=0.3).validation
    assert labelled(same) == labelled(found)
    (other,) = open_all(tmp_path, val_fraction=0.3, seed=1).validation
    assert labelled(other) != labelled(found)
    assert open_all(tmp_path, val_fraction=0.0).validation == ()


def test_weights_are_scored_on_what_their_training_held_back(tmp_path, write_pictures):
    write_pictures(tmp_path, count=10)
    sources = open_all(tmp_path, val_fraction=0.4, seed=7)
    division = {"division": {"val_fraction": 0.4, "seed": 7}}
    card = Card(task="cls", backbone="-", classes=(), training=division)
    with pytest.raises(DataError, match="no class is shared"):
        open_split(str(tmp_path), "val", card)
    card = Card(task="cls", backbone="-", classes=classes_from_names(["red"]), training=division)
    assert labelled(open_split(str(tmp_path), "val", card)) == labelled(sources.validation[0])
    (note,) = open_split(str(tmp_path), "val", card).notes
    judged = len(sources.validation[0].sites)
    assert f"{judged} of {judged + len(sources.training[0].sites)} pictures are judged" in note
    assert labelled(open_split(str(tmp_path), "train", card)) == labelled(sources.training[0])


def test_a_class_that_one_part_lacks_is_told(tmp_path, write_pictures):
    write_pictures(tmp_path / "data" / "train", classes=("red", "green"))
    write_pictures(tmp_path / "data" / "val", classes=("green", "blue"))
    sources = open_all(tmp_path / "data")
    assert sources.notes == (
        "data: val has pictures of blue, which train lacks: nothing can be right of them",
        "data: val has no picture of red: never judged",
        "data/train: pictures by class: green 6, red 6",
    )
    assert sources.classes == ("green", "red")


def table(tmp_path, text):
    path = tmp_path / "list.csv"
    path.write_text(text)
    return path


def test_a_table_names_paths_and_classes(tmp_path, write_pictures):
    write_pictures(tmp_path / "p", count=2)
    path = table(
        tmp_path,
        "class,path,split,remark\nwarm,p/red/0.png,train,x\ncold,p/blue/0.png,train,\n"
        "warm,p/red/1.png,val,\n",
    )
    sources = open_all(path)
    assert sources.classes == ("cold", "warm") and sources.training[0].name == "list.csv"
    assert list(labelled(sources.training[0]).values()) == ["warm", "cold"]
    assert list(labelled(sources.validation[0]).values()) == ["warm"]


def test_a_split_of_any_name_is_scored_on(tmp_path, write_pictures):
    card = Card(task="cls", backbone="-", classes=classes_from_names(["warm", "red"]))
    write_pictures(tmp_path / "p", count=3)
    rows = [f"p/red/{i}.png,warm,{split}" for i, split in enumerate(("train", "test", "test"))]
    rows.append("p/blue/0.png,cold,train")
    path = table(tmp_path, "path,class,split\n" + "\n".join(rows))
    assert len(open_split(str(path), "test", card).sites) == 2
    assert any("2 pictures of the split test left out" in note for note in open_all(path).notes)
    with pytest.raises(DataError, match="no picture is of the split holdout"):
        open_split(str(path), "holdout", card)
    write_pictures(tmp_path / "data" / "test", classes=("red",), count=2)
    assert len(open_split(str(tmp_path / "data"), "test", card).sites) == 2
    with pytest.raises(DataError, match="data/holdout: no such folder"):
        open_split(str(tmp_path / "data"), "holdout", card)


def test_a_table_without_splits_is_divided(tmp_path, write_pictures):
    write_pictures(tmp_path / "p", count=5)
    rows = [f"p/{c}/{i}.png,{c}" for c in ("red", "blue") for i in range(5)]
    sources = open_all(table(tmp_path, "path,class\n" + "\n".join(rows)))
    assert (len(sources.training[0].sites), len(sources.validation[0].sites)) == (8, 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("file,class\n", "list.csv: line 1 must name the columns path,class"),
        ("", "list.csv: line 1 must name the columns path,class"),
        ("path,class\np/red/0.png,red\n,red\n", "list.csv: line 3: has no path; columns are"),
        ("path,class\np/red/0.png\n", "list.csv: line 2: has no class; columns are"),
        ("path,class\np/red/9.png,red\n", "list.csv: line 2: .*9.png: no such file"),
        (
            "path,class\np/red/0.png,red\np/red/0.png,blue\n",
            "line 3: p/red/0.png is in line 2 already",
        ),
        (
            'path,class\np/red/0.png,red\np/blue/0.png,"blue\np/red/1.png,red\n',
            "list.csv: cannot be read as a CSV",
        ),
        (
            "path,class,split\np/red/0.png,red,train\np/red/1.png,red,\n",
            "line 3 has no split, though others have one",
        ),
    ],
)
def test_a_mistake_in_a_table_is_told_with_its_line(tmp_path, write_pictures, text, message):
    write_pictures(tmp_path / "p", count=2)
    with pytest.raises(DataError, match=message):
        open_all(table(tmp_path, text))


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        ((), "no pictures; it needs {train,val}/CLASS/, or CLASS/ alone"),
        (("red", "blue"), "blue: no pictures"),
        (("train/red", "val/red"), "train/red: no pictures"),
    ],
)
def test_empty_folders_are_refused(tmp_path, folders, message):
    for folder in ("data", *(f"data/{name}" for name in folders)):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    with pytest.raises(DataError, match=message):
        open_all(tmp_path / "data")


def test_what_is_no_folder_or_has_one_class_is_refused(tmp_path, write_pictures):
    with pytest.raises(DataError, match="nowhere: no such folder or table"):
        open_all(tmp_path / "nowhere")
    write_pictures(tmp_path / "one", classes=("red",))
    with pytest.raises(DataError, match="one class, red"):
        open_all(tmp_path / "one")


def test_pictures_of_other_bands_are_refused(tmp_path, write_pictures, write_scene):
    write_pictures(tmp_path / "data")
    write_scene(np.zeros((1, 40, 40), np.uint8), name="data/red/grey.tif")
    with pytest.raises(DataError, match=r"grey.tif has 1 bands of uint8.* has 3 of uint8"):
        open_all(tmp_path / "data")


def test_points_and_polygons_of_a_scene_label_windows(write_scene, write_polygons):
    transform = Affine(2, 0, 458_000, 0, -2, 5_548_000)
    scene = write_scene(np.full((3, 96, 96), 9, np.uint8), transform=transform)
    place = lambda col, row: transform @ (col, row)  # noqa: E731
    field = shapely.Polygon([place(*p) for p in ((60, 10), (90, 10), (90, 40), (60, 40))])
    geometries = [shapely.Point(place(20.5, 30.5)), field]
    labels = write_polygons(geometries, kind=["mast", "field"])
    how = LabelledScene(scene=scene, labels=labels, label_field="kind", background="ignore")
    parts = WINDOWS.scene(how, Division(crop=32, val_fraction=0.0))
    source = parts.training
    site = source.sites[0]
    ids = source.read_ids(site, site.extent)
    assert source.classes == ("field", "mast") and (ids == 1).sum() == 1
    row, col = np.argwhere(ids == 1)[0]
    assert (row + site.extent.row_off, col + site.extent.col_off) == (30, 20)
    assert (ids == 0).sum() == 900


def source_with(*classes):
    return Source(
        name="s", split="train", classes=classes, sites=(), bands=3, dtype="uint8", num_pixels=0,
        read_pixels=lambda site, window: None,
    )  # fmt: skip


def test_a_window_is_of_the_class_of_most_labels_and_of_the_background_last():
    ids = np.full((8, 8), 255, np.uint8)
    source = source_with("background", "mast", "field")
    assert class_of(ids, source) == 255
    ids[:4] = 0
    assert class_of(ids, source) == 0
    ids[5, 5] = 1
    assert class_of(ids, source) == 1
    ids[6, :2] = 2
    assert class_of(ids, source) == 2
    assert class_of(ids, source_with("land", "mast", "field")) == 0


@pytest.mark.parametrize("names", [("Train", "Val"), ("TRAIN", "validation"), ("train", "Valid")])
def test_splits_are_found_by_other_names(tmp_path, write_pictures, names):
    for name, count in zip(names, (3, 2), strict=True):
        write_pictures(tmp_path / "data" / name, count=count)
    sources = open_all(tmp_path / "data")
    assert sources.classes == ("blue", "green", "red")
    assert [len(s.sites) for s in (*sources.training, *sources.validation)] == [9, 6]


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_table_may_have_other_signs_and_a_header_in_any_case(tmp_path, write_pictures, sign):
    write_pictures(tmp_path / "p", count=2)
    rows = ["Path,CLASS,Split", "p/red/0.png,warm,train", "p/blue/0.png,cold,train"]
    sources = open_all(table(tmp_path, "\n".join(rows).replace(",", sign)))
    assert list(labelled(sources.training[0]).values()) == ["warm", "cold"]


def test_files_of_a_file_manager_are_no_pictures(tmp_path, write_pictures):
    write_pictures(tmp_path / "data", count=4)
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        (tmp_path / "data" / "red" / name).write_bytes(b"x")
    sources = open_all(tmp_path / "data")
    assert sum(len(s.sites) for s in (*sources.training, *sources.validation)) == 12


def test_a_picture_in_two_classes_is_told(tmp_path, write_pictures):
    write_pictures(tmp_path / "data", count=4)
    assert not any("two classes" in note for note in open_all(tmp_path / "data").notes)
    twin = tmp_path / "data" / "blue" / "copy.png"
    twin.write_bytes((tmp_path / "data" / "red" / "1.png").read_bytes())
    (note,) = (n for n in open_all(tmp_path / "data").notes if "two classes" in n)
    assert note.startswith("1 pictures are in two classes") and "copy.png" in note


def test_nested_pictures_are_told(tmp_path, write_pictures):
    write_pictures(tmp_path / "data", count=4)
    write_pictures(tmp_path / "data" / "red", classes=("blue",), count=3)
    (note,) = (n for n in open_all(tmp_path / "data").notes if "inside a class" in n)
    assert "data/red/blue: lies inside a class; its files are not read (3 in all)" in note


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_a_picture_that_is_cut_off_is_named(tmp_path, write_pictures, suffix):
    write_pictures(tmp_path / "data", count=4)
    whole = tmp_path / "data" / "red" / f"9{suffix}"
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(whole)
    whole.write_bytes(whole.read_bytes() + b"0" * 100)  # what follows the end does no harm
    open_all(tmp_path / "data")
    whole.write_bytes(whole.read_bytes()[:1500])
    with pytest.raises(DataError, match=rf"9{suffix}: .*cut off: mend or remove it"):
        open_all(tmp_path / "data")


def test_pictures_that_cannot_be_read_are_skipped_and_counted(tmp_path, write_pictures):
    write_pictures(tmp_path / "data", count=6)
    cut = tmp_path / "data" / "red" / "9.png"
    noise = np.random.default_rng(0).integers(0, 255, (40, 48, 3)).astype(np.uint8)
    Image.fromarray(noise).save(cut)
    cut.write_bytes(cut.read_bytes()[:1500])
    (tmp_path / "data" / "blue" / "8.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"8\.jpg") as raised:
        open_all(tmp_path / "data")
    assert "\n" not in str(raised.value)
    sources = open_all(tmp_path / "data", skip_bad_labels=True)
    count = sum(len(s.sites) for s in (*sources.training, *sources.validation))
    assert count == 18
    (note,) = [note for note in sources.notes if "bad labels" in note]
    assert "data: 2 bad labels left out, the first: " in note and "8.jpg" in note


def test_rows_that_cannot_be_understood_are_skipped_and_counted(tmp_path, write_pictures):
    write_pictures(tmp_path, count=6)
    rows = [f"{name}/{i}.png,{name}" for name in ("red", "blue") for i in range(6)]
    table = tmp_path / "list.csv"
    bad = ["red/0.png,red", "none.png,red", "red/1.png", ",red"]
    table.write_text("\n".join(["path,class", *rows, *bad]))
    with pytest.raises(DataError, match=r"list\.csv: line 14: red/0\.png is in line 2 already"):
        open_all(table)
    sources = open_all(table, skip_bad_labels=True)
    assert sum(len(s.sites) for s in (*sources.training, *sources.validation)) == 12
    (note,) = [note for note in sources.notes if "bad labels" in note]
    assert "4 bad labels left out, the first: " in note and "line 14" in note
    card = Card(task="cls", backbone="x", classes=classes_from_names(("red", "blue")))
    with pytest.raises(DataError, match="line 14"):
        open_split(str(table), "val", card)
    assert "4 bad labels" in open_split(str(table), "val", card, skip_bad_labels=True).notes[0]


def test_a_picture_with_a_palette_is_read_as_its_colours(tmp_path, write_pictures):
    write_pictures(tmp_path / "data", count=4)
    for path in (tmp_path / "data").rglob("*.png"):
        Image.open(path).quantize(200).save(path)
    (source,) = open_all(tmp_path / "data").training
    site = source.sites[0]
    assert (source.bands, source.dtype) == (3, "uint8")
    expected = np.asarray(Image.open(site.scene).convert("RGB"))
    pixels, _ = source.read_pixels(site, site.core)
    np.testing.assert_array_equal(pixels, expected.transpose(2, 0, 1))
