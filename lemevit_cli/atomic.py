"""Files that appear whole or not at all, and what a killed process has left of them.

Until it is whole, what is written lies in files and folders that are named after their process:
``.NAME.PID-START.*`` beside the target, ``lemevit-PID-START-*`` in the folder for temporary files.
Whoever comes next removes those of processes that are no more.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from lemevit_cli.errors import DISK_FULL, OutputError
from lemevit_cli.geopackage import check_layer_fits, check_nothing_else, layer_name
from lemevit_cli.hidden_names import beside, is_alive, mark, parts_of
from lemevit_cli.placing import Staged, discard, finish_placing, keep, place, sync
from lemevit_cli.whole_files import check_whole

_LONGEST_SUFFIX = 32  # bytes
_TEMPORARY = "lemevit-"


@dataclass(frozen=True)
class _Result:
    """Finished files, and what may be done to those in their places."""

    staged: Staged
    overwrite: bool
    layer: str | None

    def check_places(self) -> None:
        # Another program may have written there during hours of work.
        target = self.staged.target
        for name in self.staged.names():
            of_layer = self.layer if name == target.name else None
            check_replaceable(target.with_name(name), overwrite=self.overwrite, layer=of_layer)


# Results that are finished, and the removal of their folders: see placed_together.
_waiting: ContextVar[list[tuple[_Result, ExitStack]] | None] = ContextVar("waiting", default=None)


def check_replaceable(
    target: str | Path,
    *,
    overwrite: bool,
    layer: str | None = None,
    companions: Iterable[str] = (),
) -> None:
    """Refuse a target that could not be put in place at the end of the work.

    What a killed run had begun to put there is put there first.

    Args:
        layer: of a GeoPackage, which alone is added or replaced; None replaces the file.
        companions: names beside the target that belong to it, and would go with it.

    Raises:
        OutputError: if its folder is missing or read-only, if it is a folder, a device or a link to
            nothing, if it or a companion exists and may not be overwritten, or if it is a
            GeoPackage that would lose layers.
    """
    target = followed(Path(target))
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
    finish_placing(target)
    if target.exists():
        _check_loss(target, overwrite=overwrite, layer=layer)
    adds_layer = layer is not None and target.exists()  # what is beside it is read with it
    for path in (target.with_name(name) for name in companions):
        if path.is_dir() or path.is_symlink():
            kind = "link" if path.is_symlink() else "folder"
            raise OutputError(f"{path} is a {kind} and belongs to {target.name}; remove it first")
        if os.path.lexists(path) and not (overwrite or adds_layer):
            raise OutputError(
                f"{path} exists and would be read with {target.name}; "
                "replace it with --overwrite or name another file"
            )


def followed(target: Path) -> Path:
    """Return the file that a link leads to, which is written in place of the link.

    Raises:
        OutputError: if it leads nowhere, or to a file of another kind.
    """
    if not target.is_symlink():
        return target
    real = Path(os.path.realpath(target))
    if not real.exists():
        raise OutputError(f"{target} is a link to {real}, which is not there; remove it first")
    if real.is_file() and real.suffix.lower() != target.suffix.lower():
        raise OutputError(f"{target} is a link to {real}, a name of another kind; name a file")
    return real


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
    file left in that folder moves along, the target last, see ``placing.py``. Any exception, Ctrl-C
    included, removes the folder; only a killed process leaves it, and never a target. A finished
    result that may not be placed after all stays in ``NAME.finished``.

    Args:
        companions: names of files in the target's folder that belonged to an older target
            (``out.tif.ovr``); those that the new one does not bring are removed.
        layer: of a GeoPackage; the block brings all else that is in the target.

    Raises:
        OutputError: as ``check_replaceable``; or if the disk is full or the folder refuses.
    """
    target, companions = followed(Path(target)), frozenset(companions)
    check_replaceable(target, overwrite=overwrite, layer=layer, companions=companions)
    folder = _make_part_folder(target)
    with ExitStack() as at_end:
        at_end.callback(discard, folder)
        with _named_if_full(target):
            yield folder / target.name
        result = _Result(Staged(folder, target, companions), overwrite, layer)
        waiting = _waiting.get()
        if waiting is None:
            _place([result])
        else:
            waiting.append((result, at_end.pop_all()))


