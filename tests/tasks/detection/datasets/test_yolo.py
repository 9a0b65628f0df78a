"""YOLO's texts in all their forms: what a line holds is told by the file, classes are whole."""

import numpy as np
import pytest
from making.box_folders import HEIGHT, WIDTH, picture, read, rectangle, text

from lemevit_cli.errors import DataError

AS_BOX = (25.0, 25.0, 30.0, 10.0, 0.0)
BOX = f"{25 / WIDTH:.9f} {25 / HEIGHT:.9f} {30 / WIDTH:.9f} {10 / HEIGHT:.9f}"


def parts(points):
    return " ".join(f"{x / WIDTH:.9f} {y / HEIGHT:.9f}" for x, y in points)


CORNERS = parts(rectangle(25, 25, 30, 10, 0))
OUTLINE = parts([(10, 20), (25, 20), (40, 20), (40, 30), (10, 30)])
TRIANGLE = parts([(10, 20), (40, 20), (40, 30)])


def yolo(root, *lines, names="[ship, plane]"):
    picture(root / "images/train/a.png")
    text(root / "labels/train/a.txt", *lines)
    text(root / "data.yaml", f"names: {names}")
    return root


@pytest.mark.parametrize(
    "number", ["1", "1.0", "1.000000", "1.000000000000000000e+00", "1e+00", "01"]
)
def test_a_whole_number_in_any_notation_is_a_class(tmp_path, number):
    boxes, names, _ = read(yolo(tmp_path, f"{number} {CORNERS}"))
    assert boxes == [pytest.approx(AS_BOX, abs=1e-2)] and names == ["plane"]


def test_what_numpy_writes_is_read(tmp_path):
    corners = [rectangle(25, 25, 30, 10, 20), rectangle(55, 30, 20, 6, -40)]
    rows = [[k, *(points / (WIDTH, HEIGHT)).reshape(-1)] for k, points in enumerate(corners)]
    np.savetxt(yolo(tmp_path) / "labels/train/a.txt", rows)
    boxes, names, notes = read(tmp_path)
    assert boxes == [
        pytest.approx((25, 25, 30, 10, 20), abs=1e-2),
        pytest.approx((55, 30, 20, 6, -40), abs=1e-2),
    ]
    assert names == ["ship", "plane"] and "YOLO-OBB layout" in notes[0]


@pytest.mark.parametrize(
    ("lines", "layout"),
    [
        ([f"0 {BOX}"], "YOLO (upright boxes)"),
        ([f"0 {BOX} 0.87"], "YOLO (upright boxes)"),
        ([f"0 {BOX} 0.87 12", f"0 {BOX} 0.5 1"], "YOLO (upright boxes)"),
        ([f"0 {CORNERS}"], "YOLO-OBB"),
        ([f"0 {CORNERS} 0.87"], "YOLO-OBB"),
        ([f"0 {OUTLINE}"], "YOLO (outlines)"),
        ([f"0 {OUTLINE} 0.9", f"0 {TRIANGLE} 0.8"], "YOLO (outlines)"),
        ([f"0 {TRIANGLE}"], "YOLO (outlines)"),
        ([f"0 {OUTLINE}", f"0 {CORNERS}", f"0 {TRIANGLE}"], "YOLO (outlines)"),
    ],
)
def test_kinds_are_told_by_the_numbers_of_the_whole_file(tmp_path, lines, layout):
    boxes, names, notes = read(yolo(tmp_path, *lines))
    for line, box in zip(lines, boxes, strict=True):
        assert box[2] * box[3] == pytest.approx(30 * 10, rel=1e-3)
        # Around a right-angled triangle two rectangles are as small as each other.
        assert TRIANGLE in line or box == pytest.approx(AS_BOX, abs=1e-2)
    assert set(names) == {"ship"} and f": {layout} layout" in notes[0]
    has_confidence = len(lines[0].split()) % 2 == 0 or (len(lines) == 2 and "12" in lines[0][-3:])
    assert any("a confidence, which is not read" in note for note in notes) == has_confidence


