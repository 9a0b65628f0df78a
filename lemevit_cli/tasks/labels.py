"""``lemevit labels``: what would be read of a data set, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely
from numpy.typing import NDArray

from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import DataError, OutputError, reading
from lemevit_cli.geometry.ground import pixel_area_m2
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks import load_labels, tasks_with
from lemevit_cli.training.datasets.folders import PictureReader, open_picture
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder, is_listing, read_listing
from lemevit_cli.training.datasets.source import Parts, Site, Source
from lemevit_cli.training.options import (
    AugmentationOptions,
    DataOptions,
    LabelledScene,
    TrainingOptions,
)
from lemevit_cli.training.sources import Openers
from lemevit_cli.vector.scene_polygons import is_vector, layer_name

_LOOKED_AT, _CORNERS = 1000, 4
CROP = 256  # pixels: a training's default, from which the blocks of a scene follow
Entry = LabelledFolder | LabelledScene
OtherSplits = Callable[[str, PictureReader, Division], Mapping[str, Callable[[], Source]]]


@dataclass(frozen=True, kw_only=True)
class LabelsOptions:
    """What becomes of the labels that are read.

    Args:
        output: file or folder to write them to; None writes nothing.
        writing: its format and whether it may be replaced.
        picture: a PNG of samples to draw.
    """

    output: str | None = None
    writing: OutputOptions = field(default_factory=OutputOptions)
    picture: str | None = None


@dataclass(frozen=True, kw_only=True)
class LabelSet:
    """Labels that were read.

    Args:
        record: figures, see :func:`describe_labels`.
        write: puts them into a file or a folder, and tells what that cannot hold.
        draw: a sheet of samples; None draws windows as a training would see them.
    """

    record: dict[str, Any]
    write: Callable[[str, OutputOptions, Progress], None]
    draw: Callable[[Path], None] | None = None


@dataclass(frozen=True, kw_only=True)
class Labels:
    """How a task reads labels.

    Args:
        read: all data of a run.
        is_layout: says whether the data of an entry can only be this task's.
        check_target: refuses what cannot be written, before any work; None: nothing can.
    """

    read: Callable[[DataOptions, Progress], LabelSet]
    is_layout: Callable[[Entry], bool]
    check_target: Callable[[str, OutputOptions], None] | None = None


def describe_labels(
    task: str | None,
    data: DataOptions,
    options: LabelsOptions,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Read labels as a training would, say what they are, and write or draw them if asked to.

    Args:
        task: None recognises it by the first of the data.

    Returns:
        A record: ``task``; ``data``, a record a data set with its ``format``, pictures a split and
        ``notes``; ``classes`` with counts; ``pictures`` with their sizes; ``ignored`` and
        ``remarks``, each with a count and the first place.

    Raises:
        LemevitError: as a training would for its data; for a target that cannot be written.
    """
    progress = progress or Silent()
    entries = entries_of(data)
    if task is None:
        task = recognise_task(entries[0])
        progress.note(f"read as labels of --task {task}; name another one if they are not")
    labels = load_labels(task)
    if data.skip_bad_labels and labels.check_target is None:
        raise DataError(f"--skip-bad-labels is of boxes; these are labels of --task {task}")
    if options.output is not None:
        if labels.check_target is None:
            raise OutputError(f"-o writes labels of boxes; those of --task {task} stay as they are")
        labels.check_target(options.output, options.writing)
    if options.picture is not None:
        check_replaceable(options.picture, overwrite=options.writing.overwrite)
    found = labels.read(data, progress)
    record = {"task": task, **found.record}
    if options.picture is not None:
        _draw(found, task, data, options)
        record["png"] = options.picture
    if options.output is not None:
        found.write(options.output, options.writing, progress)
        record["output"] = options.output
    return record


def _draw(found: LabelSet, task: str, data: DataOptions, options: LabelsOptions) -> None:
    if found.draw is not None:
        with replacing(str(options.picture), overwrite=options.writing.overwrite) as path:
            found.draw(path)
        return
    from lemevit_cli.tasks.training import show_samples  # noqa: PLC0415  and with it torch

    plain = TrainingOptions(
        crop=CROP,
        augmentation=AugmentationOptions.none(),
        overwrite=options.writing.overwrite,
        chosen=("augmentation",),
    )
    show_samples(task, data, plain, str(options.picture))


def entries_of(data: DataOptions) -> list[Entry]:
    """List all folders and scenes of a run, those of lists too."""
    listed: list[Entry] = []
    for path in data.paths:
        listed += read_listing(path) if is_listing(path) else [LabelledFolder(path=path)]
    listed += data.scenes
    return [
        replace(entry, skip_bad_labels=data.skip_bad_labels)
        if isinstance(entry, LabelledFolder)
        else entry
        for entry in listed
    ]


