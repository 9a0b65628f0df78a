"""Files that appear whole or not at all."""

from __future__ import annotations

import glob
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from lemevit_cli.errors import OutputError
from lemevit_cli.geopackage import check_layer_fits, check_nothing_else, layer_name

# Moves of finished files into their places, and the removal of their folders: see placed_together.
_waiting: ContextVar[list[tuple[Callable[[], None], ExitStack]] | None] = ContextVar(
    "waiting", default=None
)


def check_replaceable(target: str | Path, *, overwrite: bool, layer: str | None = None) -> None:
    """Refuse a target that could not be put in place at the end of the work.

    Args:
        layer: of a GeoPackage, which alone is added or replaced; None replaces the file.

    Raises:
        OutputError: if its folder is missing or read-only, if it is a folder or a device, if it
            exists and may not be overwritten, or if it is a GeoPackage that would lose layers.
    """
    target = Path(target)
    folder = target.parent
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: the folder {folder} may not be written to")
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file in it")
    if target.exists() and not target.is_file():
        raise OutputError(f"{target} is not an ordinary file; -o - writes to stdout")
    if target.exists():
        _check_loss(target, overwrite=overwrite, layer=layer)


def _check_loss(target: Path, *, overwrite: bool, layer: str | None) -> None:
    if layer is not None:
        check_layer_fits(target, layer, overwrite=overwrite)
        return
    check_nothing_else(target, layer_name(target))
    if not overwrite:
        raise OutputError(f"{target} exists; replace it with --overwrite or name another file")


@contextmanager
def replacing(
    target: str | Path,
    *,
    overwrite: bool,
    companions: Iterable[str] = (),
    layer: str | None = None,
) -> Iterator[Path]:
    """Yield a path to write to; only a clean end of the block puts it in the target's place.

    The path lies in a hidden folder beside the target (``.NAME.PID.*.part/NAME``), so that the
    move is a rename and that whatever a driver puts beside its file goes the same way: every
    file left in that folder moves along, the target last. Any exception, Ctrl-C included,
    removes the folder; only a killed process leaves it, and never a target.

    Args:
        companions: names of files in the target's folder that belonged to an older target
            (``out.tif.ovr``); those that the new one does not bring are removed.
        layer: of a GeoPackage; the block brings all else that is in the target.

    Raises:
        OutputError: as ``check_replaceable``; or if the disk is full or the folder refuses.
    """
    target = Path(target)
    check_replaceable(target, overwrite=overwrite, layer=layer)
    try:
        prefix = f".{target.name}.{os.getpid()}."
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".part"))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
    with ExitStack() as at_end:
        at_end.callback(shutil.rmtree, folder, ignore_errors=True)
        yield folder / target.name
        move = partial(_move_into_place, folder, target, set(companions), overwrite, layer)
        waiting = _waiting.get()
        if waiting is None:
            move()
        else:
            waiting.append((move, at_end.pop_all()))


@contextmanager
def replacing_folder(target: str | Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty folder; only a clean end of the block puts it in the target's place.

    Args:
        overwrite: replace an older folder, unless it holds anything but links and texts.

    Raises:
        OutputError: if the target exists and may not be replaced, or the folder refuses.
    """
    target = Path(target)
    check_folder_replaceable(target, overwrite=overwrite)
    try:
        prefix = f".{target.name}.{os.getpid()}."
        folder = Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".part"))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
    try:
        content = folder / target.name
        content.mkdir()
        yield content
        check_folder_replaceable(target, overwrite=overwrite)
        if target.exists():
            target.replace(folder / "older")
        content.replace(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def check_folder_replaceable(target: Path, *, overwrite: bool) -> None:
    """Refuse a folder that could not be put in place; see :func:`replacing_folder`.

    Raises:
        OutputError: in one line.
    """
    parent = target.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise OutputError(f"{target}: the folder {parent} does not exist or may not be written to")
    if target.is_symlink() or (target.exists() and not target.is_dir()):
        raise OutputError(f"{target} is no folder; name another")
    if not target.is_dir() or not any(target.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{target} exists; replace it with --overwrite or name another folder")
    for path in sorted(target.rglob("*")):
        is_text = path.suffix.lower() in (".txt", ".json", ".yaml")
        if not (path.is_symlink() or path.is_dir() or is_text):
            raise OutputError(
                f"{path}: --overwrite removes folders of texts and links alone; name another one"
            )


@contextmanager
def placed_together() -> Iterator[None]:
    """Let all that :func:`replacing` writes in the block appear at its clean end, in a moment.

    A process that is killed while the second of two results is finished would else leave the
    first in its place, and the same command would be refused. An exception in the block leaves
    none.
    """
    waiting: list[tuple[Callable[[], None], ExitStack]] = []
    token = _waiting.set(waiting)
    try:
        yield
        for move, _ in waiting:
            move()
    finally:
        _waiting.reset(token)
        for _, at_end in waiting:
            at_end.close()


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path beside a target of one file; a clean end of the block puts it in its place.

    The bytes are on the disk before the name is: some file systems tell only then that they are
    full. Any exception leaves the target as it was, and nothing beside it.

    Raises:
        OSError: if it cannot be written.
    """
    # The suffix stays last: drivers go by it.
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part{target.suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def remove_parts(target: Path, *, spare_living: bool = False) -> None:
    """Remove what processes that were killed while they wrote a target have left of it.

    Args:
        spare_living: leave what belongs to a process that is there.
    """
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part*"):
        pid = part.name.removeprefix(f".{target.name}.").split(".")[0]
        if spare_living and (not pid.isdigit() or _is_alive(int(pid))):
            continue
        if part.is_dir():
            shutil.rmtree(part, ignore_errors=True)
        else:
            part.unlink(missing_ok=True)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # somebody else's
    return True


@contextmanager
def spooled_to_stdout(suffix: str) -> Iterator[Path]:
    """Yield a path in a temporary folder; a clean end of the block sends its bytes to stdout.

    Raises:
        OutputError: if stdout cannot be written.
        BrokenPipeError: if stdout's reader has gone.
    """
    with tempfile.TemporaryDirectory(prefix="lemevit-") as folder:
        spool = Path(folder) / f"result{suffix}"
        yield spool
        try:
            with spool.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 2**20)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"stdout cannot be written: {error.strerror}") from error


def _move_into_place(
    folder: Path, target: Path, companions: set[str], overwrite: bool, layer: str | None
) -> None:
    names = sorted((path.name for path in folder.iterdir()), key=lambda name: name == target.name)
    # Another program may have written there during hours of work.
    for name in names:
        of_layer = layer if name == target.name else None
        check_replaceable(target.with_name(name), overwrite=overwrite, layer=of_layer)
    try:
        for stale in companions.difference(names):
            target.with_name(stale).unlink(missing_ok=True)
        for name in names:
            (folder / name).replace(target.with_name(name))
    except OSError as error:
        raise OutputError(f"{target} cannot be put in place: {error.strerror}") from error
