"""Names of what lies hidden beside a target while it is written, and whose it is."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

_LONGEST_NAME = 160  # bytes that leave room for what is added


def beside(target: Path, ending: str) -> Path:
    """Return the path of what belongs to a target and lies hidden beside it: ``.NAME`` + ending.

    Of a long NAME its begin and a digest stand for it: no name has more than 255 bytes.
    """
    name = target.name
    if len(os.fsencode(name)) > _LONGEST_NAME:
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{os.fsencode(name)[:_LONGEST_NAME].decode(errors='ignore')}~{digest}"
    return target.with_name(f".{name}{ending}")


def parts_of(target: Path, ending: str = "") -> Iterator[tuple[Path, str]]:
    """Yield what processes have left beside a target, or a path in it, and the mark of each."""
    start = beside(target, ".").name
    for part in target.parent.glob(f"{glob.escape(start)}*.part*{ending}"):
        yield part, part.relative_to(target.parent).parts[0].removeprefix(start).split(".")[0]


def mark() -> str:
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


def is_alive(mark: str) -> bool:
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
