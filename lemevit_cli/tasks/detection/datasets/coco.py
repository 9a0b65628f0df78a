"""Labels in COCO's JSON: outlines become minimum rectangles, boxes alone stay unturned."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.labels import Outline


@dataclass(frozen=True, eq=False)
class CocoFile:
    """Content of a file.

    Args:
        classes: names of the categories that objects have, by their ids.
        outlines: objects of each picture, by its file name; empty of one without any.
    """

    path: Path
    classes: tuple[str, ...]
    outlines: Mapping[str, list[Outline]]


def read_coco(path: Path) -> CocoFile:
    """Read pictures, categories and annotations.

    Several polygons of one annotation are one object. An object with ``iscrowd`` is ignored.

    Raises:
        DataError: with the annotation that cannot be understood.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        pictures = {image["id"]: str(image["file_name"]) for image in raw["images"]}
        categories = {entry["id"]: str(entry["name"]) for entry in raw["categories"]}
        annotations = list(raw["annotations"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: cannot be read as COCO ({error}); it takes images, categories, annotations"
        ) from error
    outlines: dict[str, list[Outline]] = {name: [] for name in pictures.values()}
    for position, annotation in enumerate(annotations):
        picture, outline = _object(annotation, position, pictures, categories, path)
        outlines[picture].append(outline)
    # A category that no object has may be a heading over the others, as in Roboflow's files.
    used = {annotation["category_id"] for annotation in annotations}
    classes = dict.fromkeys(categories[i] for i in sorted(categories) if i in used)
    return CocoFile(path, tuple(classes), outlines)


def _object(
    annotation: Any,
    position: int,
    pictures: Mapping[Any, str],
    categories: Mapping[Any, str],
    path: Path,
) -> tuple[str, Outline]:
    """Return the picture's name and the object of an annotation."""
    where = annotation.get("id", f"number {position}") if isinstance(annotation, dict) else position
    place = f"{path}, annotation {where}"
    try:
        picture, category = annotation["image_id"], annotation["category_id"]
        points = _points(annotation)
        is_crowd = bool(annotation.get("iscrowd", 0))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{place}: cannot be understood ({error}); it takes image_id, category_id, and "
            "segmentation (polygons) or bbox"
        ) from error
    if picture not in pictures:
        raise DataError(f"{place}: image_id {picture!r} is none of the file's images")
    if category not in categories:
        raise DataError(f"{place}: category_id {category!r} is none of the file's categories")
    return pictures[picture], Outline(
        points, None if is_crowd else categories[category], False, place
    )


def _points(annotation: Mapping[str, Any]) -> NDArray[np.float64]:
    """Return all corners of an object's polygons ``(K, 2)``, or of its box where it has none."""
    polygons = annotation.get("segmentation")
    if isinstance(polygons, list) and polygons:
        rings = [np.asarray(ring, dtype=np.float64).reshape(-1, 2) for ring in polygons]
        points = np.concatenate(rings)
    else:  # run lengths tell no outline either
        left, top, width, height = (float(v) for v in annotation["bbox"])
        right, bottom = left + width, top + height
        points = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError("an outline without corners, or with one that is no finite number")
    return points
