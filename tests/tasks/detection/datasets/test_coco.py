"""Annotations in all forms that COCO's JSON has, against rectangles of ours and pycocotools."""

import json
import math

import numpy as np
import pytest
from making.box_folders import HEIGHT, WIDTH, coco, picture, read, rectangle, text
from PIL import Image, ImageOps

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.coco import is_coco
from lemevit_cli.tasks.detection.datasets.rle import decode_runs, edge_points, mask_of_runs

BOX = [10, 20, 30, 10]  # left, top, width, height
AS_BOX = (25.0, 25.0, 30.0, 10.0, 0.0)


@pytest.fixture
def root(tmp_path):
    picture(tmp_path / "train" / "a.png")
    return tmp_path


@pytest.mark.parametrize(
    ("annotation", "degrees"),
    [
        ({"bbox": BOX, "attributes": {"rotation": 30.0, "occluded": False}}, 30),
        ({"bbox": BOX, "attributes": {"rotation": "330"}}, -30),
        ({"bbox": BOX, "rotation": 310}, -50),
        ({"bbox": BOX, "rotation": 0}, 0),
        ({"bbox": BOX, "attributes": {}}, 0),
        # The outline of the unturned box, as some write beside its rotation.
        ({"bbox": BOX, "rotation": 30, "segmentation": [[10, 20, 40, 20, 40, 30, 10, 30]]}, 30),
        ({"bbox": [25, 25, 30, 10, 30], "bbox_mode": 4}, -30),
        ({"bbox": [10, 20, 40, 30], "bbox_mode": 0}, 0),
        ({"bbox": BOX, "bbox_mode": 1}, 0),
    ],
)
def test_a_box_is_turned_about_its_centre_as_it_is_documented(root, annotation, degrees):
    boxes, names, _ = read(coco(root, [annotation]))
    assert boxes == [pytest.approx((*AS_BOX[:4], degrees), abs=1e-2)] and names == ["ship"]


def test_an_outline_that_is_turned_already_is_not_turned_again(root):
    outline = rectangle(40, 30, 30, 10, 30).reshape(-1).tolist()
    annotation = {"bbox": [25, 25, 30, 10], "rotation": 30, "segmentation": [outline]}
    boxes, *_ = read(coco(root, [annotation]))
    assert boxes == [pytest.approx((40, 30, 30, 10, 30), abs=1e-2)]


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        ({"bbox": [25, 25, 30, 10, 30]}, "bbox has 5 numbers, it takes 4; a turned box has"),
        ({"bbox": [25, 25, 30]}, "bbox has 3 numbers, it takes 4"),
        ({"bbox": [10, 20, -30, 10]}, "ends before it begins"),
        ({"bbox": [10, 20, math.nan, 10]}, "it takes numbers: left, top, width, height"),
        ({"bbox": [10, 20, math.inf, 10]}, "it takes numbers"),
        ({"bbox": [10, 20, "wide", 10]}, "it takes numbers"),
        ({"bbox": {"x": 1}}, "it takes numbers"),
        ({"bbox": BOX, "bbox_mode": 3}, "bbox_mode 3 is not read"),
        ({"bbox": BOX, "rotation": "steep"}, "rotation is 'steep'"),
        ({"bbox": BOX, "category_id": None}, "has no category_id"),
        ({"bbox": BOX, "image_id": None}, "has no image_id"),
        ({"bbox": BOX, "iscrowd": "many"}, "iscrowd is 'many'"),
        ({}, "has neither segmentation nor bbox"),
        ({"segmentation": [[1, 2, 3, 4]]}, "a polygon takes 6 numbers or more"),
        ({"segmentation": [[1, 2, 3, 4, 5, 6, 7]]}, "a polygon takes 6 numbers or more"),
        ({"segmentation": [[1, 2, 3, "x", 5, 6]]}, "a polygon takes 6 numbers or more"),
        ({"segmentation": {"counts": "5", "size": [HEIGHT, WIDTH]}}, "do not fill 80 x 60"),
        ({"segmentation": {"counts": "e", "size": [HEIGHT, WIDTH]}}, "end within a number"),
        ({"segmentation": {"counts": [10], "size": [2, 5]}}, "its mask has 5 x 2 pixels, its"),
        ({"segmentation": {"counts": [10]}}, "its mask cannot be understood"),
        ({"segmentation": "somewhere"}, "neither polygons nor a mask"),
    ],
)
def test_what_is_malformed_is_told_with_its_annotation_or_counted(root, annotation, said):
    folder = coco(root, [{"bbox": BOX}, annotation])
    with pytest.raises(DataError, match=r"train\.json, annotation 2: ") as told:
        read(folder)
    assert said in str(told.value) and "\n" not in str(told.value)
    boxes, _, notes = read(folder, skip_bad_labels=True)
    assert boxes == [AS_BOX]
    assert any("1 bad labels left out" in note and said in note for note in notes)


