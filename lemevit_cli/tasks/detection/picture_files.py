"""Boxes of many pictures, as data sets and detectors keep them: a folder of texts, or one file.

A folder holds a text or XML a picture (DOTA, YOLO, Pascal VOC), or DOTA's ``Task1_<class>.txt``; a
file is COCO's JSON, labels or results, or a table that names its pictures. Pictures go by their
stems; by their whole names where two share one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PureWindowsPath

import numpy as np

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.class_names import read_numbered_classes
from lemevit_cli.tasks.detection.datasets.coco import (
    CocoFile,
    is_coco,
    is_coco_results,
    read_coco,
)
from lemevit_cli.tasks.detection.datasets.dota import (
    class_of_task1,
    read_dota_results,
    read_task1,
)
from lemevit_cli.tasks.detection.datasets.folders import picture_of
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    Picture,
    has_area,
)
from lemevit_cli.tasks.detection.datasets.table import is_box_table, names_pictures, read_table
from lemevit_cli.tasks.detection.datasets.voc import read_voc_as_stated
from lemevit_cli.tasks.detection.datasets.yolo import read_yolo, recognise_yolo, vote_for_yolo
from lemevit_cli.tasks.detection.files import (
    BoxFile,
    boxes_of_outlines,
    is_box_text,
    notes_of,
)
from lemevit_cli.training.datasets.folders import open_picture

Size = tuple[int, int]
_RASTERS = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".JPG", ".PNG", ".TIF")
_NO_BOXES = ("classes.txt", "labels.txt")
_NUMBERED = tuple(map(str, range(1000)))  # classes of YOLO's texts that nothing names


@dataclass(frozen=True, eq=False)
class PictureBoxes:
    """Boxes of pictures, by the pictures' names.

    Args:
        in_parts: whether points are parts of their pictures' width and height, not pixels.
        sizes: width and height of the pictures where they are known.
        coco: the file, for results that name the pictures of another.
    """

    path: str
    outlines: Mapping[str, Sequence[Outline]]
    report: LabelReport
    in_parts: bool = False
    sizes: Mapping[str, Size] = field(default_factory=dict)
    coco: CocoFile | None = None

    def boxes_of(self, picture: str) -> BoxFile:
        """Return the boxes of a picture, none of one that is not there."""
        notes = notes_of(self.report, self.path)
        return boxes_of_outlines(self.outlines.get(picture, ()), self.path, notes)

    def renamed(self, picture: str) -> PictureBoxes:
        """Call the only picture otherwise."""
        ((name, outlines),) = self.outlines.items()
        sizes = {picture: self.sizes[name]} if name in self.sizes else {}
        return replace(self, outlines={picture: outlines}, sizes=sizes)


def holds_pictures(path: str) -> bool:
    """Say whether a path is one of boxes of many pictures."""
    place = Path(path)
    if place.is_dir():
        return bool(label_files(place))
    if place.suffix.lower() == ".txt" and place.is_file():
        return vote_for_yolo(place) > 0
    is_xml = place.suffix.lower() == ".xml" and place.is_file()
    return is_xml or is_coco(place) or (is_box_table(place) and names_pictures(place))


def is_box_file(path: str) -> bool:
    """Say whether a path can only hold boxes: a text, a table, COCO's JSON, or a folder of them."""
    if holds_pictures(path):
        return True
    return is_box_text(path) or path.lower().endswith(".parquet") or is_box_table(Path(path))


def read_pictures(
    path: str,
    *,
    skip_bad_labels: bool = False,
    classes: tuple[str, ...] | None = None,
    pictures_of: CocoFile | None = None,
) -> PictureBoxes:
    """Read the boxes of many pictures.

    Args:
        skip_bad_labels: count labels that cannot be understood, and leave them out.
        classes: of YOLO's texts that no file beside them names; None: by their numbers.
        pictures_of: what COCO's results are the results of.

    Raises:
        DataError: if it cannot be read; with the label that cannot be understood.
    """
    report = LabelReport(skip_bad=skip_bad_labels)
    boxes = _read(Path(path), report, classes, pictures_of)
    return replace(boxes, outlines=_with_area(boxes.outlines, report))


def _with_area(
    outlines: Mapping[str, Sequence[Outline]], report: LabelReport
) -> dict[str, list[Outline]]:
    for outline in (outline for found in outlines.values() for outline in found):
        if not has_area(outline):
            report.leave_out("boxes without area left out", outline.place)
    return {name: [o for o in found if has_area(o)] for name, found in outlines.items()}


def _read(
    place: Path,
    report: LabelReport,
    classes: tuple[str, ...] | None,
    pictures_of: CocoFile | None,
) -> PictureBoxes:
    if place.is_dir():
        return _read_files(place, label_files(place), report, classes)
    if place.suffix.lower() in (".txt", ".xml"):
        return _read_files(place, [place], report, classes)
    if is_coco(place):
        coco = read_coco(place, report, pictures_of=pictures_of)
        names = _short_names({key: image.name for key, image in coco.images.items()})
        return PictureBoxes(
            str(place),
            {names[key]: outlines for key, outlines in coco.outlines.items()},
            report,
            sizes={names[k]: image.size for k, image in coco.images.items() if image.size},
            coco=None if is_coco_results(place) else coco,
        )
    table = read_table(place, report)
    names = _short_names({name: name for name in table.outlines})
    by_name = {names[name]: outlines for name, outlines in table.outlines.items()}
    sizes = {names[name]: size for name, size in table.sizes.items()}
    return PictureBoxes(str(place), by_name, report, sizes=sizes)