@pytest.mark.parametrize(
    ("good", "line", "said"),
    [
        (f"0 {BOX}", f"0 {CORNERS}", "has 8 numbers after the class, it takes 4: class cx cy w h"),
        (f"0 {CORNERS}", f"0 {BOX}", "has 4 coordinates after the class, it takes 8"),
        (f"0 {BOX}", f"0.5 {BOX}", "the class is '0.5', it takes a whole number"),
        (f"0 {BOX}", f"-1 {BOX}", "the class is '-1', it takes a whole number"),
        (f"0 {BOX}", f"7 {BOX}", "class 7 has no name; known are 0 to 1 (ship, plane)"),
        (f"0 {BOX}", f"0 {BOX} 30", "the number 30 after the box is no confidence from 0 to 1"),
        (f"0 {BOX}", f"0 {BOX} -0.4", "the number -0.4 after the box is no confidence"),
        (f"0 {BOX}", "0 0.5 0.5 -0.1 0.2", "a box of -0.1 x 0.2 parts of its picture is none"),
        (f"0 {BOX}", "0 0.5 0.5 1.5 0.2", "a box of 1.5 x 0.2 parts of its picture is none"),
        (f"0 {BOX}", "0 0.5 nan 0.1 0.2", "coordinate 2 is 'nan', which is no number"),
        (f"0 {BOX}", "0 25 25 30 10", "the coordinate 30 is no part of the picture's"),
        (f"0 {BOX}", "0 1.5 0.5 0.1 0.1", "lies outside its picture of 80 x 60 pixels"),
        (f"0 {OUTLINE}", "0 0.1 0.1 0.2 0.2", "takes 6 or more, in pairs"),
    ],
)
def test_a_line_of_another_kind_is_told_or_counted(tmp_path, good, line, said):
    folder = yolo(tmp_path, good, good, line)
    with pytest.raises(DataError, match=r"a\.txt, line 3: ") as told:
        read(folder)
    assert said in str(told.value) and "\n" not in str(told.value)
    boxes, _, notes = read(folder, skip_bad_labels=True)
    assert len(boxes) == 2 and any("1 bad labels left out" in note for note in notes)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("[ship, plane]", ["ship", "plane"]),
        ("[1, 2]", ["1", "2"]),
        ("['yes', no]", ["yes", "no"]),
        ("{0: ship, 1: plane}", ["ship", "plane"]),
        ("{'0': ship, '1': plane}", ["ship", "plane"]),
        ('{"1": plane, "0": "ship"}', ["ship", "plane"]),
        ("{0: 737, 1: 747}", ["737", "747"]),
    ],
)
def test_names_are_listed_mapped_quoted_or_numbers(tmp_path, names, expected):
    folder = yolo(tmp_path, f"0 {BOX}", f"1 {BOX}", names=names)
    assert read(folder)[1] == expected


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ("{1: ship, 2: plane}", "its names are numbered 1, 2, not from 0 on"),
        ("{0.5: ship}", "numbered 0.5, not from 0 on"),
        ("[ship, ship]", "1 to 255 different names"),
        ("ship", "it takes names:"),
        ("[a: b", "cannot be understood"),
    ],
)
def test_names_that_are_none_are_refused(tmp_path, names, said):
    with pytest.raises(DataError, match=said):
        read(yolo(tmp_path, f"0 {BOX}", names=names))


def test_the_yaml_says_where_pictures_are(tmp_path):
    picture(tmp_path / "pics/images/first/a.png")
    text(tmp_path / "pics/labels/first/a.txt", f"0 {BOX}")
    text(tmp_path / "data.yaml", "path: pics", "train: images/first", "names: [ship]")
    assert read(tmp_path)[0] == [pytest.approx(AS_BOX, abs=1e-2)]
    # Roboflow's, and a path of the machine that the file was written on.
    for path, train in ((".", "../pics/images/first"), ("/elsewhere", "pics/images/first")):
        text(tmp_path / "data.yaml", f"path: {path}", f"train: {train}", "names: [ship]")
        assert read(tmp_path)[0] == [pytest.approx(AS_BOX, abs=1e-2)]


def test_the_yaml_lists_folders_or_files(tmp_path):
    for name in ("first", "second"):
        picture(tmp_path / f"images/{name}/{name}.png")
        text(tmp_path / f"labels/{name}/{name}.txt", f"0 {BOX}")
    text(tmp_path / "list.txt", "./images/first/first.png", "images/second/second.png")
    for train in ("[images/first, images/second]", "list.txt"):
        text(tmp_path / "data.yaml", f"train: {train}", "names: [ship]")
        assert read(tmp_path)[1] == read(tmp_path / "data.yaml")[1] == ["ship", "ship"]


def test_what_the_yaml_or_its_list_names_and_is_not_there_is_told(tmp_path):
    picture(tmp_path / "images/first/a, b  c.png")
    text(tmp_path / "labels/first/a, b  c.txt", f"0 {BOX}")
    text(tmp_path / "list.txt", "./images/first/a, b  c.png", "lost 1.png", "lost 2.png")
    for train, lost in (
        ("[images/first, images/lost]", "images/lost"),
        ("list.txt", "lost 1.png and 1 more"),
    ):
        text(tmp_path / "data.yaml", f"train: {train}", "names: [ship]")
        _, names, notes = read(tmp_path)
        assert names == ["ship"]
        assert f"{lost}: named for this split, and not there" in notes[-1]


