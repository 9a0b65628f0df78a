"""Labels of boxes: what is read of folders and scenes, measured; and written in other formats."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import ClassInfo, classes_from_names
from lemevit_cli.pictures.box_picture import BoxesShown, write_box_sheet
from lemevit_cli.pictures.picture import scale_for_display
from lemevit_cli.progress import Progress
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.detection.datasets.folders import (
    LabelledPicture,
    picture_of,
    read_box_folder,
)
from lemevit_cli.tasks.detection.datasets.labels import (
    LabelReport,
    Outline,
    objects_of,
    rename_outlines,
)
from lemevit_cli.tasks.detection.datasets.scenes import open_boxes_of_scene
from lemevit_cli.tasks.detection.datasets.table import is_box_table
from lemevit_cli.tasks.detection.datasets.writing import (
    LabelsToWrite,
    check_labels_target,
    write_labels,
)
from lemevit_cli.tasks.detection.results import BoxesOfScene, sizes_of
from lemevit_cli.tasks.labels import (
    CROP,
    Entry,
    Labels,
    LabelSet,
    entries_of,
    holds_quadrilaterals,
    sizes_of_pictures,
)
from lemevit_cli.training.datasets.folders import CLASSES_FILE, PICTURES, open_picture
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.objects import IGNORED, Objects
from lemevit_cli.training.datasets.source import Site, check_alike
from lemevit_cli.training.options import DataOptions, LabelledScene

_LABELS = (".txt", ".xml", ".json", ".csv", ".yaml", ".yml")
_NO_LABELS = ("readme", "license", "classes", "requirements")
_OF_NO_CLASS = "of no class, ignored: neither objects nor background"
_SAMPLES, _SHOWN = 16, 384  # windows of a sheet, and their sides in pixels
_SIZES = ("length_px", "width_px", "length_m", "width_m")


@dataclass(frozen=True, eq=False)
class _BoxData:
    """One data set.

    Args:
        pictures: by split, with their objects; a scene that is divided is of ``train``.
        objects: of each picture, by its path.
        sites: what is trained and validated on, in ``unit``: pictures, or blocks of a scene.
    """

    path: str
    layout: str
    classes: tuple[str, ...]
    pictures: Mapping[str, Sequence[LabelledPicture]]
    objects: Mapping[str, Objects]
    sites: Mapping[str, Sequence[Site]]
    report: LabelReport
    notes: tuple[str, ...]
    unit: str = "pictures"


def read_box_labels(data: DataOptions, progress: Progress) -> LabelSet:
    """Read all labels, with what is left out of them and why.

    Raises:
        DataError: as a training would; of folders, not for data without any object.
    """
    opened = [
        _read_folder(entry) if isinstance(entry, LabelledFolder) else _read_scene(entry, data)
        for entry in entries_of(data)
    ]
    classes = tuple(dict.fromkeys(name for each in opened for name in each.classes))
    by_class = _count(opened, classes)
    record = {
        "unit": "objects",
        "data": [_describe(each) for each in opened],
        "classes": by_class,
        "labels": sum(figures["labels"] for figures in by_class.values()),
        "difficult": sum(figures["difficult"] for figures in by_class.values()),
        "pictures": sizes_of_pictures(
            each.picture.size for each_set in opened for each in _pictures_of(each_set)
        ),
        "ignored": [finding for each in opened for finding in _list_ignored(each)],
        "remarks": [finding for each in opened for finding in _list(each.report.remarks)],
    }
    pictures: dict[str, list[LabelledPicture]] = {}
    for each in opened:
        for split, part in each.pictures.items():
            pictures.setdefault(split, []).extend(part)
    return LabelSet(
        record=record,
        write=partial(_write, LabelsToWrite(pictures, classes)),
        draw=partial(_draw, opened, classes),
    )


def _write(labels: LabelsToWrite, target: str, options: OutputOptions, progress: Progress) -> None:
    for line in write_labels(target, labels, options):
        progress.warn(line)


def _read_folder(entry: LabelledFolder) -> _BoxData:
    folder = read_box_folder(entry.path, LabelReport(skip_bad=entry.skip_bad_labels))
    classes, naming = entry.naming.names(folder.classes), entry.naming
    pictures = {
        split: [replace(each, outlines=rename_outlines(each.outlines, naming)) for each in part]
        for split, part in folder.pictures.items()
    }
    every = [each for part in pictures.values() for each in part]
    notes = list(folder.notes)
    missing = naming.list_missing(folder.classes)
    if missing:
        notes.append(f"has no class {', '.join(missing)} to rename or drop")
    if not classes:
        notes.append("its labels hold no object of a class: there is nothing to train on")
    try:
        check_alike([each.kind for each in every], PICTURES.all)
    except DataError as error:
        notes.append(f"cannot be trained on: {error}")
    return _BoxData(
        path=entry.path,
        layout=folder.layout,
        classes=classes,
        pictures=pictures,
        objects={each.site.scene: objects_of(each.outlines, classes) for each in every},
        sites={split: [each.site for each in part] for split, part in pictures.items()},
        report=folder.report,
        notes=tuple(notes),
    )


def _read_scene(labelled: LabelledScene, data: DataOptions) -> _BoxData:
    division = Division(crop=CROP, val_fraction=data.val_fraction, seed=data.seed)
    parts = open_boxes_of_scene(labelled, division)
    sources = [source for source in (parts.training, parts.validation) if source is not None]
    classes, objects = sources[0].classes, sources[0].objects
    with open_picture(labelled.scene) as scene:
        of_scene = objects[scene.path]
        names = [None if i == IGNORED else classes[i] for i in of_scene.class_ids.tolist()]
        outlines = [
            Outline(corners, name, difficult, labelled.labels)
            for corners, name, difficult in zip(
                corners_of(of_scene.boxes), names, of_scene.difficult.tolist(), strict=True
            )
        ]
        site = Site.whole(scene.path, scene.width, scene.height, scene.gsd_m)
        kind = (scene.path, scene.num_bands, scene.dtype)
        picture = LabelledPicture(site, outlines, kind, picture_of(scene), scene.georeference)
    return _BoxData(
        path=labelled.scene,
        layout="scene with a layer",
        unit="blocks",
        classes=classes,
        pictures={labelled.split or "train": [picture]},
        objects=objects,
        sites={source.split: source.sites for source in sources},
        report=LabelReport(),
        notes=parts.notes,
    )


def _pictures_of(data: _BoxData) -> Iterator[LabelledPicture]:
    for part in data.pictures.values():
        yield from part


def _describe(data: _BoxData) -> dict[str, Any]:
    counts = {
        split: sum(len(data.objects[site.scene].counted_in(site.core)) for site in sites)
        for split, sites in data.sites.items()
    }
    return {
        "path": data.path,
        "format": data.layout,
        "splits": {
            split: {data.unit: len(sites), "objects": counts[split]}
            for split, sites in data.sites.items()
        },
        "notes": list(data.notes),
    }


def _list(findings: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"reason": reason, "count": found.count, "first": found.first}
        for reason, found in findings.items()
    ]


def _list_ignored(data: _BoxData) -> list[dict[str, Any]]:
    """List what is not read, ignored, or lies so that it is not counted."""
    further = LabelReport()
    for each in _pictures_of(data):
        for outline in each.outlines:
            if outline.name is None:
                further.leave_out(
                    "of no class, ignored: neither objects nor background", outline.place
                )
        objects = data.objects[each.site.scene]
        outside = objects.counted.sum() - len(objects.counted_in(each.site.core))
        for _ in range(int(outside)):
            further.leave_out("objects centred outside their picture, not counted", each.site.scene)
    return [*_list(data.report.left_out), *_list(further.left_out)]


# --- counts and sizes ----------------------------------------------------------------------------


def _count(opened: Sequence[_BoxData], classes: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Count the objects of each class by split, and measure them: medians, None without any."""
    figures: dict[str, dict[str, Any]] = {
        name: {"labels": 0, "train": 0, "val": 0, "difficult": 0} for name in classes
    }
    sizes: dict[str, list[NDArray[np.float64]]] = {name: [] for name in classes}
    for data in opened:
        for split, sites in data.sites.items():
            for site in sites:
                objects = data.objects[site.scene]
                own = objects.counted_in(site.core)
                for i, count in enumerate(_bins(objects.class_ids[own], data.classes)):
                    figures[data.classes[i]][split] += count
                    figures[data.classes[i]]["labels"] += count
        for each in _pictures_of(data):
            objects = data.objects[each.site.scene]
            hard = objects.difficult & (objects.class_ids != IGNORED)
            for i, count in enumerate(_bins(objects.class_ids[hard], data.classes)):
                figures[data.classes[i]]["difficult"] += count
            own = objects.counted_in(each.site.core)
            measured, ids = _measure(each, objects.boxes[own]), objects.class_ids[own]
            for i in np.unique(ids).tolist():
                sizes[data.classes[i]].append(measured[ids == i])
    for name, parts in sizes.items():
        rows = np.concatenate([np.empty((0, len(_SIZES))), *parts])
        figures[name] |= {size: _median(rows[:, i]) for i, size in enumerate(_SIZES)}
    return figures


