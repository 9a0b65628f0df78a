"""The boundary between files of others and our own mistakes."""

import json
import sqlite3
import xml.etree.ElementTree as ET

import numpy as np
import pyogrio
import pyproj
import pytest
import rasterio
import safetensors
import shapely

from lemevit_cli.errors import DataError, SceneError, reading
from lemevit_cli.legend import classes_from_names


def panic(_):
    kind = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})
    raise kind("index out of bounds")


@pytest.mark.parametrize(
    "read",
    [
        lambda _: json.loads("{"),
        lambda _: json.loads("[" * 100_000),
        lambda _: ET.fromstring("<a>"),
        lambda _: shapely.from_wkb(b"no"),
        lambda _: shapely.linearrings([[np.nan, 0], [1, 1], [2, 2]]),
        lambda _: pyproj.CRS.from_wkt("no"),
        lambda _: np.loadtxt(["a b"]),
        lambda path: rasterio.open(path),
        lambda path: pyogrio.list_layers(path),
        lambda path: safetensors.safe_open(path, framework="np"),
        lambda path: path.read_text(encoding="utf-8"),
        lambda path: path.with_name("gone").read_bytes(),
        lambda path: sqlite3.connect(path).execute("SELECT * FROM a"),
        panic,
    ],
)
def test_what_a_library_raises_is_a_line_with_the_files_name(tmp_path, read):
    path = tmp_path / "file.bin"
    path.write_bytes(b"\xff\xfe broken " * 20)
    told = pytest.raises(DataError, match=r"file\.bin: cannot be read \(.+\)")
    with told as raised, reading(path, raises=DataError):
        read(path)
    assert "\n" not in str(raised.value) and raised.value.__cause__ is not None


@pytest.mark.parametrize(
    ("mistake", "kind"),
    [
        (lambda: classes_from_names([3]), AttributeError),
        (lambda: (_ for _ in ()).throw(KeyboardInterrupt), KeyboardInterrupt),
        (lambda: np.empty(2**50), MemoryError),
    ],
)
def test_our_own_mistakes_pass_as_they_are(mistake, kind):
    with pytest.raises(kind), reading("file.bin"):
        mistake()


def test_a_line_that_is_one_already_stays():
    with pytest.raises(SceneError, match=r"^a\.tif: is none$"), reading("b.tif"):
        raise SceneError("a.tif: is none")