def test_pictures_and_labels_without_splits_are_for_training(tmp_path):
    picture(tmp_path / "images/a.png")
    text(tmp_path / "labels/a.txt", f"0 {BOX}")
    text(tmp_path / "data.yaml", "names: [ship]")
    boxes, _, notes = read(tmp_path)
    assert boxes == [pytest.approx(AS_BOX, abs=1e-2)]
    assert any("not divided into train and val" in note for note in notes)


def test_what_reaches_over_the_edge_is_read_and_told(tmp_path):
    boxes, _, notes = read(yolo(tmp_path, "0 0.95 0.5 0.3 0.1", f"0 {BOX}"))
    assert boxes[0] == pytest.approx((76, 30, 24, 6, 0), abs=1e-2)
    assert any("1 labels reach over the edge of their picture" in note for note in notes)


def test_a_text_beside_its_picture_and_names_in_a_list_do_as_well(tmp_path):
    picture(tmp_path / "train/a.png")
    text(tmp_path / "train/a.txt", f"0 {BOX}")
    text(tmp_path / "classes.txt", "ship", "plane")
    assert read(tmp_path)[:2] == ([pytest.approx(AS_BOX, abs=1e-2)], ["ship"])
    (tmp_path / "classes.txt").rename(tmp_path / "train/classes.txt")  # as labelImg has it
    assert read(tmp_path)[:2] == ([pytest.approx(AS_BOX, abs=1e-2)], ["ship"])


def test_a_yaml_that_is_named_is_the_one_that_is_read(tmp_path):
    root = yolo(tmp_path, f"0 {BOX}")
    text(root / "small.yaml", "names: [small]")
    expected = read(root)[1]
    assert expected == read(root / "data.yaml")[1] != ["small"]
    with pytest.raises(DataError, match=r"small.yaml: .*it has data.yaml"):
        read(root / "small.yaml")
    (root / "data.yaml").rename(root / "large.yaml")
    with pytest.raises(DataError, match=r"small.yaml: .*it has several"):
        read(root / "small.yaml")
    (root / "large.yaml").unlink()
    assert read(root / "small.yaml")[1] == ["small"]


def test_an_empty_line_among_names_is_an_error_as_it_may_be_a_class(tmp_path):
    picture(tmp_path / "train/a.png")
    text(tmp_path / "train/a.txt", f"1 {BOX}")
    text(tmp_path / "classes.txt", "ship", "plane", "", "")
    assert read(tmp_path)[1] == ["plane"]
    text(tmp_path / "classes.txt", "ship", "", "plane")
    with pytest.raises(DataError, match=r"classes.txt: line 2 is empty"):
        read(tmp_path)


def test_a_picture_that_is_shown_turned_is_labelled_as_shown(tmp_path):
    # Stored 60 wide and 80 high, shown 80 wide and 60 high after a quarter turn clockwise.
    picture(tmp_path / "images/train/a.jpg", size=(60, 80), orientation=6)
    text(tmp_path / "labels/train/a.txt", f"0 {BOX}")
    text(tmp_path / "data.yaml", "names: [ship]")
    boxes, _, notes = read(tmp_path)
    assert boxes == [pytest.approx((25, 55, 30, 10, -90), abs=1e-2)]
    assert any("shown otherwise" in note and "a.jpg (EXIF orientation 6)" in note for note in notes)


@pytest.mark.parametrize(
    ("points", "yaml"),
    [
        ("0.3 0.4 2 0.4 0.4 1", None),
        ("0.3 0.4 0.4 0.4", "kpt_shape: [2, 2]"),
        ("0.3 0.4 1 0.4 0.4 1", "kpt_shape: [2, 3]"),
    ],
)
def test_boxes_with_keypoints_are_boxes(tmp_path, points, yaml):
    yolo(tmp_path, f"0 {BOX} {points}")
    if yaml is not None:
        text(tmp_path / "data.yaml", "names: [ship, plane]", yaml)
    boxes, _, notes = read(tmp_path)
    assert boxes == [pytest.approx(AS_BOX, abs=1e-2)]
    assert any("1 boxes with keypoints, which are not read" in note for note in notes)


def test_a_place_whose_name_no_file_can_have_is_not_there(tmp_path):
    root = yolo(tmp_path, f"0 {BOX}")
    text(root / "data.yaml", f"train: {'b' * 300}", "names: [ship]")
    assert read(root)[1] == ["ship"]  # the folders that YOLO always has are looked through
