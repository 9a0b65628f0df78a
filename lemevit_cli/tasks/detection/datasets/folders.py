"""Folders of pictures with oriented boxes, in the layouts that people have (``layouts.py``).

``classes.json`` (``{"classes": ["plane", ...]}``) beside them fixes the names and their order;
without it they are those that the labels have. A picture without a label file is left out, one with
an empty file shows nothing but background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.raster.scene import Scene
from lemevit_cli.tasks.detection.datasets.class_names import folder_named_by, read_stated_classes
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Naming,
    Outline,
    Picture,
    check_inside,
    check_name,
    has_area,
    list_names,
    objects_of,
    rename_outlines,
)
from lemevit_cli.tasks.detection.datasets.layouts import SPLITS, ReadLabels, recognise
from lemevit_cli.training.datasets.folders import (
    CLASSES_FILE,
    PICTURES,
    PictureReader,
    open_picture,
    source_of_pictures,
)
from lemevit_cli.training.datasets.source import Parts, Site, Source, check_alike


@dataclass(frozen=True, eq=False)
class LabelledPicture:
    """A picture with what is labelled on it, and its path, bands and dtype."""

    site: Site
    outlines: Sequence[Outline]
    kind: tuple[str, int, str]
    picture: Picture
    georeference: Georeference


@dataclass(frozen=True, eq=False)
class BoxFolder:
    """Content of a folder, read and checked.

    Args:
        layout: what it is called.
        classes: all names, in their order; some may have no object.
        pictures: by split.
        report: what was left out, and what was read otherwise than it stands.
        notes: pictures and labels without a partner.
    """

    name: str
    layout: str
    classes: tuple[str, ...]
    pictures: Mapping[str, Sequence[LabelledPicture]]
    report: LabelReport
    notes: tuple[str, ...]


def read_box_folder(
    path: str | Path, report: LabelReport | None = None, splits: Sequence[str] = SPLITS
) -> BoxFolder:
    """Read all labels of a folder, which its YAML names too, and check what can be checked.

    Args:
        splits: to look for; others than ``train`` and ``val`` go by their name alone.
        report: to collect in; one that skips bad labels counts what else would be refused.

    Raises:
        DataError: for a folder without labels, and for a label that is wrong, with file and line.
    """
    folder, report = folder_named_by(Path(path)), report or LabelReport()
    stated = read_stated_classes(folder)
    layout = recognise(folder, stated, report, splits)
    pictures = {
        split: [_open_picture(image, read, stated, report) for image, read in labelled.items()]
        for split, labelled in layout.pictures.items()
    }
    everything = [o for part in pictures.values() for each in part for o in each.outlines]
    _refuse_shares(everything)
    classes = stated or layout.classes or list_names(everything)
    name = Path(path).resolve().name  # as its user calls it
    return BoxFolder(name, layout.name, classes, pictures, report, layout.notes)


def _refuse_shares(outlines: Sequence[Outline]) -> None:
    """Refuse labels that all lie within the first pixel: parts of a picture's width and height.

    Raises:
        DataError: with the first.
    """
    if outlines and all(o.points.min() >= 0 and o.points.max() <= 1 for o in outlines):
        raise DataError(
            f"{outlines[0].place}: all labels lie between 0 and 1, as parts of their pictures' "
            "width and height do; this format is of pixels"
        )


def open_box_folder(
    path: str | Path,
    *,
    reader: PictureReader | None = None,
    naming: Naming | None = None,
    skip_bad_labels: bool = False,
) -> Parts:
    """Find the pictures of both splits, read all labels, and check what can be checked.

    Args:
        reader: to share with other folders; its memory is bounded.
        skip_bad_labels: count labels that cannot be understood, and leave them out.

    Raises:
        DataError: as :func:`read_box_folder`.
    """
    folder = read_box_folder(path, LabelReport(skip_bad=skip_bad_labels))
    sources, notes = _open_splits(path, folder, reader, naming or Naming())
    return Parts(sources.get("train"), sources.get("val"), notes)


def open_box_split(path: str | Path, split: str, *, skip_bad_labels: bool = False) -> Source:
    """Open one split of a folder, which may have any name; its notes say what was found.

    Raises:
        DataError: if there is no such split, or as :func:`read_box_folder`.
    """
    splits = SPLITS if split in SPLITS else (split,)  # classes are those of both
    folder = read_box_folder(path, LabelReport(skip_bad=skip_bad_labels), splits)
    sources, notes = _open_splits(path, folder, None, Naming())
    if split not in sources:
        raise DataError(f"{path}: has no split {split}; name the other one by --split")
    return replace(sources[split], notes=notes)


def _open_splits(
    path: str | Path, folder: BoxFolder, reader: PictureReader | None, naming: Naming
) -> tuple[dict[str, Source], tuple[str, ...]]:
    """Return the splits by name, and notes on what was found."""
    name, pictures = folder.name, folder.pictures
    classes = naming.names(folder.classes)
    if not classes:
        raise DataError(
            f"{path}: its labels hold no object of a class; where nothing is to be found, say what "
            "was looked for: by a classes.json to score on, by classes = [...] in a TOML list to "
            "train on"
        )
    check_alike([each.kind for part in pictures.values() for each in part], PICTURES.all)
    reader = reader or PictureReader()
    sources = {
        split: _source(name, split, part, naming, classes, reader)
        for split, part in pictures.items()
    }
    if naming.classes is not None and not folder.report.left_out:
        sources = {split: replace(each, is_searched=True) for split, each in sources.items()}
    numbers = " + ".join(str(len(pictures[split])) for split in pictures)
    plural = "classes" if len(classes) > 1 else "class"
    missing = naming.list_missing(folder.classes)
    notes = (
        f"{name}: {folder.layout} layout, {numbers} pictures, {len(classes)} {plural}",
        *(f"{name}: {note}" for note in (*folder.notes, *folder.report.notes())),
        *([f"{name}: has no class {', '.join(missing)} to rename or drop"] if missing else []),
    )
    return sources, notes


def _open_picture(
    image: Path, read: ReadLabels, stated: tuple[str, ...] | None, report: LabelReport
) -> LabelledPicture:
    with open_picture(image) as scene:
        picture = picture_of(scene)
        outlines, gsd_m = read(picture, report)
        kept: list[Outline] = []
        seen: set[tuple[str, bytes]] = set()
        for outline in outlines:
            with report.over_label():
                if not has_area(outline):
                    report.leave_out("objects without area left out", outline.place)
                    continue
                check_inside(outline, width=scene.width, height=scene.height)
                if stated is not None:
                    check_name(outline, stated, CLASSES_FILE)
                kept.append(outline)
                key = (outline.name or "", outline.points.tobytes())
                if outline.name is not None and key in seen:
                    report.remark("labels that repeat another, both read", outline.place)
                seen.add(key)
        site = Site.whole(str(image), scene.width, scene.height, scene.gsd_m or gsd_m)
        kind = (str(image), scene.num_bands, scene.dtype)
        return LabelledPicture(site, kept, kind, picture, scene.georeference)


def picture_of(scene: Scene) -> Picture:
    """Return what labels have to know of a raster."""
    return Picture(
        path=scene.path,
        width=scene.width,
        height=scene.height,
        orientation=scene.orientation,
    )


def _source(
    name: str,
    split: str,
    pictures: Sequence[LabelledPicture],
    naming: Naming,
    classes: tuple[str, ...],
    reader: PictureReader,
) -> Source:
    outlines = {each.site.scene: rename_outlines(each.outlines, naming) for each in pictures}
    every = [outline for found in outlines.values() for outline in found]
    sites = [each.site for each in pictures]
    return replace(
        source_of_pictures(name, split, sites, pictures[0].kind, reader),
        classes=classes,
        objects={image: objects_of(found, classes) for image, found in outlines.items()},
        # The first of all is the last that is set.
        first_of={o.name: o.place for o in reversed(every) if o.name is not None},
    )
