"""A TOML file that lists scenes and folders, to be given in place of a folder::

    [[source]]
    scene = "a.tif"
    labels = "a.gpkg"          # polygons, or a raster of class ids
    label-field = "class"      # also: class, layer, where, background
    split = "train"            # or val; left out, the scene is divided by blocks
    weight = 0.5               # how often it is drawn from; left out, by its labelled pixels

    [[source]]
    folder = "towns"           # {train,val}/{images,masks}

Paths are relative to the file.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemevit_cli.errors import DataError
from lemevit_cli.training.options import LabelledScene

SUFFIX = ".toml"
_SCENE_KEYS = {
    "scene": "scene",
    "labels": "labels",
    "label-field": "label_field",
    "class": "class_name",
    "layer": "layer",
    "where": "where",
    "background": "background",
    "split": "split",
    "weight": "weight",
}
_FOLDER_KEYS = {"folder": "path", "weight": "weight"}
_PATHS = ("scene", "labels", "folder")


@dataclass(frozen=True, kw_only=True)
class LabelledFolder:
    """A folder of pictures and masks; ``weight`` as of a :class:`LabelledScene`."""

    path: str
    weight: float | None = None


def read_listing(path: str | Path) -> tuple[LabelledFolder | LabelledScene, ...]:
    """Read the sources that a TOML file lists, in its order.

    Raises:
        DataError: if it cannot be read, lists nothing, or has a key or value that is unknown.
    """
    file = Path(path)
    try:
        raw = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as TOML ({error})") from error
    entries = raw.pop("source", None)
    if raw:
        raise DataError(f"{path}: unknown key {next(iter(raw))!r}; it lists [[source]] tables")
    if not isinstance(entries, list) or not entries:
        raise DataError(f"{path}: lists no [[source]]")
    return tuple(_entry(file, number, entry) for number, entry in enumerate(entries, 1))


def _entry(file: Path, number: int, entry: Any) -> LabelledFolder | LabelledScene:
    where = f"{file}: source {number}"
    if not isinstance(entry, dict) or ("scene" in entry) == ("folder" in entry):
        raise DataError(f"{where} needs either scene and labels, or folder")
    keys = _FOLDER_KEYS if "folder" in entry else _SCENE_KEYS
    for key, value in entry.items():
        if key not in keys:
            raise DataError(f"{where} has the unknown key {key!r}; known are {', '.join(keys)}")
        if key == "weight":
            _check_weight(where, value)
        elif not isinstance(value, str) or not value:
            raise DataError(f"{where}: {key} is {value!r}; it takes a text")
    values: dict[str, Any] = {
        keys[key]: _beside(file, value) if key in _PATHS else value for key, value in entry.items()
    }
    if "folder" in entry:
        return LabelledFolder(**values)
    if "labels" not in entry:
        raise DataError(f"{where} has no labels; name a file of polygons or a raster of class ids")
    return LabelledScene(**values)


def _check_weight(where: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
        raise DataError(f"{where}: weight is {value!r}; it takes a number above zero")


def _beside(file: Path, path: str) -> str:
    """A path relative to the listing; addresses that GDAL alone knows stay as they are."""
    return path if "://" in path or path.startswith("/vsi") else str(file.parent / path)
