"""Scenes of two dates in two folders, paired by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lemevit_cli.errors import SceneError
from lemevit_cli.progress import Progress
from lemevit_cli.raster.source import expand_scenes

Pair = tuple[str, str]  # paths of the earlier scene and of the later one

_DATE = re.compile(
    r"(?<!\d)(?:19|20)\d\d(?:([-_.]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01]))?"
    r"(?:t[0-2]\d[0-5]\d[0-5]\d)?(?!\d)"
)
_WORDS = ({"before", "pre", "old", "t1"}, {"after", "post", "new", "t2"})
_MOST_NAMES = 8  # of a line


def pair_scenes(before: str, after: str, progress: Progress) -> list[Pair]:
    """Pair the rasters of two folders, or of two patterns, by their names; two scenes are a pair.

    Names are those below the folder, without the suffix. Where not one is in both, dates and words
    such as ``before`` and ``pre`` are left out of them; what is then no longer unique stays alone.

    Args:
        progress: hears how many pairs there are, by which rule, and what has no partner.

    Raises:
        SceneError: if a folder holds no raster, meets a single scene, or no pair is found.
    """
    first, second = (expand_scenes([path], progress.note) for path in (before, after))
    are_several = [[path] != found for path, found in ((before, first), (after, second))]
    if not any(are_several):
        return [(before, after)]
    if not all(are_several):
        several, single = (before, after) if are_several[0] else (after, before)
        raise SceneError(
            f"{several} is several scenes and {single} is one; name two folders, or two scenes"
        )
    if first == second:
        raise SceneError(
            f"{before} and {after}: are the same scenes; name each date by its pattern, such as "
            "'tiles/*_2019.tif'"
        )
    early, late = _by_name(first), _by_name(second)
    how = "of the same names"
    if not early.keys() & late.keys():
        early, late = _without_dates(early, _WORDS[0]), _without_dates(late, _WORDS[1])
        how = "of names that are the same without dates and words such as before"
    pairs = [(early[name], late[name]) for name in sorted(early.keys() & late.keys())]
    if not pairs:
        raise SceneError(
            f"{before} and {after}: none of their {len(first)} and {len(second)} scenes have the "
            f"same name, neither without dates; the first are {Path(first[0]).name} and "
            f"{Path(second[0]).name}"
        )
    progress.note(f"{before} and {after}: {len(pairs)} pairs {how}{_first_of(pairs)}")
    for place, found, used in ((before, first, 0), (after, second, 1)):
        alone = [path for path in found if path not in {pair[used] for pair in pairs}]
        if alone:
            progress.warn(f"{place}: {_count(alone)} no partner: {_list_names(alone)}")
    return pairs


def _by_name(paths: Sequence[str]) -> dict[str, str]:
    """Return paths by their names below the folder that all lie in, without what two share."""
    folder = Path(os.path.commonpath([str(Path(path).parent) for path in paths]))
    return _unique([(str(Path(path).relative_to(folder).with_suffix("")), path) for path in paths])


def _without_dates(by_name: Mapping[str, str], words: set[str]) -> dict[str, str]:
    return _unique([(_strip(name, words), path) for name, path in by_name.items()])


def _strip(name: str, words: set[str]) -> str:
    parts = re.split(r"[^0-9a-z]+", _DATE.sub("_", name.lower()))
    return "_".join(part for part in parts if part and part not in words)


def _unique(named: Sequence[Pair]) -> dict[str, str]:
    names = [name for name, _ in named]
    return {name: path for name, path in named if names.count(name) == 1}


def _first_of(pairs: Sequence[Pair]) -> str:
    before, after = (Path(path).stem for path in pairs[0])
    return "" if before == after else f"; the first are {before} and {after}"


def _count(alone: Sequence[str]) -> str:
    return f"{len(alone)} scene{' has' if len(alone) == 1 else 's have'}"


def _list_names(paths: Sequence[str]) -> str:
    listed = ", ".join(Path(path).name for path in paths[:_MOST_NAMES])
    return listed + (", ..." if len(paths) > _MOST_NAMES else "")
