"""Labels and results in COCO's JSON: outlines become minimum rectangles, boxes alone stay unturned.

What turns a box is read where it is documented: ``rotation``, or ``attributes.rotation`` as CVAT
writes it, degrees clockwise about the centre of the unturned ``bbox``; and Detectron2's
``bbox_mode`` 0 (two corners), 1 (COCO's own), 4 (centre, size, degrees counter-clockwise).

Source: COCO's data format, cocodataset.org; Detectron2's class BoxMode; CVAT's manual.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import radians
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, reading
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    check_edges,
    corners_of_edges,
    finite_number,
)
from lemevit_cli.tasks.detection.datasets.lines import read_text
from lemevit_cli.tasks.detection.datasets.rle import decode_runs, edge_points, mask_of_runs

Points = NDArray[np.float64]

_XYXY, _XYWH, _XYWHA = 0, 1, 4  # Detectron2's BoxMode
_NO_PICTURES = "is a list of results"
_SAME = 1e-3  # pixels: a polygon that is no more than its box


@dataclass(frozen=True)
class CocoImage:
    """A picture that a file lists; ``size`` is width and height, None where they are not stated."""

    name: str
    size: tuple[int, int] | None


@dataclass(frozen=True, eq=False)
class CocoFile:
    """Content of a file.

    Args:
        images, categories: by their ids, as :func:`_key` writes them.
        classes: names of the categories that objects have, by their ids.
        outlines: objects of each picture, by its id; empty of one without any.
    """

    path: Path
    images: Mapping[str, CocoImage]
    categories: Mapping[str, str]
    classes: tuple[str, ...]
    outlines: Mapping[str, list[Outline]]


def read_coco(path: Path, report: LabelReport, *, pictures_of: CocoFile | None = None) -> CocoFile:
    """Read pictures, categories and annotations.

    Several parts of one annotation are one object. What is ``iscrowd``, or to be ignored, has no
    name. Annotations that only have keypoints, or no area, are left out and counted.

    Args:
        pictures_of: a list of results (image_id, category_id, bbox, score) has no pictures and
            categories of its own; they are those of this file.

    Raises:
        DataError: with the annotation that cannot be understood.
    """
    raw = _load(path)
    if isinstance(raw, list):
        if pictures_of is None:
            raise DataError(
                f"{path}: {_NO_PICTURES}, without images and categories; it is read by score, "
                "against a file that has them"
            )
        images, categories, annotations = pictures_of.images, pictures_of.categories, raw
    else:
        images, categories, annotations = _tables(raw, path)
    outlines: dict[str, list[Outline]] = {key: [] for key in images}
    used: set[str] = set()
    by_id: dict[str, Any] = {}
    for position, annotation in enumerate(annotations):
        place = _place(path, annotation, position)
        first = _first_with_id(annotation, by_id)
        if first == annotation:
            report.leave_out("annotations left out that repeat another, id and all", place)
            continue
        if first is not None:
            report.remark("annotations with the id of another, both read", place)
        with report.over_label():
            image, outline = _object(annotation, place, images, categories, report)
            used.add(_key(annotation["category_id"]))
            if outline is not None:
                outlines[image].append(outline)
    # A category that no object has may be a heading over the others, as in Roboflow's files.
    classes = dict.fromkeys(name for key, name in categories.items() if key in used)
    return CocoFile(path, images, categories, tuple(classes), outlines)


def is_coco(path: Path) -> bool:
    """Say whether a file is COCO's JSON, labels or results, by its first characters."""
    if path.suffix.lower() != ".json" or not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(1 << 16).removeprefix(b"\xef\xbb\xbf").lstrip()
    keys = (b'"images"', b'"annotations"', b'"categories"', b'"licenses"')
    is_table = any(key in start for key in keys) and b'"FeatureCollection"' not in start[:4096]
    return start.startswith(b"[") or (start.startswith(b"{") and is_table)


def is_coco_results(path: Path) -> bool:
    """Say whether COCO's JSON is a list of results, which names no pictures."""
    with path.open("rb") as file:
        return file.read(64).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"[")


def _load(path: Path) -> Any:
    with reading(path, "cannot be read as JSON", raises=DataError):
        return json.loads(read_text(path))


