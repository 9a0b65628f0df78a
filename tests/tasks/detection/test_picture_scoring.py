"""Boxes of many pictures scored in every layout: the same boxes give the same figures."""

import io
import json
from contextlib import redirect_stdout

import numpy as np
import pytest
from making.box_folders import HEIGHT, WIDTH, picture, text
from making.collector import Collector

from lemevit_cli.analysis.scoring import score
from lemevit_cli.errors import DataError
from lemevit_cli.tasks.scoring import ScoreOptions

# Of each picture: left, top, right, bottom, class. Found: the first two, one too many, one moved.
TRUE = {
    "a": [(10, 20, 40, 30, "ship"), (50, 5, 60, 15, "plane")],
    "b": [(0, 0, 20, 20, "ship"), (30, 30, 50, 50, "ship")],
}
FOUND = {
    "a": [
        (10, 20, 40, 30, "ship", 0.9),
        (50, 5, 60, 15, "plane", 0.8),
        (0, 40, 9, 55, "ship", 0.7),
    ],
    "b": [(0, 0, 20, 20, "ship", 0.6), (45, 45, 65, 58, "ship", 0.5)],
}
CLASSES = ("ship", "plane")
# Right 3 of 5 found, right 3 of 4 true: by hand.
RIGHT = {"precision": 3 / 5, "recall": 3 / 4}


def corners(box):
    left, top, right, bottom = box[:4]
    return [left, top, right, top, right, bottom, left, bottom]


