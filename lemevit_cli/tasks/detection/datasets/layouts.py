"""How folders keep labels of boxes: which layout it is, which labels are for which picture.

============  ===========================================================================
DOTA          ``{train,val}/images`` with ``labelTxt`` or ``labels``, a text a picture
YOLO          the same, or ``{images,labels}/{train,val}``, or where ``data.yaml`` says;
              names in ``data.yaml``
Pascal VOC    the same with an XML a picture, or ``JPEGImages`` with ``Annotations`` and
              ``ImageSets/Main/{train,val}.txt``
COCO          ``annotations/instances_{train,val}.json``, ``{train,val}.json`` or
              ``{train,val}/_annotations.coco.json``
CSV           ``{train,val}.csv``, ``{train,val}/_annotations.csv``, or ``annotations.csv``
============  ===========================================================================

A split may be missing; ``valid`` is ``val`` too. Labels may also lie beside their pictures. Without
any split all of a folder is for training: ``images`` with ``labels``, one COCO file, one table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path, PureWindowsPath
from urllib.parse import unquote, urlparse

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.class_names import (
    read_numbered_classes,
    states_keypoints,
)
from lemevit_cli.tasks.detection.datasets.coco import (
    CocoFile,
    is_coco,
    is_coco_results,
    read_coco,
)
from lemevit_cli.tasks.detection.datasets.dota import read_dota
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    Picture,
    bring_to_stored,
    fit_to_picture,
)
from lemevit_cli.tasks.detection.datasets.pairs import (
    LABEL_FOLDERS,
    Pairs,
    files_of_split,
    labels_in,
    match_labels,
    names_of_split,
    rasters_in,
)
from lemevit_cli.tasks.detection.datasets.table import TableFile, is_box_table, read_table
from lemevit_cli.tasks.detection.datasets.voc import read_voc
from lemevit_cli.tasks.detection.datasets.yolo import (
    YoloFile,
    read_yolo,
    recognise_yolo,
    vote_for_yolo,
)
from lemevit_cli.training.datasets.folders import note_of

SPLITS = ("train", "val")
_COCO_FILES = ("annotations/instances_{}.json", "{}.json", "{}/_annotations.coco.json")
_TABLES = ("{}.csv", "{}/_annotations.csv", "annotations/{}.csv", "{}/annotations.csv")
_PICTURES = ("{split}", "{split}/images", "images/{split}", "images", "{split}2017", ".")
_KNOWN = (
    "{train,val}/images with labelTxt or labels (DOTA, YOLO, Pascal VOC), "
    "annotations/instances_{train,val}.json (COCO), or {train,val}.csv with image_path, xmin, "
    "ymin, xmax, ymax, label"
)

# What is labelled on a picture, in its pixels as stored, and the metres a pixel if that is stated.
Labelled = tuple[list[Outline], float | None]
ReadLabels = Callable[[Picture, LabelReport], Labelled]


@dataclass(frozen=True, eq=False)
class Layout:
    """Layout of the labels of a folder.

    Args:
        classes: names that the layout itself states; None where only the labels have them.
        pictures: of each split, with what reads their labels.
        notes: what does not fit together.
    """

    name: str
    classes: tuple[str, ...] | None
    pictures: Mapping[str, Mapping[Path, ReadLabels]]
    notes: tuple[str, ...]


def recognise(
    folder: Path,
    stated: tuple[str, ...] | None,
    report: LabelReport,
    splits: Sequence[str] = SPLITS,
) -> Layout:
    """Find out which layout a folder has.

    Args:
        splits: to look for; others than ``train`` and ``val`` go by their name alone.
        stated: the names in ``classes.json``, if there is one.

    Raises:
        DataError: if there is no such folder, none of the layouts, or pictures lack their labels.
    """
    if folder.is_file():
        return _recognise_file(folder, report)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    for find, make in (
        (partial(_file_of_split, folder, _COCO_FILES), partial(_coco_layout, report=report)),
        (partial(_table_of_split, folder), partial(_table_layout, report=report)),
        (partial(files_of_split, folder), partial(_file_layout, stated=stated)),
    ):
        found = {split: place for split in splits if (place := find(split)) is not None}
        if found:
            return make(folder, found)
    undivided = _undivided(folder, stated, report) if splits == SPLITS else None
    if undivided is not None:
        note = "is not divided into train and val; all of it is trained on"
        return replace(undivided, notes=(note, *undivided.notes))
    empty = "an empty folder" if not any(folder.iterdir()) else "no labels of boxes"
    where = f" in {', '.join(splits)}" if splits != SPLITS else ""
    raise DataError(f"{folder}: {empty}{where}; it takes {_KNOWN}")


def _undivided(folder: Path, stated: tuple[str, ...] | None, report: LabelReport) -> Layout | None:
    """Read a folder without splits: one COCO file or one table, or pictures and their labels."""
    files = sorted(p for place in (folder, folder / "annotations") for p in place.glob("*.json"))
    coco = [path for path in files if is_coco(path) and not is_coco_results(path)]
    if len(coco) == 1:
        return _coco_layout(folder, {"train": coco[0]}, report=report)
    tables = [path for path in sorted(folder.glob("*.csv")) if is_box_table(path)]
    if len(tables) == 1:
        return _table_layout(folder, {"train": tables[0]}, report=report)
    for images in (folder / "images", folder):
        for labels in (*(folder / kind for kind in LABEL_FOLDERS), folder):
            if images.is_dir() and labels.is_dir() and (found := labels_in(labels)):
                pictures = rasters_in(images)
                if set(pictures) & set(found):
                    pairs = {"train": Pairs(pictures, found, labels)}
                    return _file_layout(folder, pairs, stated)
    return None


def _recognise_file(file: Path, report: LabelReport) -> Layout:
    """Read a file that holds all labels, for training."""
    if is_coco(file):
        return _coco_layout(file.parent, {"train": file}, report=report)
    if is_box_table(file):
        return _table_layout(file.parent, {"train": file}, report=report)
    raise DataError(f"{file}: no labels of boxes; it takes a folder: {_KNOWN}")


# --- a file of labels a picture ------------------------------------------------------------------


def _file_layout(
    folder: Path, places: Mapping[str, Pairs], stated: tuple[str, ...] | None
) -> Layout:
    matched = {split: match_labels(place) for split, place in places.items()}
    every = [label for pairs, _ in matched.values() for label in pairs.values()]
    notes = [note for _, notes in matched.values() for note in notes]
    name, classes, reader_of = _text_or_xml(folder, every, stated)
    return Layout(
        name,
        classes,
        {
            split: {image: reader_of(label) for image, label in pairs.items()}
            for split, (pairs, _) in matched.items()
        },
        tuple(notes),
    )


def _text_or_xml(
    folder: Path, labels: Sequence[Path], stated: tuple[str, ...] | None
) -> tuple[str, tuple[str, ...] | None, Callable[[Path], ReadLabels]]:
    """Return the layout's name, the classes that it states, and what reads a file."""
    if labels[0].suffix.lower() == ".xml":
        return "Pascal VOC", None, lambda label: partial(_read_voc, label)
    if sum(map(vote_for_yolo, labels)) <= 0:
        return "DOTA", None, lambda label: partial(_read_dota, label)
    # labelImg writes its classes.txt beside the labels.
    numbered = read_numbered_classes(folder) or read_numbered_classes(labels[0].parent)
    classes = numbered or stated
    if classes is None:
        raise DataError(
            f"{folder}: its labels number their classes, as YOLO's do; name them in data.yaml: "
            "names: [plane, ship, ...]"
        )
    has_keypoints = states_keypoints(folder)
    files = {path: recognise_yolo(path, has_keypoints=has_keypoints) for path in labels}
    kinds = dict.fromkeys(file.kind for file in files.values() if file.kind is not None)
    words = {"boxes": "YOLO (upright boxes)", "corners": "YOLO-OBB", "outlines": "YOLO (outlines)"}
    name = " and ".join(words[kind] for kind in kinds)
    return name, numbered, lambda label: partial(_read_yolo, files[label], classes)


