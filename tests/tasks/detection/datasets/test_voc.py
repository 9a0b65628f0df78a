"""Pascal VOC's XML of several tools, against rectangles of ours."""

import math

import pytest
from making.box_folders import picture, read, text

from lemevit_cli.errors import DataError

EDGES = "<bndbox><xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>30.0</ymax></bndbox>"
AS_BOX = (25.0, 25.0, 30.0, 10.0, 0.0)


def xml(*objects, size="<size><width>80</width><height>60</height><depth>3</depth></size>"):
    return f"<annotation><filename>a.png</filename>{size}{''.join(objects)}</annotation>"


def thing(geometry, name="<name>ship</name>", rest="<difficult>0</difficult>"):
    return f"<object>{name}{rest}{geometry}</object>"


def voc(root, content):
    picture(root / "train/images/a.png")
    text(root / "train/annotations/a.xml", content)
    return root


def turned(cx, cy, w, h, angle):
    numbers = zip(("cx", "cy", "w", "h", "angle"), (cx, cy, w, h, angle), strict=True)
    inner = "".join(f"<{key}>{value}</{key}>" for key, value in numbers)
    return f"<type>robndbox</type><robndbox>{inner}</robndbox>"


@pytest.mark.parametrize(
    ("geometry", "expected"),
    [
        (EDGES, AS_BOX),
        (turned(40, 30, 30, 10, math.radians(30)), (40, 30, 30, 10, 30)),
        (turned(40, 30, 10, 30, math.radians(120)), (40, 30, 30, 10, 30)),
        (
            EDGES + "<attributes><attribute><name>rotation</name><value>30</value></attribute>"
            "</attributes>",
            (25, 25, 30, 10, 30),
        ),
        (
            EDGES + "<polygon><x1>10</x1><y1>20</y1><x2>40</x2><y2>20</y2><x3>40</x3><y3>30</y3>"
            "<x4>10</x4><y4>30</y4></polygon>",
            AS_BOX,
        ),
    ],
)
def test_boxes_of_all_tools_are_read(tmp_path, geometry, expected):
    boxes, names, notes = read(voc(tmp_path, xml(thing(geometry))))
    assert boxes == [pytest.approx(expected, abs=1e-2)] and names == ["ship"]
    assert "Pascal VOC layout" in notes[0]


@pytest.mark.parametrize(
    ("folder", "label"),
    [("train/images", "train/labels"), ("train", "train"), ("images/train", "Annotations/train")],
)
def test_an_xml_lies_in_other_places(tmp_path, folder, label):
    picture(tmp_path / folder / "a.png")
    text(tmp_path / label / "a.xml", xml(thing(EDGES)))
    assert read(tmp_path)[0] == [AS_BOX]


def test_the_lists_of_voc_divide_its_pictures(tmp_path):
    from lemevit_cli.tasks.detection.datasets.folders import open_box_folder

    for name in "abc":
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        text(tmp_path / f"Annotations/{name}.xml", xml(thing(EDGES)))
    assert len(open_box_folder(tmp_path).training.sites) == 3
    text(tmp_path / "ImageSets/Main/train.txt", "a", "b")
    text(tmp_path / "ImageSets/Main/val.txt", "c")
    parts = open_box_folder(tmp_path)
    assert (len(parts.training.sites), len(parts.validation.sites)) == (2, 1)


def test_a_list_of_voc_names_stems_with_dots_and_what_is_not_there(tmp_path):
    from lemevit_cli.tasks.detection.datasets.folders import open_box_folder

    names = ("scene_0.5m_001", "img 001", "scene_0")
    for name in names:
        picture(tmp_path / f"JPEGImages/{name}.jpg")
        text(tmp_path / f"Annotations/{name}.xml", xml(thing(EDGES)))
    text(tmp_path / "ImageSets/Main/train.txt", "scene_0.5m_001", "img 001.jpg", "scene_0 1", "no")
    parts = open_box_folder(tmp_path)
    assert len(parts.training.sites) == 3
    assert any("no: named for this split, and not there" in note for note in parts.notes)


def test_a_size_of_zeros_is_unknown_and_another_one_is_scaled_or_refused(tmp_path):
    for size, expected in (
        ("<size><width>0</width><height>0</height></size>", AS_BOX),
        ("", AS_BOX),
        ("<size><width>160</width><height>120</height></size>", (12.5, 12.5, 15, 5, 0)),
    ):
        boxes, *_ = read(voc(tmp_path, xml(thing(EDGES), size=size)))
        assert boxes == [pytest.approx(expected, abs=1e-2)]
    other = "<size><width>60</width><height>80</height></size>"
    with pytest.raises(DataError, match=r"a\.xml: states 60 x 80 pixels, .*a\.png has 80 x 60"):
        read(voc(tmp_path, xml(thing(EDGES), size=other)))


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        (thing(EDGES, name=""), "has no name"),
        (thing(""), "has neither bndbox, robndbox nor polygon"),
        (thing(EDGES.replace("<xmax>40", "<xmax>4O")), "xmax is '4O', which is no number"),
        (thing(EDGES.replace("<xmax>40", "<xmax>4")), "ends before it begins"),
        (thing(EDGES, rest="<difficult>Unspecified?</difficult>"), "difficult is 'Unspecified?'"),
        (thing(turned(40, 30, -3, 10, 0)), "ends before it begins"),
    ],
)
def test_a_wrong_object_is_told_with_its_number_or_counted(tmp_path, broken, said):
    folder = voc(tmp_path, xml(thing(EDGES), broken))
    with pytest.raises(DataError, match=r"a\.xml, object 2: ") as told:
        read(folder)
    assert said in str(told.value)
    boxes, _, notes = read(folder, skip_bad_labels=True)
    assert boxes == [AS_BOX] and any("1 bad labels left out" in note for note in notes)


def test_other_xml_is_refused(tmp_path):
    with pytest.raises(DataError, match="of XML it takes Pascal VOC's"):
        read(voc(tmp_path, "<HRSC_Image/>"))
    with pytest.raises(DataError, match="cannot be read as XML"):
        read(voc(tmp_path, "<annotation>"))


def test_xml_says_itself_how_it_is_encoded(tmp_path):
    edges = "<xmin>10</xmin><ymin>20</ymin><xmax>40</xmax><ymax>30</ymax>"
    content = xml(thing(f"<bndbox>{edges}</bndbox>", name="<name>Straße</name>"))
    voc(tmp_path, content)
    [label] = tmp_path.rglob("*.xml")
    label.write_bytes(f'<?xml version="1.0" encoding="ISO-8859-1"?>{content}'.encode("latin-1"))
    assert read(tmp_path)[1] == ["Straße"]
