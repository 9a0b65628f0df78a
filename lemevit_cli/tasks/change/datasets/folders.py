"""Folders of pairs: ``{train,val}/{A,B,label}``, the earlier date, the later one, what changed.

Also ``before``, ``after`` or ``t1``, ``t2``; and ``OUT``, ``mask`` for the labels. A pair and its
mask share stem and size; the dates are compared pixel by pixel. Masks hold 0 and 1, or 0 and 255,
whichever it is in all of a folder; in JPEG, which blurs them, what is brighter than the middle is
changed. A ``classes.json`` as of folders of pictures may name several kinds of change by their ids:
``{"classes": ["unchanged", "built", "torn down"], "ignore_index": 255}``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.tasks.change.classes import ONE_KIND, change_names
from lemevit_cli.training.datasets.folders import (
    CLASSES_FILE,
    PictureReader,
    open_picture,
    rasters_in,
    read_class_list,
    some_of,
)
from lemevit_cli.training.datasets.source import Cells, Site, count_sites

_DATES = (("A", "B"), ("before", "after"), ("t1", "t2"))
_MASKS = ("label", "OUT", "mask")
_SPLITS = ("train", "val")
_WHITE = 255
_LOSSY = {".jpg", ".jpeg"}
_VALUES = 256


@dataclass(frozen=True)
class MaskCode:
    """What the values of masks mean.

    Args:
        ids: class id of each value from 0 to 255, ``NODATA_CLASS`` where it is ignored.
    """

    ids: tuple[int, ...]

    def read(self, stored: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.uint8]:
        """Return class ids of stored values, ``NODATA_CLASS`` where they are not known."""
        table = np.array(self.ids, dtype=np.uint8)
        return np.where(known, table[np.where(known, stored, 0)], np.uint8(NODATA_CLASS))


@dataclass(frozen=True)
class Pair:
    """Two dates with their mask; ``gsd_m`` is None where they are not tied to the earth."""

    before: Path
    after: Path
    mask: Path
    width: int
    height: int
    gsd_m: float | None


@dataclass(frozen=True)
class PairFolderSource:
    """One split of a folder of pairs.

    Args:
        name: the folder's.
        classes: the first is ``unchanged``.
        bands, dtype: of every date.
        reader: keeps decoded pictures; may be shared by several folders.
    """

    name: str
    split: str
    classes: tuple[str, ...]
    code: MaskCode
    pairs: tuple[Pair, ...]
    bands: int
    dtype: str
    reader: PictureReader = field(repr=False, compare=False)

    @property
    def is_complete(self) -> bool:
        return True

    @property
    def num_pixels(self) -> int:
        return sum(pair.width * pair.height for pair in self.pairs)

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """Return every pair, whole."""
        return tuple(
            Site.whole(str(p.before), p.width, p.height, p.gsd_m, after=str(p.after))
            for p in self.pairs
        )

    @cached_property
    def _masks(self) -> dict[tuple[str, ...], Path]:
        return {site.dates: p.mask for site, p in zip(self.sites, self.pairs, strict=True)}

    def read(
        self, site: Site, window: Window
    ) -> tuple[NDArray[Any], NDArray[np.bool_], NDArray[np.uint8]]:
        dates = [self.reader.read(Path(date), window) for date in site.dates]
        (before, is_first_valid), (after, is_second_valid) = dates
        valid = is_first_valid & is_second_valid
        ids = self.read_truth(site, window)
        return np.concatenate([before, after]), valid, np.where(valid, ids, np.uint8(NODATA_CLASS))

    def read_truth(self, site: Site, window: Window) -> NDArray[np.uint8]:
        stored, known = self.reader.read(self._masks[site.dates], window)
        return self.code.read(stored[0], known)

    def count_classes(self) -> Cells:
        """Count the classes in every cell of every mask, which reads all masks once."""
        return count_sites(
            self.sites, lambda site: self.read_truth(site, site.core), num_classes=len(self.classes)
        )


def open_pair_folder(
    path: str | Path, split: str, reader: PictureReader | None = None
) -> PairFolderSource:
    """Find the pairs of a split, check all that their headers tell, and what the masks hold.

    Args:
        reader: to share with other folders; its memory is bounded.

    Raises:
        DataError: if folders, partners or masks are missing or do not fit each other, or if it
            cannot be told what the values of the masks mean.
    """
    folder = Path(path)
    reader = reader or PictureReader()
    before, after, masks = _files(folder, split)
    _refuse_missing(before, after)
    _refuse_missing(after, before)
    _refuse_missing(before, masks)
    first = next(iter(before.values()))
    with open_picture(first) as scene:
        bands, dtype = scene.num_bands, scene.dtype
    pairs = []
    for stem, earlier in before.items():
        with open_picture(earlier) as scene, open_picture(after[stem]) as later:
            for date in (scene, later):
                if (date.num_bands, date.dtype) != (bands, dtype):
                    raise DataError(
                        f"{date.path} has {date.num_bands} bands of {date.dtype}, {first} has "
                        f"{bands} of {dtype}; all dates of a folder need the same"
                    )
            _check_grids(scene, later, masks[stem])
            pairs.append(
                Pair(earlier, after[stem], masks[stem], scene.width, scene.height, scene.gsd_m)
            )
    classes, code = _read_code(folder, split, reader)
    return PairFolderSource(
        name=folder.resolve().name,
        split=split,
        classes=classes,
        code=code,
        pairs=tuple(pairs),
        bands=bands,
        dtype=dtype,
        reader=reader,
    )


def _files(folder: Path, split: str) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Find earlier dates, later dates and masks of a split, by their stems."""
    place = folder / split
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; {folder} needs {{train,val}}/{{A,B,label}}")
    dates = next((names for names in _DATES if (place / names[0]).is_dir()), None)
    mask = next((name for name in _MASKS if (place / name).is_dir()), None)
    if dates is None or not (place / dates[1]).is_dir() or mask is None:
        raise DataError(
            f"{place}: needs the folders A and B, or before and after, of both dates, and label, "
            "OUT or mask of what changed"
        )
    before, after, masks = (_filled(place / name) for name in (*dates, mask))
    return before, after, masks