def _read_dota(label: Path, picture: Picture, report: LabelReport) -> Labelled:
    outlines, gsd_m = read_dota(label, report)
    return bring_to_stored(outlines, picture, report), gsd_m


def _read_voc(label: Path, picture: Picture, report: LabelReport) -> Labelled:
    return read_voc(label, picture, report), None


def _read_yolo(
    file: YoloFile, classes: Sequence[str], picture: Picture, report: LabelReport
) -> Labelled:
    outlines = read_yolo(file, classes, picture, report)
    for outline in outlines:
        if outline.score is not None:
            report.remark("labels with a confidence, which is not read", outline.place)
    return outlines, None


# --- a file of labels a split --------------------------------------------------------------------


def _table_of_split(folder: Path, split: str) -> Path | None:
    # Other tables, such as lists of pictures and classes, may lie there as well.
    path = _file_of_split(folder, _TABLES, split)
    return path if path is not None and is_box_table(path) else None


def _file_of_split(folder: Path, patterns: Sequence[str], split: str) -> Path | None:
    names = (*names_of_split(split), f"{split}2017")
    files = (folder / pattern.format(name) for name in names for pattern in patterns)
    return next((file for file in files if file.is_file()), None)


def _coco_layout(folder: Path, files: Mapping[str, Path], *, report: LabelReport) -> Layout:
    read = {split: read_coco(file, report) for split, file in files.items()}
    found = {
        split: _find_pictures(
            folder, split, file.path, {key: image.name for key, image in file.images.items()}
        )
        for split, file in read.items()
    }
    return Layout(
        "COCO",
        tuple(dict.fromkeys(name for file in read.values() for name in file.classes)),
        {
            split: {
                image: partial(_read_of_coco, read[split], key) for key, image in pictures.items()
            }
            for split, (pictures, _) in found.items()
        },
        tuple(note for _, notes in found.values() for note in notes),
    )


