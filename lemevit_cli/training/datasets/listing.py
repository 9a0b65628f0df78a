"""A TOML file that lists scenes and folders, to be given in place of a folder::

    [[source]]
    scene = "a.tif"
    labels = "a.gpkg"          # polygons, or a raster of class ids
    label-field = "class"      # also: class, layer, where, background,
                               # all-touched = true
    split = "train"            # or val; left out, the scene is divided by blocks
    weight = 0.5               # how often it is drawn from; left out, by its labelled pixels

    [[source]]
    before = "2015.tif"        # two dates of one place, and what has changed between them;
    after = "2023.tif"         # the rest as for a scene
    labels = "changes.gpkg"

    [[source]]
    folder = "towns"           # {train,val}/{images,masks}, or pairs, {train,val}/{A,B,label}

    [[source]]
    folder = "dota"            # boxes or masks; their classes as they are to be called:
    rename = { small-vehicle = "vehicle", large-vehicle = "vehicle" }
    drop = ["helicopter"]      # ignored: neither a class nor background
    classes = ["vehicle", "plane"]  # the only ones; objects of others are ignored

Pictures whose label files are all empty teach what ground without any of ``classes`` looks like,
where these are named. Paths are relative to the file. Where no labels are needed (``pretrain``),
none have to be named, what is of the split ``val`` is left out, and a folder may say how large its
pixels are, in metres: ``gsd = 0.5``.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lemevit_cli.errors import DataError, reading
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.options import DataOptions, LabelledScene

_SCENE_KEYS = {
    "scene": "scene",
    "labels": "labels",
    "label-field": "label_field",
    "class": "class_name",
    "layer": "layer",
    "where": "where",
    "background": "background",
    "all-touched": "all_touched",
    "split": "split",
    "weight": "weight",
}
_PAIR_KEYS = {"before": "scene", "after": "after"} | {
    key: name for key, name in _SCENE_KEYS.items() if key != "scene"
}
_FOLDER_KEYS = {"folder": "path", "weight": "weight"}
_UNLABELLED_KEYS = {"gsd": "gsd_m"}
_NAMING_KEYS = ("rename", "drop", "classes")
_LARGEST = 1e15  # of numbers: beyond it a share of them is none
_PATHS = ("scene", "before", "after", "labels", "folder")


@dataclass(frozen=True, kw_only=True)
class LabelledFolder:
    """A folder of pictures with masks or boxes; ``weight`` as of a :class:`LabelledScene`.

    Args:
        gsd_m: metres a pixel, of pictures that do not say so; where labels are not needed.
        naming: what its classes are called; of boxes and masks.
        skip_bad_labels: count labels that cannot be understood, and leave them out; for boxes
            and for pictures with a class.
    """

    path: str
    weight: float | None = None
    gsd_m: float | None = None
    naming: Naming = field(default_factory=Naming)
    skip_bad_labels: bool = False


def is_listing(path: str) -> bool:
    """Say whether a path is a list of data, by its suffix."""
    return Path(path).suffix.lower() == ".toml"


def paths_of(entry: LabelledFolder | LabelledScene) -> list[str | None]:
    """Return the files or the folder of an entry."""
    if isinstance(entry, LabelledScene):
        return [entry.scene, entry.after, entry.labels]
    return [entry.path]


def data_paths(data: DataOptions) -> list[str | None]:
    """Return all that a user's data are read from, lists among them."""
    lists = [path for path in data.paths if is_listing(path)]
    entries = [
        *data.scenes,
        *(entry for path in lists for entry in read_listing(path, labelled=False)),
    ]
    return [*data.paths, *(path for entry in entries for path in paths_of(entry))]


