"""Pictures with a class each: folders of classes, and tables of paths and classes.

``{train,val}/CLASS/*.jpg``, or ``CLASS/*.jpg``, which is divided; or a CSV with the columns
``path`` and ``class``, paths relative to it, and perhaps ``split`` (``train``, ``val``, others),
else it is divided too. Every class is divided by itself, so that a rare one is in both parts.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES
from lemevit_cli.metrics.confusion import match_classes
from lemevit_cli.models.weights import Card
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
_DEFAULT_FRACTION = 0.2
_LAYOUTS = "it needs {train,val}/CLASS/, or CLASS/ alone, with pictures in each"
_COLUMNS = "path,class or path,class,split"

Listed = list[tuple[Path, str]]  # pictures with the names of their classes


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
    listed, is_divided = list_pictures(entry.path, division)
    training, validation = (
        _source(entry.path, split, listed[split], reader, division.crop) for split in _SPLITS
    )
    if training is None:
        raise DataError(f"{entry.path}: no picture to train on; {_LAYOUTS}")
    notes = (*_notes(training, validation), *_notes_of_others(entry.path, listed))
    if is_divided and division.val_fraction is not None:
        notes = (f"{entry.path}: divides itself into train and val, without --val-fraction", *notes)
    return Parts(training, validation, notes)


def open_split(path: str, split: str, card: Card) -> Source:
    """Open a split that weights shall be scored on, divided as their training divided it.

    Raises:
        DataError: if it cannot be opened or is empty, or no class is shared.
    """
    division = Division(crop=card.window, **card.training.get("division", {}))
    place = Path(path) / split
    if split not in _SPLITS and not Path(path).is_file():
        if not place.is_dir():
            raise DataError(f"{place}: no such folder; {_LAYOUTS}")
        listed = {split: _listed_in_folders(place)}
    else:
        listed, _ = list_pictures(path, division)
    source = _source(path, split, listed.get(split, []), PictureReader(), division.crop)
    if source is None:
        raise DataError(f"{path}: no picture is of the split {split}")
    match_classes(card.class_names, source.classes)  # for its check
    return source


def list_pictures(path: str, division: Division) -> tuple[dict[str, Listed], bool]:
    """List the pictures of both splits with their classes; say whether the data divide themselves.

    Raises:
        DataError: if the folder or the table cannot be understood.
    """
    folder = Path(path)
    if folder.is_file():
        return _listed_in_table(folder, division)
    if not folder.is_dir():
        raise DataError(f"{path}: no such folder or table; {_LAYOUTS}")
    if all((folder / split).is_dir() for split in _SPLITS):
        return {split: _listed_in_folders(folder / split) for split in _SPLITS}, True
    return divide(_listed_in_folders(folder), division), False


def _listed_in_folders(folder: Path) -> Listed:
    places = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    listed = [(picture, p.name) for p in places for picture in list_rasters(p).values()]
    filled = {name for _, name in listed}
    empty = [place for place in places if place.name not in filled]
    if not places or empty:
        raise DataError(f"{empty[0] if places else folder}: no pictures; {_LAYOUTS}")
    return listed


def _listed_in_table(path: Path, division: Division) -> tuple[dict[str, Listed], bool]:
    rows: dict[str, Listed] = {split: [] for split in ("", *_SPLITS)}
    seen: dict[Path, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            columns = set(table.fieldnames or ())
            if not {"path", "class"} <= columns:
                raise DataError(f"{path}: line 1 must name the columns {_COLUMNS}")
            for row in table:
                where = f"{path}: line {table.line_num}"
                picture, name, split = _read_row(path.parent, row, where)
                if picture in seen:
                    raise DataError(f"{where}: {row['path']} is in line {seen[picture]} already")
                seen[picture] = table.line_num
                rows.setdefault(split, []).append((picture, name))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV of {_COLUMNS} ({error})") from error
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
    path: str, split: str, listed: Listed, reader: PictureReader, crop: int
) -> Source | None:
    """Make a source of pictures, whose headers are checked; None of nothing."""
    if not listed:
        return None
    classes = tuple(sorted({name for _, name in listed}))
    if len(classes) > MAX_CLASSES:
        raise DataError(f"{path}: has {len(classes)} classes; weights take {MAX_CLASSES}")
    ids = {str(picture): classes.index(name) for picture, name in listed}
    sites: list[Site] = []
    kinds: list[tuple[str, int, str]] = []
    for picture, _ in listed:
        with open_picture(picture) as scene:
            kinds.append((scene.path, scene.num_bands, scene.dtype))
            check_alike((kinds[0], kinds[-1]), PICTURES.all)
            sites.append(Site.whole(str(picture), scene.width, scene.height, scene.gsd_m))
    _, bands, dtype = kinds[0]
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
