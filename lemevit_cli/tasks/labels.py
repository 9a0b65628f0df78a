"""``lemevit labels``: what would be read of a data set, whatever its layout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import shapely

from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import DataError, OutputError, reading
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks import load_labels, tasks_with
from lemevit_cli.training.datasets.folders import PictureReader
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder, is_listing, read_listing
from lemevit_cli.training.datasets.source import Parts, Source
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


def read_pixel_labels(data: DataOptions, openers: Openers, layout: str) -> LabelSet:
    """Read the labels of a task with a class a pixel, or one a picture, and count them.

    Args:
        layout: what its folders are called.
    """
    reader = PictureReader()
    division = Division(crop=CROP, val_fraction=data.val_fraction, seed=data.seed)
    opened: list[tuple[Entry, Parts]] = []
    for entry in entries_of(data):
        if isinstance(entry, LabelledFolder):
            opened.append((entry, openers.folder(entry, reader, division)))
        else:
            opened.append((entry, openers.scene(entry, division)))
    sources = [source for _, part in opened for source in _sources_of(part)]
    classes: dict[str, dict[str, Any]] = {}
    ignored, labelled = 0, 0
    for source in sources:
        counts = source.count_classes().counts.sum(axis=0)
        if source.whole_pictures:
            counts //= CROP**2  # each counts as the pixels of one window
        for name, count in zip(source.classes, counts.tolist(), strict=True):
            record = classes.setdefault(name, {"train": 0, "val": 0, "labels": 0})
            record[source.split] += count
            record["labels"] += count
        labelled += int(counts.sum())
        if not source.whole_pictures:
            ignored += sum(site.num_pixels for site in source.sites) - int(counts.sum())
    for record in classes.values():
        record["share"] = record["labels"] / labelled if labelled else 0.0
    reason = "pixels without a class, ignored: nodata, unlabelled, or of no name"
    first = sources[0].sites[0].scene if sources else ""
    unit = "pictures" if any(source.whole_pictures for source in sources) else "pixels"
    record = {
        "unit": unit,
        "data": [_describe_parts(entry, part, layout) for entry, part in opened],
        "classes": classes,
        "labels": labelled,
        "labelled_share": labelled / (labelled + ignored) if labelled else 0.0,
        "pictures": sizes_of_pictures(_sizes(sources)),
        "ignored": [{"reason": reason, "count": ignored, "first": first}] if ignored else [],
        "remarks": [],
    }
    return LabelSet(record=record, write=_write_nothing)


def _write_nothing(target: str, options: OutputOptions, progress: Progress) -> None:
    raise OutputError(f"{target}: labels of pixels are not written")


def _sources_of(part: Parts) -> list[Source]:
    return [source for source in (part.training, part.validation) if source is not None]


def _sizes(sources: Sequence[Source]) -> list[tuple[int, int]]:
    return [(site.core.width, site.core.height) for source in sources for site in source.sites]


def _describe_parts(entry: Entry, part: Parts, layout: str) -> dict[str, Any]:
    is_folder = isinstance(entry, LabelledFolder)
    unit = "pictures" if is_folder else "blocks"
    return {
        "path": entry.path if isinstance(entry, LabelledFolder) else entry.scene,
        "format": layout if is_folder else "scene with labels",
        "splits": {source.split: {unit: len(source.sites)} for source in _sources_of(part)},
        "notes": list(part.notes),
    }


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
