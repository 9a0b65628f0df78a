"""Folders of pictures and masks: ``{train,val}/{images,masks}`` with an optional ``classes.json``.

A picture and its mask share their stem and size; both may have any raster format. A mask holds
class ids; pixels that it declares as nodata are ignored. ``classes.json`` is
``{"classes": ["land", ...], "ignore_index": 255}``, where ``ignore_index`` may be null; without
it ids 0..n-1 are called ``class_0`` ... and 255 is ignored. Masks of 0 and 255 alone are refused
without ``classes.json``: white may mean a class or nothing.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.training.datasets.source import Cells, Site, count_sites

CLASSES_FILE = "classes.json"
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
}
_KEPT_BYTES = 1 << 30  # decoded pictures kept by one process
_LARGEST_KEPT = 64 << 20  # bytes; larger pictures are read by windows


@dataclass(frozen=True)
class Picture:
    """A picture with its mask; ``gsd_m`` is None where it is not tied to the earth."""

    image: Path
    mask: Path
    width: int
    height: int
    gsd_m: float | None


class PictureReader:
    """Reads windows of rasters; small pictures stay decoded, as JPEG and PNG know no windows."""

    def __init__(self) -> None:
        self._kept: OrderedDict[str | Path, tuple[NDArray[Any], NDArray[np.bool_]]] = OrderedDict()
        self._bytes = 0

    def __reduce__(self) -> tuple[type[PictureReader], tuple[()]]:
        return PictureReader, ()  # a worker process starts with an empty one

    def read(self, path: str | Path, window: Window) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read pixels ``(bands, H, W)`` and where they are valid ``(H, W)``; both may be views."""
        if path not in self._kept:
            with open_picture(path) as scene:
                size = scene.width * scene.height * scene.num_bands * np.dtype(scene.dtype).itemsize
                if size > _LARGEST_KEPT:
                    return scene.read(window)
                self._keep(path, *scene.read(scene.window))
        self._kept.move_to_end(path)
        pixels, valid = self._kept[path]
        rows, cols = window.slices
        return pixels[:, rows, cols], valid[rows, cols]

    def _keep(self, path: str | Path, pixels: NDArray[Any], valid: NDArray[np.bool_]) -> None:
        # An all-true mask costs a third of an RGB picture: keep one pixel of it, repeated.
        kept = np.broadcast_to(np.True_, valid.shape) if valid.all() else valid
        self._kept[path] = pixels, kept
        self._bytes += pixels.nbytes
        while self._bytes > _KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1][0].nbytes


def clean_ids(
    ids: NDArray[Any], known: NDArray[np.bool_], ignore_index: int | None
) -> NDArray[np.uint8]:
    """Return class ids as uint8, ``NODATA_CLASS`` where they are ignored or unknown."""
    usable = known if ignore_index is None else known & (ids != ignore_index)
    return np.where(usable, ids, NODATA_CLASS).astype(np.uint8)


@dataclass(frozen=True)
class FolderSource:
    """One split of a folder.

    Args:
        name: the folder's.
        classes: names, by the ids in the masks.
        ignore_index: id in the masks that is no class; None where every id is one.
        bands, dtype: of all pictures.
        reader: keeps decoded pictures; may be shared by several folders.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    ignore_index: int | None
    pictures: tuple[Picture, ...]
    bands: int
    dtype: str
    reader: PictureReader = field(repr=False, compare=False)

    @property
    def is_complete(self) -> bool:
        return True

    @property
    def num_pixels(self) -> int:
        return sum(picture.width * picture.height for picture in self.pictures)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Return every picture, whole."""
        return tuple(Site.whole(str(p.image), p.width, p.height, p.gsd_m) for p in self.pictures)

    @cached_property
    def _masks(self) -> dict[str, Path]:
        return {str(picture.image): picture.mask for picture in self.pictures}

    def read(
        self, site: Site, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8]]:
        pixels, valid = self.reader.read(Path(site.scene), window)
        ids, known = self.reader.read(self._masks[site.scene], window)
        return pixels, valid, clean_ids(ids[0], valid & known, self.ignore_index)

    def read_truth(self, site: Site, window: Window) -> NDArray[np.uint8]:
        ids, known = self.reader.read(self._masks[site.scene], window)
        return clean_ids(ids[0], known, self.ignore_index)

    def count_classes(self) -> Cells:
        """Count the classes in every cell of every mask, which reads all masks once.

        Raises:
            DataError: if a mask holds an id that is no class.
        """
        return count_sites(self.sites, self._checked_ids, num_classes=len(self.classes))

    def _checked_ids(self, site: Site) -> NDArray[np.uint8]:
        mask = self._masks[site.scene]
        stored, known = self.reader.read(mask, site.core)
        self._check_ids(mask, stored[0][known])
        return clean_ids(stored[0], known, self.ignore_index)

    def _check_ids(self, mask: Path, ids: NDArray[Any]) -> None:
        known = {*range(len(self.classes)), self.ignore_index}
        wrong = set(np.unique(ids).tolist()) - known
        if wrong:
            ignored = "nothing" if self.ignore_index is None else str(self.ignore_index)
            raise DataError(
                f"{mask} holds the id {some_of(wrong)}; known are 0 to {len(self.classes) - 1} "
                f"({', '.join(self.classes)}), {ignored} is ignored"
            )


