"""Ways to break a file: bytes of any, numbers and words of texts, values of JSON and databases."""

from __future__ import annotations

import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random
from typing import Any

import torch

NUMBERS = (
    *("0", "-1", "1", "2", "255", "256", "65536", "2147483647", "-2147483648", "4294967295"),
    *("99999999999999999999", "1" + "0" * 400, "0.5", "1e-300", "1e300", "-1e300", "1e5", "1e999"),
    *("nan", "inf", "-inf", "", "x", "0x10", "1,5", "1_0", "NULL", "\u0663"),
)
TEXTS = (
    "",
    " ",
    "\0",
    "\n",
    "\x1b[2J",
    "\u202e",
    "\ufeff",
    "a" * 5000,
    "b" * 140_000,
    "../..",
    "/dev/zero",
    "ü😀",
)
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 3, 255, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e300, 5e-324),
    *(float("nan"), float("inf"), float("-inf"), [], {}, [[]], [None], {"a": 1}, [0] * 3000),
    *TEXTS,
)
_WORD = re.compile(rb"[^\s,;:<>\"'={}\[\]()/]+")
_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_HEAD = 600  # bytes, in which a format says what is to come


def break_file(path: Path, random: Random) -> str:
    """Break a file in place, once or a few times; return in words how."""
    ways = {
        ".json": [_break_json, _break_json, _break_json, _break_text],
        ".geojson": [_break_json, _break_json, _break_json, _break_text],
        ".gpkg": [_break_database, _break_database, _break_bytes],
        ".pt": [_break_checkpoint, _break_bytes],
        ".safetensors": [_break_card, _break_card, _break_header, _break_bytes],
    }.get(path.suffix, [_break_text] if _is_text(path) else [_break_bytes])
    said = []
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        way = random.choice(ways if random.random() < 0.9 else [_break_bytes])
        try:
            said.append(way(path, random))
        except Exception:  # broken before, so that its own format does not read it
            said.append(_break_bytes(path, random))
    return ", ".join(said)


def _is_text(path: Path) -> bool:
    return path.suffix in (".txt", ".csv", ".xml", ".vrt", ".toml", ".yaml", ".prj", ".cpg")


def _break_bytes(path: Path, random: Random) -> str:
    content = bytearray(path.read_bytes())
    size = len(content)
    place = random.randrange(min(size, _HEAD) if random.random() < 0.5 else size) if size else 0
    way = random.choice(("flip", "word", "word", "cut", "insert", "remove", "repeat", "swap"))
    if way == "flip" and size:
        content[place] ^= 1 << random.randrange(8)
    elif way == "word":
        width, order = random.choice((1, 2, 4, 8)), random.choice(("little", "big"))
        value = random.choice((0, 1, 2, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63))
        place -= place % width if random.random() < 0.7 else 0
        content[place : place + width] = (value % 256**width).to_bytes(width, order)
    elif way == "cut":
        del content[place:]
    elif way == "insert":
        content[place:place] = random.choice((b"\0", b"\xff", b"\n", random.randbytes(9)))
    elif way == "remove":
        del content[place : place + random.choice((1, 4, 64))]
    elif way == "repeat":
        content[place:place] = content[place : place + 64] * random.choice((1, 3, 200))
    else:
        other = random.randrange(size) if size else 0
        first, second = content[place : place + 8], content[other : other + 8]
        content[place : place + 8], content[other : other + 8] = second, first
    path.write_bytes(content)
    return f"{way} at byte {place}"


def _break_text(path: Path, random: Random) -> str:
    content = path.read_bytes()
    way = random.choice(("number", "number", "number", "word", "line", "lines", "text", "bytes"))
    if way == "bytes":
        return _break_bytes(path, random)
    found = list((_NUMBER if way == "number" else _WORD).finditer(content))
    lines = content.splitlines(keepends=True)
    if not found or not lines:
        raise ValueError("nothing to break")
    if way in ("number", "word", "text"):
        match = random.choice(found)
        new = random.choice(NUMBERS).encode()
        if way == "word":
            new = random.choice(found).group()
        if way == "text":
            new = random.choice((*(t.encode() for t in TEXTS), b"\xff\xfe", b"\xe9"))
        content = content[: match.start()] + new + content[match.end() :]
        path.write_bytes(content)
        return f"{way} {match.group()[:30]!r} to {new[:30]!r}"
    place = random.randrange(len(lines))
    lines[place : place + 1] = lines[place : place + 1] * (0 if way == "line" else 300)
    path.write_bytes(b"".join(lines))
    return f"line {place + 1} {'removed' if way == 'line' else 'repeated'}"