def read_listing(
    path: str | Path, *, labelled: bool = True
) -> tuple[LabelledFolder | LabelledScene, ...]:
    """Read the sources that a TOML file lists, in its order.

    Args:
        labelled: whether scenes need their labels; else a folder may have a ``gsd``, in metres, for
            pictures that do not say how large their pixels are.

    Raises:
        DataError: if it cannot be read, lists nothing, or has a key or value that is unknown.
    """
    file = Path(path)
    with reading(path, "cannot be read as TOML", raises=DataError):
        raw = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    entries = raw.pop("source", None)
    if raw:
        raise DataError(f"{path}: unknown key {next(iter(raw))!r}; it lists [[source]] tables")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: lists no [[source]]")
    return tuple(
        _entry(file, number, entry, labelled=labelled) for number, entry in enumerate(entries, 1)
    )


def _entry(
    file: Path, number: int, entry: Any, *, labelled: bool
) -> LabelledFolder | LabelledScene:
    where = f"{file}: source {number}"
    kinds = ("scene", "before", "folder")
    if not isinstance(entry, dict) or sum(kind in entry for kind in kinds) != 1:
        raise DataError(
            f"{where} needs either scene and labels; before, after and labels; or folder"
        )
    if "folder" in entry:
        naming = {key: entry[key] for key in _NAMING_KEYS if key in entry}
        rest = {key: value for key, value in entry.items() if key not in naming}
        keys = _FOLDER_KEYS if labelled else _FOLDER_KEYS | _UNLABELLED_KEYS
        values = _values(file, where, rest, keys, further=_NAMING_KEYS)
        return LabelledFolder(**values, naming=_naming(where, naming))
    values = _values(file, where, entry, _PAIR_KEYS if "before" in entry else _SCENE_KEYS)
    if "before" in entry and "after" not in entry:
        raise DataError(f"{where} has no after; name the later date")
    if "labels" not in entry and labelled:
        raise DataError(f"{where} has no labels; name a file of polygons or a raster of class ids")
    return LabelledScene(**{"labels": ""} | values)


def _values(
    file: Path,
    where: str,
    entry: dict[str, Any],
    keys: dict[str, str],
    *,
    further: tuple[str, ...] = (),
) -> dict[str, Any]:
    """Return a table's values by the names of their fields; ``further`` keys belong elsewhere."""
    for key, value in entry.items():
        if key not in keys:
            known = ", ".join([*keys, *further])
            raise DataError(f"{where} has the unknown key {key!r}; known are {known}")
        if key in ("weight", "gsd"):
            _check_number(where, key, value, zero=key == "weight")
        elif key == "all-touched":
            if not isinstance(value, bool):
                raise DataError(f"{where}: {key} is {value!r}; it takes true or false")
        elif not isinstance(value, str) or not value:
            raise DataError(f"{where}: {key} is {value!r}; it takes a text")
    return {
        keys[key]: _resolve_path(file, value) if key in _PATHS else value
        for key, value in entry.items()
    }


def _naming(where: str, entry: dict[str, Any]) -> Naming:
    rename, drop = entry.get("rename", {}), entry.get("drop", [])
    if not isinstance(rename, dict) or not all(isinstance(n, str) and n for n in rename.values()):
        raise DataError(f'{where}: rename is {rename!r}; it takes {{ old = "new", ... }}')
    for key, names in (("drop", drop), ("classes", entry.get("classes", ["any"]))):
        is_list = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
        if not is_list or (key == "classes" and not names):
            raise DataError(f'{where}: {key} is {names!r}; it takes ["name", ...]')
    classes = tuple(dict.fromkeys(entry["classes"])) if "classes" in entry else None
    return Naming(rename=rename, drop=tuple(drop), classes=classes)


def _check_number(where: str, key: str, value: Any, *, zero: bool) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 <= value <= _LARGEST or (value == 0 and not zero):
        wanted = "from zero on" if zero else "above zero"
        raise DataError(f"{where}: {key} is {value!r}; it takes a number {wanted}")


def _resolve_path(file: Path, path: str) -> str:
    """Resolve a path against the listing; addresses that GDAL alone knows stay as they are."""
    return path if "://" in path or path.startswith("/vsi") else str(file.parent / path)