def test_texts_that_are_numbers_are_read_as_such(root):
    annotation = {"bbox": ["10", "20.0", "3e1", 10], "image_id": "7", "category_id": 2.0}
    assert read(coco(root, [annotation]))[:2] == ([AS_BOX], ["ship"])


def test_parts_are_one_object_and_a_ring_without_a_list_is_one_part(root):
    parts = [[10, 20, 20, 20, 20, 30, 10, 30], [30, 20, 40, 20, 40, 30, 30, 30]]
    flat = [10, 20, 40, 20, 40, 30, 10, 30]
    folder = coco(root, [{"segmentation": parts}, {"segmentation": flat}])
    assert read(folder)[0] == [AS_BOX, AS_BOX]


def test_what_has_no_area_or_no_outline_is_counted(root):
    folder = coco(
        root,
        [
            {"bbox": BOX},
            {"bbox": [10, 20, 0, 10]},
            {"segmentation": [[1, 1, 5, 5, 9, 9]]},
            {"keypoints": [1, 2, 2], "num_keypoints": 1},
            {"segmentation": {"counts": [WIDTH * HEIGHT], "size": [HEIGHT, WIDTH]}},
        ],
    )
    boxes, _, notes = read(folder)
    assert boxes == [AS_BOX]
    told = "\n".join(notes)
    assert "2 objects without area left out, the first: " in told
    assert "1 annotations left out that are keypoints alone" in told
    assert "1 masks without a pixel left out" in told


def test_crowds_and_ignored_areas_are_neither_objects_nor_background(root):
    folder = coco(root, [{"bbox": BOX, "iscrowd": 1}, {"bbox": BOX, "ignore": 1}, {"bbox": BOX}])
    boxes, names, notes = read(folder)
    assert boxes == [AS_BOX] * 3 and names == [None, None, "ship"]
    assert any("2 crowds or ignored areas" in note for note in notes)


def test_an_id_that_repeats_is_told(root):
    one, same, other = (
        {"id": 1, "bbox": BOX},
        {"id": 1, "bbox": BOX},
        {"id": 1, "bbox": [0, 0, 9, 9]},
    )
    boxes, _, notes = read(coco(root, [one, same, other]))
    assert len(boxes) == 2
    assert any("1 annotations left out that repeat another" in note for note in notes)
    assert any("1 annotations with the id of another, both read" in note for note in notes)


@pytest.mark.parametrize(
    ("others", "said"),
    [
        ({"images": None}, "it takes the lists images, categories, annotations"),
        (
            {"images": [{"id": 7, "file_name": "a.png", "width": -80, "height": 60}]},
            "image 1: states -80 x 60 pixels",
        ),
        ({"images": [{"id": 7}]}, "image 1: has no id or no file_name"),
        (
            {"images": [{"id": 7, "file_name": "a.png"}, {"id": 7, "file_name": "b.png"}]},
            "two images have the id 7",
        ),
        ({"categories": [{"id": 2}]}, "category 1 has no id or no name"),
        (
            {"categories": [{"id": 2, "name": "a"}, {"id": 2, "name": "b"}]},
            "two categories have the id 2",
        ),
    ],
)
def test_tables_that_contradict_themselves_are_refused(root, others, said):
    with pytest.raises(DataError, match=said):
        read(coco(root, [{"bbox": BOX}], **others))


