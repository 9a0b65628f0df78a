import numpy as np
import pytest
from PIL import Image

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.backbone.pictures import open_pictures
from lemevit_cli.training.options import DataOptions


def write(path, *, bands=3, size=(20, 30), dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = size if bands == 1 else (*size, bands)
    Image.fromarray(np.full(shape, 9, dtype=dtype)).save(path)
    return path


def paths_of(found):
    return [site.scene for source in found.training for site in source.sites]


def test_pictures_of_any_depth_are_found_but_no_labels_and_nothing_held_back(tmp_path):
    kept = [write(tmp_path / name) for name in ("a.png", "deep/er/b.png", "train/images/c.png")]
    for name in ("val/images/d.png", "train/masks/c.png", "deep/label/e.png", "test/f.png"):
        write(tmp_path / name)
    (tmp_path / "readme.txt").write_text("no picture")
    found = open_pictures(DataOptions(paths=(str(tmp_path),)))
    assert sorted(paths_of(found)) == sorted(map(str, kept))
    assert found.notes == (
        f"4 rasters of {tmp_path.name} are left out: they are labels, or of a part that is held "
        "back (val, test)",
    )


def test_what_is_odd_about_pixels_is_told_once_with_a_count(tmp_path):
    for name in ("a.png", "b.png", "c.png"):
        indexes = Image.fromarray(np.full((20, 30), 3, np.uint8)).convert("P")
        indexes.save(tmp_path / name)
    found = open_pictures(DataOptions(paths=(str(tmp_path),)))
    (note,) = found.notes
    assert note.startswith("3 pictures: band 1 is read as the colours of its palette")


def test_a_folder_that_is_named_itself_is_taken_whatever_its_name(tmp_path):
    picture = write(tmp_path / "val" / "a.png")
    found = open_pictures(DataOptions(paths=(str(tmp_path / "val"),)))
    assert paths_of(found) == [str(picture)] and found.notes == ()


def test_pictures_of_another_kind_and_broken_ones_are_left_out_and_told(tmp_path):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    write(tmp_path / "grey.png", bands=1)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG no more")
    found = open_pictures(DataOptions(paths=(str(tmp_path),)))
    kind = found.training[0].bands, found.training[0].dtype
    assert (*kind, len(paths_of(found))) == (3, "uint8", 2)
    broken, other = found.notes
    assert "1 pictures cannot be read" in broken and "broken.png" in broken
    assert other == "1 pictures are left out: they have not 3 bands of uint8, as most"


def test_a_fiftieth_is_held_back_where_there_are_enough(tmp_path):
    for number in range(60):
        write(tmp_path / f"{number}.png", size=(4, 4))
    found = open_pictures(DataOptions(paths=(str(tmp_path),)))
    held_back = {site.scene for source in found.validation for site in source.sites}
    assert len(held_back) == 1 and len(paths_of(found)) == 59
    assert not held_back & set(paths_of(found))


def test_a_list_names_scenes_and_folders_without_labels(tmp_path):
    write(tmp_path / "towns" / "a.png", size=(10, 10))
    before, after = (write(tmp_path / f"{name}.png") for name in ("before", "after"))
    write(tmp_path / "held.png")
    write(tmp_path / "judged.png")
    listing = tmp_path / "all.toml"
    listing.write_text(
        '[[source]]\nfolder = "towns"\ngsd = 0.5\nweight = 3\n'
        '[[source]]\nbefore = "before.png"\nafter = "after.png"\n'
        '[[source]]\nscene = "held.png"\nsplit = "val"\n'
        '[[source]]\nscene = "judged.png"\nweight = 0\n'
    )
    found = open_pictures(DataOptions(paths=(str(listing),)))
    towns, pair = found.training
    assert (found.weights[0], towns.sites[0].gsd_m) == (3, 0.5)
    assert [site.scene for site in pair.sites] == [str(before), str(after)]
    assert found.weights[1] == pytest.approx((2 * 20 * 30) ** 0.5)
    assert any("of weight 0, so left out" in note for note in found.notes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda folder: folder.mkdir(), "no picture to learn from"),
        (lambda folder: write(folder / "val" / "a.png"), "1 rasters of data are left out"),
        (lambda folder: (folder.mkdir(), (folder / "a.png").write_text("x")), "cannot be read"),
        (lambda folder: (folder.parent / "data").write_text("x"), "data"),
    ],
)
def test_nothing_to_learn_from_is_said_with_its_reason(tmp_path, make, said):
    make(tmp_path / "data")
    with pytest.raises(DataError, match=said):
        open_pictures(DataOptions(paths=(str(tmp_path / "data"),)))


def test_a_path_that_is_none_is_named(tmp_path):
    with pytest.raises(DataError, match=r"no_such"):
        open_pictures(DataOptions(paths=(str(tmp_path / "no_such"),)))


def test_a_picture_that_is_named_twice_counts_once(tmp_path):
    write(tmp_path / "towns" / "a.png")
    write(tmp_path / "towns" / "deep" / "b.png")
    again = tmp_path / "towns" / ".." / "towns" / "deep"
    found = open_pictures(DataOptions(paths=(str(tmp_path / "towns"), str(again))))
    assert len(paths_of(found)) == 2
    assert found.notes == ("1 pictures are named more than once, and count once",)