def open_folder(path: str | Path, split: str, reader: PictureReader | None = None) -> FolderSource:
    """Find the pictures of a split and check all that their headers tell.

    Args:
        reader: to share with other folders; its memory is bounded.

    Raises:
        DataError: if folders, masks or classes are missing or do not fit each other.
    """
    folder = Path(path)
    images, masks = (_files(folder, split, kind) for kind in ("images", "masks"))
    without = sorted(set(images) - set(masks))
    if without:
        raise DataError(
            f"{images[without[0]]} has no mask of the same stem in {folder / split / 'masks'}"
            + (f" (nor have {len(without) - 1} more)" if len(without) > 1 else "")
        )
    classes, ignore_index = _read_classes(folder, [masks[stem] for stem in images])
    pictures: list[Picture] = []
    bands, dtype = 0, ""
    for stem, image in images.items():
        with open_picture(image) as scene:
            if not pictures:
                bands, dtype = scene.num_bands, scene.dtype
            if (scene.num_bands, scene.dtype) != (bands, dtype):
                raise DataError(
                    f"{image} has {scene.num_bands} bands of {scene.dtype}, {pictures[0].image} "
                    f"has {bands} of {dtype}; all pictures of a folder need the same"
                )
            pictures.append(_picture(scene, image, masks[stem]))
    return FolderSource(
        name=folder.resolve().name,
        split=split,
        classes=classes,
        ignore_index=ignore_index,
        pictures=tuple(pictures),
        bands=bands,
        dtype=dtype,
        reader=reader or PictureReader(),
    )


def _files(folder: Path, split: str, kind: str) -> dict[str, Path]:
    place = folder / split / kind
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; {folder} needs {{train,val}}/{{images,masks}}")
    files = rasters_in(place)
    if not files:
        raise DataError(f"{place}: empty folder; put the {kind} of the {split} split there")
    return files


def rasters_in(place: Path) -> dict[str, Path]:
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


def _picture(scene: Scene, image: Path, mask: Path) -> Picture:
    with open_picture(mask) as labels:
        if (labels.width, labels.height) != (scene.width, scene.height):
            raise DataError(
                f"{mask} has {labels.width} x {labels.height} pixels, "
                f"{image} has {scene.width} x {scene.height}; a mask needs its picture's size"
            )
        if labels.num_bands != 1 or not np.issubdtype(np.dtype(labels.dtype), np.integer):
            raise DataError(
                f"{mask} has {labels.num_bands} bands of {labels.dtype}; "
                "a mask is one band of integer class ids"
            )
    return Picture(image, mask, scene.width, scene.height, scene.gsd_m)


def open_picture(path: str | Path) -> Scene:
    """Open a file of a data set.

    Raises:
        DataError: if it cannot be opened.
    """
    try:
        return open_scene(str(path))
    except SceneError as error:
        raise DataError(str(error)) from error


def _read_classes(folder: Path, masks: Sequence[Path]) -> tuple[tuple[str, ...], int | None]:
    path = folder / CLASSES_FILE
    if not path.is_file():
        return _classes_of_masks(folder, masks), NODATA_CLASS
    return read_class_list(path)


def read_class_list(path: Path) -> tuple[tuple[str, ...], int | None]:
    """Read the names of classes by id, and the id in masks that is none, of a ``classes.json``.

    Raises:
        DataError: if it cannot be understood.
    """
    advice = 'it needs {"classes": ["land", ...], "ignore_index": 255 or null}'
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        names, ignore_index = tuple(raw["classes"]), raw.get("ignore_index")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: cannot be understood; {advice}") from error
    is_text = all(isinstance(name, str) and name for name in names)
    if not is_text or not 2 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise DataError(f"{path}: its classes must be 2 to {MAX_CLASSES} different names; {advice}")
    if not (ignore_index is None or isinstance(ignore_index, int)):
        raise DataError(f"{path}: ignore_index is {ignore_index!r}; {advice}")
    return names, ignore_index


def _classes_of_masks(folder: Path, masks: Sequence[Path]) -> tuple[str, ...]:
    found = set[int]()
    for path in masks:
        with open_picture(path) as scene:
            found.update(np.unique(scene.read(scene.window)[0]).tolist())
    if found <= {0, 255} and 255 in found:
        raise DataError(
            f"the masks of {folder} hold only 0 and 255, which may mean two classes or none; "
            f"write ids 0 and 1 and a {CLASSES_FILE} such as "
            '{"classes": ["background", "building"], "ignore_index": null}'
        )
    highest = max(found - {NODATA_CLASS})
    if len(found) < 2 or highest >= MAX_CLASSES or min(found) < 0:
        raise DataError(
            f"the masks of {folder} hold the ids {some_of(found)}; "
            f"ids must be 0 to {MAX_CLASSES - 1}, at least two of them"
        )
    return tuple(f"class_{i}" for i in range(highest + 1))


def some_of(ids: set[int]) -> str:
    """List ids for a message: eight of them at most."""
    listed = sorted(ids)
    return ", ".join(map(str, listed[:8])) + (", ..." if len(listed) > 8 else "")
