"""Finished files moved into their places: a kill between two moves leaves nothing half.

A result may be several files, and a run several results. What lies between is "not there": main
files of before go first, then what stood beside them, and the new main files come last. Before the
first move its plan is written into the hidden folders that hold the new files, so that the next
run carries out what a killed one had begun.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lemevit_cli.errors import OutputError
from lemevit_cli.hidden_names import is_alive, parts_of

_PLAN = ".placing.json"


@dataclass(frozen=True)
class Staged:
    """Finished files of one result.

    Args:
        folder: hidden, beside the target; all that it holds is moved.
        target: the main file's place.
        stale: names beside the target that its old files may have; those not brought go.
    """

    folder: Path
    target: Path
    stale: frozenset[str] = frozenset()

    def names(self) -> list[str]:
        """List the finished files, the main one last; none where nothing was made."""
        names = (path.name for path in self.folder.iterdir() if not path.name.startswith(_PLAN))
        return sorted(names, key=lambda name: (name == self.target.name, name))

    def files(self) -> Iterator[tuple[Path, Path]]:
        """Yield each finished file with its place, the main one last."""
        for name in self.names():
            yield self.folder / name, self.target.with_name(name)


def place(results: Sequence[Staged], stale: Iterable[Path] = ()) -> None:
    """Put results into their places, all or, until the next run on one of them, none.

    Files keep the mode of those that they replace, and are on the disk before their names are.

    Args:
        stale: further files that go.

    Raises:
        OSError: if the disk refuses; what was not moved stays in its folder.
    """
    for result in results:
        for file, target in result.files():
            if target.exists():
                shutil.copymode(target, file)
            sync(file)
        sync(result.folder)
    plan = [_plan_of(result) for result in results]
    plan[0]["stale"] += [str(path.absolute()) for path in stale]
    if len(plan) > 1 or len(plan[0]["names"]) > 1 or plan[0]["stale"]:
        for result in results:
            _write_plan(result.folder / _PLAN, plan)
    _carry_out(plan)


def _plan_of(result: Staged) -> dict[str, Any]:
    names, target = result.names(), result.target.absolute()
    stale = [
        str(path)
        for name in sorted(result.stale.difference(names))
        if os.path.lexists(path := target.with_name(name))
    ]
    return {
        "folder": str(result.folder.absolute()),
        "target": str(target),
        "names": names,
        "stale": stale,
        "old": _state_of(target),
    }


def _write_plan(path: Path, plan: list[dict[str, Any]]) -> None:
    draft = path.with_name(path.name + ".new")
    draft.write_text(json.dumps(plan), encoding="utf-8")
    sync(draft)
    draft.replace(path)
    sync(path.parent)


def _carry_out(plan: list[dict[str, Any]]) -> None:
    """Move what is not moved yet."""
    steps = [(Path(of["folder"]), Path(of["target"]), of) for of in plan]
    is_single = len(plan) == 1 and len(plan[0]["names"]) < 2 and not plan[0]["stale"]
    for folder, target, _ in () if is_single else reversed(steps):
        if (folder / target.name).exists():
            target.unlink(missing_ok=True)
    for path in (path for of in plan for path in of["stale"]):
        Path(path).unlink(missing_ok=True)
    for is_main in (False, True):
        for folder, target, of in steps:
            for name in of["names"]:
                if (name == target.name) == is_main and (folder / name).exists():
                    (folder / name).replace(target.with_name(name))
    for _, target, _ in steps:
        sync(target.parent)


def finish_placing(target: Path) -> None:
    """Carry out what a killed run had begun to move to a target; leave what has changed since.

    Raises:
        OutputError: if the disk refuses.
    """
    for path, owner in parts_of(target, f"/{_PLAN}"):
        if is_alive(owner):
            continue
        try:
            plan = json.loads(path.read_text(encoding="utf-8"))
            if all(map(_is_as_it_was, plan)):
                _carry_out(plan)
        except (OSError, ValueError, LookupError) as error:
            raise OutputError(
                f"{target}: a killed run had begun to put it in place, which cannot be finished "
                f"({error}); its files are in {path.parent}"
            ) from error
        for of in plan:
            shutil.rmtree(of["folder"], ignore_errors=True)


def _is_as_it_was(of: dict[str, Any]) -> bool:
    state = _state_of(Path(of["target"]))
    return state in (None, of["old"]) or not (Path(of["folder"]) / Path(of["target"]).name).exists()


def _state_of(path: Path) -> list[int] | None:
    try:
        state = path.stat()
    except FileNotFoundError:
        return None
    return [state.st_ino, state.st_size, state.st_mtime_ns]


def discard(folder: Path) -> None:
    """Remove a folder of files that were not placed, unless their moves have begun."""
    if not (folder / _PLAN).exists() or not any(_still_staged(folder)):
        shutil.rmtree(folder, ignore_errors=True)


def _still_staged(folder: Path) -> Iterator[Path]:
    with suppress(FileNotFoundError):
        yield from (path for path in folder.iterdir() if not path.name.startswith(_PLAN))


def keep(result: Staged) -> Path:
    """Give finished files that could not be placed a folder that is seen; return it."""
    (result.folder / _PLAN).unlink(missing_ok=True)
    place_of = result.target.with_name(f"{result.target.name}.finished")
    number = 1
    while os.path.lexists(place_of):
        number += 1
        place_of = result.target.with_name(f"{result.target.name}.finished-{number}")
    return result.folder.rename(place_of)


def sync(path: Path) -> None:
    """Have a file, or a folder's names, on the disk.

    Raises:
        OSError: if the disk refuses: some tell only then that they are full.
    """
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
