"""Lines of label files as fields, whatever separates them, each with its place for messages."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from lemevit_cli.errors import DataError, reading

_SPACED_NUMBERS = re.compile(r"\d\s+[-\d]")


class Line(NamedTuple):
    """A line that is not empty.

    Args:
        place: file and number, for messages.
        fields: between commas if there are some, else between spaces.
    """

    place: str
    fields: list[str]


def read_text(path: Path) -> str:
    """Read a text in UTF-8, or in UTF-16 with its mark.

    Raises:
        DataError: if it cannot be read as that.
    """
    with reading(path, "cannot be read as text", raises=DataError):
        raw = path.read_bytes()
        is_utf16 = raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        return raw.decode("utf-16" if is_utf16 else "utf-8-sig")


def read_lines(path: Path) -> Iterator[Line]:
    """Yield the lines that are not empty.

    Raises:
        DataError: if the file cannot be read as text.
    """
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.strip():
            yield Line(f"{path}, line {number}", _fields(line))


def _fields(line: str) -> list[str]:
    fields = [field.strip() for field in line.strip().rstrip(",").split(",")]
    # Numbers with spaces between them: the commas are decimal ones, or none.
    if len(fields) == 1 or any(_SPACED_NUMBERS.search(field) for field in fields):
        return line.split()
    return fields
