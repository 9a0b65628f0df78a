"""Pictures without labels: folders of any depth, scenes, and lists of them.

Below a folder, what belongs to a validation or test part and what is a label of something is left
out, by the names that data sets give to such folders; a note says how much. A scene is a picture,
too: it is read by windows.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import sqrt
from pathlib import Path

import numpy as np

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.raster.inspection import picture_warnings
from lemevit_cli.raster.scene import open_ground
from lemevit_cli.training.datasets.folders import PictureReader, source_of_pictures
from lemevit_cli.training.datasets.listing import LabelledFolder, is_listing, read_listing
from lemevit_cli.training.datasets.source import Site, Sources
from lemevit_cli.training.options import DataOptions, LabelledScene

HELD_BACK = "held back"  # the name of what is validated on, in figures too

_SUFFIXES = {
    f".{name}"
    for name in (
        *("tif", "tiff", "jpg", "jpeg", "png", "jp2", "webp", "bmp", "gif"),
        *("vrt", "img", "ecw", "sid", "ntf", "hdf", "h5", "nc"),
    )
}
_VALIDATION_NAMES = {"val", "valid", "validation", "test", "testing", "holdout"}
_LABELS = {"masks", "mask", "labels", "label", "labeltxt", "annotations", "out", "gt"}
_VALIDATION_PART = 0.02
_FEWEST_TO_HOLD_BACK = 20
_NAMED = 3


@dataclass(frozen=True)
class _Item:
    """A folder or a scene of the user's data, with its content.

    Args:
        is_named: the user named its rasters one by one, so that none may be left out.
    """

    name: str
    paths: tuple[str, ...]
    weight: float | None
    gsd_m: float | None
    left_out: int = 0
    is_named: bool = False


@dataclass(frozen=True)
class _Opened:
    site: Site
    kind: tuple[int, str]  # bands and dtype
    warnings: tuple[str, ...]  # on what its pixels are


def open_pictures(data: DataOptions) -> Sources:
    """Find all pictures and read their headers.

    Pictures whose bands or dtype differ from most, and those that cannot be read, are left out. Two
    in a hundred are held back for validation where there are enough. A set weighs by the square
    root of its pixels, unless a weight is stated.

    Raises:
        DataError: if no picture is left, or a path is none.
    """
    items = [item for path in data.paths for item in _items_of(path)]
    items += [_scene_item(scene) for scene in data.scenes]
    weightless = [item.name for item in items if item.weight == 0]
    items = [item for item in items if item.weight != 0 and (item.paths or item.left_out)]
    items, again = _drop_repeated(items)
    opened: list[list[_Opened]] = []
    unreadable: dict[str, list[str]] = {}
    for item in items:
        pictures, wrong = _open_all(item)
        opened.append(pictures)
        if wrong:
            unreadable.setdefault(item.name, []).extend(wrong)
    notes = list(_notes(items, unreadable))
    notes += [f"{name}: of weight 0, so left out" for name in weightless]
    warnings = Counter(line for pictures in opened for each in pictures for line in each.warnings)
    notes += [f"{number} pictures: {line}" for line, number in warnings.items()]
    notes += picture_warnings([each.site.scene for pictures in opened for each in pictures])
    if again:
        notes.append(f"{again} pictures are named more than once, and count once")
    kinds = Counter(each.kind for pictures in opened for each in pictures)
    if not kinds:
        raise DataError(
            "no picture to learn from: " + (notes[0] if notes else "name folders or scenes")
        )
    usual = kinds.most_common(1)[0][0]
    if len(kinds) > 1:
        others = sum(kinds.values()) - kinds[usual]
        notes.append(
            f"{others} pictures are left out: they have not {usual[0]} bands of {usual[1]}, as most"
        )
    alike = [
        (item, tuple(each.site for each in pictures if each.kind == usual))
        for item, pictures in zip(items, opened, strict=True)
    ]
    return _divide([(item, pictures) for item, pictures in alike if pictures], usual, notes, data)


def _divide(
    pictures: Sequence[tuple[_Item, tuple[Site, ...]]],
    bands_and_dtype: tuple[int, str],
    notes: Sequence[str],
    data: DataOptions,
) -> Sources:
    """Weigh the sets, and hold some of their pictures back."""
    everything = [site for _, sites in pictures for site in sites]
    held_back: set[int] = set()
    if len(everything) >= _FEWEST_TO_HOLD_BACK:
        count = max(round(_VALIDATION_PART * len(everything)), 1)
        random = np.random.default_rng(abs(data.seed))
        held_back = {int(i) for i in random.choice(len(everything), count, replace=False)}
    reader, kind = PictureReader(), (everything[0].scene, *bands_and_dtype)
    training, weights, first = [], [], 0
    for item, sites in pictures:
        to_learn = tuple(site for i, site in enumerate(sites, first) if i not in held_back)
        first += len(sites)
        if to_learn:
            training.append(source_of_pictures(item.name, "train", to_learn, kind, reader))
            weights.append(item.weight or sqrt(training[-1].num_pixels))
    held = tuple(everything[i] for i in sorted(held_back))
    return Sources(
        training=tuple(training),
        cells=(),
        weights=tuple(weights),
        validation=(source_of_pictures(HELD_BACK, "val", held, kind, reader),) if held else (),
        classes=(),
        notes=tuple(notes),
    )


def _items_of(path: str) -> Iterator[_Item]:
    place = Path(path)
    if is_listing(path):
        for entry in read_listing(path, labelled=False):
            if isinstance(entry, LabelledFolder):
                item = _folder_item(Path(entry.path))
                yield replace(item, weight=entry.weight, gsd_m=entry.gsd_m)
            else:
                yield _scene_item(entry)
    elif place.is_dir():
        yield _folder_item(place)
    else:
        yield _Item(name=place.stem, paths=(path,), weight=None, gsd_m=None, is_named=True)


def _drop_repeated(items: Sequence[_Item]) -> tuple[list[_Item], int]:
    """Drop what an earlier item has already, or nothing could be held back; count the dropped."""
    identities: set[str] = set()
    unique, again = [], 0
    for item in items:
        fresh = []
        for path in item.paths:
            identity = _identity(path)
            if identity not in identities:
                fresh.append(path)
            identities.add(identity)
        again += len(item.paths) - len(fresh)
        unique.append(replace(item, paths=tuple(fresh)))
    return unique, again


def _identity(path: str) -> str:
    """Return the resolved path of a file, however it is spelled; an address as it is."""
    return str(Path(path).resolve()) if Path(path).exists() else path


def _scene_item(entry: LabelledScene) -> _Item:
    paths = (entry.scene,) if entry.after is None else (entry.scene, entry.after)
    to_learn = () if entry.split in _VALIDATION_NAMES else paths
    return _Item(
        name=Path(entry.scene).stem,
        paths=to_learn,
        weight=entry.weight,
        gsd_m=None,
        left_out=len(paths) - len(to_learn),
        is_named=True,
    )


def _folder_item(folder: Path) -> _Item:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
    parts = [{part.lower() for part in p.relative_to(folder).parts[:-1]} for p in files]
    pictures = [
        str(file)
        for file, names in zip(files, parts, strict=True)
        if not names & (_VALIDATION_NAMES | _LABELS) and not file.name.startswith(".")
    ]
    return _Item(
        name=folder.resolve().name,
        paths=tuple(pictures),
        weight=None,
        gsd_m=None,
        left_out=len(files) - len(pictures),
    )


def _open_all(item: _Item) -> tuple[list[_Opened], list[str]]:
    """Open the pictures of an item, and say why others could not be opened."""
    pictures, wrong = [], []
    for path in item.paths:
        try:
            with open_ground(path) as scene:
                site = Site.whole(path, scene.width, scene.height, scene.gsd_m or item.gsd_m)
                kind = (scene.num_bands, scene.dtype)
                pictures.append(_Opened(site, kind, scene.band_warnings))
        except SceneError as error:
            if item.is_named:
                raise DataError(str(error)) from error
            wrong.append(str(error))
    return pictures, wrong


def _notes(items: Sequence[_Item], wrong: Mapping[str, Sequence[str]]) -> Iterator[str]:
    """Say what was left out: a line for all labels and held-back parts, one per unreadable set."""
    left_out = [item for item in items if item.left_out]
    if left_out:
        names = ", ".join(item.name for item in left_out[:_NAMED])
        more = f" and {len(left_out) - _NAMED} more" if len(left_out) > _NAMED else ""
        yield (
            f"{sum(item.left_out for item in left_out)} rasters of {names}{more} are left out: "
            "they are labels, or of a part that is held back (val, test)"
        )
    for name, reasons in wrong.items():
        yield f"{name}: {len(reasons)} pictures cannot be read and are left out: {reasons[0]}"
