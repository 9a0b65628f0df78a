"""Folders of pictures with oriented boxes, in the layouts that people have (``layouts.py``).

``classes.json`` (``{"classes": ["plane", ...]}``) beside them fixes the names and their order;
without it they are those that the labels have. A picture without a label file is left out, one with
an empty file shows nothing but background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.labels import (
    Naming,
    Outline,
    check_inside,
    check_names,
    list_names,
    objects_of,
    rename_outlines,
)
from lemevit_cli.tasks.detection.datasets.layouts import (
    SPLITS,
    ReadLabels,
    read_stated_classes,
    recognise,
)
from lemevit_cli.training.datasets.folders import (
    CLASSES_FILE,
    PICTURES,
    PictureReader,
    open_picture,
    source_of_pictures,
)
from lemevit_cli.training.datasets.source import Parts, Site, Source, check_alike

# A site with what is labelled on it, and its path, bands and dtype.
_Picture = tuple[Site, list[Outline], tuple[str, int, str]]


def open_box_folder(
    path: str | Path, *, reader: PictureReader | None = None, naming: Naming | None = None
) -> Parts:
    """Find the pictures of both splits, read all labels, and check what can be checked.

    Args:
        reader: to share with other folders; its memory is bounded.

    Raises:
        DataError: for a folder without labels, and for a label that is wrong, with file and line.
    """
    sources, notes = _open_splits(Path(path), SPLITS, reader, naming or Naming())
    return Parts(sources.get("train"), sources.get("val"), notes)


def open_box_split(path: str | Path, split: str) -> Source:
    """Open one split of a folder, which may have any name.

    Raises:
        DataError: if there is no such split, or as :func:`open_box_folder`.
    """
    splits = SPLITS if split in SPLITS else (split,)  # classes are those of both
    sources, _ = _open_splits(Path(path), splits, None, Naming())
    if split not in sources:
        raise DataError(f"{path}: has no split {split}; name the other one by --split")
    return sources[split]


def _open_splits(
    folder: Path, splits: Sequence[str], reader: PictureReader | None, naming: Naming
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Open splits by name, as far as they are there, and say in notes what was found."""
    stated = read_stated_classes(folder)
    layout = recognise(folder, stated, splits)
    pictures = {
        split: [_open_picture(image, read) for image, read in labelled.items()]
        for split, labelled in layout.pictures.items()
    }
    everything = [o for part in pictures.values() for _, outlines, _ in part for o in outlines]
    known = stated or layout.classes or list_names(everything)
    if stated is not None:
        check_names(everything, stated, CLASSES_FILE)
    classes = naming.names(known)
    if not classes:
        raise DataError(f"{folder}: its labels hold no object of a class")
    check_alike([kind for part in pictures.values() for *_, kind in part], PICTURES.all)
    name = folder.resolve().name
    reader = reader or PictureReader()
    sources = {
        split: _source(name, split, part, naming, classes, reader)
        for split, part in pictures.items()
    }
    numbers = " + ".join(str(len(pictures[split])) for split in splits if split in pictures)
    plural = "classes" if len(classes) > 1 else "class"
    missing = naming.list_missing(known)
    notes = (
        f"{name}: {layout.name} layout, {numbers} pictures, {len(classes)} {plural}",
        *(f"{name}: {note}" for note in layout.notes),
        *([f"{name}: has no class {', '.join(missing)} to rename or drop"] if missing else []),
    )
    return sources, notes


def _open_picture(image: Path, read: ReadLabels) -> _Picture:
    with open_picture(image) as scene:
        outlines, gsd_m = read(scene)
        check_inside(outlines, width=scene.width, height=scene.height)
        site = Site.whole(str(image), scene.width, scene.height, scene.gsd_m or gsd_m)
        return site, outlines, (str(image), scene.num_bands, scene.dtype)


def _source(
    name: str,
    split: str,
    pictures: Sequence[_Picture],
    naming: Naming,
    classes: tuple[str, ...],
    reader: PictureReader,
) -> Source:
    outlines = {site.scene: rename_outlines(found, naming) for site, found, _ in pictures}
    every = [outline for found in outlines.values() for outline in found]
    sites, _, kinds = zip(*pictures, strict=True)
    return replace(
        source_of_pictures(name, split, sites, kinds[0], reader),
        classes=classes,
        objects={image: objects_of(found, classes) for image, found in outlines.items()},
        # The first of all is the last that is set.
        first_of={o.name: o.place for o in reversed(every) if o.name is not None},
    )
