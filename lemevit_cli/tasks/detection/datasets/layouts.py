"""How folders keep labels of oriented boxes: which layout it is, which text is for which picture.

============  ===========================================================================
DOTA          ``{train,val}/images`` with ``labelTxt`` or ``labels``, a text a picture
YOLO-OBB      the same, or ``{images,labels}/{train,val}``; names in ``data.yaml``
COCO          ``annotations/instances_{train,val}.json``, ``{train,val}.json`` or
              ``{train,val}/_annotations.coco.json``
============  ===========================================================================

A split may be missing; ``valid`` is ``val`` too.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from lemevit_cli.errors import DataError
from lemevit_cli.legend import MAX_CLASSES
from lemevit_cli.raster.scene import Scene
from lemevit_cli.tasks.detection.datasets.coco import CocoFile, read_coco
from lemevit_cli.tasks.detection.datasets.labels import Outline
from lemevit_cli.tasks.detection.datasets.text import has_class_numbers, read_dota, read_yolo
from lemevit_cli.training.datasets.folders import CLASSES_FILE, list_rasters

SPLITS = ("train", "val")
_NAMES_OF_SPLIT = {"train": ("train",), "val": ("val", "valid")}
_LABEL_FOLDERS = ("labelTxt", "labels", "annfiles")
_COCO_FILES = ("annotations/instances_{}.json", "{}.json", "{}/_annotations.coco.json")
_COCO_PICTURES = ("{split}", "{split}/images", "images/{split}", "images", "{split}2017", ".")
_KNOWN = (
    "{train,val}/images with labelTxt or labels (DOTA, YOLO-OBB), or "
    "annotations/instances_{train,val}.json (COCO)"
)

# What is labelled on a picture, and the metres a pixel if that is stated; the picture's header
# tells its size.
Labelled = tuple[list[Outline], float | None]
ReadLabels = Callable[[Scene], Labelled]


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
    folder: Path, stated: tuple[str, ...] | None, splits: Sequence[str] = SPLITS
) -> Layout:
    """Find out which layout a folder has.

    Args:
        splits: to look for; others than ``train`` and ``val`` go by their name alone.
        stated: the names in ``classes.json``, if there is one.

    Raises:
        DataError: if there is no such folder, none of the layouts, or pictures lack their labels.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    coco = {split: file for split in splits if (file := _coco_file(folder, split)) is not None}
    if coco:
        return _coco_layout(folder, coco)
    text = {
        split: folders for split in splits if (folders := _text_folders(folder, split)) is not None
    }
    if not text:
        empty = "an empty folder" if not any(folder.iterdir()) else "no labels of boxes"
        place = f" in {', '.join(splits)}" if splits != SPLITS else ""
        raise DataError(f"{folder}: {empty}{place}; it takes {_KNOWN}")
    return _text_layout(folder, text, stated)


def _text_folders(folder: Path, split: str) -> tuple[Path, Path] | None:
    """Find the folders of pictures and label files of a split; None where there is no such split.

    Raises:
        DataError: if there are pictures without a folder of labels.
    """
    for name in _NAMES_OF_SPLIT.get(split, (split,)):
        for images, places in (
            (folder / name / "images", [folder / name / kind for kind in _LABEL_FOLDERS]),
            (folder / "images" / name, [folder / kind / name for kind in _LABEL_FOLDERS]),
        ):
            if not images.is_dir():
                continue
            labels = next((place for place in places if place.is_dir()), None)
            if labels is None:
                raise DataError(
                    f"{images}: pictures without labels; put a text for each into {places[0]}"
                )
            return images, labels
    return None


def _text_layout(
    folder: Path, places: Mapping[str, tuple[Path, Path]], stated: tuple[str, ...] | None
) -> Layout:
    matched = {split: _match_labels(*place) for split, place in places.items()}
    every = [label for pairs, _ in matched.values() for label in pairs.values()]
    numbered = _read_numbered_classes(folder)
    classes = numbered or stated
    is_yolo = next(
        (is_numbered for path in every if (is_numbered := has_class_numbers(path)) is not None),
        False,
    )
    if is_yolo and classes is None:
        raise DataError(
            f"{folder}: its labels number their classes, as YOLO's do; name them in data.yaml: "
            "names: [plane, ship, ...]"
        )
    read = partial(_read_yolo, classes or ()) if is_yolo else _read_dota
    return Layout(
        "YOLO-OBB" if is_yolo else "DOTA",
        numbered if is_yolo else None,
        {
            split: {image: partial(read, label) for image, label in pairs.items()}
            for split, (pairs, _) in matched.items()
        },
        tuple(note for _, notes in matched.values() for note in notes),
    )


