"""Tables of boxes, whatever separates their columns and however these are called."""

import pytest
from making.box_folders import picture, read, text

from lemevit_cli.errors import DataError

AS_BOX = (25.0, 25.0, 30.0, 10.0, 0.0)
HEADER = "image_path,xmin,ymin,xmax,ymax,label"
ROW = "a.png,10,20,40,30,ship"


@pytest.fixture
def root(tmp_path):
    picture(tmp_path / "images" / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("header", "row"),
    [
        (HEADER, ROW),
        (HEADER.replace(",", ";"), ROW.replace(",", ";")),
        (HEADER.replace(",", "\t"), ROW.replace(",", "\t")),
        (HEADER.upper(), ROW),
        ("\ufeff" + HEADER.title(), ROW),
        ("label,xmax,xmin,ymax,ymin,Image_Path", "ship,40,10,30,20,a.png"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,80,60,ship,10,20,40,30"),
        ("filename,width,height,class,xmin,ymin,xmax,ymax", "a.png,160,120,ship,20,40,80,60"),
        ("image_path,x1,y1,x2,y2,x3,y3,x4,y4,label", "a.png,10,20,40,20,40,30,10,30,ship"),
    ],
)
def test_a_row_is_a_box(root, header, row):
    text(root / "train.csv", header, row)
    boxes, names, notes = read(root)
    assert boxes == [AS_BOX] and names == ["ship"] and ": CSV layout" in notes[0]


def test_an_only_table_is_for_training_and_a_row_without_a_box_says_that_nothing_is_there(root):
    picture(root / "images" / "b.png")
    # DeepForest's zeros say the same.
    rows = [ROW, "b.png,,,,,", "b.png,0,0,0,0,ship", "gone.png,1,1,2,2,ship"]
    text(root / "boxes.csv", HEADER, *rows)
    boxes, _, notes = read(root)
    assert any("1 objects without area left out" in note for note in notes)
    assert boxes == [AS_BOX] and ", 2 pictures" in notes[0]
    assert any("gone.png: pictures of boxes.csv that are not there" in note for note in notes)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("a.png,10,20,4O,30,ship", "xmax is '4O', which is no number"),
        ("a.png,10,20,5,30,ship", "ends before it begins"),
        ("a.png,10,20,nan,30,ship", "xmax is 'nan'"),
        ("a.png,10,20,40,30,", "label is empty"),
        ("a.png,10,20", "has 3 fields, the header has 6"),
        ("a.png,90,20,99,30,ship", "lies outside its picture"),
    ],
)
def test_a_wrong_row_is_told_with_its_line_or_counted(root, row, said):
    text(root / "train.csv", HEADER, ROW, row)
    with pytest.raises(DataError, match=r"train\.csv, line 3: ") as told:
        read(root)
    assert said in str(told.value)
    boxes, _, notes = read(root, skip_bad_labels=True)
    assert boxes == [AS_BOX] and any("1 bad labels left out" in note for note in notes)


@pytest.mark.parametrize("behind", [1, 20_000])
def test_a_quote_that_nothing_closes_takes_no_rows_away(root, behind):
    text(root / "train.csv", HEADER, ROW, ROW.replace("ship", '"ship'), *[ROW] * behind)
    with pytest.raises(DataError, match=r"train\.csv: cannot be read as a table \(.*\)$"):
        read(root)


def test_a_table_of_something_else_is_no_table_of_boxes(root):
    text(root / "train.csv", "path,class", "a.png,ship")
    with pytest.raises(
        DataError, match=r"no labels of boxes; it takes .*csv with image_path, xmin"
    ):
        read(root)
    text(root / "labels/a.txt", "10 20 40 20 40 30 10 30 ship 0")
    assert read(root)[0] == [AS_BOX]


def test_a_table_without_pictures_or_classes_is_refused(root):
    text(root / "train.csv", "xmin,ymin,xmax,ymax,label", "10,20,40,30,ship")
    with pytest.raises(DataError, match="names no picture; it takes a column image_path"):
        read(root)
    text(root / "train.csv", "image_path,xmin,ymin,xmax,ymax", "a.png,10,20,40,30")
    with pytest.raises(DataError, match="has no column of classes; it takes label"):
        read(root)


@pytest.mark.parametrize("width", ["1e-300", "-80"])
def test_a_size_that_no_picture_has_is_told(root, width):
    header = "filename,width,height,class,xmin,ymin,xmax,ymax"
    text(root / "train.csv", header, f"a.png,{width},60,ship,10,20,40,30")
    with pytest.raises(DataError, match=r"states (0|-80) x 60 pixels, which is no picture"):
        read(root)