def _tables(raw: Any, path: Path) -> tuple[dict[str, CocoImage], dict[str, str], list[Any]]:
    """Return images and categories by id, in the order of the ids, and all annotations."""
    names = ("images", "categories", "annotations")
    is_complete = isinstance(raw, dict) and all(isinstance(raw.get(name), list) for name in names)
    if not is_complete:
        raise DataError(
            f"{path}: cannot be read as COCO; it takes the lists images, categories, annotations"
        )
    images: dict[str, CocoImage] = {}
    for position, entry in enumerate(raw["images"]):
        key, image = _image(entry, f"{path}, image {position + 1}")
        if images.setdefault(key, image) != image:
            raise DataError(f"{path}: two images have the id {key}; give each its own")
    categories: dict[str, str] = {}
    for position, entry in enumerate(raw["categories"]):
        if not isinstance(entry, dict) or entry.get("name") is None or "id" not in entry:
            raise DataError(f"{path}: category {position + 1} has no id or no name")
        key, name = _key(entry["id"]), str(entry["name"])
        if categories.setdefault(key, name) != name:
            raise DataError(f"{path}: two categories have the id {key}; give each its own")
    in_order = sorted(categories, key=lambda key: (finite_number(key) or 0.0, key))
    return images, {key: categories[key] for key in in_order}, raw["annotations"]


def _image(entry: Any, place: str) -> tuple[str, CocoImage]:
    if not isinstance(entry, dict) or not entry.get("file_name") or "id" not in entry:
        raise DataError(f"{place}: has no id or no file_name")
    width, height = (finite_number(entry.get(side)) for side in ("width", "height"))
    if min(width or 0, height or 0) < 0:
        raise DataError(f"{place}: states {width:g} x {height:g} pixels")
    # Some tools write zeros for what they do not know.
    size = (int(width), int(height)) if width and height else None
    return _key(entry["id"]), CocoImage(str(entry["file_name"]), size)


def _key(value: Any) -> str:
    """Return an id as text: 7, 7.0 and "7" are one."""
    number = finite_number(value)
    return str(int(number)) if number is not None and number.is_integer() else str(value)


def _place(path: Path, annotation: Any, position: int) -> str:
    is_named = isinstance(annotation, dict) and "id" in annotation
    return f"{path}, annotation {annotation['id'] if is_named else f'number {position + 1}'}"


def _first_with_id(annotation: Any, by_id: dict[str, Any]) -> Any:
    """Return an earlier annotation with the same id; None without one, and remember this one."""
    if not isinstance(annotation, dict) or annotation.get("id") is None:
        return None
    key = _key(annotation["id"])
    if key in by_id:
        return by_id[key]
    by_id[key] = annotation
    return None


def _object(
    annotation: Any,
    place: str,
    images: Mapping[str, CocoImage],
    categories: Mapping[str, str],
    report: LabelReport,
) -> tuple[str, Outline | None]:
    """Return the picture's id and the object of an annotation, None where it has no outline."""
    if not isinstance(annotation, dict):
        raise DataError(f"{place}: is no annotation but {type(annotation).__name__}")
    for name in ("image_id", "category_id"):
        if annotation.get(name) is None:
            raise DataError(f"{place}: has no {name}")
    image, category = _key(annotation["image_id"]), _key(annotation["category_id"])
    if image not in images:
        raise DataError(
            f"{place}: image_id {annotation['image_id']!r} is none of the file's images"
        )
    if category not in categories:
        raise DataError(
            f"{place}: category_id {annotation['category_id']!r} is none of the file's categories"
        )
    points = _points(annotation, images[image], place, report)
    if points is None:
        return image, None
    is_ignored = _flag(annotation, "iscrowd", place) or _flag(annotation, "ignore", place)
    if is_ignored:
        report.remark("crowds or ignored areas, neither objects nor background", place)
    known = categories[category]
    return image, Outline(
        points,
        None if is_ignored else known,
        _flag(annotation, "difficult", place),
        place,
        score=_score(annotation, place),
        area_of=known if is_ignored else None,
    )


def _flag(annotation: Mapping[str, Any], name: str, place: str) -> bool:
    value = annotation.get(name, 0)
    number = float(value) if isinstance(value, bool) else finite_number(value or 0)
    if number is None:
        raise DataError(f"{place}: {name} is {value!r}, it takes 0 or 1")
    return number != 0


def _score(annotation: Mapping[str, Any], place: str) -> float | None:
    if annotation.get("score") is None:
        return None
    score = finite_number(annotation["score"])
    if score is None:
        raise DataError(f"{place}: score is {annotation['score']!r}, which is no number")
    return score


