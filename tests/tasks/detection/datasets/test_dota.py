"""DOTA's texts as they lie about: headers, flags, commas, marks, and what is no DOTA at all."""

import pytest
from making.box_folders import picture, read, text

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.dota import (
    class_of_task1,
    read_dota_results,
    read_task1,
)
from lemevit_cli.tasks.detection.datasets.labels import LabelReport

SQUARE = "10 20 40 20 40 30 10 30"
AS_BOX = (25.0, 25.0, 30.0, 10.0, 0.0)


def dota(root, content):
    picture(root / "train/images/a.png")
    path = root / "train/labelTxt/a.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


@pytest.mark.parametrize(
    "content",
    [
        f"imagesource:GoogleEarth\ngsd:0.25\n{SQUARE} ship 0\n",
        f"imagesource : GoogleEarth\ngsd: null\n\n{SQUARE} ship 0",
        f"{SQUARE} ship\n",
        f"  {SQUARE}   ship 0   \n   \n",
        f"{SQUARE} ship 0\r\n\r\n",
        f"\ufeff{SQUARE} ship 0\n",
        f"{SQUARE} ship 0\n".encode("utf-16"),
        f"{SQUARE.replace(' ', ',')},ship,0\n",
        f"{SQUARE.replace(' ', ', ')}, ship, 0,\n",
        "10.0 30.0 40.0 20.0 40.0 30.0 10.0 20.0 ship 0\n",  # corners that cross
    ],
)
def test_lines_of_all_spellings_are_read(tmp_path, content):
    boxes, names, _ = read(dota(tmp_path, content))
    assert boxes == [pytest.approx(AS_BOX, abs=1e-2)] and names == ["ship"]


@pytest.mark.parametrize(
    ("flag", "difficult"), [("0", False), ("1", True), ("2", True), ("0.0", False), ("1.0", True)]
)
def test_all_marks_of_difficult_objects_are_known(tmp_path, flag, difficult):
    from lemevit_cli.tasks.detection.datasets.folders import read_box_folder

    (picture_of,) = read_box_folder(dota(tmp_path, f"{SQUARE} ship {flag}\n")).pictures["train"]
    assert [outline.difficult for outline in picture_of.outlines] == [difficult]


def test_names_of_several_words_are_kept(tmp_path):
    content = f"{SQUARE} storage tank 0\n{SQUARE.replace(' ', ',')},tennis court\n"
    assert read(dota(tmp_path, content))[1] == ["storage tank", "tennis court"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (f"{SQUARE} 0.25", "field 9 is '0.25', a number and no class name"),
        (f"{SQUARE} 3 0", "field 9 is '3', a number and no class name"),
        (f"{SQUARE} nan 0", "field 9 is 'nan', a number and no class name"),
        (f"{SQUARE} ship 0.9", "difficult is '0.9', it takes 0, 1 or 2"),
        (f"{SQUARE} ship 7", "difficult is '7', it takes 0, 1 or 2"),
        (f"{SQUARE} ship 0 0", "has 11 fields"),
        (f"{SQUARE}", "has 8 fields"),
        ("10,5 20,5 40 20 40 30 10 30 ship 0", "coordinate 1 is '10,5', which is no number"),
    ],
)
def test_a_line_that_is_none_is_told_or_counted(tmp_path, line, said):
    folder = dota(tmp_path, f"{SQUARE} ship 0\n{line}\n{SQUARE} ship 0\n")
    with pytest.raises(DataError, match=r"a\.txt, line 2: ") as told:
        read(folder)
    assert said in str(told.value) and "--skip-bad-labels" in str(told.value)
    boxes, _, notes = read(folder, skip_bad_labels=True)
    assert len(boxes) == 2
    assert any("1 bad labels left out, the first: " in n and "line 2" in n for n in notes)


@pytest.mark.parametrize(
    "line", ["0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4 0", "0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4 0.5"]
)
def test_a_text_of_parts_of_a_picture_is_no_dota(tmp_path, line):
    with pytest.raises(DataError, match="a number and no class name"):
        read(dota(tmp_path, f"{line}\n"))


def test_parts_of_a_picture_with_a_name_are_refused(tmp_path):
    with pytest.raises(DataError, match="all its coordinates lie between 0 and 1"):
        read(dota(tmp_path, "0.1 0.2 0.3 0.2 0.3 0.4 0.1 0.4 ship 0\n"))


def test_objects_without_area_are_counted(tmp_path):
    content = f"{SQUARE} ship 0\n10 20 40 20 40 20 10 20 ship 0\n"
    boxes, _, notes = read(dota(tmp_path, content))
    assert len(boxes) == 1
    assert any("1 objects without area left out, the first: " in note for note in notes)


def test_results_end_in_scores_or_in_flags(tmp_path):
    path = tmp_path / "a.txt"
    text(path, f"{SQUARE} ship 0.5", f"{SQUARE} ship 1")
    scored = read_dota_results(path, LabelReport())
    assert [(o.score, o.difficult) for o in scored] == [(0.5, False), (1.0, False)]
    text(path, f"{SQUARE} ship 0", f"{SQUARE} ship 1")
    flagged = read_dota_results(path, LabelReport())
    assert [(o.score, o.difficult) for o in flagged] == [(None, False), (None, True)]


def test_results_of_a_class_are_sorted_by_picture(tmp_path):
    path = tmp_path / "Task1_large-vehicle.txt"
    text(path, f"P0001 0.9 {SQUARE}", f"P0002 0.5 {SQUARE}", f"P0001 0.1 {SQUARE}")
    found = read_task1(path, LabelReport())
    assert {name: [o.score for o in outlines] for name, outlines in found.items()} == {
        "P0001": [0.9, 0.1],
        "P0002": [0.5],
    }
    assert {o.name for o in found["P0001"]} == {"large-vehicle"}
    assert class_of_task1(tmp_path / "P0001.txt") is None
    text(path, f"P0001 high {SQUARE}")
    with pytest.raises(DataError, match=r"line 1: the score is 'high', which is no number"):
        read_task1(path, LabelReport())
