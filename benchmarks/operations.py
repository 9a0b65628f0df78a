"""Kill commands at every file operation, or let the disk be full at every size, and look.

    python benchmarks/faults.py --operations [--commands predict,change] [--step 1] [--size 256]
    python benchmarks/faults.py --operations --limits 5 [--commands predict]

By turns a command replaces an older result of its own, by ``--overwrite``, and is killed before its
first, second, ... operation: opening a file to write, rename, unlink, mkdir, rmdir, chmod, fsync. A
count of Python's audit events, in a child forked from a process that has imported all, says when.
Printed is, by command, what then lies in the place of its results: nothing (``absent``), the old
(``whole_old``), the new (``whole_new``), what cannot be opened (``corrupt``), or parts of both
(``half``); and how often the same command, run again, did not end with the whole new result
(``refused``). With ``--limits`` each command runs with its files limited to 5, 10, ... per cent of
its largest result instead: ``false`` is an exit status of 0 without the whole result, ``traceback``
one that was printed. Exit status 1 if one of the last four is not 0.
"""

from __future__ import annotations

import argparse
import mmap
import os
import resource
import shutil
import signal
import struct
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyogrio
import rasterio

COLUMNS = ("absent", "whole_old", "whole_new", "corrupt", "half", "refused", "false", "traceback")
_FAULTS = COLUMNS[3:]
_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT

# Of each command: what makes the old result, what makes the new one, and its main files.
_QUIET = ("--threads", "1", "-q", "--json")
COMMANDS: dict[str, tuple[list[str], list[str], tuple[str, ...]]] = {
    "simulate": (
        ["simulate", "data", "--task", "seg", "--size", "64", "--scenes", "3", "--seed", "9"],
        ["simulate", "data", "--task", "seg", "--size", "64", "--scenes", "2", "--seed", "1"],
        ("data/train/images/town_*.tif", "data/val/masks/town_*.tif", "data/classes.json"),
    ),
    "quicklook": (
        ["quicklook", "b.tif", "-o", "q.png", "--size", "64"],
        ["quicklook", "a.tif", "-o", "q.png", "--size", "64"],
        ("q.png",),
    ),
    "predict.tif": (
        ["predict", "b.tif", "-o", "p.tif", *_QUIET],
        ["predict", "a.tif", "-o", "p.tif", *_QUIET],
        ("p.tif",),
    ),
    "predict-cog": (
        ["predict", "b.tif", "-o", "p.tif", "--format", "COG", *_QUIET],
        ["predict", "a.tif", "-o", "p.tif", "--format", "COG", *_QUIET],
        ("p.tif",),
    ),
    "attention": (
        ["attention", "b.tif", "-o", "p.tif", "-q", "--json"],
        ["attention", "a.tif", "-o", "p.tif", "-q", "--json"],
        ("p.tif",),
    ),
    **{
        f"predict{suffix}": (
            ["predict", "b.tif", "-o", f"p{suffix}", *_QUIET],
            ["predict", "a.tif", "-o", f"p{suffix}", *_QUIET],
            (f"p{suffix}",),
        )
        for suffix in (".shp", ".gpkg", ".fgb", ".geojson")
    },
    "detect": (
        ["detect", "b.tif", "-o", "d.shp", *_QUIET],
        ["detect", "a.tif", "-o", "d.shp", *_QUIET],
        ("d.shp",),
    ),
    "change": (
        ["change", "b.tif", "a.tif", "-o", "c.tif", "-o", "c.shp", *_QUIET],
        ["change", "a.tif", "b.tif", "-o", "c.tif", "-o", "c.shp", *_QUIET],
        ("c.shp", "c.tif"),  # the mask is finished, and so placed, last
    ),
    "export": (
        ["export", "landcover", "-o", "n.onnx", "--window", "64"],
        ["export", "landcover", "-o", "n.onnx", "--window", "96"],
        ("n.onnx",),
    ),
    "labels": (
        ["labels", "set/val", "--task", "det", "-o", "l.gpkg", "-q"],
        ["labels", "set/train", "--task", "det", "-o", "l.gpkg", "-q"],
        ("l.gpkg",),
    ),
}


@dataclass(frozen=True)
class Ended:
    """How a command ended: its wait status, what it said, and operations that it began."""

    status: int
    stderr: str
    operations: int


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--commands", default="")
    parser.add_argument("--step", type=int, default=1)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--limits", type=int, default=0, metavar="PERCENT")
    args = parser.parse_args(arguments)
    chosen = args.commands.split(",") if args.commands else list(COMMANDS)
    tallies = {}
    folder = Path(tempfile.mkdtemp(prefix="operations-"))  # a finalizer would run in each child
    try:
        for name in chosen:
            if args.limits:
                tallies[name] = limit(folder, name, args.limits, size=args.size)
            else:
                tallies[name] = disturb(folder, name, step=args.step, size=args.size)
            print(f"{name}: {dict(tallies[name])}", file=sys.stderr, flush=True)
    finally:
        shutil.rmtree(folder)
    tell(tallies)


def prepare(folder: Path, name: str, *, size: int) -> tuple[Path, Path]:
    """Make a place with the inputs and an older result, and another with the new one."""
    old, new = folder / name / "old", folder / name / "new"
    old.mkdir(parents=True)
    made = {"a.tif": "11", "b.tif": "12"}
    for scene, seed in made.items():
        side, place = ["--size", str(size)], str(old / "made")
        _expect(forked(old, ["simulate", place, *side, "--seed", seed]))
        (old / "made" / "before.tif").rename(old / scene)
        shutil.rmtree(old / "made")
    if name == "labels":
        _expect(forked(old, ["simulate", "set", "--task", "det", "--size", "128", "--scenes", "2"]))
    shutil.copytree(old, new)
    before, after, _ = COMMANDS[name]
    _expect(forked(old, before))
    _expect(forked(new, after))
    return old, new