def _break_json(path: Path, random: Random) -> str:
    value, said = broken_value(json.loads(path.read_bytes()), random)
    path.write_text(json.dumps(value), encoding="utf-8")
    return said


def broken_value(value: Any, random: Random) -> tuple[Any, str]:
    """Return a JSON value with one thing in it changed, removed, doubled or of another type."""
    places = list(_places_in(value))
    if not places:
        return random.choice(VALUES), "all of it"
    holder, key = random.choice(places)
    way = random.choice(("value", "value", "value", "remove", "other", "nest", "text", "rename"))
    if way == "remove":
        del holder[key]
    elif way == "other":
        other, of = random.choice(places)
        holder[key] = json.loads(json.dumps(other[of]))
    elif way == "nest":
        for _ in range(random.choice((1, 3, 300))):
            holder[key] = [holder[key]]
    elif way == "text":
        holder[key] = str(holder[key])
    elif way == "rename" and isinstance(holder, dict):
        holder[random.choice(TEXTS)] = holder.pop(key)
    else:
        holder[key] = random.choice(VALUES)
    return value, f"{way} at {str(key)[:30]!r}"


def _places_in(value: Any) -> Any:
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _places_in(value[key])


def _break_header(path: Path, random: Random) -> str:
    """Break what a safetensors file says of its tensors."""
    header, rest = _header_of(path)
    header, said = broken_value(header, random)
    _write_header(path, json.dumps(header), rest)
    return f"header: {said}"


def _break_card(path: Path, random: Random) -> str:
    header, rest = _header_of(path)
    key = next(iter(header["__metadata__"]))
    for name, text in header["__metadata__"].items():
        key = name if text.startswith("{") else key
    card, said = broken_value(json.loads(header["__metadata__"][key]), random)
    header["__metadata__"][key] = json.dumps(card)
    _write_header(path, json.dumps(header), rest)
    return f"card: {said}"


def _break_checkpoint(path: Path, random: Random) -> str:
    """Put other values and tensors into a checkpoint of torch."""
    state = torch.load(path, weights_only=True)
    places = list(_places_in(state))
    holder, key = random.choice(places)
    tensors = (torch.tensor(1.0), torch.empty(0), torch.ones(2, 2, 2), torch.ones(3).to_sparse())
    holder[key] = random.choice((*VALUES, *tensors))
    torch.save(state, path)
    return f"value at {key!r}"


def _header_of(path: Path) -> tuple[Any, bytes]:
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
        raise ValueError("no header")
    if not all(isinstance(text, str) for text in header["__metadata__"].values()):
        raise ValueError("no metadata")
    return header, content[8 + length :]


def _write_header(path: Path, text: str, rest: bytes) -> None:
    raw = text.encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + rest)


def _break_database(path: Path, random: Random) -> str:
    """Put another value into a cell of a GeoPackage, geometries and its own tables included."""
    with closing(sqlite3.connect(path)) as database:
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'"):
            database.execute(f'DROP TRIGGER "{name}"')
        tables = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%'"
        filled = [
            name
            for (name,) in database.execute(tables).fetchall()
            if database.execute(f'SELECT 1 FROM "{name}" LIMIT 1').fetchone()
        ]
        table = random.choice(sorted(filled))
        columns = [row[1] for row in database.execute(f'PRAGMA table_info("{table}")')]
        column = random.choice(columns)
        rows = database.execute(f'SELECT rowid, "{column}" FROM "{table}"').fetchall()
        row, old = random.choice(rows)
        new = random.choice(
            [value for value in VALUES if value is None or isinstance(value, int | float | str)]
        )
        if isinstance(new, int) and abs(new) >= 2**63:
            new = float(new)
        if isinstance(old, bytes) and old and random.random() < 0.8:
            raw = bytearray(old)
            place = random.randrange(len(raw))
            raw[place : place + 4] = random.choice((b"\xff" * 4, b"\0" * 4, b"\x7f\xf0\0\0"))
            new = bytes(raw)
        database.execute(f'UPDATE "{table}" SET "{column}" = ? WHERE rowid = ?', (new, row))
        database.commit()
    return f"{table}.{column} = {str(new)[:30]!r}"
