"""Pictures with a class each: folders of classes, and tables of paths and classes.

``{train,val}/CLASS/*.jpg``, or ``CLASS/*.jpg``, which is divided; or a CSV with the columns
``path`` and ``class``, paths relative to it, and perhaps ``split`` (``train``, ``val``, others),
else it is divided too. Every class is divided by itself, so that a rare one is in both parts.
"""

from __future__ import annotations

import csv
import hashlib
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, SceneError, reading
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES
from lemevit_cli.metrics.confusion import match_classes
from lemevit_cli.models.weights import Card
from lemevit_cli.raster.scene import Scene
from lemevit_cli.training.datasets.folders import (
    PICTURES,
    PictureReader,
    list_rasters,
    open_picture,
)
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.datasets.source import Cells, Parts, Site, Source, check_alike
from lemevit_cli.training.pixel_data import merge_pixel_classes
from lemevit_cli.training.sources import Openers

_SPLITS = ("train", "val")
_OTHER_NAMES = {"val": ("validation", "valid")}  # of folders of splits
_DEFAULT_FRACTION = 0.2
_LAYOUTS = "it needs {train,val}/CLASS/, or CLASS/ alone, with pictures in each"
_END_MARKS = {".jpg": b"\xff\xd9", ".jpeg": b"\xff\xd9", ".png": b"IEND"}
_TAIL = 64  # bytes
_COLUMNS = "path,class or path,class,split"

Listed = list[tuple[Path, str]]  # pictures with the names of their classes


@dataclass
class _Bad:
    """Pictures and rows that cannot be understood: the first one is an error, or all are skipped.

    Args:
        skip: count them, and leave them out.
    """

    skip: bool = False
    lines: list[str] = field(default_factory=list)

    def add(self, error: DataError) -> None:
        """Take note of one.

        Raises:
            DataError: if none may be skipped.
        """
        if not self.skip:
            raise error
        self.lines.append(str(error))

    def notes(self, path: str) -> tuple[str, ...]:
        """Tell how many are left out."""
        if not self.lines:
            return ()
        return (f"{path}: {len(self.lines)} bad labels left out, the first: {self.lines[0]}",)


@dataclass(frozen=True)
class PictureClasses:
    """The class of each picture, by its path, for every pixel of it."""

    ids: Mapping[str, int]

    def read(self, site: Site, window: Window) -> NDArray[np.uint8]:
        """Return class ids ``(H, W)`` of a window."""
        return np.full((window.height, window.width), self.ids[site.scene], dtype=np.uint8)


def open_pictures(entry: LabelledFolder, reader: PictureReader, division: Division) -> Parts:
    """Open both splits of a folder of classes, or of a table.

    Raises:
        DataError: if there is nothing, or pictures do not fit each other.
    """
    if entry.naming != Naming():
        raise DataError(f"{entry.path}: rename, drop and classes are for boxes, not for pictures")
    bad = _Bad(entry.skip_bad_labels)
    listed, is_divided = list_pictures(entry.path, division, bad)
    training, validation = (
        _source(entry.path, split, listed[split], reader, division.crop, bad) for split in _SPLITS
    )
    if training is None:
        raise DataError(f"{entry.path}: no picture to train on; {_LAYOUTS}")
    notes = (
        *bad.notes(entry.path),
        *_notes(training, validation),
        *_notes_of_others(entry.path, listed),
        *_notes_of_twins(listed),
        *_notes_of_nested(listed),
    )
    if is_divided and division.val_fraction is not None:
        notes = (f"{entry.path}: divides itself into train and val, without --val-fraction", *notes)
    return Parts(training, validation, notes)


def open_split(path: str, split: str, card: Card, *, skip_bad_labels: bool = False) -> Source:
    """Open a split that weights shall be scored on, divided as their training divided it.

    Args:
        skip_bad_labels: count pictures and rows that cannot be understood, and leave them out.

    Raises:
        DataError: if it cannot be opened or is empty, or no class is shared.
    """
    division = Division(crop=card.window, **card.training.get("division", {}))
    bad = _Bad(skip_bad_labels)
    source = _open_split(path, split, division, PictureReader(), bad)
    match_classes(card.class_names, source.classes)  # for its check
    return replace(source, notes=(*bad.notes(path), *source.notes))


def _open_split(
    path: str, split: str, division: Division, reader: PictureReader, bad: _Bad
) -> Source:
    if split not in _SPLITS and not Path(path).is_file():
        place = find_split(Path(path), split) if Path(path).is_dir() else None
        if place is None:
            raise DataError(f"{Path(path) / split}: no such folder; {_LAYOUTS}")
        listed, is_divided = {split: _listed_in_folders(place)}, True
    else:
        listed, is_divided = list_pictures(path, division, bad)
    source = _source(path, split, listed.get(split, []), reader, division.crop, bad)
    if source is None:
        raise DataError(f"{path}: no picture is of the split {split}")
    if is_divided:
        return source
    note = (
        f"{path}: not divided into train and val: {len(source.sites)} of "
        f"{sum(map(len, listed.values()))} pictures are judged, as a training would divide them"
    )
    return replace(source, notes=(note,))


