"""Folders of pictures and masks: ``{train,val}/{images,masks}`` with an optional ``classes.json``.

A picture and its mask share their stem and size; both may have any raster format. A mask holds
class ids; pixels that it declares as nodata are ignored. ``classes.json`` is
``{"classes": ["land", ...], "ignore_index": 255}``, where ``ignore_index`` may be null; without
it ids 0..n-1 are called ``class_0`` ... and 255 is ignored. In masks that all hold 0 and 255 alone
255 is class 1, unless ``classes.json`` says that it is ignored or names more than two classes. What
JPEG leaves of such masks is read by its middle; of ids it is refused (``raster/class_raster.py``).
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, SceneError, reading
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS
from lemevit_cli.raster.class_raster import (
    NO_WHITE,
    WHITE,
    count_values,
    is_lossy,
    refusal_of_lossy,
    white_among,
    white_note,
)
from lemevit_cli.raster.scene import Scene, open_ground, open_scene
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.datasets.source import Parts, Site, Source, check_alike

CLASSES_FILE = "classes.json"
_SPLITS = ("train", "val")
_OF_WHITE = 2  # classes of masks of black and white
_SIDECARS = {
    ".xml",
    ".msk",
    ".ovr",
    ".tfw",
    ".jgw",
    ".pgw",
    ".wld",
    ".prj",
    ".json",
    ".txt",
    ".csv",
    ".db",  # Thumbs.db
    ".ini",  # desktop.ini
}
_KEPT_BYTES = 1 << 30  # decoded pictures kept by one process
_LARGEST_KEPT = 64 << 20  # bytes; larger pictures are read by windows
_VALUES = 256  # that masks of classes may hold
_UNKNOWN = 256  # no class id


class PictureReader:
    """Reads windows of rasters; small pictures stay decoded, as JPEG and PNG know no windows."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[str, str | Path], tuple[NDArray[Any], NDArray[np.bool_]]] = (
            OrderedDict()
        )
        self._bytes = 0

    def __reduce__(self) -> tuple[type[PictureReader], tuple[()]]:
        return PictureReader, ()  # a worker process starts with an empty one

    def read(self, path: str | Path, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read values as they are stored, such as ids: as :meth:`read_picture`."""
        return self._read(path, window, open_stored)

    def read_picture(
        self, path: str | Path, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels ``(bands, H, W)`` and where they are valid ``(H, W)``; both may be views."""
        return self._read(path, window, open_picture)

    def _read(
        self, path: str | Path, window: Window, open_file: Callable[[str | Path], Scene]
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        key = open_file.__name__, path
        if key not in self._kept:
            with open_file(path) as scene:
                size = scene.width * scene.height * scene.num_bands * np.dtype(scene.dtype).itemsize
                if size > _LARGEST_KEPT:
                    return scene.read(window)
                self._keep(key, *scene.read(scene.window))
        self._kept.move_to_end(key)
        pixels, valid = self._kept[key]
        rows, cols = window.slices
        return pixels[:, rows, cols], valid[rows, cols]

    def read_site(self, site: Site, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read all dates of a site: their pixels one after the other, valid where all are."""
        dates = [self.read_picture(date, window) for date in site.dates]
        if len(dates) == 1:
            return dates[0]
        pixels, valid = zip(*dates, strict=True)
        return np.concatenate(pixels), np.logical_and.reduce(valid)

    def _keep(
        self, key: tuple[str, str | Path], pixels: NDArray[Any], valid: NDArray[np.bool_]
    ) -> None:
        # An all-true mask costs a third of an RGB picture: keep one pixel of it, repeated.
        mask = np.broadcast_to(np.True_, valid.shape) if valid.all() else valid
        self._kept[key] = pixels, mask
        self._bytes += pixels.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][0].nbytes


@dataclass(frozen=True)
class MaskCode:
    """Meaning of the values of masks.

    Args:
        classes: names, by id.
        ids: class id of each value from 0 to 255; ``NODATA_CLASS`` where it is ignored.
        ignored: one more value that is ignored.
        notes: how they are read, where that is not as they stand.
    """

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    ignored: int | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def of_ids(cls, classes: tuple[str, ...], ignored: int | None) -> MaskCode:
        """Make the code of masks that hold class ids."""
        others = _VALUES - len(classes)
        return cls(classes, (*range(len(classes)), *[_UNKNOWN] * others), ignored)

    @classmethod
    def of_white(cls, classes: tuple[str, ...], ignored: int | None, white: int) -> MaskCode:
        """Make the code of masks of black and white, whose values from ``white`` on are class 1."""
        return cls(classes, tuple(int(value >= white) for value in range(_VALUES)), ignored)

    def read(self, mask: Path, stored: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return class ids of stored values, ``NODATA_CLASS`` where they are not known.

        Raises:
            DataError: if a value is no class.
        """
        known = known if self.ignored is None else known & (stored != self.ignored)
        in_table = (stored >= 0) & (stored < _VALUES)
        ids = np.array(self.ids, dtype=np.int16)[np.where(in_table, stored, 0)]
        is_wrong = known & (~in_table | (ids == _UNKNOWN))
        if is_wrong.any():
            ignored = "nothing" if self.ignored is None else str(self.ignored)
            wrong = list_some(set(np.unique(stored[is_wrong]).tolist()))
            raise DataError(
                f"{mask} holds the id {wrong}; known are 0 to {len(self.classes) - 1} "
                f"({', '.join(self.classes)}), {ignored} is ignored"
            )
        return np.where(known, ids, NODATA_CLASS).astype(np.uint8)


@dataclass(frozen=True)
class Masks:
    """Masks of sites, by the paths of their dates."""

    paths: Mapping[tuple[str, ...], Path]
    code: MaskCode
    reader: PictureReader

    def read(self, site: Site, window: Window) -> NDArray[np.uint8]:
        """Read class ids ``(H, W)`` of a site, as :meth:`MaskCode.read`."""
        path = self.paths[site.dates]
        stored, known = self.reader.read(path, window)
        return self.code.read(path, stored[0], known)


def open_folder(path: str | Path, split: str, reader: PictureReader | None = None) -> Source:
    """Find the pictures of a split and check all that their headers tell.

    Args:
        reader: to share with other folders; its memory is bounded.

    Raises:
        DataError: if folders, masks or classes are missing or do not fit each other.
    """
    folder = Path(path)
    images, masks = (_files(folder, split, kind) for kind in ("images", "masks"))
    refuse_missing(images, masks, "mask")
    files = [((image,), masks[stem]) for stem, image in images.items()]

    def read_code() -> MaskCode:
        return _read_code(folder, split)

    source = masked_source(folder, split, files, read_code, reader or PictureReader())
    return with_note_of_lone(source, masks, images)


def open_splits(
    open_split: Callable[[str, str, PictureReader], Source],
    entry: LabelledFolder,
    reader: PictureReader,
    division: Division,
) -> Parts:
    """Open both splits of a folder with masks, their classes called as the entry says.

    Raises:
        DataError: as ``open_split``, and if a class to be renamed or dropped is none of the masks'.
    """
    training, validation = (
        _renamed(open_split(entry.path, split, reader), entry) for split in _SPLITS
    )
    return Parts(training, validation, tuple(dict.fromkeys((*training.notes, *validation.notes))))


@dataclass(frozen=True)
class _RenamedIds:
    """Class ids of masks, as the classes are to be called; those left out are ignored."""

    read: Callable[[Site, Window], NDArray[np.uint8]]
    table: tuple[int, ...]

    def __call__(self, site: Site, window: Window) -> NDArray[np.uint8]:
        return np.array(self.table, dtype=np.uint8)[self.read(site, window)]


def _renamed(source: Source, entry: LabelledFolder) -> Source:
    naming = entry.naming
    if naming == Naming():
        return source
    missing = naming.list_missing(source.classes)
    classes = naming.names(source.classes)
    names = [naming.name(name) for name in source.classes]
    if missing or not set(classes) & set(names):
        wrong = missing[0] if missing else ", ".join(classes) or "nothing"
        known = ", ".join(source.classes)
        raise DataError(f"{entry.path}: its masks have no class {wrong!r}; they have {known}")
    ids = [NODATA_CLASS if name is None else classes.index(name) for name in names]
    table = (*ids, *[NODATA_CLASS] * (NODATA_CLASS + 1 - len(ids)))
    return replace(
        source,
        classes=classes,
        read_ids=_RenamedIds(source.read_ids, table),
        is_complete=source.is_complete and None not in names,
    )


@dataclass(frozen=True)
class Words:
    """Words of messages for the content of a folder: all that has to be alike, sizes, and masks."""

    all: str = "all pictures of a folder"
    size: str = "a mask needs its picture's size"
    mask: str = "integer class ids"


PICTURES = Words()


def masked_source(
    folder: Path,
    split: str,
    files: Iterable[tuple[Sequence[Path], Path]],
    read_code: Callable[[], MaskCode],
    reader: PictureReader,
    *,
    words: Words = PICTURES,
    check: Callable[[Sequence[Scene]], None] | None = None,
) -> Source:
    """Make a source of pictures, or pairs, with a mask each, whose headers are checked.

    Args:
        files: one or two dates, and their mask.
        read_code: says what the masks hold, after their headers are checked.
        check: refuses dates that do not fit each other.

    Raises:
        DataError: if bands, dtypes or sizes differ.
    """
    sites: list[Site] = []
    masks: dict[tuple[str, ...], Path] = {}
    kinds: list[tuple[str, int, str]] = []
    turned: list[str] = []
    for dates, mask in files:
        with ExitStack() as stack:
            scenes = [stack.enter_context(open_picture(date)) for date in dates]
            for scene in scenes:
                kinds.append((scene.path, scene.num_bands, scene.dtype))
                check_alike((kinds[0], kinds[-1]), words.all)
            of_mask = stack.enter_context(open_stored(mask))
            _check_mask(scenes, of_mask, words)
            turned += [s.path for s in scenes if s.orientation != of_mask.orientation]
            if check is not None:
                check(scenes)
            first, *later = scenes
            after = later[0].path if later else None
            site = Site.whole(first.path, first.width, first.height, first.gsd_m, after=after)
        sites.append(site)
        masks[site.dates] = mask
    code = read_code()
    source = source_of_pictures(folder.resolve().name, split, sites, kinds[0], reader)
    read_ids = Masks(masks, code, reader).read
    notes = (*code.notes, *_notes_of_turned(turned))
    return replace(source, classes=code.classes, read_ids=read_ids, notes=notes)


def _notes_of_turned(paths: Sequence[str]) -> tuple[str, ...]:
    """Tell of pictures that programs show turned: nobody knows on which a mask was drawn."""
    if not paths:
        return ()
    return (
        f"{paths[0]}: EXIF turns it, and not its mask (so with {len(paths)}): masks are read on "
        "the pixels as they are stored; where they were drawn on what programs show, turn the "
        "pictures first",
    )


def source_of_pictures(
    name: str,
    split: str,
    sites: Iterable[Site],
    kind: tuple[str, int, str],
    reader: PictureReader,
) -> Source:
    """Make a source of pictures that have no labels yet.

    Args:
        kind: path, bands and dtype of the first picture, which are those of all.
    """
    _, bands, dtype = kind
    sites = tuple(sites)
    return Source(
        name=name,
        split=split,
        classes=(),
        sites=sites,
        bands=bands,
        dtype=dtype,
        num_pixels=sum(site.num_pixels for site in sites),
        read_pixels=reader.read_site,
    )


def _check_mask(dates: Sequence[Scene], mask: Scene, words: Words) -> None:
    first = dates[0]
    for other in (*dates[1:], mask):
        if (other.width, other.height) != (first.width, first.height):
            raise DataError(
                f"{other.path} has {other.width} x {other.height} pixels, "
                f"{first.path} has {first.width} x {first.height}; {words.size}"
            )
    if mask.num_bands != 1 or not np.issubdtype(np.dtype(mask.dtype), np.integer):
        raise DataError(
            f"{mask.path} has {mask.num_bands} bands of {mask.dtype}; "
            f"a mask is one band of {words.mask}"
        )


def with_note_of_lone(
    source: Source, masks: Mapping[str, Path], pictures: Mapping[str, Path]
) -> Source:
    """Note, in a line, the masks that have no picture of their stem."""
    lone = [masks[stem] for stem in sorted(set(masks) - set(pictures))]
    notes = note_of(lone, "without a picture of the same stem, left out")
    return replace(source, notes=(*source.notes, *notes))


def note_of(paths: Sequence[Path | str], what: str) -> list[str]:
    """Return a line on paths that share a fate, none without any."""
    more = f" and {len(paths) - 1} more" if len(paths) > 1 else ""
    return [f"{paths[0]}{more}: {what}"] if paths else []


def refuse_missing(files: Mapping[str, Path], partners: Mapping[str, Path], kind: str) -> None:
    """Refuse files without a partner of their stem.

    Args:
        kind: what a partner is, for the message.

    Raises:
        DataError: naming the first.
    """
    without = sorted(set(files) - set(partners))
    if without:
        place = next(iter(partners.values())).parent
        raise DataError(
            f"{files[without[0]]} has no {kind} of the same stem in {place}"
            + (f" (nor have {len(without) - 1} more)" if len(without) > 1 else "")
        )


def _files(folder: Path, split: str, kind: str) -> dict[str, Path]:
    place = folder / split / kind
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; {folder} needs {{train,val}}/{{images,masks}}")
    files = list_rasters(place)
    if not files:
        raise DataError(f"{place}: empty folder; put the {kind} of the {split} split there")
    return files


def list_rasters(place: Path) -> dict[str, Path]:
    """List the files of a folder by their stems, sorted, without what only goes with a raster.

    Raises:
        DataError: if two have the same stem.
    """
    files: dict[str, Path] = {}
    for path in sorted(place.iterdir()):
        if path.name.startswith(".") or path.suffix.lower() in _SIDECARS or not path.is_file():
            continue
        if path.stem in files:
            raise DataError(f"{files[path.stem]} and {path} have the same stem; remove one")
        files[path.stem] = path
    return files


def open_picture(path: str | Path) -> Scene:
    """Open a picture of a data set.

    Raises:
        DataError: if it cannot be opened.
    """
    return _open(path, open_ground)


def open_stored(path: str | Path) -> Scene:
    """Open a mask of a data set: indexes of a palette are its ids.

    Raises:
        DataError: if it cannot be opened.
    """
    return _open(path, open_scene)


def _open(path: str | Path, open_file: Callable[[str], Scene]) -> Scene:
    try:
        return open_file(str(path))
    except SceneError as error:
        raise DataError(str(error)) from error


def _read_code(folder: Path, split: str) -> MaskCode:
    """Read names of the classes, and what the masks' values mean, by the masks of all splits."""
    path = folder / CLASSES_FILE
    names, ignored = read_class_list(path) if path.is_file() else ((), None)
    splits = dict.fromkeys([split, *(s for s in _SPLITS if (folder / s / "masks").is_dir())])
    masks = [mask for s in splits for mask in _files(folder, s, "masks").values()]
    if len(names) > _OF_WHITE or ignored == WHITE:
        refuse_lossy_ids(masks)
        return MaskCode.of_ids(names, ignored)
    counts = count_in_masks(masks, ignored)
    white = counts.white(folder)
    if white != NO_WHITE:
        code = MaskCode.of_white(names or ("class_0", "class_1"), ignored, white)
        return replace(code, notes=counts.notes(white))
    if names:
        return MaskCode.of_ids(names, ignored)
    return MaskCode.of_ids(_classes_of_values(folder, set(counts.pixels)), NODATA_CLASS)


@dataclass(frozen=True)
class MaskCounts:
    """What masks hold, all together.

    Args:
        pixels: of each value, without nodata.
        first_with: the first mask with each value.
        lossy: the first mask whose compression changes values, None without one.
    """

    pixels: Mapping[float, int]
    first_with: Mapping[float, Path]
    lossy: Path | None

    def white(self, folder: Path) -> int:
        """Return from which value on they are class 1, see :func:`white_among`.

        Raises:
            DataError: naming the masks.
        """
        name = f"the masks of {folder}" if self.lossy is None else str(self.lossy)
        try:
            return white_among(self.pixels, name=name, lossy=self.lossy is not None)
        except SceneError as error:
            raise DataError(str(error)) from error

    def notes(self, white: int) -> tuple[str, ...]:
        """Tell that values between black and white are read as one of both."""
        return () if white == WHITE else (white_note(str(self.lossy), white),)


def refuse_lossy_ids(masks: Iterable[Path]) -> None:
    """Refuse masks of ids whose compression changes values; headers alone are read.

    Raises:
        DataError: naming the first.
    """
    for mask in masks:
        with open_stored(mask) as scene:
            if is_lossy(scene):
                raise DataError(refusal_of_lossy(str(mask)))


def count_in_masks(masks: Iterable[Path], ignored: int | None) -> MaskCounts:
    """Count the pixels of each value in masks, without those that are ignored."""
    pixels: dict[float, int] = {}
    first_with: dict[float, Path] = {}
    lossy = None
    for mask in masks:
        counts, is_blurred = _count_in_mask(mask, mask.stat().st_mtime_ns)
        lossy = mask if lossy is None and is_blurred else lossy
        for value, count in counts.items():
            if value != ignored:
                pixels[value] = pixels.get(value, 0) + count
                first_with.setdefault(value, mask)
    return MaskCounts(pixels, first_with, lossy)


@lru_cache(maxsize=1 << 16)  # each split asks for those of all
def _count_in_mask(mask: Path, mtime_ns: int) -> tuple[dict[float, int], bool]:
    counts: dict[float, int] = {}
    with open_stored(mask) as scene:
        for _ in count_values(scene, counts):
            pass
        return counts, is_lossy(scene)


def read_class_list(path: Path) -> tuple[tuple[str, ...], int | None]:
    """Read the names of classes by id, and the id in masks that is none, of a ``classes.json``.

    Raises:
        DataError: if it cannot be understood.
    """
    advice = 'it needs {"classes": ["land", ...], "ignore_index": 255 or null}'
    with reading(path, f"cannot be understood; {advice}", raises=DataError):
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    if not isinstance(raw, dict) or not isinstance(raw.get("classes"), list):
        raise DataError(f"{path}: cannot be understood; {advice}")
    names, ignore_index = tuple(raw["classes"]), raw.get("ignore_index")
    is_text = all(isinstance(name, str) and name for name in names)
    if not is_text or not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise DataError(f"{path}: its classes must be 2 to {MAX_CLASSES} different names; {advice}")
    if not (ignore_index is None or isinstance(ignore_index, int)):
        raise DataError(f"{path}: ignore_index is {ignore_index!r}; {advice}")
    return names, ignore_index


def _classes_of_values(folder: Path, ids: set[float]) -> tuple[str, ...]:
    highest = int(max(ids - {NODATA_CLASS}, default=0))
    if len(ids) < 2 or highest >= MAX_CLASSES or min(ids) < 0:
        raise DataError(
            f"the masks of {folder} hold the ids {list_some(ids)}; "
            f"ids must be 0 to {MAX_CLASSES - 1}, at least two of them"
        )
    return tuple(f"class_{i}" for i in range(highest + 1))


def list_some(ids: Iterable[float]) -> str:
    """List ids for a message: eight of them at most."""
    listed = sorted(ids)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