def _read_of_coco(file: CocoFile, key: str, picture: Picture, report: LabelReport) -> Labelled:
    image = file.images[key]
    place = f"{file.path}, image {image.name}"
    return fit_to_picture(file.outlines[key], image.size, picture, place, report), None


def _table_layout(folder: Path, files: Mapping[str, Path], *, report: LabelReport) -> Layout:
    read = {split: read_table(file, report) for split, file in files.items()}
    for file in read.values():
        if "" in file.outlines:
            raise DataError(f"{file.path}: names no picture; it takes a column image_path")
        if not file.has_classes:
            raise DataError(f"{file.path}: has no column of classes; it takes label")
    found = {
        split: _find_pictures(folder, split, file.path, {name: name for name in file.outlines})
        for split, file in read.items()
    }
    return Layout(
        "CSV",
        None,
        {
            split: {
                image: partial(_read_of_table, read[split], name)
                for name, image in pictures.items()
            }
            for split, (pictures, _) in found.items()
        },
        tuple(note for _, notes in found.values() for note in notes),
    )


def _read_of_table(file: TableFile, name: str, picture: Picture, report: LabelReport) -> Labelled:
    place = f"{file.path}, picture {name}"
    return fit_to_picture(file.outlines[name], file.sizes.get(name), picture, place, report), None


def _find_pictures(
    folder: Path, split: str, file: Path, names: Mapping[str, str]
) -> tuple[dict[str, Path], list[str]]:
    """Find the pictures that a file names, by its keys, and note those that are not there.

    Raises:
        DataError: if none is, or two are the same.
    """
    splits = (*names_of_split(split), split)
    places = [
        file.parent,
        *(folder / pattern.format(split=name) for name in splits for pattern in _PICTURES),
    ]
    pictures: dict[str, Path] = {}
    key_of: dict[Path, str] = {}
    for key, name in names.items():
        path = _find_picture(name, places)
        if path is None:
            continue
        if path in key_of:
            raise DataError(
                f"{file}: {names[key_of[path]]} and {name} both are {path}; give each its own file"
            )
        pictures[key], key_of[path] = path, key
    missing = [name for key, name in names.items() if key not in pictures]
    if not pictures:
        first = f", such as {missing[0]}" if missing else ""
        raise DataError(f"{file}: none of its pictures{first} is below {folder}")
    return pictures, note_of(missing, f"pictures of {file.name} that are not there")


def _find_picture(name: str, places: Sequence[Path]) -> Path | None:
    """Find a picture by its name: as it stands, without an address, or its last part alone."""
    plain = unquote(urlparse(name).path if "://" in name else name)
    slashes = plain.replace("\\", "/")
    for form in dict.fromkeys((name, plain, slashes, PureWindowsPath(plain).name)):
        for place in places:
            # Unlike Path.is_file, False for a name that no file can have.
            if os.path.isfile(place / form):  # noqa: PTH113
                return place / form
    return None
