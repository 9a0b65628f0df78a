"""Folders of pairs: ``{train,val}/{A,B,label}``, the earlier date, the later one, what changed.

Also ``before``, ``after`` or ``t1``, ``t2``; and ``OUT``, ``mask`` for the labels. A pair and its
mask share stem and size; the dates are compared pixel by pixel. Masks hold 0 and 1, or 0 and 255,
whichever it is in all of a folder; in JPEG, which blurs them, what is brighter than the middle is
changed (``raster/class_raster.py``). A ``classes.json`` as of folders of pictures may name several
kinds of change by their ids: ``{"classes": ["unchanged", "built", "torn down"], "ignore_index":
255}``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.raster.class_raster import NO_WHITE
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.tasks.change.classes import ONE_KIND, change_names, check_first_is_unchanged
from lemevit_cli.training.datasets.folders import (
    CLASSES_FILE,
    MaskCode,
    PictureReader,
    Words,
    count_in_masks,
    list_rasters,
    list_some,
    masked_source,
    read_class_list,
    refuse_lossy_ids,
    refuse_missing,
    with_note_of_lone,
)
from lemevit_cli.training.datasets.source import Source

DATES = (("A", "B"), ("before", "after"), ("t1", "t2"))
_MASKS = ("label", "OUT", "mask")
_SPLITS = ("train", "val")
_VALUES = 256


_WORDS = Words(
    all="all dates of a folder",
    size="both dates and the mask need one size",
    mask="whole numbers",
)


def open_pair_folder(path: str | Path, split: str, reader: PictureReader | None = None) -> Source:
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
    for files, partners in ((before, after), (after, before), (before, masks)):
        refuse_missing(files, partners, "partner")
    pairs = [((before[stem], after[stem]), masks[stem]) for stem in before]
    source = masked_source(
        folder,
        split,
        pairs,
        lambda: _read_code(folder, split),
        reader,
        words=_WORDS,
        check=_check_grids,
    )
    return with_note_of_lone(source, masks, before)


def _files(folder: Path, split: str) -> tuple[dict[str, Path], dict[str, Path], dict[str, Path]]:
    """Find earlier dates, later dates and masks of a split, by their stems."""
    place = folder / split
    if not place.is_dir():
        raise DataError(f"{place}: no such folder; {folder} needs {{train,val}}/{{A,B,label}}")
    dates = next((names for names in DATES if (place / names[0]).is_dir()), None)
    mask = next((name for name in _MASKS if (place / name).is_dir()), None)
    if dates is None or not (place / dates[1]).is_dir() or mask is None:
        raise DataError(
            f"{place}: needs the folders A and B, or before and after, of both dates, and label, "
            "OUT or mask of what changed"
        )
    before, after, masks = (_list_files(place / name) for name in (*dates, mask))
    return before, after, masks


def _list_files(place: Path) -> dict[str, Path]:
    files = list_rasters(place)
    if not files:
        raise DataError(f"{place}: empty folder")
    return files


def _check_grids(dates: Sequence[Scene]) -> None:
    """Refuse what cannot be compared pixel by pixel."""
    before, after = dates
    try:
        is_resampled = ScenePair(before, after).resampling is not None
    except SceneError as error:
        raise DataError(str(error)) from error
    if is_resampled:
        raise DataError(
            f"{after.path} lies on another grid than {before.path}; dates in folders are compared "
            "pixel by pixel, a pair of any grids is named by --before and --after"
        )


def _read_code(folder: Path, split: str) -> MaskCode:
    """Read names of the classes, and what the masks' values mean, from the masks of all splits."""
    listed = folder / CLASSES_FILE
    names, ignored = read_class_list(listed) if listed.is_file() else (ONE_KIND, None)
    check_first_is_unchanged(str(listed), names)
    splits = [s for s in _SPLITS if (folder / s).is_dir()]
    masks = [
        mask for s in dict.fromkeys([split, *splits]) for mask in _files(folder, s)[2].values()
    ]
    counts = count_in_masks(masks, ignored)
    if len(names) > len(ONE_KIND):
        refuse_lossy_ids(masks)
    white = counts.white(folder) if len(names) == len(ONE_KIND) else NO_WHITE
    notes = () if white == NO_WHITE else counts.notes(white)
    if white != NO_WHITE:
        ids = [int(value >= white) for value in range(_VALUES)]
    else:
        ids = _ids_of_values(folder, names, counts.first_with)
    if ignored is not None and 0 <= ignored < _VALUES:
        ids[ignored] = NODATA_CLASS
    if not any(ids[int(value)] not in (0, NODATA_CLASS) for value in counts.pixels):
        raise DataError(f"{folder}: no pixel of its masks is changed; nothing is there to learn")
    return MaskCode(change_names(names), tuple(ids), notes=notes)


def _ids_of_values(
    folder: Path, names: Sequence[str], first_with: Mapping[float, Path]
) -> list[int]:
    values = set(first_with)
    ids = [NODATA_CLASS] * _VALUES
    ids[: len(names)] = range(len(names))
    wrong = min(values - set(range(len(names))), default=None)
    if wrong is None:
        return ids
    known = ", ".join(f"{i} ({name})" for i, name in enumerate(names))
    if len(names) > len(ONE_KIND):
        raise DataError(
            f"{first_with[wrong]} holds the value {wrong}; {folder / CLASSES_FILE} knows {known}, "
            "and what its ignore_index says"
        )
    raise DataError(
        f"{first_with[wrong]} holds the value {wrong}, and the masks of {folder} "
        f"{list_some(values)}: a mask has 0 and 1, or 0 and 255; a {CLASSES_FILE} names others by "
        '{"classes": ["unchanged", "built", "torn down"], "ignore_index": 255}'
    )