def other_splits(
    path: str, reader: PictureReader, division: Division
) -> dict[str, Callable[[], Source]]:
    """Return what opens each split that is neither learned nor validated on, by its name."""
    folder = Path(path)
    if folder.is_file():
        listed, _ = list_pictures(path, division)
        names = [split for split, rows in listed.items() if rows and split not in ("", *_SPLITS)]
    else:
        own = [find_split(folder, split) for split in _SPLITS]
        places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
        names = [p.name for p in places if p not in own] if None not in own else []
    return {split: partial(_open_split, path, split, division, reader, _Bad()) for split in names}


def list_pictures(
    path: str, division: Division, bad: _Bad | None = None
) -> tuple[dict[str, Listed], bool]:
    """List the pictures of both splits with their classes; say whether the data divide themselves.

    Raises:
        DataError: if the folder or the table cannot be understood.
    """
    folder = Path(path)
    if folder.is_file():
        return _listed_in_table(folder, division, bad or _Bad())
    if not folder.is_dir():
        raise DataError(f"{path}: no such folder or table; {_LAYOUTS}")
    places = {split: find_split(folder, split) for split in _SPLITS}
    if all(place is not None for place in places.values()):
        return {split: _listed_in_folders(place) for split, place in places.items() if place}, True
    return divide(_listed_in_folders(folder), division), False


def find_split(folder: Path, split: str) -> Path | None:
    """Find the folder of a split, in any case, and of ``val`` also as ``validation``."""
    names = {split.lower(), *_OTHER_NAMES.get(split, ())}
    places = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.lower() in names)
    exact = folder / split
    return exact if exact in places else next(iter(places), None)


def _listed_in_folders(folder: Path) -> Listed:
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    listed = [(picture, p.name) for p in places for picture in list_rasters(p).values()]
    filled = {name for _, name in listed}
    empty = [place for place in places if place.name not in filled]
    if not places or empty:
        raise DataError(f"{empty[0] if places else folder}: no pictures; {_LAYOUTS}")
    return listed


def _listed_in_table(path: Path, division: Division, bad: _Bad) -> tuple[dict[str, Listed], bool]:
    rows: dict[str, Listed] = {split: [] for split in ("", *_SPLITS)}
    seen: dict[Path, int] = {}
    with (
        reading(path, f"cannot be read as a CSV of {_COLUMNS}", raises=DataError),
        path.open(encoding="utf-8-sig", newline="") as file,
    ):
        first = file.readline()
        file.seek(0)
        table = csv.DictReader(file, delimiter=max(",;\t", key=first.count), strict=True)
        # Its own names, in lower case: "Path;Class" is as good.
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        columns = set(table.fieldnames)
        if not {"path", "class"} <= columns:
            raise DataError(f"{path}: line 1 must name the columns {_COLUMNS}")
        for row in table:
            where = f"{path}: line {table.line_num}"
            try:
                picture, name, split = _read_row(path.parent, row, where)
                if picture in seen:
                    raise DataError(f"{where}: {row['path']} is in line {seen[picture]} already")
            except DataError as error:
                bad.add(error)
                continue
            seen[picture] = table.line_num
            rows.setdefault(split, []).append((picture, name))
    if rows[""] and any(listed for split, listed in rows.items() if split):
        missing, _ = rows[""][0]
        raise DataError(f"{path}: line {seen[missing]} has no split, though others have one")
    return (divide(rows[""], division), False) if rows[""] else (rows, True)


def _read_row(folder: Path, row: Mapping[str, Any], where: str) -> tuple[Path, str, str]:
    """Return picture, class and split of a row, the last one empty where it has none."""
    path, name, split = ((row.get(key) or "").strip() for key in ("path", "class", "split"))
    if not path or not name:
        raise DataError(f"{where}: has no {'class' if path else 'path'}; columns are {_COLUMNS}")
    if not (folder / path).is_file():
        raise DataError(f"{where}: {folder / path}: no such file")
    return folder / path, name, split


def divide(listed: Listed, division: Division) -> dict[str, Listed]:
    """Hold back a part of the pictures of every class, a fifth unless told, one at least of two."""
    fraction = _DEFAULT_FRACTION if division.val_fraction is None else division.val_fraction
    parts: dict[str, Listed] = {split: [] for split in _SPLITS}
    for name in sorted({name for _, name in listed}):
        own = [picture for picture in listed if picture[1] == name]
        least = int(fraction > 0 and len(own) > 1)
        count = max(round(fraction * len(own)), least)
        random = np.random.default_rng([division.seed, zlib.crc32(name.encode())])
        held = set(random.permutation(len(own))[:count].tolist())
        for number, picture in enumerate(own):
            parts["val" if number in held else "train"].append(picture)
    return parts


