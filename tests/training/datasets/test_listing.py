import pytest

from lemevit_cli.errors import DataError
from lemevit_cli.training.datasets.listing import LabelledFolder, read_listing
from lemevit_cli.training.options import LabelledScene


@pytest.fixture
def listing(tmp_path):
    def write(text):
        path = tmp_path / "data.toml"
        path.write_text(text)
        return path

    return write


def test_scenes_and_folders_are_listed_beside_the_file(listing, tmp_path):
    path = listing("""
        [[source]]
        scene = "a.tif"
        labels = "sub/a.gpkg|layername=roofs"
        label-field = "kind"
        class = "roof"
        where = "year = 2020"
        background = "ignore"
        split = "val"
        weight = 0.5
        [[source]]
        folder = "towns"
        [[source]]
        scene = "https://host/b.tif"
        labels = "/data/b.tif"
    """)
    assert read_listing(path) == (
        LabelledScene(
            scene=str(tmp_path / "a.tif"),
            labels=str(tmp_path / "sub" / "a.gpkg|layername=roofs"),
            label_field="kind",
            class_name="roof",
            where="year = 2020",
            background="ignore",
            split="val",
            weight=0.5,
        ),
        LabelledFolder(path=str(tmp_path / "towns")),
        LabelledScene(scene="https://host/b.tif", labels="/data/b.tif"),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[[source]", "cannot be read as TOML"),
        ("", r"lists no \[\[source\]\]"),
        ("source = 3", r"lists no \[\[source\]\]"),
        ("seed = 3\n[[source]]\nfolder = 'a'", "unknown key 'seed'"),
        (
            "[[source]]\nscene = 'a'\nlabel = 'b'",
            "source 1 has the unknown key 'label'; known are scene, labels, label-field, class",
        ),
        ("[[source]]\nfolder = 'a'\nsplit = 'val'", "source 1 has the unknown key 'split'"),
        (
            "[[source]]\nlabels = 'a'",
            "source 1 needs either scene and labels; before, after and labels; or folder",
        ),
        ("[[source]]\nscene = 'a'", "source 1 has no labels"),
        ("[[source]]\nfolder = 'a'\n[[source]]\nfolder = 3", "source 2: folder is 3; it takes"),
        ("[[source]]\nfolder = 'a'\nweight = -1", "source 1: weight is -1; it takes a number"),
        ("[[source]]\nfolder = 'a'\nweight = true", "weight is True"),
        (f"[[source]]\nfolder = 'a'\nweight = 1{'0' * 400}", "it takes a number from zero on"),
        ("[[source]]\nfolder = 'a'\nweight = inf", "weight is inf; it takes a number from zero on"),
    ],
)
def test_mistakes_are_told_with_file_and_number(listing, text, message):
    path = listing(text)
    with pytest.raises(DataError, match=message) as raised:
        read_listing(path)
    assert str(path) in str(raised.value) and "\n" not in str(raised.value)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(DataError, match=r"none\.toml: cannot be read"):
        read_listing(tmp_path / "none.toml")


def test_classes_of_boxes_are_renamed_dropped_and_chosen(listing):
    (entry,) = read_listing(
        listing("""
            [[source]]
            folder = "dota"
            rename = { small-vehicle = "vehicle", large-vehicle = "vehicle" }
            drop = ["helicopter"]
            classes = ["vehicle", "plane"]
        """)
    )
    naming = entry.naming
    assert [naming.name(n) for n in ("small-vehicle", "plane", "helicopter", "ship")] == [
        "vehicle", "plane", None, None
    ]  # fmt: skip
    assert naming.names(["ship", "plane"]) == ("vehicle", "plane")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('drop = "ship"', "drop is 'ship'"),
        ("classes = []", r"classes is \[\]"),
        ('rename = ["a", "b"]', "rename is"),
        ("rename = { a = 3 }", "rename is"),
    ],
)
def test_a_wrong_naming_is_told(listing, line, said):
    with pytest.raises(DataError, match=f"source 1: {said}"):
        read_listing(listing(f'[[source]]\nfolder = "dota"\n{line}\n'))


def test_all_touched_is_true_or_false(tmp_path):
    listing = tmp_path / "sources.toml"
    text = '[[source]]\nscene = "a.tif"\nlabels = "a.gpkg"\nall-touched = '
    listing.write_text(text + "true\n")
    (entry,) = read_listing(listing)
    assert entry.all_touched is True
    listing.write_text(text + '"yes"\n')
    with pytest.raises(DataError, match="all-touched is 'yes'; it takes true or false"):
        read_listing(listing)