def test_results_are_no_labels(root):
    (root / "train.json").write_text(json.dumps([{"image_id": 7, "category_id": 2, "bbox": BOX}]))
    with pytest.raises(DataError, match="is a list of results, without images and categories"):
        read(root)
    (root / "train.json").write_text("{")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read(root)


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("deep/er/a.png", "images/a.png"),
        ("deep/er/a.png", "images/deep/er/a.png"),
        ("a%20b.png", "train/a b.png"),
        ("a%20b.png", "train/a%20b.png"),
        ("C:\\data\\a.png", "train/a.png"),
        ("https://place.org/set/a.png?x=1", "train/a.png"),
    ],
)
def test_pictures_are_found_by_other_spellings(tmp_path, name, place):
    picture(tmp_path / place)
    assert read(coco(tmp_path, [{"bbox": BOX}], name=name))[0] == [AS_BOX]


@pytest.mark.parametrize("file", ["annotations/instances_default.json", "labels.json"])
def test_a_file_without_splits_is_for_training(tmp_path, file):
    picture(tmp_path / "images" / "a.png")
    coco(tmp_path, [{"bbox": BOX}])
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / "train.json").rename(tmp_path / file)
    boxes, _, notes = read(tmp_path)
    assert boxes == [AS_BOX] and any("not divided into train and val" in n for n in notes)


def test_two_names_of_one_file_are_refused(root):
    images = [{"id": 7, "file_name": "x/a.png"}, {"id": 8, "file_name": "y/a.png"}]
    with pytest.raises(DataError, match=r"x/a\.png and y/a\.png both are "):
        read(coco(root, [{"bbox": BOX}], images=images))


@pytest.mark.parametrize(("size", "factor"), [((160, 120), 0.5), ((40, 30), 2.0)])
def test_labels_of_a_picture_that_was_resized_are_scaled(root, size, factor):
    outline = rectangle(40 / factor, 30 / factor, 30 / factor, 10 / factor, 20)
    folder = coco(root, [{"segmentation": [outline.reshape(-1).tolist()]}], size=size)
    boxes, _, notes = read(folder)
    assert boxes == [pytest.approx((40, 30, 30, 10, 20), abs=1e-2)]
    stated = f"({size[0]} x {size[1]} stated, 80 x 60 in the file)"
    assert any("the labels are scaled" in note and stated in note for note in notes)


def test_a_size_that_was_rounded_is_no_other_shape(tmp_path):
    picture(tmp_path / "train" / "a.png", size=(267, 200))
    boxes, *_ = read(coco(tmp_path, [{"bbox": [0, 0, 400, 300]}], size=(800, 600)))
    assert boxes == [pytest.approx((66.75, 50, 133.5, 100, 0), abs=1e-2)]