def _bins(class_ids: NDArray[np.int64], classes: Sequence[str]) -> list[int]:
    counts: list[int] = np.bincount(class_ids, minlength=len(classes)).tolist()
    return counts


def _median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return round(float(np.median(known)), 3) if len(known) else None


def _measure(each: LabelledPicture, boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return length and width in pixels, then in metres on the ground ``(N, 4)``; NaN unknown."""
    ids = np.zeros(len(boxes), dtype=np.int64)
    classes = (ClassInfo("", (0, 0, 0)),)
    sizes = sizes_of(
        BoxesOfScene(
            boxes=boxes,
            scores=np.ones(len(boxes)),
            class_ids=ids,
            classes=classes,
            georeference=each.georeference,
        )
    )
    pixels = boxes[:, 2:4]
    if sizes.unit == "m":
        metres = np.column_stack([sizes.length_m, sizes.width_m])
    else:  # what the labels themselves state
        metres = pixels * (np.nan if each.site.gsd_m is None else each.site.gsd_m)
    return np.hstack([pixels, metres])


# --- a sheet of samples --------------------------------------------------------------------------


def _draw(opened: Sequence[_BoxData], classes: Sequence[str], path: Path) -> None:
    """Draw windows around objects, evenly over all pictures; what is not counted is dotted.

    Raises:
        DataError: if there is no picture.
    """
    every = [(data, each) for data in opened for each in _pictures_of(data)]
    if not every:
        raise DataError("there is no picture to draw")
    step = math.ceil(len(every) / _SAMPLES)
    of_each = max(1, _SAMPLES // len(every))
    samples = []
    for data, each in every[::step]:
        objects = data.objects[each.site.scene]
        places = {name: i for i, name in enumerate(classes)}
        ids = np.full(len(objects), IGNORED)
        own = objects.counted
        to_all = np.array([places[name] for name in data.classes], dtype=np.int64)
        ids[own] = to_all[objects.class_ids[own]]
        with open_picture(each.site.scene) as scene:
            for window in _windows_to_draw(objects, each.site.core, of_each):
                pixels, valid = scene.read(window)
                rgb = scale_for_display(pixels, np.broadcast_to(valid, pixels.shape))
                near = objects.near((window.col_off, window.row_off, window.right, window.bottom))
                boxes = objects.boxes[near] - (window.col_off, window.row_off, 0, 0, 0)
                samples.append((rgb, BoxesShown(boxes, ids[near])))
    write_box_sheet(path, samples, classes_from_names(classes))


def _windows_to_draw(objects: Objects, whole: Window, count: int) -> list[Window]:
    """Return different windows around some of the objects, the middle of a picture without any."""
    middle = np.array([[whole.width / 2, whole.height / 2]])
    centres = objects.boxes[:, :2] if len(objects) else middle
    chosen = centres[np.unique(np.linspace(0, len(centres) - 1, count).astype(int))]
    width, height = min(_SHOWN, whole.width), min(_SHOWN, whole.height)
    most = (whole.width - width, whole.height - height)
    corners = np.clip(chosen - (width / 2, height / 2), 0, most).astype(int)
    return [
        Window(col_off=col, row_off=row, width=width, height=height)
        for col, row in dict.fromkeys(map(tuple, corners.tolist()))
    ]


# --- recognition ---------------------------------------------------------------------------------


def _is_layout(entry: Entry) -> bool:
    if not isinstance(entry, LabelledFolder):
        return entry.after is None and holds_quadrilaterals(entry.labels, entry.layer)
    path = Path(entry.path)
    if path.is_file():
        return path.suffix.lower() in (".json", ".yaml", ".yml") or is_box_table(path)
    depths = ("*", "*/*", "*/*/*")
    return any(_may_be_label(file) for depth in depths for file in path.glob(depth))


def _may_be_label(file: Path) -> bool:
    is_label = file.suffix.lower() in _LABELS and not file.name.lower().endswith(".aux.xml")
    return is_label and file.name != CLASSES_FILE and not file.stem.lower().startswith(_NO_LABELS)


LABELS = Labels(read=read_box_labels, is_layout=_is_layout, check_target=check_labels_target)