def disturb(folder: Path, name: str, *, step: int = 1, size: int = 256) -> Counter[str]:
    """Kill a command before each of its operations; return what came of it."""
    old, new = prepare(folder, name, size=size)
    command, tally = [*COMMANDS[name][1], "--overwrite"], Counter[str]()
    place = folder / name / "place"
    number = 0
    while True:
        number += step
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(old, place)
        ended = forked(place, command, kill_at=number)
        if not os.WIFSIGNALED(ended.status):
            _expect(ended)
            return tally
        tally[outcome(place, old, new, COMMANDS[name][2])] += 1
        ended = forked(place, command)
        is_new = outcome(place, old, new, COMMANDS[name][2]) == "whole_new"
        tally["refused"] += bool(ended.status) or not is_new


def limit(folder: Path, name: str, percent: int, *, size: int = 256) -> Counter[str]:
    """Run a command with its files limited to shares of the result; return what came of it."""
    old, new = prepare(folder, name, size=size)
    command, tally = [*COMMANDS[name][1], "--overwrite"], Counter[str]()
    place, mains = folder / name / "place", COMMANDS[name][2]
    largest = max(path.stat().st_size for main in mains for path in new.glob(main))
    for share in range(percent, 100, percent):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(old, place)
        ended = forked(place, command, limit=largest * share // 100)
        found = outcome(place, old, new, mains)
        tally[found] += 1
        tally["false"] += ended.status == 0 and found != "whole_new"
        tally["traceback"] += "Traceback" in ended.stderr
    return tally


def outcome(place: Path, old: Path, new: Path, mains: tuple[str, ...]) -> str:
    """Say what lies in the place of results, as the columns of the table name it."""
    found = [read_all(place, main) for main in mains]
    if found == [read_all(new, main) for main in mains]:
        return "whole_new"
    if found == [read_all(old, main) for main in mains]:
        return "whole_old"
    if "corrupt" in [content for files in found for content in files.values()]:
        return "corrupt"
    # Of a set of files, one that stands for all is last: without it there is no set.
    return "half" if found[-1] else "absent"


def read_all(place: Path, pattern: str) -> dict[str, Any]:
    return {str(path.relative_to(place)): read(path) for path in sorted(place.glob(pattern))}


def read(path: Path) -> Any:
    """Return all that a file holds, its sidecars' part too, or ``corrupt``."""
    try:
        if path.suffix == ".tif":
            with rasterio.open(path) as raster:
                levels = len(raster.overviews(1))
                pixels = [raster.read().tobytes()]
                for level in range(levels):
                    with rasterio.open(path, overview_level=level) as overview:
                        pixels.append(overview.read().tobytes())
                sidecar = path.with_name(path.name + ".aux.xml")
                return pixels, raster.tags(1), sidecar.exists() and sidecar.read_bytes()
        if path.suffix in (".shp", ".gpkg", ".fgb", ".geojson"):
            meta, _, polygons, columns = pyogrio.raw.read(path)
            return (
                meta["crs"],
                polygons.tolist(),
                *(column.tolist() for column in columns),
            )
        return path.read_bytes()
    except Exception:
        return "corrupt"


def forked(place: Path, command: list[str], *, kill_at: int = 0, limit: int | None = None) -> Ended:
    """Run a command in a child of this process.

    Args:
        kill_at: the operation before which it is killed; 0 lets it end.
        limit: bytes that a file of it may have.
    """
    import lemevit_cli.cli

    counter, said = mmap.mmap(-1, 8), place.with_name("stderr")
    pid = os.fork()
    if pid == 0:
        try:
            os.chdir(place)
            for descriptor, path in ((1, os.devnull), (2, str(said))):
                os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
            _count_operations(place.resolve(), counter, kill_at)
            if limit is not None:
                signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            sys.argv = ["lemevit", *command]
            lemevit_cli.cli.main()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(70)
    _, status = os.waitpid(pid, 0)
    return Ended(status, said.read_text(), struct.unpack("q", counter[:8])[0])


def _count_operations(place: Path, counter: mmap.mmap, kill_at: int) -> None:
    def begin() -> None:
        number = struct.unpack("q", counter[:8])[0] + 1
        counter[:8] = struct.pack("q", number)
        if number == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def hear(event: str, args: tuple[Any, ...]) -> None:
        is_write = event == "open" and isinstance(args[2], int) and args[2] & _WRITES
        if (is_write or event in _EVENTS) and _is_within(args[0], place):
            begin()

    def fsync(descriptor: int, fsync: Callable[[int], None] = os.fsync) -> None:
        begin()
        fsync(descriptor)

    os.fsync = fsync  # type: ignore[assignment]  there is no event of it
    sys.addaudithook(hear)


def _is_within(path: Any, place: Path) -> bool:
    # Names that shutil.rmtree gives are relative to a descriptor: they count.
    return not isinstance(path, int) and str(place / os.fsdecode(path)).startswith(str(place))


def _expect(ended: Ended) -> None:
    if ended.status:
        sys.exit(f"ended with {ended.status}: {ended.stderr}")


def tell(tallies: dict[str, Counter[str]]) -> None:
    """Print the tallies; end with 1 if one is not clean."""
    print(f"| command | {' | '.join(COLUMNS)} |\n|---{'|---:' * len(COLUMNS)}|")
    for name, tally in tallies.items():
        print(f"| {name} | {' | '.join(str(tally[column]) for column in COLUMNS)} |")
    if any(tally[fault] for tally in tallies.values() for fault in _FAULTS):
        sys.exit(1)


if __name__ == "__main__":
    main()