def _source(
    path: str, split: str, listed: Listed, reader: PictureReader, crop: int, bad: _Bad
) -> Source | None:
    """Make a source of pictures, whose headers are checked; None of nothing."""
    opened = [(found, name) for picture, name in listed if (found := _open(picture, bad))]
    if not opened:
        return None
    check_alike([kind for (_, kind), _ in opened], PICTURES.all)
    sites = [site for (site, _), _ in opened]
    listed = [(Path(site.scene), name) for (site, _), name in opened]
    classes = tuple(sorted({name for _, name in listed}))
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path}: has {len(classes)} classes; weights take {MAX_CLASSES}")
    ids = {str(picture): classes.index(name) for picture, name in listed}
    _, bands, dtype = opened[0][0][1]
    return Source(
        name=Path(path).resolve().name,
        split=split,
        classes=classes,
        sites=tuple(sites),
        bands=bands,
        dtype=dtype,
        num_pixels=sum(site.num_pixels for site in sites),
        read_pixels=reader.read_site,
        read_ids=PictureClasses(ids).read,
        cells=_cells(sites, list(ids.values()), len(classes), crop),
        whole_pictures=True,
    )


def _open(picture: Path, bad: _Bad) -> tuple[Site, tuple[str, int, str]] | None:
    """Read the header of a picture: its site; path, bands and dtype. None of a bad one."""
    try:
        with open_picture(picture) as scene:
            _check_end(picture, scene)
            site = Site.whole(str(picture), scene.width, scene.height, scene.gsd_m)
            return site, (scene.path, scene.num_bands, scene.dtype)
    except DataError as error:
        bad.add(error)
        return None


def _check_end(picture: Path, scene: Scene) -> None:
    """Refuse a JPEG or PNG that was cut off; one without the mark at its end is read for it.

    GDAL reads the rest of a PNG as zeros, without an error: it has to have the mark somewhere.

    Raises:
        DataError: naming the file.
    """
    mark = _END_MARKS.get(picture.suffix.lower())
    if mark is None:
        return
    with picture.open("rb") as file:
        file.seek(max(0, picture.stat().st_size - _TAIL))
        if mark in file.read():
            return
    try:
        scene.read(scene.window)
        if mark not in picture.read_bytes():
            raise SceneError(f"{picture}: ends before its last pixel")
    except SceneError as error:
        raise DataError(f"{error}; the file is cut off: mend or remove it") from error


def _cells(sites: Sequence[Site], ids: Sequence[int], num_classes: int, crop: int) -> Cells:
    """Make a cell of every picture; it counts as the pixels of one window."""
    places = [(i, 0, 0, site.core.width, site.core.height) for i, site in enumerate(sites)]
    counts = np.zeros((len(sites), num_classes), dtype=np.int64)
    counts[np.arange(len(sites)), ids] = crop**2
    return Cells(np.array(places, dtype=np.int64), counts)


def _notes_of_others(path: str, listed: Mapping[str, Listed]) -> list[str]:
    """Tell which splits are neither learned nor validated on."""
    others = {split: len(part) for split, part in listed.items() if part}
    return [
        f"{path}: {count} pictures of the split {split} left out; eval takes it by --split"
        for split, count in others.items()
        if split and split not in _SPLITS
    ]


def _notes_of_twins(listed: Mapping[str, Listed]) -> list[str]:
    """Tell of files of the same bytes that are in two classes: neither can be learned."""
    by_size: dict[int, Listed] = {}
    for picture, name in (each for part in listed.values() for each in part):
        by_size.setdefault(picture.stat().st_size, []).append((picture, name))
    twins = []
    for alike in by_size.values():
        if len({name for _, name in alike}) < 2:
            continue
        first_with: dict[bytes, tuple[Path, str]] = {}
        for picture, name in alike:
            digest = hashlib.sha256(picture.read_bytes()).digest()
            first, its_name = first_with.setdefault(digest, (picture, name))
            if its_name != name:
                twins.append(f"{first} and {picture}")
    return [f"{len(twins)} pictures are in two classes, such as {twins[0]}"] if twins else []


def _notes_of_nested(listed: Mapping[str, Listed]) -> list[str]:
    """Tell how many files lie in folders inside those of classes, which are not read."""
    places = {picture.parent for part in listed.values() for picture, _ in part}
    inner = [p for place in sorted(places) for p in place.iterdir() if p.is_dir()]
    counts = {p: sum(each.is_file() for each in p.rglob("*")) for p in inner if p not in places}
    ignored = {p: count for p, count in counts.items() if count}
    if not ignored:
        return []
    total = sum(ignored.values())
    return [f"{next(iter(ignored))}: lies inside a class; its files are not read ({total} in all)"]


def _notes(training: Source, validation: Source | None) -> tuple[str, ...]:
    """Tell which classes one part has and the other lacks."""
    if validation is None:
        return ()
    only = [name for name in validation.classes if name not in training.classes]
    lost = [name for name in training.classes if name not in validation.classes]
    notes = []
    if only:
        notes.append(
            f"{training.name}: val has pictures of {', '.join(only)}, which train lacks: nothing "
            "can be right of them"
        )
    if lost:
        notes.append(f"{training.name}: val has no picture of {', '.join(lost)}: never judged")
    return tuple(notes)


WINDOWS = Openers(open_pictures, open_labelled_scene, merge_pixel_classes)
