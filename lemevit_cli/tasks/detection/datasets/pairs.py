"""Pictures and their label files, found for each other wherever a folder keeps them."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.class_names import read_yaml, yaml_of
from lemevit_cli.tasks.detection.datasets.lines import read_text
from lemevit_cli.training.datasets.folders import list_rasters, note_of

_NAMES_OF_SPLIT = {"val": ("val", "valid")}
LABEL_FOLDERS = ("labelTxt", "labels", "annfiles", "annotations", "Annotations", "xml")
_LABEL_SUFFIXES = (".txt", ".xml")
_NO_RASTERS = (".yaml", ".yml", ".toml", ".md", ".cache", ".html", ".py", ".sh")
_NO_LABELS = ("classes.txt", "train.txt", "val.txt")  # YOLO's lists


@dataclass(frozen=True)
class Pairs:
    """Pictures and label files of a split, by stem, and where either are.

    Args:
        missing: what a list names, and is not there.
    """

    pictures: Mapping[str, Path]
    labels: Mapping[str, Path]
    place: Path
    missing: tuple[str, ...] = ()


def names_of_split(split: str) -> tuple[str, ...]:
    """Return the names that a split goes by."""
    return _NAMES_OF_SPLIT.get(split, (split,))


def files_of_split(folder: Path, split: str) -> Pairs | None:
    """Find pictures and label files of a split; None where there is no such split.

    Raises:
        DataError: if there are pictures without a folder of labels.
    """
    for images, places in _places_of_split(folder, split):
        if not images.is_dir():
            continue
        labels = next((place for place in places if place.is_dir() and labels_in(place)), None)
        labels = labels or next((place for place in places if place.is_dir()), None)
        if labels == images and not labels_in(images):
            continue
        if labels is None:
            raise DataError(
                f"{images}: pictures without labels; put a text for each into {places[0]}"
            )
        return Pairs(rasters_in(images), labels_in(labels), labels)
    return _yaml_split(folder, split) or _voc_split(folder, split)


def _places_of_split(folder: Path, split: str) -> Iterable[tuple[Path, list[Path]]]:
    """Yield folders that may hold the pictures of a split, with those that may hold its labels."""
    for name in names_of_split(split):
        own = folder / name
        yield own / "images", [own / kind for kind in LABEL_FOLDERS]
        images = folder / "images" / name
        yield images, [folder / kind / name for kind in LABEL_FOLDERS]
        yield own, [own]


def _yaml_split(folder: Path, split: str) -> Pairs | None:
    """Find the pictures that YOLO's YAML names for a split: folders, or lists of files."""
    if (path := yaml_of(folder)) is None:
        return None
    content = read_yaml(path)
    listed = next((content[name] for name in names_of_split(split) if content.get(name)), None)
    images: list[Path] = []
    missing: list[str] = []
    for entry in listed if isinstance(listed, list) else [listed]:
        place = _place_in_yaml(folder, str(content.get("path") or "."), entry)
        if place is None:
            missing.append(str(entry))
        elif place.is_dir():
            images += rasters_in(place).values()
        else:
            for line in _listed_in(place):
                file = _place_in_yaml(folder, str(place.parent), line)
                images += [] if file is None else [file]
                missing += [line] if file is None else []
    if not images:
        return None
    pictures: dict[str, Path] = {}
    for image in images:
        if pictures.setdefault(image.stem, image) != image:
            raise DataError(f"{pictures[image.stem]} and {image} have the same stem; rename one")
    labels = {stem: _label_of_yolo(image) for stem, image in pictures.items()}
    return Pairs(
        pictures,
        {stem: label for stem, label in labels.items() if label.is_file()},
        labels[images[0].stem].parent,
        tuple(missing),
    )


def _listed_in(path: Path) -> list[str]:
    """Return the lines of a list of files; names may hold spaces and commas."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def _place_in_yaml(folder: Path, root: str, entry: object) -> Path | None:
    """Find what a YAML names; its paths are often those of the machine that it was written on."""
    if not isinstance(entry, str):
        return None
    places = (folder / root / entry, folder / entry, folder / entry.removeprefix("../"))
    # Unlike Path.exists, False for a name that no file can have.
    return next((place for place in places if os.path.exists(place)), None)  # noqa: PTH110


def _label_of_yolo(image: Path) -> Path:
    """Return where YOLO looks for the labels of a picture: in labels in place of images."""
    parts = list(image.parts)
    if "images" in parts:
        parts[len(parts) - 1 - parts[::-1].index("images")] = "labels"
    return Path(*parts).with_suffix(".txt")


def rasters_in(place: Path) -> dict[str, Path]:
    """List the rasters of a folder by their stems; a data set's own notes are none."""
    files = list_rasters(place)
    return {stem: path for stem, path in files.items() if path.suffix.lower() not in _NO_RASTERS}


def labels_in(place: Path) -> dict[str, Path]:
    """List the label files of a folder by their stems: texts, or XML where there are none."""
    texts, others = (
        [p for p in sorted(place.iterdir()) if p.suffix.lower() == suffix and p.is_file()]
        for suffix in _LABEL_SUFFIXES
    )
    others = [path for path in others if not path.name.endswith(".aux.xml")]  # GDAL's
    texts = [p for p in texts if p.name not in _NO_LABELS and not p.name.startswith("README")]
    return {path.stem: path for path in (texts or others)}


def _voc_split(folder: Path, split: str) -> Pairs | None:
    """Find the pictures that Pascal VOC's own layout lists; without lists all are for training."""
    images, labels = folder / "JPEGImages", folder / "Annotations"
    if not (images.is_dir() and labels.is_dir()):
        return None
    lists = folder / "ImageSets" / "Main"
    pictures, files = rasters_in(images), labels_in(labels)
    listed = {
        kind: path
        for kind in ("train", "val", split)
        for name in names_of_split(kind)
        if (path := lists / f"{name}.txt").is_file()
    }
    if split not in listed:
        is_all = split == "train" and not listed
        return Pairs(pictures, files, labels) if is_all else None
    stem_of = {line: _stem_in_list(line, pictures) for line in _listed_in(listed[split])}
    stems = set(stem_of.values())
    return Pairs(
        {stem: image for stem, image in pictures.items() if stem in stems},
        {stem: file for stem, file in files.items() if stem in stems},
        labels,
        tuple(line for line, stem in stem_of.items() if stem is None),
    )


def _stem_in_list(line: str, stems: Collection[str]) -> str | None:
    """Find the stem that a line names, which may have a suffix, or a number behind it."""
    names = (line, line.split()[0])
    return next((s for name in names for s in (name, Path(name).stem) if s in stems), None)


def match_labels(found: Pairs) -> tuple[dict[Path, Path], list[str]]:
    """Match each picture with its label file, and note those that have no partner.

    Raises:
        DataError: if none has one.
    """
    pictures, files = found.pictures, found.labels
    if not pictures:
        raise DataError(f"{_images_of(found)}: an empty folder; put the pictures there")
    pairs = {image: files[stem] for stem, image in pictures.items() if stem in files}
    if not pairs:
        raise DataError(f"{found.place}: no label file; each needs its picture's name and .txt")
    alone = [image for stem, image in pictures.items() if stem not in files]
    lost = [label for stem, label in files.items() if stem not in pictures]
    return pairs, [
        *note_of(alone, "without a label file left out; an empty one says that nothing is there"),
        *note_of(lost, "without a picture"),
        *note_of(found.missing, "named for this split, and not there"),
    ]


def _images_of(found: Pairs) -> Path:
    return found.place.parent / "images" if found.place.name in LABEL_FOLDERS else found.place
