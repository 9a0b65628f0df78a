"""Files that appear whole or not at all, and what a killed process has left of them.

Until it is whole, what is written lies in files and folders that are named after their process:
``.NAME.PID-START.*`` beside the target, ``lemevit-PID-START-*`` in the folder for temporary files.
Whoever comes next removes those of processes that are no more.
"""

from __future__ import annotations

import glob
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from pathlib import Path

from lemevit_cli.errors import OutputError
from lemevit_cli.geopackage import check_layer_fits, check_nothing_else, layer_name

_LONGEST_NAME, _LONGEST_SUFFIX = 160, 32  # bytes that leave room for what is added
_TEMPORARY = "lemevit-"
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
    check_name(target)
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

    The path lies in a hidden folder beside the target (``.NAME.PID-START.*.part/NAME``), so that
    the move is a rename and that whatever a driver puts beside its file goes the same way: every
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
    folder = _make_part_folder(target)
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
    folder = _make_part_folder(target)
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
    check_name(target)
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
    suffix = target.suffix if len(target.suffix) <= _LONGEST_SUFFIX else ""
    temporary = beside(target, f".{_mark()}.part{suffix}")
    try:
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_name(target: str | os.PathLike[str]) -> None:
    """Refuse a target whose name is no text, which neither GDAL nor a line on stdout could tell.

    Raises:
        OutputError: in one line.
    """
    try:
        os.fspath(target).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"{target}: this name is not UTF-8; choose another") from error


def beside(target: Path, ending: str) -> Path:
    """Return the path of what belongs to a target and lies hidden beside it: ``.NAME`` + ending.

    Of a long NAME its begin and a digest stand for it: no name has more than 255 bytes.
    """
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{os.fsencode(name)[:_LONGEST_NAME].decode(errors='ignore')}~{digest}"
    return target.with_name(f".{name}{ending}")


def remove_parts(target: Path) -> None:
    """Remove what processes that are no more have left of a target, and of temporary files."""
    start = beside(target, ".").name
    for part in target.parent.glob(f"{glob.escape(start)}*.part*"):
        _remove_of_dead(part, part.name.removeprefix(start).split(".")[0])
    _remove_temporary_of_dead()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for temporary files, which goes with the block."""
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as path:
        yield Path(path)


def temporary_prefix() -> str:
    """Return how names of temporary files begin: with whose they are."""
    _remove_temporary_of_dead()
    return f"{_TEMPORARY}{_mark()}-"


def _remove_temporary_of_dead() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*-*"):
        _remove_of_dead(path, "-".join(path.name.split("-")[1:3]))


def _remove_of_dead(path: Path, mark: str) -> None:
    if _is_alive(mark):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # of another user
            path.unlink()


def _make_part_folder(target: Path) -> Path:
    remove_parts(target)
    try:
        prefix = beside(target, f".{_mark()}.").name
        return Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".part"))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error


def _mark() -> str:
    """Name this process for good: its number alone is another's some day."""
    return f"{os.getpid()}-{_start_of(os.getpid())}"


def _start_of(pid: int) -> int:
    """Return when a process has started, in ticks since the machine has.

    0 where the system does not tell, -1 of one that has ended and waits for its parent to notice.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    except (OSError, IndexError, ValueError):
        return 0


def _is_alive(mark: str) -> bool:
    """Say whether the process that a mark names is there; so is one that it does not name."""
    pid, _, start = mark.partition("-")
    if not pid.isdigit():
        return True
    started = _start_of(int(pid))
    if started and start.isdigit() and int(start):
        return started == int(start)
    if started < 0:
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        pass  # somebody else's
    return True


@contextmanager
def spooled_to_stdout(suffix: str) -> Iterator[Path]:
    """Yield a path in a temporary folder; a clean end of the block sends its bytes to stdout.

    Raises:
        OutputError: if stdout cannot be written.
        BrokenPipeError: if stdout's reader has gone.
    """
    with temporary_folder() as folder:
        spool = folder / f"result{suffix}"
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
