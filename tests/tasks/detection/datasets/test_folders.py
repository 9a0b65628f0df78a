"""Layouts of oriented boxes: what is read, how it is named, and what is refused with its line."""

import json
import shutil

import numpy as np
import pytest
import rasterio
from PIL import Image
from shapely import Polygon

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.tasks.detection.data import count_objects
from lemevit_cli.tasks.detection.datasets.folders import open_box_folder
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.datasets.objects import IGNORED

WIDTH, HEIGHT = 80, 60
SHIP = [(10, 20), (40, 20), (40, 30), (10, 30)]
PLANE = [(50, 10), (60, 20), (50, 30), (40, 20)]  # a diamond
OVER_THE_EDGE = [(70, 50), (90, 50), (90, 58), (70, 58)]


def dota_line(points, name, *rest):
    return " ".join([*(f"{v:.1f}" for xy in points for v in xy), name, *map(str, rest)])


def yolo_line(number, points):
    return f"{number} " + " ".join(f"{x / WIDTH:.6f} {y / HEIGHT:.6f}" for x, y in points)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((HEIGHT, WIDTH, 3), 90, np.uint8)).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def dota(tmp_path):
    """Return two training pictures, one of them empty, and one to validate on."""
    root = tmp_path / "harbour"
    for split, name in (("train", "a"), ("train", "b"), ("val", "c")):
        picture(root / split / "images" / f"{name}.png")
    lines = [dota_line(SHIP, "ship", 0), dota_line(PLANE, "plane", 1)]
    text(root / "train/labelTxt/a.txt", "imagesource:GoogleEarth", "gsd:0.25", *lines)
    text(root / "train/labelTxt/b.txt")
    text(root / "val/labelTxt/c.txt", dota_line(OVER_THE_EDGE, "ship"))
    return root


def outlines(source, picture=0):
    """Return corners and class names of the objects of a picture."""
    objects = source.objects[source.sites[picture].scene]
    names = [None if i == IGNORED else source.classes[i] for i in objects.class_ids]
    return list(zip(corners_of(objects.boxes), names, objects.difficult.tolist(), strict=True))


def is_same(corners, points):
    return Polygon(corners).symmetric_difference(Polygon(points)).area < 1e-3


def test_dota_labels_are_read_with_their_headers_and_flags(dota):
    parts = open_box_folder(dota)
    assert parts.notes == ("harbour: DOTA layout, 2 + 1 pictures, 2 classes",)
    assert parts.training.classes == parts.validation.classes == ("plane", "ship")
    assert [site.gsd_m for site in parts.training.sites] == [0.25, None]
    (ship, *of_ship), (plane, *of_plane) = outlines(parts.training)
    assert of_ship == ["ship", False] and is_same(ship, SHIP)
    assert of_plane == ["plane", True] and is_same(plane, PLANE)
    assert outlines(parts.training, 1) == []
    ((over, *_),) = outlines(parts.validation)
    assert is_same(over, OVER_THE_EDGE)  # not cut at the picture's edge
    counts = count_objects(parts.training, 64).counts
    assert counts.sum(axis=0).tolist() == [0, 1]  # a difficult one need not be found


def test_a_folder_called_labels_and_windows_line_ends_do_as_well(dota):
    (dota / "train" / "labelTxt").rename(dota / "train" / "labels")
    label = dota / "train" / "labels" / "a.txt"
    label.write_bytes(label.read_bytes().replace(b"\n", b"\r\n"))
    assert len(outlines(open_box_folder(dota).training)) == 2


def test_classes_json_fixes_names_and_order(dota):
    (dota / "classes.json").write_text(json.dumps({"classes": ["ship", "plane", "bridge"]}))
    assert open_box_folder(dota).training.classes == ("ship", "plane", "bridge")
    (dota / "classes.json").write_text(json.dumps({"classes": ["ship"]}))
    with pytest.raises(DataError, match=r"a\.txt, line 4: class 'plane' is none of classes\.json"):
        open_box_folder(dota)


