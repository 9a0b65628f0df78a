"""Names of classes that a data set states beside its labels: ``classes.json``, YOLO's YAML."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from lemevit_cli.errors import DataError, reading
from lemevit_cli.legend import MAX_CLASSES
from lemevit_cli.tasks.detection.datasets.lines import read_text
from lemevit_cli.tasks.detection.datasets.yolo import whole_number
from lemevit_cli.training.datasets.folders import CLASSES_FILE


def read_stated_classes(folder: Path) -> tuple[str, ...] | None:
    """Read the names in ``classes.json``, None without such a file."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    what = 'cannot be understood; it takes {"classes": ["plane", ...]}'
    with reading(path, what, raises=DataError):
        raw = json.loads(path.read_text(encoding="utf-8-sig"))
    names = raw.get("classes") if isinstance(raw, dict) else None
    return _check_class_names(names, path)


def read_numbered_classes(folder: Path) -> tuple[str, ...] | None:
    """Read the names in YOLO's YAML, else a name a line in ``classes.txt``; None without either.

    Names may be a list, or a mapping from 0 on whose numbers may be quoted. A name may be a number.
    """
    path = yaml_of(folder)
    if path is None:
        listed = folder / "classes.txt"
        text = read_text(listed) if listed.is_file() else ""
        lines = [line.strip() for line in text.rstrip().splitlines()]
        if "" in lines:
            raise DataError(
                f"{listed}: line {lines.index('') + 1} is empty; it takes a name a line, "
                "of class 0, of class 1 and so on"
            )
        return _check_class_names(lines, listed) if lines else None
    names = read_yaml(path).get("names")
    if isinstance(names, dict):
        numbers = {whole_number(str(number)): name for number, name in names.items()}
        if set(numbers) != set(range(len(names))):
            raise DataError(
                f"{path}: its names are numbered {', '.join(map(str, names))}, not from 0 on"
            )
        names = [numbers[number] for number in range(len(names))]
    if not isinstance(names, list):
        raise DataError(f"{path}: cannot be understood; it takes names: [plane, ...]")
    return _check_class_names([_name(name) for name in names], path)


def states_keypoints(folder: Path) -> bool:
    """Say whether YOLO's YAML of a folder states keypoints (``kpt_shape``)."""
    path = yaml_of(folder)
    return path is not None and "kpt_shape" in read_yaml(path)


def folder_named_by(path: Path) -> Path:
    """Return the folder whose YAML is named, else the path itself.

    Raises:
        DataError: if the folder is not read by that YAML.
    """
    if path.suffix.lower() not in (".yaml", ".yml") or not path.is_file():
        return path
    of_folder = yaml_of(path.parent)
    if of_folder is None or of_folder.name != path.name:
        other = "several" if of_folder is None else of_folder.name
        raise DataError(
            f"{path}: the folder is read by data.yaml, or by its only YAML, and it has {other}; "
            "leave only this one there"
        )
    return path.parent


def yaml_of(folder: Path) -> Path | None:
    """Find ``data.yaml``, or the only file of that kind in a folder."""
    files = sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])
    return next((f for f in files if f.stem == "data"), files[0] if len(files) == 1 else None)


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a mapping of a YAML file.

    Raises:
        DataError: if it cannot be understood.
    """
    with reading(path, "cannot be understood", raises=DataError):
        content = yaml.safe_load(read_text(path))
    if not isinstance(content, dict):
        raise DataError(f"{path}: cannot be understood; it takes names: [plane, ...]")
    return content


def _name(name: Any) -> Any:
    """Return a name as text; YAML takes some for numbers, and yes and no for truth values."""
    if isinstance(name, bool):
        return "yes" if name else "no"
    return str(name) if isinstance(name, int | float) else name


def _check_class_names(names: Any, path: Path) -> tuple[str, ...]:
    is_list = isinstance(names, list) and all(isinstance(n, str) and n for n in names)
    if not is_list or not 1 <= len(names) <= MAX_CLASSES or len(set(names)) < len(names):
        raise DataError(f"{path}: its classes must be 1 to {MAX_CLASSES} different names")
    return tuple(names)