def _read_dota(label: Path, scene: Scene) -> Labelled:
    return read_dota(label)


def _read_yolo(classes: Sequence[str], label: Path, scene: Scene) -> Labelled:
    return read_yolo(label, classes, width=scene.width, height=scene.height), None


def _match_labels(images: Path, labels: Path) -> tuple[dict[Path, Path], list[str]]:
    """Match each picture with its label file, and note those that have no partner.

    Raises:
        DataError: if none has one.
    """
    pictures = list_rasters(images)
    files = {path.stem: path for path in sorted(labels.glob("*.txt"))}
    if not pictures:
        raise DataError(f"{images}: an empty folder; put the pictures there")
    pairs = {image: files[stem] for stem, image in pictures.items() if stem in files}
    if not pairs:
        raise DataError(f"{labels}: no label file; each needs its picture's name and .txt")
    alone = [image for stem, image in pictures.items() if stem not in files]
    lost = [label for stem, label in files.items() if stem not in pictures and stem != "classes"]
    return pairs, [
        *_note_of(alone, "without a label file left out; an empty one says that nothing is there"),
        *_note_of(lost, "without a picture"),
    ]


def _note_of(paths: Sequence[Path | str], what: str) -> list[str]:
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return [f"{paths[0]}{more}: {what}"] if paths else []


def _coco_file(folder: Path, split: str) -> Path | None:
    names = (*_NAMES_OF_SPLIT.get(split, (split,)), f"{split}2017")
    files = (folder / pattern.format(name) for name in names for pattern in _COCO_FILES)
    return next((file for file in files if file.is_file()), None)


def _coco_layout(folder: Path, files: Mapping[str, Path]) -> Layout:
    read = {split: read_coco(file) for split, file in files.items()}
    matched = {split: _coco_pictures(folder, split, file) for split, file in read.items()}
    return Layout(
        "COCO",
        tuple(dict.fromkeys(name for file in read.values() for name in file.classes)),
        {
            split: {
                image: partial(_return_outlines, read[split].outlines[name])
                for name, image in pictures.items()
            }
            for split, (pictures, _) in matched.items()
        },
        tuple(note for _, notes in matched.values() for note in notes),
    )


def _return_outlines(outlines: list[Outline], scene: Scene) -> Labelled:
    return outlines, None


def _coco_pictures(folder: Path, split: str, file: CocoFile) -> tuple[dict[str, Path], list[str]]:
    """Find the pictures that a file names, and note those that are not there.

    Raises:
        DataError: if none is.
    """
    names = (*_NAMES_OF_SPLIT.get(split, ()), split)
    places = [
        file.path.parent,
        *(folder / pattern.format(split=name) for name in names for pattern in _COCO_PICTURES),
    ]
    pictures: dict[str, Path] = {}
    for name in file.outlines:
        path = next((p / name for p in places if (p / name).is_file()), None)
        if path is not None:
            pictures[name] = path
    missing = [name for name in file.outlines if name not in pictures]
    if not pictures:
        first = f", such as {missing[0]}" if missing else ""
        raise DataError(f"{file.path}: none of its pictures{first} is below {folder}")
    return pictures, _note_of(missing, f"pictures of {file.path.name} that are not there")


def read_stated_classes(folder: Path) -> tuple[str, ...] | None:
    """Read the names in ``classes.json``, None without such a file."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = json.loads(path.read_text(encoding="utf-8"))["classes"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f'{path}: cannot be understood; it takes {{"classes": ["plane", ...]}}'
        ) from error
    return _check_class_names(names, path)


def _read_numbered_classes(folder: Path) -> tuple[str, ...] | None:
    """Read the names in ``data.yaml``, or in the only file of that kind; None without one."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    path = next((f for f in files if f.stem == "data"), files[0] if len(files) == 1 else None)
    if path is None:
        return None
    try:
        names = yaml.safe_load(path.read_text(encoding="utf-8"))["names"]
    except (OSError, UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be understood; it takes names: [plane, ...]") from error
    if isinstance(names, dict):
        if sorted(names) != list(range(len(names))):
            raise DataError(
                f"{path}: its names are numbered {', '.join(map(str, names))}, not from 0 on"
            )
        names = [names[number] for number in range(len(names))]
    return _check_class_names(names, path)


def _check_class_names(names: Any, path: Path) -> tuple[str, ...]:
    is_list = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
    if not is_list or not 1 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise DataError(f"{path}: its classes must be 1 to {MAX_CLASSES} different names")
    return tuple(names)