def bring_to_pixels(found: PictureBoxes, true: PictureBoxes) -> tuple[PictureBoxes, PictureBoxes]:
    """Bring one that is in parts of pictures to the pixels of the other; both may stay in parts.

    Overlaps are the same in either.

    Raises:
        DataError: if the size of a picture is not known.
    """
    if found.in_parts == true.in_parts:
        return found, true
    sizes = {**found.sizes, **true.sizes}
    return in_pixels(found, sizes), in_pixels(true, sizes)


def label_files(folder: Path) -> list[Path]:
    """List the texts of a folder that may hold boxes, else its XML files."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    texts = [p for p in files if p.suffix.lower() == ".txt" and p.name not in _NO_BOXES]
    # What GDAL keeps beside rasters is no label.
    others = [p for p in files if p.suffix.lower() == ".xml" and not p.name.endswith(".aux.xml")]
    return texts or others


def _read_files(
    place: Path, files: Sequence[Path], report: LabelReport, classes: tuple[str, ...] | None
) -> PictureBoxes:
    """Read a file a picture."""
    folder = files[0].parent
    if files[0].suffix.lower() == ".xml":
        stated = {path.stem: read_voc_as_stated(path, report) for path in files}
        return PictureBoxes(
            str(place),
            {name: outlines for name, (outlines, _) in stated.items()},
            report,
            sizes={name: size for name, (_, size) in stated.items() if size is not None},
        )
    if all(class_of_task1(path) is not None for path in files):
        return PictureBoxes(str(place), _read_tasks(files, report), report)
    by_name = {path.stem.removesuffix("_boxes"): path for path in files}
    if sum(map(vote_for_yolo, files)) <= 0:
        read = {name: read_dota_results(path, report) for name, path in by_name.items()}
        return PictureBoxes(str(place), read, report)
    known = _classes_beside(folder) or classes or _NUMBERED
    whole = Picture(path="", width=1, height=1)
    read = {
        name: read_yolo(recognise_yolo(path), known, whole, report)
        for name, path in by_name.items()
    }
    return PictureBoxes(str(place), read, report, in_parts=True, sizes=_sizes_beside(folder, read))


def _read_tasks(files: Iterable[Path], report: LabelReport) -> dict[str, list[Outline]]:
    found: dict[str, list[Outline]] = {}
    for path in files:
        for picture, outlines in read_task1(path, report).items():
            found.setdefault(picture, []).extend(outlines)
    return found


def _classes_beside(folder: Path) -> tuple[str, ...] | None:
    """Read the names of YOLO's classes in a folder, or in one of the three above it."""
    above = [folder, *folder.resolve().parents[:3]]
    return next((names for place in above if (names := read_numbered_classes(place))), None)


def _sizes_beside(labels: Path, names: Iterable[str]) -> dict[str, Size]:
    """Measure the pictures of a folder of labels, which lie where YOLO looks for them, or near."""
    parts = [("images" if part == "labels" else part) for part in labels.resolve().parts]
    places = (Path(*parts), labels.parent / "images", labels / "images")
    sizes: dict[str, Size] = {}
    for name in names:
        files = (place / f"{name}{suffix}" for place in places for suffix in _RASTERS)
        path = next((file for file in files if file.is_file()), None)
        if path is not None:
            with open_picture(path) as scene:
                sizes[name] = picture_of(scene).size_shown
    return sizes


def in_pixels(boxes: PictureBoxes, sizes: Mapping[str, Size]) -> PictureBoxes:
    """Bring boxes to pixels of their pictures.

    Raises:
        DataError: if the size of a picture is not known.
    """
    if not boxes.in_parts:
        return boxes
    missing = [name for name, found in boxes.outlines.items() if found and name not in sizes]
    if missing:
        raise DataError(
            f"{boxes.path}: holds parts of pictures, and how large {missing[0]} is nobody tells; "
            "put the pictures into a folder images beside the labels"
        )
    scaled = {
        name: [replace(o, points=o.points * np.array(sizes[name])) for o in outlines]
        for name, outlines in boxes.outlines.items()
    }
    return replace(boxes, outlines=scaled, in_parts=False)


def _short_names(names: Mapping[str, str]) -> dict[str, str]:
    """Return stems of names of files by their keys; names without suffix where two share a stem."""
    paths = {key: PureWindowsPath(name) for key, name in names.items()}
    stems = [path.stem for path in paths.values()]
    is_unique = len(set(stems)) == len(stems)
    return {
        key: path.stem if is_unique else path.with_suffix("").as_posix()
        for key, path in paths.items()
    }