def test_a_set_without_validation_is_a_training_set(dota):
    shutil.rmtree(dota / "val")
    parts = open_box_folder(dota)
    assert parts.validation is None and len(parts.training.sites) == 2


@pytest.mark.parametrize("names", ["[ship, plane]", "\n  0: ship\n  1: plane"])
@pytest.mark.parametrize(
    "places", ["{split}/images {split}/labels", "images/{split} labels/{split}"]
)
def test_yolo_corners_are_parts_of_the_picture(tmp_path, names, places):
    root = tmp_path / "yolo"
    for split, name in (("train", "a"), ("val", "b")):
        images, labels = places.format(split=split).split()
        picture(root / images / f"{name}.jpg")
        text(root / labels / f"{name}.txt", yolo_line(0, SHIP), yolo_line(1, PLANE))
    text(root / "data.yaml", "path: anywhere", f"names: {names}", "nc: 2")
    parts = open_box_folder(root)
    assert parts.notes == ("yolo: YOLO-OBB layout, 1 + 1 pictures, 2 classes",)
    assert parts.training.classes == ("ship", "plane")
    (ship, name, _), (plane, *_) = outlines(parts.training)
    assert name == "ship" and is_same(ship, SHIP) and is_same(plane, PLANE)


COCO = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": WIDTH, "height": HEIGHT},
        {"id": 8, "file_name": "gone.png", "width": WIDTH, "height": HEIGHT},
    ],
    "categories": [
        {"id": 0, "name": "things"},
        {"id": 2, "name": "ship"},
        {"id": 5, "name": "plane"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5,
         "segmentation": [[50, 10, 60, 20, 50, 30, 40, 20]]},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [10, 20, 30, 10], "segmentation": []},
        {"id": 3, "image_id": 7, "category_id": 2, "iscrowd": 1, "bbox": [60, 40, 10, 10],
         "segmentation": {"counts": [3000, 600, 1200], "size": [60, 80]}},
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "image"),
    [
        ("annotations/instances_train.json", "train/a.png"),
        ("annotations/instances_train2017.json", "train2017/a.png"),
        ("train.json", "images/a.png"),
        ("train/_annotations.coco.json", "train/a.png"),
    ],
)
def test_coco_outlines_become_minimum_rectangles_and_boxes_stay(tmp_path, file, image):
    root = tmp_path / "coco"
    picture(root / image)
    text(root / file, json.dumps(COCO))
    parts = open_box_folder(root)
    assert "coco: COCO layout, 1 pictures, 2 classes" in parts.notes
    assert any("gone.png" in note for note in parts.notes)
    assert parts.training.classes == ("ship", "plane")
    (plane, name, _), (ship, *_), (_, crowd, _) = outlines(parts.training)
    assert name == "plane" and is_same(plane, PLANE) and is_same(ship, SHIP) and crowd is None


