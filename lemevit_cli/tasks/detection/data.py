"""Boxes to train on: how folders and scenes are opened, and how their objects are counted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, LemevitError
from lemevit_cli.legend import MAX_CLASSES
from lemevit_cli.tasks.detection.datasets.folders import open_box_folder
from lemevit_cli.tasks.detection.datasets.scenes import open_boxes_of_scene
from lemevit_cli.tasks.detection.windows import SMALLEST_SIDE
from lemevit_cli.training.datasets.folders import PictureReader
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.source import Cells, Parts, Source, Sources
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.training.sources import Openers

_MANY_LONG = 0.25  # of a class
_AT_ONCE = 1000  # objects whose neighbours are counted at once: bounds memory


def _open_folder(entry: LabelledFolder, reader: PictureReader, division: Division) -> Parts:
    parts = open_box_folder(
        entry.path,
        reader=reader,
        naming=entry.naming,
        skip_bad_labels=entry.skip_bad_labels,
    )
    return count_parts(parts, division.crop)


def _open_scene(labelled: LabelledScene, division: Division) -> Parts:
    return count_parts(open_boxes_of_scene(labelled, division), division.crop)


def merge_box_classes(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the classes of all sources, in order of appearance, matched by name.

    Raises:
        LemevitError: if there are more than weights take.
    """
    classes = tuple(dict.fromkeys(name for source in sources for name in source.classes))
    if len(classes) > MAX_CLASSES:
        raise LemevitError(
            f"the data have {len(classes)} classes, weights take {MAX_CLASSES}; name those to "
            "learn by classes = [...] in a TOML list"
        )
    return classes


BOXES = Openers(_open_folder, _open_scene, merge_box_classes, unit="objects")


def count_parts(parts: Parts, crop: int) -> Parts:
    """Count the objects of a folder or scene in cells of a window's size.

    Pictures that were searched in vain are data, too: ground without the classes of their source.

    Raises:
        DataError: if there is nothing to train on; to validate on, a note says so.
    """
    training, validation = (
        None if source is None else replace(source, cells=count_objects(source, crop))
        for source in (parts.training, parts.validation)
    )
    notes = list(parts.notes)
    if training is not None and not _shows_objects(training):
        if not _is_searched_in_vain(training):
            raise DataError(
                f"{training.name}/train: no object is left to find; those that are there "
                "are difficult, dropped, of no class, without area or centred outside; "
                "pictures without any need classes = [...] in a TOML list: what was looked for"
            )
        shown = ", ".join(training.classes)
        notes.append(f"{training.name}: nothing is labelled; learned as ground without {shown}")
    if validation is None or _shows_objects(validation) or _is_searched_in_vain(validation):
        return Parts(training, validation, tuple(notes))
    note = f"{validation.name}/val: no object is left to find; it is not validated on"
    return Parts(training, None, (*notes, note))


def _shows_objects(source: Source) -> bool:
    return bool(source.count_classes().counts.any())


def _is_searched_in_vain(source: Source) -> bool:
    return source.is_searched and not any(len(objects) for objects in source.objects.values())


def check_objects(sources: Sources) -> Sources:
    """Refuse data without any object to learn, and hold back none where none is to be judged.

    Raises:
        DataError: if no source to train on has an object.
    """
    if not sources.num_labels:
        raise DataError("no object to train on in any of the data; add some that show the classes")
    if any(_shows_objects(source) for source in sources.validation):
        return sources
    names = ", ".join(source.name for source in sources.validation)
    notes = (f"{names}: no object is held back; it is not validated on",) if names else ()
    return replace(sources, validation=(), notes=(*sources.notes, *notes))


def count_objects(source: Source, side: int) -> Cells:
    """Count the objects to be found of each class in cells of ``side`` pixels that have some."""
    places, counts = [], []
    for number, site in enumerate(source.sites):
        objects = source.objects[site.scene]
        own = objects.counted_in(site.core)
        corners = objects.boxes[own, :2].astype(np.int64) // side * side
        cells, of_object = np.unique(corners, axis=0, return_inverse=True)
        of_cells = np.zeros((len(cells), len(source.classes)), dtype=np.int64)
        np.add.at(of_cells, (of_object.reshape(-1), objects.class_ids[own]), 1)
        places.append(np.insert(np.insert(cells, [2, 2], side, axis=1), 0, number, axis=1))
        counts.append(of_cells)
    return Cells(np.concatenate(places), np.concatenate(counts))


def sides_of(source: Source) -> dict[str, NDArray[np.float64]]:
    """Return lengths and widths ``(N, 2)`` of the objects to be found, by class, in pixels."""
    sides: dict[str, list[NDArray[np.float64]]] = {name: [] for name in source.classes}
    for site in source.sites:
        objects = source.objects[site.scene]
        own = objects.counted_in(site.core)
        for class_id, name in enumerate(source.classes):
            sides[name].append(objects.boxes[own[objects.class_ids[own] == class_id], 2:4])
    return {name: np.concatenate(parts) for name, parts in sides.items()}


def note_sizes(sources: Sequence[Source], crop: int) -> list[str]:
    """Note, a line each, what is seen in parts only, or shrunk, and what is too narrow to see."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for source in sources:
        for name, sides in sides_of(source).items():
            parts.setdefault(name, []).append(sides)
    of_class = {name: np.concatenate(sides) for name, sides in parts.items()}
    long = [
        name
        for name, sides in of_class.items()
        if (sides[:, 0] > crop).sum() > _MANY_LONG * len(sides)
    ]
    narrow = [
        f"{name} {count:,} of {len(sides):,}"
        for name, sides in of_class.items()
        if (count := int((sides[:, 1] < SMALLEST_SIDE).sum()))
    ]
    notes = []
    if long:
        notes.append(
            f"{', '.join(long)}: more than {_MANY_LONG:.0%} of the objects are longer than a "
            f"window of {crop} pixels; a larger --crop shows them whole"
        )
    if narrow:
        notes.append(
            f"objects narrower than {SMALLEST_SIDE:g} pixels are learned only where a window shows "
            f"them larger: {', '.join(narrow)}"
        )
    return notes


def note_crowds(sources: Sequence[Source], side: int, most: int) -> list[str]:
    """Note, in a line, that windows can show more objects than a training takes of one.

    Args:
        side: of the largest windows, in pixels of the data.
        most: objects that are taken of a window, the largest ones.
    """
    crowds = [count_neighbours(source, side, most) for source in sources]
    counts = np.concatenate([*crowds, np.zeros(0, np.int64)])
    crowded = int((counts > most).sum())
    if not crowded:
        return []
    return [
        f"around {crowded} of the objects a window of {side} pixels shows more than {most}, up to "
        f"{counts.max()}: the smallest of them are not learned there, nor taken for background; a "
        "smaller --crop shows fewer at once"
    ]


def count_neighbours(source: Source, side: int, most: int) -> NDArray[np.int64]:
    """Count what is centred in a square around each object, itself too, ``(N,)``.

    Left out are sites that have no more than ``most`` objects in all.
    """
    counts = [np.zeros(0, np.int64)]
    for site in source.sites:
        objects = source.objects[site.scene]
        centres = objects.boxes[objects.centred_in(site.extent), :2]
        if len(centres) <= most:
            continue
        index = shapely.STRtree(shapely.points(centres))
        corners = np.hstack([centres - side / 2, centres + side / 2])
        for part in np.split(corners, range(_AT_ONCE, len(corners), _AT_ONCE)):
            asking, _ = index.query(shapely.box(*part.T), predicate="intersects")
            counts.append(np.bincount(asking, minlength=len(part)))
    return np.concatenate(counts)