def as_coco(path, boxes):
    images = [
        {"id": i, "file_name": f"set/{name}.png", "width": WIDTH, "height": HEIGHT}
        for i, name in enumerate(boxes)
    ]
    annotations = [
        coco_annotation(i, box) | {"id": 10 * i + k}
        for i, found in enumerate(boxes.values())
        for k, box in enumerate(found, 1)
    ]
    categories = [{"id": 3 * i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    path.write_text(json.dumps(content))
    return path


def coco_annotation(image_id, box):
    left, top, right, bottom, name, *scores = box
    known = {
        "image_id": image_id,
        "category_id": 3 * CLASSES.index(name) + 1,
        "bbox": [left, top, right - left, bottom - top],
        "area": (right - left) * (bottom - top),
        "iscrowd": 0,
    }
    return known | ({"score": scores[0]} if scores else {})


def as_coco_results(path, boxes):
    everything = [
        coco_annotation(i, box) for i, found in enumerate(boxes.values()) for box in found
    ]
    path.write_text(json.dumps(everything))
    return path


def as_dota(folder, boxes):
    for name, found in boxes.items():
        lines = [" ".join(map(str, [*corners(b), b[4], *b[5:]])) for b in found]
        text(folder / f"{name}.txt", *lines)
    return folder


def as_tasks(folder, boxes):
    for wanted in CLASSES:
        lines = [
            " ".join(map(str, [name, b[5], *corners(b)]))
            for name, found in boxes.items()
            for b in found
            if b[4] == wanted
        ]
        text(folder / f"Task1_{wanted}.txt", *lines)
    return folder


def as_yolo(folder, boxes, *, with_corners=False):
    for name, found in boxes.items():
        lines = []
        for left, top, right, bottom, kind, *scores in found:
            numbers = np.array(corners((left, top, right, bottom))).reshape(4, 2)
            if not with_corners:
                middle = [(left + right) / 2, (top + bottom) / 2]
                numbers = np.array([middle, [right - left, bottom - top]])
            parts = (numbers / (WIDTH, HEIGHT)).reshape(-1)
            lines.append(" ".join(map(str, [CLASSES.index(kind), *parts, *scores])))
        text(folder / f"{name}.txt", *lines)
    return folder


def as_voc(folder, boxes):
    for name, found in boxes.items():
        things = "".join(
            f"<object><name>{n}</name><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax>"
            f"<ymax>{d}</ymax></bndbox></object>"
            for a, b, c, d, n in found
        )
        text(folder / f"{name}.xml", f"<annotation>{things}</annotation>")
    return folder


def as_table(path, boxes):
    rows = [",".join(map(str, [f"{name}.png", *b])) for name, found in boxes.items() for b in found]
    has_scores = any(len(b) > 5 for found in boxes.values() for b in found)
    text(path, "image_path,xmin,ymin,xmax,ymax,label" + ",score" * has_scores, *rows)
    return path


def write_truth(kind, root):
    if kind == "yolo":
        for name in TRUE:
            picture(root / "set/images" / f"{name}.png")
        text(root / "set/data.yaml", "names: [ship, plane]")
        return as_yolo(root / "set/labels", TRUE)
    writers = {"coco": as_coco, "dota": as_dota, "voc": as_voc, "table": as_table}
    names = {"coco": "true.json", "table": "true.csv"}
    return writers[kind](root / names.get(kind, "true"), TRUE)


def write_found(kind, root):
    if kind == "yolo":
        text(root / "found/classes.txt", *CLASSES)
        return as_yolo(root / "found", FOUND, with_corners=True)
    writers = {"coco": as_coco, "dota": as_dota, "tasks": as_tasks, "table": as_table}
    names = {"coco": "found.json", "table": "found.csv"}
    return writers[kind](root / names.get(kind, "found"), FOUND)


@pytest.mark.parametrize("truth", ["coco", "dota", "voc", "table", "yolo"])
@pytest.mark.parametrize("found", ["coco", "dota", "tasks", "table", "yolo"])
def test_layouts_give_the_same_figures(tmp_path, truth, found):
    if found == "yolo" and truth in ("dota", "voc", "table"):
        for name in TRUE:  # how large the pictures are
            picture(tmp_path / "images" / f"{name}.png")
    figures = score(str(write_found(found, tmp_path)), str(write_truth(truth, tmp_path)))
    assert {key: figures[key] for key in RIGHT} == pytest.approx(RIGHT)
    assert figures["pictures"] == 2
    assert figures["classes"]["ship"]["ap50"] == pytest.approx(1 / 3 + 1 / 3 * 2 / 3)
    assert figures["classes"]["plane"]["ap50"] == 1.0


def test_results_of_coco_have_the_pictures_of_their_truth(tmp_path):
    truth = as_coco(tmp_path / "true.json", TRUE)
    found = as_coco_results(tmp_path / "found.json", FOUND)
    figures = score(str(found), str(truth))
    assert {key: figures[key] for key in RIGHT} == pytest.approx(RIGHT)
    with pytest.raises(DataError, match="is a list of results, without images and categories"):
        score(str(found), str(as_dota(tmp_path / "true", TRUE)))


def test_parts_of_pictures_need_no_pictures_among_themselves_and_some_beside_pixels(tmp_path):
    found = as_yolo(tmp_path / "x/found", FOUND)
    figures = score(str(found), str(as_yolo(tmp_path / "y/true", TRUE)))
    assert {key: figures[key] for key in RIGHT} == pytest.approx(RIGHT)
    assert list(figures["classes"]) == ["0", "1"]  # nothing names them
    named = score(str(found), str(tmp_path / "y/true"), ScoreOptions(classes=("ship", "plane")))
    assert list(named["classes"]) == ["plane", "ship"]
    with pytest.raises(DataError, match="how large a is nobody tells; put the pictures"):
        score(str(found), str(as_dota(tmp_path / "true", TRUE)), ScoreOptions(classes=CLASSES))


def test_two_files_of_yolo_or_voc_are_one_picture(tmp_path):
    found, truth = as_yolo(tmp_path / "x", FOUND), as_yolo(tmp_path / "y", TRUE, with_corners=True)
    figures = score(str(found / "a.txt"), str(truth / "a.txt"))
    assert (figures["precision"], figures["recall"]) == (pytest.approx(2 / 3), 1.0)
    (truth / "a.txt").rename(truth / "truth.txt")
    assert score(str(found / "a.txt"), str(truth / "truth.txt")) | {"seconds": 0} == (
        figures | {"truth": str(truth / "truth.txt"), "seconds": 0}
    )
    # Pixels on one side: how large the picture is tells the file beside the text.
    picture(tmp_path / "x" / "images" / "a.png")
    voc = as_voc(tmp_path / "z", TRUE)
    named = ScoreOptions(classes=CLASSES)
    assert score(str(found / "a.txt"), str(voc / "a.xml"), named)["recall"] == 1.0
    dota = as_dota(tmp_path / "w", TRUE)
    assert score(str(found / "a.txt"), str(dota / "a.txt"), named)["recall"] == 1.0


def test_a_text_is_compared_with_its_picture_in_a_file_of_many(tmp_path):
    truth = as_coco(tmp_path / "true.json", TRUE)
    text(tmp_path / "a_boxes.txt", " ".join(map(str, [*corners(FOUND["a"][0]), "ship", 0.9])))
    figures = score(str(tmp_path / "a_boxes.txt"), str(truth))
    assert (figures["precision"], figures["recall"], figures["pictures"]) == (1.0, 0.5, 1)
    (tmp_path / "a_boxes.txt").rename(tmp_path / "c.txt")
    with pytest.raises(DataError, match="none of which is called c"):
        score(str(tmp_path / "c.txt"), str(truth))


def test_a_crowd_is_not_missed_and_what_is_found_in_it_is_not_wrong(tmp_path):
    truth = as_coco(tmp_path / "true.json", {"a": [(0, 0, 9, 9, "ship"), (20, 0, 80, 60, "ship")]})
    content = json.loads(truth.read_text())
    content["annotations"][1]["iscrowd"] = 1
    truth.write_text(json.dumps(content))
    found = {
        "a": [
            (0, 0, 9, 9, "ship", 0.9),
            (30, 10, 40, 20, "ship", 0.8),  # in the crowd
            (50, 30, 60, 40, "ship", 0.7),  # in the crowd
            (11, 0, 28, 10, "ship", 0.6),  # most of it beside the crowd
            (30, 10, 40, 20, "plane", 0.5),  # of another class, that nothing is known of
        ]
    }
    figures = score(str(as_coco_results(tmp_path / "found.json", found)), str(truth))
    ship = figures["classes"]["ship"]
    assert (ship["truths"], ship["difficult"]) == (1, 1)
    assert (ship["precision"], ship["recall"]) == (0.5, 1.0)


def random_set(seed):
    """Return truths far apart, some of them crowds, and answers near and far."""
    random = np.random.default_rng(seed)
    true, found = [], []
    for col in range(6):
        for row in range(6):
            left, top = 100 * col, 100 * row
            width, height = random.uniform(20, 60, 2)
            true.append((left, top, left + width, top + height, "ship", random.random() < 0.4))
            for _ in range(random.integers(0, 4)):
                shift, size = random.uniform(-15, 15, 2), random.uniform(10, 60, 2)
                x, y = np.array([left, top]) + shift
                found.append((x, y, x + size[0], y + size[1], "ship", random.random()))
    return true, found


@pytest.mark.parametrize("seed", range(4))
def test_right_and_wrong_boxes_beside_crowds_are_those_of_pycocotools(tmp_path, seed):
    coco = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    true, found = random_set(seed)
    truth = as_coco(tmp_path / "true.json", {"a": [box[:5] for box in true]})
    content = json.loads(truth.read_text())
    for annotation, box in zip(content["annotations"], true, strict=True):
        annotation["iscrowd"] = int(box[5])
    content["images"][0] |= {"width": 700, "height": 700}
    truth.write_text(json.dumps(content))
    results = as_coco_results(tmp_path / "found.json", {"a": found})
    figures = score(str(results), str(truth))
    with redirect_stdout(io.StringIO()):
        reference = coco.COCO(str(truth))
        judge = COCOeval(reference, reference.loadRes(str(results)), "bbox")
        judge.params.iouThrs, judge.params.maxDets = np.array([0.5]), [1000]
        judge.params.areaRng, judge.params.areaRngLbl = [[0, 1e10]], ["all"]
        judge.evaluate()
    (record,) = [each for each in judge.evalImgs if each is not None]
    counted = ~record["dtIgnore"][0].astype(bool)
    right = record["dtMatches"][0].astype(bool) & counted
    truths = int((~np.asarray(record["gtIgnore"], dtype=bool)).sum())
    assert figures["precision"] == pytest.approx(right.sum() / counted.sum())
    assert figures["recall"] == pytest.approx(right.sum() / truths)


def test_bad_labels_are_told_with_their_line_or_counted(tmp_path):
    truth, found = as_dota(tmp_path / "true", TRUE), as_dota(tmp_path / "found", FOUND)
    with (found / "b.txt").open("a") as file:
        file.write("1 2 3 4 5 6 7 ship 0.5\n10 20 40 20 40 20 10 20 ship 0.4\n")
    with pytest.raises(DataError, match=r"b\.txt, line 3: has 7 coordinates"):
        score(str(found), str(truth))
    collector = Collector()
    figures = score(str(found), str(truth), ScoreOptions(skip_bad_labels=True), collector)
    assert {key: figures[key] for key in RIGHT} == pytest.approx(RIGHT)
    lines = "\n".join(collector.notes)
    assert "1 bad labels left out, the first: " in lines
    assert "1 boxes without area left out, the first: " in lines