def test_names_are_changed_dropped_and_chosen(dota):
    text(dota / "train/labelTxt/b.txt", dota_line(SHIP, "boat"), dota_line(PLANE, "kite"))
    naming = Naming(rename={"boat": "ship", "car": "vehicle"}, drop=("kite",))
    parts = open_box_folder(dota, naming=naming)
    assert parts.training.classes == ("ship", "plane")
    assert [name for _, name, _ in outlines(parts.training, 1)] == ["ship", None]
    assert "harbour: has no class car to rename or drop" in parts.notes
    chosen = open_box_folder(dota, naming=Naming(classes=("vehicle", "plane")))
    assert chosen.training.classes == ("vehicle", "plane")
    assert [name for _, name, _ in outlines(chosen.training)] == [None, "plane"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("10 20 40 20 40 30 10 ship 0", "has 7 coordinates, it takes 8"),
        ("10 20 40 20 40 30 10", "has 7 coordinates, it takes 8"),
        ("10 20 4O 20 40 30 10 30 ship 0", "coordinate 3 is '4O', which is no number"),
        ("10 20 nan 20 40 30 10 30 ship 0", "coordinate 3 is 'nan', which is no number"),
        ("10 20 40 20 40 30 10 30 ship maybe", "difficult is 'maybe'"),
        ("10 20 40 20 40 30 10 30", "8 fields"),
        ("90 20 120 20 120 30 90 30 ship 0", "lies outside its picture of 80 x 60 pixels"),
    ],
)
def test_a_wrong_line_is_told_with_its_number(dota, line, said):
    with (dota / "train/labelTxt/a.txt").open("a") as file:
        file.write(line + "\n")
    with pytest.raises(DataError, match=r"a\.txt, line 5: ") as told:
        open_box_folder(dota)
    assert said in str(told.value) and "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (yolo_line(2, SHIP), "class 2 has no name; known are 0 to 1 (ship, plane)"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2 0.1", "has 7 coordinates after the class, it takes 8"),
        ("0 10 20 40 20 40 30 10 30", "the coordinate 40 is no part of the picture"),
    ],
)
def test_a_wrong_yolo_line_is_told_with_its_number(tmp_path, line, said):
    picture(tmp_path / "train/images/a.png")
    text(tmp_path / "train/labels/a.txt", yolo_line(0, SHIP), line)
    text(tmp_path / "data.yaml", "names: [ship, plane]")
    with pytest.raises(DataError, match=r"a\.txt, line 2: ") as told:
        open_box_folder(tmp_path)
    assert said in str(told.value)
    (tmp_path / "data.yaml").unlink()
    with pytest.raises(DataError, match=r"name them in data\.yaml"):
        open_box_folder(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"category_id": 9}, "annotation 1: category_id 9 is none of the file's categories"),
        ({"image_id": 9}, "annotation 1: image_id 9 is none of the file's images"),
        ({"segmentation": [[1, 2, 3]]}, "annotation 1: segmentation cannot be understood"),
        ({"segmentation": [[90, 1, 99, 1, 99, 9]]}, "annotation 1: a box from 90,1 to 99,9 lies"),
    ],
)
def test_a_wrong_annotation_is_told_with_its_id(tmp_path, change, said):
    picture(tmp_path / "train" / "a.png")
    annotations = [COCO["annotations"][0] | change]
    text(tmp_path / "train.json", json.dumps(COCO | {"annotations": annotations}))
    with pytest.raises(DataError) as told:
        open_box_folder(tmp_path)
    assert f"train.json, {said}" in str(told.value)


def test_what_has_no_partner_is_left_out_and_told(dota):
    picture(dota / "train/images/alone.png")
    text(dota / "train/labelTxt/lost.txt", dota_line(SHIP, "ship"))
    parts = open_box_folder(dota)
    assert len(parts.training.sites) == 2
    assert any("alone.png: without a label file" in note for note in parts.notes)
    assert any("lost.txt: without a picture" in note for note in parts.notes)


def test_folders_without_labels_are_refused(tmp_path, dota):
    with pytest.raises(DataError, match="nowhere: no such folder"):
        open_box_folder(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: an empty folder"):
        open_box_folder(tmp_path / "empty")
    shutil.rmtree(dota / "val" / "labelTxt")
    with pytest.raises(DataError, match="pictures without labels"):
        open_box_folder(dota)
    shutil.rmtree(dota / "train" / "images")
    (dota / "train" / "images").mkdir()
    shutil.rmtree(dota / "val")
    with pytest.raises(DataError, match="images: an empty folder"):
        open_box_folder(dota)


def test_pictures_of_another_kind_are_refused(dota):
    profile = {"driver": "GTiff", "count": 1, "width": WIDTH, "height": HEIGHT, "dtype": "uint8"}
    (dota / "train/images/b.png").unlink()
    place = rasterio.Affine(2, 0, 0, 0, -2, 0)
    with rasterio.open(dota / "train/images/b.tif", "w", transform=place, **profile) as file:
        file.write(np.ones((1, HEIGHT, WIDTH), np.uint8))
    with pytest.raises(DataError, match=r"b\.tif has 1 bands of uint8"):
        open_box_folder(dota)
