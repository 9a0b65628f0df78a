"""Parts of a scene that outlive a kill: the same command again goes on behind them.

While a scene of several blocks is worked on, a folder ``.NAME.parts`` lies beside its result:
``run.json`` says what run it is of (:func:`fingerprint_of`), and of every finished block there is
``BLOCK.part``, a zip of numpy's arrays that is whole or not there. A clean end removes the folder.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, astuple, dataclass, fields
from itertools import groupby
from pathlib import Path
from typing import Any

import filelock
import numpy as np
from numpy.typing import NDArray

from lemevit_cli import __version__
from lemevit_cli.atomic import beside, check_name, remove_parts, written_whole
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Part, Piece, Plan
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.raster.targets import STDOUT
from lemevit_cli.settings import InferenceSettings

Fingerprint = Mapping[str, str]

_RUN = "run.json"
_TOLD = "told.json"  # of a part: what its block adds to the account
_SAMPLES, _SAMPLE_SIDE = 8, 64
# Options that change no part, or whose outcome stands for them.
_NOT_OF_PARTS = (
    "overwrite",
    "layer",
    "style",
    "min_area_m2",
    "simplify_m",
    "fill_holes_m2",
    "restart",
    "workers",
    "scheduler",
    "relay",
    "threads",
    "device",
    "precision",
)
_SIDES = tuple(field.name for field in fields(Window))
_PACKED_BYTES = 2  # of a number, at most: of floats, a zip saves little and takes long


@contextmanager
def locked(targets: Sequence[str]) -> Iterator[None]:
    """Keep targets to this process, and remove what dead ones have left of them.

    Raises:
        OutputError: if another run is at work on one.
    """
    with ExitStack() as held:
        for target in targets:
            if target != STDOUT:
                check_name(target)
                held.enter_context(_locked(Path(target)))
                remove_parts(Path(target))
        yield


@contextmanager
def _locked(target: Path) -> Iterator[None]:
    lock = filelock.FileLock(beside(target, ".lock"), blocking=False)
    try:
        lock.acquire()
    except filelock.Timeout as error:
        raise OutputError(
            f"{target}: another run is writing it; wait for its end, or name another file"
        ) from error
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}") from error
    try:
        yield
    finally:
        with suppress(OSError):
            Path(lock.lock_file).unlink()  # while it is held: whoever comes next makes its own
        lock.release()


def folder_of(target: str) -> Path:
    """Return where the parts of a target are kept."""
    return beside(Path(target), ".parts")


@contextmanager
def open_journal(
    target: str, fingerprint: Fingerprint, *, num_blocks: int, restart: bool
) -> Iterator[Journal]:
    """Continue the parts that an earlier run has left beside a target, or begin without any.

    Any exception leaves those that are finished; a clean end of the block removes them.

    Args:
        restart: remove what there is, whatever run it is of.

    Raises:
        OutputError: if they are of another run, naming how it differs, or if the disk refuses.
    """
    folder = folder_of(target)
    if restart:
        shutil.rmtree(folder, ignore_errors=True)
    _check_same_run(folder, target, fingerprint)
    journal = Journal(folder, target, num_blocks)
    with journal.failures():
        folder.mkdir(exist_ok=True)
        with written_whole(folder / _RUN) as path:
            path.write_text(json.dumps(dict(fingerprint), indent=1))
    try:
        yield journal
    except BaseException:
        if not journal.count_done():
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)


def _check_same_run(folder: Path, target: str, fingerprint: Fingerprint) -> None:
    try:
        earlier = json.loads((folder / _RUN).read_text())
    except (OSError, ValueError):
        return  # no part can be older than it
    if earlier == fingerprint:
        return
    names = [n for n in (*earlier, *fingerprint) if earlier.get(n) != fingerprint.get(n)]
    told = "; ".join(
        f"{name} was {earlier.get(name, 'none')}, is {fingerprint.get(name, 'none')}"
        for name in dict.fromkeys(names)
    )
    raise OutputError(
        f"{target}: {_count(folder)} blocks of an unfinished run lie in {folder}, and this one "
        f"differs ({told}); repeat that one to continue it, or begin anew with --restart"
    )


def describe_unfinished(target: str) -> dict[str, Any] | None:
    """Describe what a run that did not end has left beside a target; None where nothing is."""
    folder = folder_of(target)
    if not (folder / _RUN).exists():
        return None
    return {
        "folder": str(folder),
        "blocks_done": _count(folder),
        "megabytes": round(sum(path.stat().st_size for path in folder.iterdir()) / 1e6, 1),
        "run": json.loads((folder / _RUN).read_text()),
    }


def _count(folder: Path) -> int:
    # Without those that a killed process has begun: they are hidden.
    return sum(1 for _ in folder.glob("[0-9]*.part"))


@dataclass(frozen=True)
class Journal:
    """The parts of one run.

    Args:
        folder: where they are.
        target: what messages call the run.
        num_blocks: of the whole run.
    """

    folder: Path
    target: str
    num_blocks: int

    def count_done(self) -> int:
        """Count the blocks that are finished."""
        return _count(self.folder)

    def is_of(self, fingerprint: Fingerprint) -> bool:
        """Tell whether the folder is here, and of this run: another machine may not see it."""
        try:
            return bool(json.loads((self.folder / _RUN).read_text()) == fingerprint)
        except (OSError, ValueError):
            return False

    def part(self, number: int, run: BlockInference, make: Callable[[], Part]) -> Iterator[Piece]:
        """Yield the pieces of a block: as they were kept, or made, and kept, now."""
        if self.has(number):
            run.account.blocks_kept += 1
            self.retell(number, run)
        else:
            self.keep(number, run, make())
        yield from self.pieces(number)

    def has(self, number: int) -> bool:
        """Tell whether a part is there, every byte as it was written: a power cut may spoil one."""
        try:
            with zipfile.ZipFile(self._path(number)) as archive:
                return archive.testzip() is None and _TOLD in archive.namelist()
        except (OSError, zipfile.BadZipFile, EOFError):
            return False

    def drop(self, number: int) -> None:
        """Remove what there is of a part."""
        with self.failures():
            self._path(number).unlink(missing_ok=True)

    def keep(self, number: int, run: BlockInference, part: Part) -> None:
        """Write the pieces of a part as they come."""
        with self.failures(), written_whole(self._path(number)) as path:
            _write_part(path, run, part)

    def put(self, number: int, content: bytes) -> None:
        """Keep a part that another process has made and sent."""
        with self.failures(), written_whole(self._path(number)) as path:
            path.write_bytes(content)

    def content(self, number: int) -> bytes:
        """Return a part as :meth:`put` takes it."""
        return self._path(number).read_bytes()

    def has_come(self, number: int) -> bool:
        """Tell whether a part that another process has written is seen here."""
        path = self._path(number)
        # A shared disk may remember for a while that a file is not there; a look into its folder
        # makes it ask anew.
        return path.exists() or path in self.folder.iterdir()

    def pieces(self, number: int) -> Iterator[Piece]:
        """Read the pieces of a part."""
        with zipfile.ZipFile(self._path(number)) as archive:
            names = (name for name in archive.namelist() if name != _TOLD)
            for _, of_piece in groupby(names, key=lambda name: name.split("/")[0]):
                arrays = {Path(name).stem: _read_array(archive, name) for name in of_piece}
                place = dict(zip(_SIDES, arrays.pop("window").tolist(), strict=True))
                yield Piece(Window(**place), arrays)

    def retell(self, number: int, run: BlockInference) -> None:
        """Add to the account, and to the progress, what was done for a part elsewhere."""
        with zipfile.ZipFile(self._path(number)) as archive:
            told = json.loads(archive.read(_TOLD))
        run.account.windows += told["windows"]
        run.account.windows_skipped += told["windows_skipped"]
        run.account.windows_capped += told["windows_capped"]
        run.account.windows_full += told.get("windows_full", 0)
        run.account.unreadable += [tuple(window) for window in told["unreadable"]]
        run.progress.advance(told["windows"])

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06}.part"

    @contextmanager
    def failures(self) -> Iterator[None]:
        """Say of a disk that refuses what is kept all the same."""
        try:
            yield
        except OSError as error:
            raise OutputError(
                f"{self.target}: its parts cannot be kept in {self.folder} ({error.strerror}); "
                f"{self.count_done()} of {self.num_blocks} blocks are, and the same command "
                "continues behind them"
            ) from error


def _write_part(path: Path, run: BlockInference, part: Part) -> None:
    """Write pieces as they come; what the block adds to the account goes along."""
    account = run.account
    windows, skipped, unread = account.windows, account.windows_skipped, len(account.unreadable)
    capped, full = account.windows_capped, account.windows_full
    with zipfile.ZipFile(path, "w") as archive:
        for number, piece in enumerate(part):
            arrays: dict[str, NDArray[Any]] = {
                "window": np.array(astuple(piece.window)),
                **piece.arrays,
            }
            for name, array in arrays.items():
                _write_array(archive, f"{number:06}/{name}.npy", array)
        told = {
            "windows": account.windows - windows,
            "windows_skipped": account.windows_skipped - skipped,
            "windows_capped": account.windows_capped - capped,
            "windows_full": account.windows_full - full,
            "unreadable": account.unreadable[unread:],
        }
        archive.writestr(_TOLD, json.dumps(told))


def _write_array(archive: zipfile.ZipFile, name: str, array: NDArray[Any]) -> None:
    entry = zipfile.ZipInfo(name)
    if array.dtype.itemsize <= _PACKED_BYTES:
        entry.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(entry, "w", force_zip64=True) as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)


def _read_array(archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
    with archive.open(name) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def fingerprint_of(run: BlockInference, settings: InferenceSettings, plan: Plan) -> Fingerprint:
    """Return what decides every number of every part, by the name that messages give it."""
    predictor, source = run.predictor, run.source
    files = {f"scene {i}": _state_of(file) for i, file in enumerate(source.scene.files, start=1)}
    if settings.reading.mask is not None:
        files["what --mask holds"] = _state_of(settings.reading.mask.partition("|layername=")[0])
    blocks = repr(plan.blocks).encode()
    return {
        **files,
        "pixels": _hash_of_samples(run),
        "weights": predictor.digest,
        "head": predictor.card.head,
        "answers": ", ".join(predictor.card.class_names),
        "lemevit": __version__,
        "runtime": predictor.version,
        "device": predictor.device,
        "arithmetic": predictor.arithmetic,
        "threads": str(predictor.threads),
        "blocks": f"{len(plan.blocks)} ({hashlib.sha256(blocks).hexdigest()[:8]})",
        **{
            name: repr(value)
            for group in asdict(settings).values()
            if isinstance(group, dict)
            for name, value in group.items()
            if name not in _NOT_OF_PARTS
        },
    }


def _state_of(file: str) -> str:
    """Return a file's place, size and time; what is no file of this machine has its name alone."""
    try:
        state = Path(file).stat()
    except (OSError, ValueError):
        return file
    return f"{Path(file).resolve()}, {state.st_size} bytes, {state.st_mtime_ns}"


def _hash_of_samples(run: BlockInference) -> str:
    """Hash a few small windows along the scene's diagonal, pixels and validity."""
    scene, found = run.source.scene, hashlib.sha256()
    width, height = min(_SAMPLE_SIDE, scene.width), min(_SAMPLE_SIDE, scene.height)
    for i in range(_SAMPLES):
        col = (scene.width - width) * i // (_SAMPLES - 1)
        row = (scene.height - height) * i // (_SAMPLES - 1)
        try:
            for array in scene.read(Window(col_off=col, row_off=row, width=width, height=height)):
                found.update(np.ascontiguousarray(array).tobytes())
        except SceneError:  # told when it is its window's turn
            found.update(b"unreadable")
    return found.hexdigest()[:16]