def recognise_task(entry: Entry) -> str:
    """Return the task that the layout of data belongs to.

    Raises:
        DataError: if it is none that is known.
    """
    place = entry.path if isinstance(entry, LabelledFolder) else entry.scene
    if isinstance(entry, LabelledFolder) and not Path(place).exists():
        raise DataError(f"{place}: no such file or folder")
    for task in tasks_with("labels"):
        if load_labels(task).is_layout(entry):
            return task
    raise DataError(f"{place}: no layout of labels that is known; name its task by --task")


def sizes_of_pictures(sizes: Iterable[tuple[int, int]]) -> dict[str, Any]:
    """Return how many pictures there are, and their smallest, median and largest size."""
    sides = np.array(list(sizes), dtype=np.int64).reshape(-1, 2)
    if not len(sides):
        return {"count": 0}
    by_area = sides[np.argsort(sides.prod(axis=1), kind="stable")]
    places = {"smallest": 0, "median": len(sides) // 2, "largest": -1}
    return {"count": len(sides)} | {name: by_area[i].tolist() for name, i in places.items()}


# --- a class a pixel, or a picture ---------------------------------------------------------------


@dataclass(frozen=True)
class _Read:
    """One data set: the splits that are trained and validated on, and all others."""

    entry: Entry
    layout: str
    sources: tuple[Source, ...]
    notes: tuple[str, ...]


def read_pixel_labels(
    data: DataOptions, openers: Openers, layout: str, other_splits: OtherSplits
) -> LabelSet:
    """Read the labels of a task with a class a pixel, or one a picture, and count them.

    Args:
        layout: what its folders are called.
        other_splits: finds the splits of a folder that are for scoring alone.
    """
    reader = PictureReader()
    division = Division(crop=CROP, val_fraction=data.val_fraction, seed=data.seed)
    opened = []
    for entry in entries_of(data):
        if isinstance(entry, LabelledFolder):
            part = openers.folder(entry, reader, division)
            others, lost = _open_each(entry.path, other_splits(entry.path, reader, division))
            read = _Read(entry, layout, (*_sources_of(part), *others), (*part.notes, *lost))
        else:
            part = openers.scene(entry, division)
            read = _Read(entry, "scene with labels", _sources_of(part), part.notes)
        opened.append(read)
    sources = [source for read in opened for source in read.sources]
    classes = _count_classes(opened)
    labelled = sum(record["labels"] for record in classes.values())
    for record in classes.values():
        record["share"] = record["labels"] / labelled if labelled else 0.0
    of_pixels = [source for source in sources if not source.whole_pictures]
    ignored = sum(
        sum(site.num_pixels for site in source.sites) - int(source.count_classes().counts.sum())
        for source in of_pixels
    )
    reason = "pixels without a class, ignored: nodata, unlabelled, or of no name"
    first = sources[0].sites[0].scene if sources else ""
    unit = "pictures" if any(source.whole_pictures for source in sources) else "pixels"
    record = {
        "unit": unit,
        "data": [_describe_parts(read) for read in opened],
        "classes": classes,
        "labels": labelled,
        "labelled_share": labelled / (labelled + ignored) if labelled else 0.0,
        "pictures": sizes_of_pictures(_sizes(sources)),
        "ignored": [{"reason": reason, "count": ignored, "first": first}] if ignored else [],
        "remarks": _list_lacking(opened, classes),
    }
    return LabelSet(record=record, write=_write_nothing)


def _list_lacking(
    opened: Sequence[_Read], classes: Mapping[str, Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """List the classes that are named and have no pixel, each with its polygons and the reason."""
    reasons = {
        name: (f"polygons of {name}, which has no pixel: {reason}", source.sites[0].scene)
        for read in opened
        for source in read.sources
        for name, reason in source.reasons.items()
        if not classes[name]["labels"] and classes[name]["polygons"]
    }
    return [
        {"reason": reason, "count": classes[name]["polygons"], "first": first}
        for name, (reason, first) in reasons.items()
    ]


def _write_nothing(target: str, options: OutputOptions, progress: Progress) -> None:
    raise OutputError(f"{target}: labels of pixels are not written")


def _open_each(
    path: str, opening: Mapping[str, Callable[[], Source]]
) -> tuple[list[Source], list[str]]:
    """Open the splits that ``eval --split`` takes; tell of those that it would refuse."""
    opened, notes = [], []
    for split, open_split in opening.items():
        try:
            source = open_split()
            source.count_classes()  # for its checks
            opened.append(source)
        except DataError as error:
            notes.append(f"{path}: the split {split} cannot be scored on: {error}")
    return opened, notes


def _count_classes(opened: Sequence[_Read]) -> dict[str, dict[str, Any]]:
    """Count the labels of each class by split, its polygons, and its area on the ground.

    Polygons are None where labels are rasters, areas where pixels have no size on the ground.
    """
    splits = dict.fromkeys(["train", "val", *(s.split for read in opened for s in read.sources)])
    classes: dict[str, dict[str, Any]] = {}
    for read in opened:
        for source in read.sources:
            counts, areas = _count_on_the_ground(source)
            own = zip(source.classes, counts.tolist(), areas.tolist(), strict=True)
            for name, count, area in own:
                blank = {**dict.fromkeys((*splits, "labels"), 0), "polygons": None, "area_m2": 0.0}
                record = classes.setdefault(name, blank)
                record[source.split] += count
                record["labels"] += count
                record["area_m2"] += area
        polygons = read.sources[0].polygons if read.sources else {}  # of the whole scene
        for name, number in polygons.items():
            classes[name]["polygons"] = (classes[name]["polygons"] or 0) + number
    for record in classes.values():
        record["others"] = sum(record[split] for split in splits if split not in ("train", "val"))
        record["area_m2"] = record["area_m2"] if np.isfinite(record["area_m2"]) else None
    return classes


def _count_on_the_ground(source: Source) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return pixels, or whole pictures, of each class, and its area in m2, NaN where unknown."""
    cells = source.count_classes()
    if source.whole_pictures:  # each counts as the pixels of one window
        counts = np.count_nonzero(cells.counts, axis=0)
        return counts, np.full(len(counts), np.nan)
    of_sites = np.zeros((len(source.sites), len(source.classes)), dtype=np.int64)
    np.add.at(of_sites, cells.places[:, 0], cells.counts)
    pixel_areas = np.array(_pixel_areas_m2(source.sites), dtype=np.float64)
    areas = np.where(of_sites > 0, of_sites * pixel_areas[:, np.newaxis], 0.0)
    return of_sites.sum(axis=0), areas.sum(axis=0)


def _pixel_areas_m2(sites: Sequence[Site]) -> list[float | None]:
    """Return what a pixel amid each site covers on the ground."""
    areas: list[float | None] = []
    for scene, group in groupby(sites, key=lambda site: site.scene):
        of_scene = list(group)
        if of_scene[0].gsd_m is None:
            areas += [None] * len(of_scene)
            continue
        with open_picture(scene) as opened:
            georeference = opened.georeference
        for core in (site.core for site in of_scene):
            col, row = core.col_off + core.width / 2, core.row_off + core.height / 2
            areas.append(pixel_area_m2(georeference, col=col, row=row))
    return areas


def _sources_of(part: Parts) -> tuple[Source, ...]:
    return tuple(source for source in (part.training, part.validation) if source is not None)


def _sizes(sources: Sequence[Source]) -> list[tuple[int, int]]:
    return [(site.core.width, site.core.height) for source in sources for site in source.sites]


def _describe_parts(read: _Read) -> dict[str, Any]:
    entry = read.entry
    is_folder = isinstance(entry, LabelledFolder)
    unit = "pictures" if is_folder else "blocks"
    return {
        "path": entry.path if isinstance(entry, LabelledFolder) else entry.scene,
        "format": read.layout,
        "splits": {source.split: {unit: len(source.sites)} for source in read.sources},
        "notes": list(read.notes),
    }


def other_split_folders(
    open_split: Callable[[str, str, PictureReader], Source], *layouts: tuple[str, ...]
) -> OtherSplits:
    """Return what finds the folders beside ``train`` and ``val`` that are laid out as they are.

    Args:
        open_split: opens one by path and name.
        layouts: names of folders in a split; all of one layout make it one.
    """

    def find(
        path: str, reader: PictureReader, division: Division
    ) -> dict[str, Callable[[], Source]]:
        places = sorted(p for p in Path(path).iterdir() if p.is_dir())
        return {
            place.name: partial(open_split, path, place.name, reader)
            for place in places
            if place.name not in ("train", "val")
            and any(all((place / name).is_dir() for name in names) for names in layouts)
        }

    return find


def has_split_folders(path: str, *names: str) -> bool:
    """Say whether a folder has ``{train,val}/NAME`` of each name."""
    return any(
        all((Path(path) / split / name).is_dir() for name in names) for split in ("train", "val")
    )


def holds_quadrilaterals(path: str, layer: str | None) -> bool:
    """Say whether a file is a layer whose polygons have four corners, as boxes have; by the first.

    Raises:
        SceneError: if it cannot be read.
    """
    if not is_vector(path):
        return False
    file, name = layer_name(path, layer)
    with reading(path, "cannot be read as polygons"):
        wkb = pyogrio.raw.read(file, layer=name, columns=[], max_features=_LOOKED_AT)[2]
        polygons = shapely.get_parts(shapely.from_wkb(wkb))
    rings = shapely.get_exterior_ring(polygons)
    # A ring ends where it began.
    return len(rings) > 0 and bool((shapely.get_num_coordinates(rings) == _CORNERS + 1).all())
