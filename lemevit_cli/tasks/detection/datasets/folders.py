"""Folders of pictures with oriented boxes, in the layouts that people have (``box_layouts.py``).

``classes.json`` (``{"classes": ["plane", ...]}``) beside them fixes the names and their order;
without it they are those that the labels have. A picture without a label file is left out, one with
an empty file shows nothing but background.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.tasks.detection.datasets.labels import (
    Naming,
    Outline,
    check_inside,
    check_names,
    names_in,
    objects_of,
    renamed,
)
from lemevit_cli.tasks.detection.datasets.layouts import (
    SPLITS,
    ReadLabels,
    recognise,
    stated_classes,
)
from lemevit_cli.tasks.detection.datasets.source import BoxParts, BoxSource
from lemevit_cli.training.datasets.folders import CLASSES_FILE, PictureReader
from lemevit_cli.training.datasets.source import Site


@dataclass(frozen=True, eq=False)
class _Picture:
    """A picture with what its header tells and what is labelled on it."""

    image: Path
    width: int
    height: int
    bands: int
    dtype: str
    gsd_m: float | None
    outlines: list[Outline]


def open_box_folder(
    path: str | Path, *, reader: PictureReader | None = None, naming: Naming | None = None
) -> BoxParts:
    """Find the pictures of both splits, read all labels, and check what can be checked.

    Args:
        reader: to share with other folders; its memory is bounded.

    Raises:
        DataError: for a folder without labels, and for a label that is wrong, with file and line.
    """
    folder, naming = Path(path), naming or Naming()
    stated = stated_classes(folder)
    layout = recognise(folder, stated)
    pictures = {
        split: [_open_picture(image, read) for image, read in found.items()]
        for split, found in layout.pictures.items()
    }
    everything = [o for found in pictures.values() for p in found for o in p.outlines]
    known = stated or layout.classes or names_in(everything)
    if stated is not None:
        check_names(everything, stated, CLASSES_FILE)
    classes = naming.names(known)
    if not classes:
        raise DataError(f"{folder}: its labels hold no object of a class")
    _check_alike([picture for found in pictures.values() for picture in found])
    reader = reader or PictureReader()
    name = folder.resolve().name
    sources = {
        split: _source(name, split, found, naming, classes, reader)
        for split, found in pictures.items()
    }
    numbers = " + ".join(str(len(pictures[split])) for split in SPLITS if split in pictures)
    plural = "classes" if len(classes) > 1 else "class"
    unheard = naming.unheard(known)
    notes = (
        f"{name}: {layout.name} layout, {numbers} pictures, {len(classes)} {plural}",
        *(f"{name}: {note}" for note in layout.notes),
        *([f"{name}: has no class {', '.join(unheard)} to rename or drop"] if unheard else []),
    )
    return BoxParts(sources.get("train"), sources.get("val"), notes)


def _source(
    name: str,
    split: str,
    pictures: Sequence[_Picture],
    naming: Naming,
    classes: tuple[str, ...],
    reader: PictureReader,
) -> BoxSource:
    outlines = {str(p.image): renamed(p.outlines, naming) for p in pictures}
    every = [outline for found in outlines.values() for outline in found]
    return BoxSource(
        name=name,
        split=split,
        classes=classes,
        sites=tuple(Site.whole(str(p.image), p.width, p.height, p.gsd_m) for p in pictures),
        objects={image: objects_of(found, classes) for image, found in outlines.items()},
        bands=pictures[0].bands,
        dtype=pictures[0].dtype,
        reader=reader,
        # The first of all is the last that is set.
        first_of={o.name: o.place for o in reversed(every) if o.name is not None},
    )


def _open_picture(image: Path, read: ReadLabels) -> _Picture:
    try:
        with open_scene(str(image)) as scene:
            outlines, gsd_m = read(scene)
            check_inside(outlines, width=scene.width, height=scene.height)
            return _Picture(
                image,
                scene.width,
                scene.height,
                scene.num_bands,
                scene.dtype,
                scene.gsd_m or gsd_m,
                outlines,
            )
    except SceneError as error:
        raise DataError(str(error)) from error


def _check_alike(pictures: Sequence[_Picture]) -> None:
    first = pictures[0]
    for picture in pictures:
        if (picture.bands, picture.dtype) != (first.bands, first.dtype):
            raise DataError(
                f"{picture.image} has {picture.bands} bands of {picture.dtype}, {first.image} "
                f"has {first.bands} of {first.dtype}; all pictures of a folder need the same"
            )