@pytest.mark.parametrize("size", [(60, 80), (160, 60), (100, 100)])
def test_another_shape_of_the_picture_is_refused_with_both_sizes(root, size):
    with pytest.raises(DataError) as told:
        read(coco(root, [{"bbox": BOX}], size=size))
    assert f"states {size[0]} x {size[1]} pixels, " in str(told.value)
    assert "a.png has 80 x 60" in str(told.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_the_picture_that_is_shown_fit_the_pixels_that_are_stored(tmp_path, orientation):
    shown = np.zeros((60, 80), np.uint8)
    shown[10:14, 50:70] = 255  # what people see, and label
    back = {1: 1, 2: 2, 3: 3, 4: 4, 5: 5, 6: 8, 7: 7, 8: 6}[orientation]
    image = Image.fromarray(shown)
    image.getexif()[0x112] = back
    stored = ImageOps.exif_transpose(image)  # of its inverse: what a camera would have stored
    exif = Image.Exif()
    exif[0x112] = orientation
    (tmp_path / "train").mkdir()
    stored.save(tmp_path / "train" / "a.jpg", exif=exif, quality=95)
    box = {"bbox": [50, 10, 20, 4]}
    ((cx, cy, length, width, _),), _, notes = read(coco(tmp_path, [box], name="a.jpg"))
    bright = np.argwhere(np.asarray(stored) > 128)
    assert (cy, cx) == pytest.approx(bright.mean(axis=0) + 0.5, abs=0.6)
    assert (length, width) == (20, 4)
    assert any("shown otherwise than they are stored" in n for n in notes) == (orientation > 1)


def test_labels_that_state_the_stored_size_are_of_what_is_stored(tmp_path):
    picture(tmp_path / "train" / "a.jpg", size=(60, 80), orientation=6)
    boxes, _, notes = read(coco(tmp_path, [{"bbox": BOX}], size=(60, 80), name="a.jpg"))
    assert boxes == [AS_BOX] and not any("stored" in note for note in notes)


def mask():
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[20:30, 10:40] = True
    drawn[22, 50] = True
    drawn[:, 70:72] = True  # runs that go on in the next column
    return drawn


def runs_of(drawn):
    flat = np.concatenate([[False], drawn.T.reshape(-1)])
    edges = np.flatnonzero(np.diff(flat.astype(int)))
    return np.diff([0, *edges, drawn.size]).tolist()


def test_runs_are_decoded_to_the_mask():
    drawn = mask()
    again = mask_of_runs(runs_of(drawn), width=WIDTH, height=HEIGHT)
    np.testing.assert_array_equal(again, drawn)
    points = edge_points(drawn)
    assert points.min(axis=0).tolist() == [10, 0] and points.max(axis=0).tolist() == [72, 60]


def test_masks_as_text_are_those_of_pycocotools():
    coding = pytest.importorskip("pycocotools.mask")
    random = np.random.default_rng(0)
    for drawn in (mask(), ~mask(), random.random((37, 53)) < 0.3, np.ones((300, 300), bool)):
        rle = coding.encode(np.asfortranarray(drawn.astype(np.uint8)))
        again = mask_of_runs(
            decode_runs(rle["counts"].decode()), width=drawn.shape[1], height=drawn.shape[0]
        )
        np.testing.assert_array_equal(again, drawn)


def test_a_mask_becomes_the_rectangle_around_its_pixels(root):
    drawn = np.zeros((HEIGHT, WIDTH), bool)
    drawn[20:30, 10:40] = True
    runs = {"counts": runs_of(drawn), "size": [HEIGHT, WIDTH]}
    # The same as text, written down by pycocotools 2.0.11.
    packed = {"counts": "\\c0:b1" + "0" * 57 + "\\Z2", "size": [HEIGHT, WIDTH]}
    for mask_of_box in (runs, packed):
        assert read(coco(root, [{"segmentation": mask_of_box}]))[0] == [AS_BOX]


def test_coco_is_told_from_geojson(tmp_path):
    files = {
        '{"type": "FeatureCollection", "features": []}': False,
        '{"info": {}, "licenses": [], "images": []}': True,
        '[{"image_id": 1}]': True,
        "": False,
    }
    for number, (content, expected) in enumerate(files.items()):
        path = tmp_path / f"{number}.json"
        path.write_text(content)
        assert is_coco(path) is expected


def test_labels_that_repeat_another_are_counted_in_every_layout(tmp_path):
    line = " ".join(f"{v:.3f}" for v in rectangle(40, 30, 20, 8, 30).ravel())
    picture(tmp_path / "dota/train/images/a.png")
    text(
        tmp_path / "dota/train/labelTxt/a.txt", f"{line} ship 0", f"{line} ship 0", f"{line} plane"
    )
    boxes, names, notes = read(tmp_path / "dota")
    assert len(boxes) == 3 and sorted(names) == ["plane", "ship", "ship"]
    told = "1 labels that repeat another, both read, the first: "
    assert any(told in note and note.endswith("line 2") for note in notes)


def test_parts_of_a_picture_are_refused_where_pixels_are_meant(tmp_path):
    picture(tmp_path / "coco" / "a.png")
    with pytest.raises(DataError, match="all labels lie between 0 and 1, as parts"):
        read(coco(tmp_path / "coco", [{"bbox": [0.1, 0.2, 0.3, 0.4]}]))
    picture(tmp_path / "csv/a.png")
    text(
        tmp_path / "csv/train.csv", "filename,xmin,ymin,xmax,ymax,class", "a.png,0.1,0.2,0.3,0.4,s"
    )
    with pytest.raises(DataError, match=r"train\.csv, line 2: all labels lie between 0 and 1"):
        read(tmp_path / "csv")
    boxes, _, _ = read(coco(tmp_path / "coco", [{"bbox": [0, 0, 1, 1]}, {"bbox": [5, 5, 9, 9]}]))
    assert len(boxes) == 2


def test_a_picture_whose_name_no_file_can_have_is_not_there(root):
    with pytest.raises(DataError, match="none of its pictures"):
        read(coco(root, [{"bbox": BOX}], name="b" * 300))