def _filled(place: Path) -> dict[str, Path]:
    files = rasters_in(place)
    if not files:
        raise DataError(f"{place}: empty folder")
    return files


def _refuse_missing(files: dict[str, Path], partners: dict[str, Path]) -> None:
    without = sorted(set(files) - set(partners))
    if without:
        place = next(iter(partners.values())).parent
        raise DataError(
            f"{files[without[0]]} has no partner of the same stem in {place}"
            + (f" (nor have {len(without) - 1} more)" if len(without) > 1 else "")
        )


def _check_grids(before: Scene, after: Scene, mask: Path) -> None:
    """Refuse what cannot be compared pixel by pixel."""
    with open_picture(mask) as labels:
        for other in (after, labels):
            if (other.width, other.height) != (before.width, before.height):
                raise DataError(
                    f"{other.path} has {other.width} x {other.height} pixels, {before.path} has "
                    f"{before.width} x {before.height}; both dates and the mask need one size"
                )
        if labels.num_bands != 1 or not np.issubdtype(np.dtype(labels.dtype), np.integer):
            raise DataError(
                f"{mask} has {labels.num_bands} bands of {labels.dtype}; "
                "a mask is one band of whole numbers"
            )
    try:
        is_resampled = ScenePair(before, after).resampling is not None
    except SceneError as error:
        raise DataError(str(error)) from error
    if is_resampled:
        raise DataError(
            f"{after.path} lies on another grid than {before.path}; dates in folders are compared "
            "pixel by pixel, a pair of any grids is named by --before and --after"
        )


def _read_code(folder: Path, split: str, reader: PictureReader) -> tuple[tuple[str, ...], MaskCode]:
    """Read names of the classes, and what the masks' values mean, from the masks of all splits."""
    listed = folder / CLASSES_FILE
    names, ignored = read_class_list(listed) if listed.is_file() else (ONE_KIND, None)
    splits = [s for s in _SPLITS if s == split or (folder / s).is_dir()]
    masks = [mask for s in splits for mask in _files(folder, s)[2].values()]
    found = _values_of(masks, reader)
    if ignored is not None:
        found.pop(ignored, None)
    is_lossy = any(mask.suffix.lower() in _LOSSY for mask in masks)
    if is_lossy and len(names) == len(ONE_KIND) and any(v > _WHITE // 2 for v in found):
        ids = [0] * (_VALUES // 2) + [1] * (_VALUES // 2)
    else:
        ids = _ids_of_values(folder, names, found)
    if ignored is not None and 0 <= ignored < _VALUES:
        ids[ignored] = NODATA_CLASS
    if not any(ids[value] for value in found if ids[value] != NODATA_CLASS):
        raise DataError(f"{folder}: no pixel of its masks is changed; nothing is there to learn")
    return change_names(names), MaskCode(tuple(ids))


def _ids_of_values(folder: Path, names: Sequence[str], found: dict[int, Path]) -> list[int]:
    values = set(found)
    ids = [NODATA_CLASS] * _VALUES
    ids[: len(names)] = range(len(names))
    if len(names) == len(ONE_KIND) and values <= {0, _WHITE}:
        ids[1], ids[_WHITE] = NODATA_CLASS, 1
        return ids
    wrong = min(values - set(range(len(names))), default=None)
    if wrong is None:
        return ids
    known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
    if len(names) > len(ONE_KIND):
        raise DataError(
            f"{found[wrong]} holds the value {wrong}; {folder / CLASSES_FILE} knows {known}, "
            "and what its ignore_index says"
        )
    raise DataError(
        f"{found[wrong]} holds the value {wrong}, and the masks of {folder} {some_of(values)}: a "
        f'mask has 0 and 1, or 0 and 255; a {CLASSES_FILE} names others by {{"classes": '
        '["unchanged", "built", "torn down"], "ignore_index": 255}'
    )


def _values_of(masks: Sequence[Path], reader: PictureReader) -> dict[int, Path]:
    """Collect the values that masks hold, and the first mask with each."""
    found: dict[int, Path] = {}
    for path in masks:
        with open_picture(path) as scene:
            window = scene.window
        stored, known = reader.read(path, window)
        if stored.dtype == np.uint8:
            values = np.flatnonzero(np.bincount(stored[0][known], minlength=_VALUES))
        else:
            values = np.unique(stored[0][known])
        for value in values.tolist():
            found.setdefault(value, path)
    return found
