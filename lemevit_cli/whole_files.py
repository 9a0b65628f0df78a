"""Whether all of a file is there, by what it says of itself: a disk that fills up tells no one."""

from __future__ import annotations

import errno
import io
import json
import os
import struct
import sys
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BYTES_OF = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # fmt: skip  of TIFF's types of values
_LETTER_OF = {3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}  # of those that places are written in
_OFFSETS, _COUNTS, _SUB_IFDS = (273, 324), (279, 325), 330
# GDAL repeats the last bytes of a COG's tile behind it, and says so at the file's beginning.
_TRAILER, _TRAILER_BYTES = b"BLOCK_TRAILER=LAST_4_BYTES_REPEATED", 4
_HEAD_BYTES = 1000
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
LONGEST_HEADER = 20_000_000  # bytes; safetensors allows five times as many


class IncompleteFileError(OSError):
    """A file lacks a part of what it says that it holds."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)

    def __str__(self) -> str:
        return str(self.strerror)


def check_whole(path: Path, *, is_sparse: bool = True) -> None:
    """Refuse a file whose own tables tell of more than it holds; of other formats nothing is known.

    Read are the tables of TIFFs (all tiles of all overviews), GeoPackages, shapefiles, weights,
    Parquet, PNGs and XML; no pixel is decoded.

    Args:
        is_sparse: of a raster: tiles without pixels may be left out.

    Raises:
        IncompleteFileError: saying what is missing.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        if head.startswith(_TIFF):
            _check_tiff(file, head, size, is_sparse=is_sparse)
            return
        needed = _size_needed(file, head, path.suffix.lower(), size)
    if needed > size:
        raise IncompleteFileError(f"{size:,} of {needed:,} bytes are there")


def _size_needed(file: io.BufferedReader, head: bytes, suffix: str, size: int) -> int:
    """Return the bytes that a file should have at least."""
    if head.startswith(b"SQLite format 3\0"):
        page = int.from_bytes(head[16:18], "big")
        return (65536 if page == 1 else page) * int.from_bytes(head[28:32], "big")
    if head.startswith(b"\0\0\x27\x0a"):  # a .shp or .shx counts in words
        return 2 * int.from_bytes(head[24:28], "big")
    ends: dict[str, Callable[[], bool]] = {
        ".png": lambda: _tail(file, 8) == _PNG_END or not _PNG.startswith(head[:8]),
        ".xml": lambda: _tail(file, 8).rstrip().endswith(b">"),
        ".qml": lambda: _tail(file, 8).rstrip().endswith(b">"),
        ".parquet": lambda: head.startswith(b"PAR1") and _tail(file, 4) == b"PAR1",
    }
    if suffix in ends:
        return size if ends[suffix]() else size + 1
    if suffix == ".dbf":
        records, header, record = struct.unpack("<IHH", head[4:12].ljust(8, b"\xff"))
        return int(header + records * record)
    return _weights_size(file, head, size) if suffix == ".safetensors" else 0


def _tail(file: io.BufferedReader, count: int) -> bytes:
    file.seek(0, os.SEEK_END)
    file.seek(max(0, file.tell() - count))
    return file.read()


def _weights_size(file: io.BufferedReader, head: bytes, size: int) -> int:
    length = int.from_bytes(head[:8], "little")
    file.seek(8)
    try:
        header = json.loads(file.read(min(length, LONGEST_HEADER)))
        ends = [of["data_offsets"][1] for of in header.values() if "data_offsets" in of]
    except (ValueError, TypeError, AttributeError, LookupError):
        return size + 1
    return int(8 + length + max(ends, default=0))


def _check_tiff(file: io.BufferedReader, head: bytes, size: int, *, is_sparse: bool) -> None:
    order, is_big = "<" if head[:2] == b"II" else ">", head[2:4].strip(b"\0") == b"+"
    number, count_of, entry_bytes = ("Q", "Q", 20) if is_big else ("I", "H", 12)
    place = head[8:16] if is_big else head[4:8]
    behind = _TRAILER_BYTES if _TRAILER in head else 0
    waiting, seen = [struct.unpack(order + number, place)[0]], set[int]()
    while waiting:
        offset = waiting.pop()
        if offset == 0 or offset in seen:
            continue
        seen.add(offset)
        (count,) = struct.unpack(
            order + count_of, _read(file, offset, struct.calcsize("=" + count_of), size)
        )
        start = offset + struct.calcsize("=" + count_of)
        table = _read(file, start, count * entry_bytes, size)
        after = _read(file, start + len(table), struct.calcsize("=" + number), size)
        waiting += struct.unpack(order + number, after)
        values = dict(_values(file, table, order, number, entry_bytes, size))
        waiting += values.get(_SUB_IFDS, ())
        for offsets_tag, counts_tag in zip(_OFFSETS, _COUNTS, strict=True):
            offsets, counts = values.get(offsets_tag, ()), values.get(counts_tag, ())
            ends = (a + b + behind for a, b in zip(offsets, counts, strict=False) if b)
            end = max(ends, default=0)
            if end > size:
                raise IncompleteFileError(f"{size:,} of {end:,} bytes are there")
            if not is_sparse and any(b == 0 for b in counts):
                raise IncompleteFileError("pixels were not written")


def _values(
    file: io.BufferedReader, table: bytes, order: str, number: str, entry_bytes: int, size: int
) -> Iterator[tuple[int, tuple[int, ...] | array[int]]]:
    """Yield tags with what they hold where it is places or counts; refuse all that is beyond."""
    width = struct.calcsize("=" + number)
    for at in range(0, len(table), entry_bytes):
        tag, kind, count = struct.unpack_from(f"{order}HH{number}", table, at)
        length = count * _BYTES_OF.get(kind, 1)
        inline = table[at + 4 + width : at + entry_bytes]
        if length > width:
            (offset,) = struct.unpack(order + number, inline)
            if offset + length > size:
                raise IncompleteFileError(f"{size:,} of {offset + length:,} bytes are there")
        if tag not in (*_OFFSETS, *_COUNTS, _SUB_IFDS) or kind not in _LETTER_OF:
            continue
        content = _read(file, offset, length, size) if length > width else inline[:length]
        values = array(_LETTER_OF[kind], content)
        if (order == "<") != (sys.byteorder == "little"):
            values.byteswap()
        yield tag, values


def _read(file: io.BufferedReader, offset: int, length: int, size: int) -> bytes:
    if offset + length > size:
        raise IncompleteFileError(f"{size:,} of {offset + length:,} bytes are there")
    file.seek(offset)
    return file.read(length)