def _points(
    annotation: Mapping[str, Any], image: CocoImage, place: str, report: LabelReport
) -> Points | None:
    """Return points around an object ``(K, 2)``; None, and a count, where it has no outline."""
    segmentation = annotation.get("segmentation")
    # Beside an outline a box tells nothing, unless the outline is the box, not yet turned.
    needs_box = not segmentation or _rotation(annotation, place) != 0
    box = _box(annotation, place) if needs_box else None
    points: Points | None = None
    if isinstance(segmentation, dict):
        points = _points_of_mask(segmentation, image, place)
    elif isinstance(segmentation, list) and segmentation:
        points = _points_of_polygons(segmentation, place)
    elif segmentation not in (None, [], ""):
        raise DataError(f"{place}: segmentation is neither polygons nor a mask")
    if points is None or (box is not None and _is_same(points, box[0])):
        points = None if box is None else box[1]
    if points is None and "keypoints" in annotation:
        report.leave_out("annotations left out that are keypoints alone", place)
    elif points is None:
        raise DataError(f"{place}: has neither segmentation nor bbox")
    elif len(points) == 0:
        report.leave_out("masks without a pixel left out", place)
        return None
    return points


def _is_same(points: Points, box: Points) -> bool:
    """Say whether an outline is just its box, which a rotation turns as well."""
    is_close = np.abs(points[:, None] - box).max(axis=-1) < _SAME
    return bool(is_close.any(axis=0).all() and is_close.any(axis=1).all())


def _box(annotation: Mapping[str, Any], place: str) -> tuple[Points, Points] | None:
    """Return the corners of the box before and after it is turned; None without a box."""
    values = annotation.get("bbox")
    if values is None or values == []:
        return None
    numbers = [finite_number(v) for v in values] if isinstance(values, list) else [None]
    if None in numbers:
        raise DataError(f"{place}: bbox is {values!r}; it takes numbers: left, top, width, height")
    mode = annotation.get("bbox_mode", _XYWH)
    if mode not in (_XYXY, _XYWH, _XYWHA):
        raise DataError(f"{place}: bbox_mode {mode!r} is not read; known are 0, 1 and 4")
    wanted = 5 if mode == _XYWHA else 4
    if len(numbers) != wanted:
        advice = "; a turned box has rotation, bbox_mode 4, or a segmentation" * (len(numbers) == 5)
        raise DataError(f"{place}: bbox has {len(numbers)} numbers, it takes {wanted}{advice}")
    left, top, width, height = (float(v) for v in numbers[:4] if v is not None)
    if mode == _XYXY:
        width, height = width - left, height - top
    angle = _rotation(annotation, place)
    if mode == _XYWHA:
        left, top = left - width / 2, top - height / 2
        angle = -float(numbers[4] or 0.0)
    check_edges(left, top, left + width, top + height, place)
    centre = left + width / 2, top + height / 2
    turned = corners_of([[*centre, width, height, radians(angle)]])[0]
    unturned = corners_of_edges(left, top, left + width, top + height)
    return unturned, turned if angle else unturned


def _rotation(annotation: Mapping[str, Any], place: str) -> float:
    """Return how far a box is turned, in degrees clockwise on screen."""
    attributes = annotation.get("attributes")
    inner = attributes.get("rotation") if isinstance(attributes, dict) else None
    value = annotation.get("rotation", inner)
    angle = finite_number(0 if value is None else value)
    if angle is None:
        raise DataError(f"{place}: rotation is {value!r}, which is no number of degrees")
    return angle


def _points_of_polygons(polygons: list[Any], place: str) -> Points:
    # One polygon without the list around it, as some write it, cannot mean anything else.
    rings = [polygons] if not any(isinstance(ring, list) for ring in polygons) else polygons
    points = []
    for ring in rings:
        numbers = [finite_number(v) for v in ring] if isinstance(ring, list) else [None]
        if None in numbers or len(numbers) % 2 or len(numbers) < 6:
            raise DataError(
                f"{place}: segmentation cannot be understood; a polygon takes 6 numbers or more: "
                "x1, y1, x2, y2, ..."
            )
        points.append(np.array(numbers, dtype=np.float64).reshape(-1, 2))
    return np.concatenate(points)


def _points_of_mask(mask: Mapping[str, Any], image: CocoImage, place: str) -> Points:
    counts, size = mask.get("counts"), mask.get("size")
    sides = [finite_number(v) for v in size] if isinstance(size, list) else []
    if len(sides) != 2 or None in sides or not isinstance(counts, str | list):
        raise DataError(
            f"{place}: its mask cannot be understood; it takes size [height, width], counts"
        )
    height, width = (int(v) for v in sides if v is not None)
    if image.size is not None and image.size != (width, height):
        raise DataError(
            f"{place}: its mask has {width} x {height} pixels, its image "
            f"{image.size[0]} x {image.size[1]}"
        )
    try:
        runs = decode_runs(counts) if isinstance(counts, str) else [int(run) for run in counts]
        return edge_points(mask_of_runs(runs, width=width, height=height))
    except (ValueError, TypeError, OverflowError) as error:
        raise DataError(f"{place}: its mask cannot be decoded ({error})") from error
