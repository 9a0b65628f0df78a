"""Folders of pictures with boxes, made for tests, and what is read of them."""

import json

import numpy as np
from PIL import Image

from lemevit_cli.tasks.detection.datasets.folders import open_box_folder
from lemevit_cli.training.datasets.objects import IGNORED

WIDTH, HEIGHT = 80, 60


def picture(path, size=(WIDTH, HEIGHT), orientation=None):
    """Write a grey picture, with EXIF's orientation if one is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.full((size[1], size[0], 3), 90, np.uint8))
    exif = image.getexif()
    if orientation is not None:
        exif[0x112] = orientation
    image.save(path, exif=exif)


def text(path, *lines):
    """Write lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def rectangle(cx, cy, w, h, degrees):
    """Return the corners of a rectangle that is turned clockwise on screen."""
    angle = np.radians(degrees)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.array([(-w, -h), (w, -h), (w, h), (-w, h)]) / 2 @ turn.T + (cx, cy)


def coco(root, annotations, *, size=(WIDTH, HEIGHT), name="a.png", **others):
    """Write a COCO file of one picture ``a.png``, whose categories are 2, ship, and 9, plane."""
    content = {
        "images": [{"id": 7, "file_name": name, "width": size[0], "height": size[1]}],
        "categories": [{"id": 2, "name": "ship"}, {"id": 9, "name": "plane"}],
        "annotations": [
            {"id": i, "image_id": 7, "category_id": 2} | own for i, own in enumerate(annotations, 1)
        ],
    } | others
    text(root / "train.json", json.dumps(content))
    return root


def read(root, **options):
    """Return what is read to train on: boxes with degrees, rounded, their classes, and notes."""
    parts = open_box_folder(root, **options)
    boxes, names = [], []
    for site in parts.training.sites:
        objects = parts.training.objects[site.scene]
        boxes += [
            (*np.round(box[:4], 3).tolist(), round(float(np.degrees(box[4])), 2))
            for box in objects.boxes
        ]
        names += [None if i == IGNORED else parts.training.classes[i] for i in objects.class_ids]
    return boxes, names, list(parts.notes)