def _place(results: Sequence[_Result], stale: Iterable[Path] = ()) -> None:
    """Put finished results into their places, or keep them where they are seen."""
    for result in results:
        try:
            for file, _ in result.staged.files():
                check_whole(file)
        except OSError as error:
            raise OutputError(
                f"{result.staged.target} cannot be written (is the disk full?): {error}"
            ) from error
    try:
        for result in results:
            result.check_places()
        place([result.staged for result in results], stale)
    except (OutputError, OSError) as error:
        told = error if isinstance(error, OutputError) else f"cannot be put in place ({error})"
        kept = " and ".join(str(keep(result.staged)) for result in results if result.staged.names())
        raise OutputError(f"{told}; what is finished is kept in {kept}") from error


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
        for path in sorted(content.rglob("*"), reverse=True):
            if not path.is_symlink():
                sync(path)
        try:
            check_folder_replaceable(target, overwrite=overwrite)
        except OutputError as error:
            raise OutputError(
                f"{error}; what is finished is kept in {keep(Staged(folder, target))}"
            ) from error
        if target.exists():
            shutil.copymode(target, content)
            target.replace(folder / "older")
        content.replace(target)
        sync(target.parent)
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
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
def placed_together(stale: Iterable[Path] = ()) -> Iterator[None]:
    """Let all that :func:`replacing` writes in the block appear at its clean end, in a moment.

    A process that is killed while the second of two results is finished would else leave the
    first in its place, and the same command would be refused. An exception in the block leaves
    none. What is finished last is placed last, and of what it replaces the last goes first: a file
    that stands for all is written at the end.

    Args:
        stale: files that go with those that are replaced.
    """
    waiting: list[tuple[_Result, ExitStack]] = []
    token = _waiting.set(waiting)
    try:
        yield
        if waiting:
            _place([result for result, _ in waiting], stale)
    finally:
        _waiting.reset(token)
        for _, at_end in waiting:
            at_end.close()


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """Yield a path beside a target of one file; a clean end of the block puts it in its place.

    The bytes are on the disk before the name is: some file systems tell only then that they are
    full. Any exception leaves the target as it was, and nothing beside it; what replaces a file
    keeps its mode.

    Raises:
        OSError: if it cannot be written.
        OutputError: if the target is a link to nothing.
    """
    target = followed(target)
    # The suffix stays last: drivers go by it.
    suffix = target.suffix if len(target.suffix) <= _LONGEST_SUFFIX else ""
    temporary = beside(target, f".{mark()}.part{suffix}")
    try:
        with _named_if_full(target):
            yield temporary
            check_whole(temporary)
            sync(temporary)
        if target.exists():
            shutil.copymode(target, temporary)
        temporary.replace(target)
        sync(target.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def _named_if_full(target: Path) -> Iterator[None]:
    """Say of a write that a full disk refused which file it was for: the system does not."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in DISK_FULL:
            error.filename = str(target)
        raise


def check_name(target: str | os.PathLike[str]) -> None:
    """Refuse a target whose name is no text, which neither GDAL nor a line on stdout could tell.

    Raises:
        OutputError: in one line.
    """
    try:
        os.fspath(target).encode()
    except UnicodeEncodeError as error:
        raise OutputError(f"{target}: this name is not UTF-8; choose another") from error


def remove_parts(target: Path) -> None:
    """Remove what processes that are no more have left of a target, and of temporary files."""
    finish_placing(target)
    for part, owner in parts_of(target):
        _remove_of_dead(part, owner)
    _remove_temporary_of_dead()


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for temporary files, which goes with the block."""
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(), ignore_cleanup_errors=True) as path:
        yield Path(path)


def temporary_prefix() -> str:
    """Return how names of temporary files begin: with whose they are."""
    _remove_temporary_of_dead()
    return f"{_TEMPORARY}{mark()}-"


def _remove_temporary_of_dead() -> None:
    for path in Path(tempfile.gettempdir()).glob(f"{_TEMPORARY}*-*"):
        _remove_of_dead(path, "-".join(path.name.split("-")[1:3]))


def _remove_of_dead(path: Path, owner: str) -> None:
    if is_alive(owner):
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):  # of another user
            path.unlink()


def _make_part_folder(target: Path) -> Path:
    remove_parts(target)
    try:
        prefix = beside(target, f".{mark()}.").name
        return Path(tempfile.mkdtemp(dir=target.parent, prefix=prefix, suffix=".part"))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error


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
            check_whole(spool)
            with spool.open("rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer, 2**20)
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            raise OutputError(f"stdout cannot be written: {error.strerror}") from error
