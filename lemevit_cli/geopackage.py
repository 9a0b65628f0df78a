"""Tables of a GeoPackage, and a copy of it, by SQLite alone."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from lemevit_cli.errors import OutputError, reading

_MAGIC = b"SQLite format 3\0"
# Tables of the format, of SQLite, and of GDAL's indexes: none of them is anybody's data.
_OWN = ("gpkg_", "sqlite_", "rtree_")
_LAYERS = ("features", "attributes")  # kinds that a vector layer may replace


def layer_name(path: Path) -> str:
    """Return what the layer of a file is called unless told: the file's stem."""
    # GeoPackage keeps such names to itself.
    return f"layer_{path.stem}" if path.stem.lower().startswith("gpkg") else path.stem


def tables_of(path: Path) -> dict[str, str]:
    """Return the tables that hold data, name to kind; none of a file that is no GeoPackage.

    Kinds are those of ``gpkg_contents`` (features, attributes, tiles, ...), or ``table`` of one
    that stands outside of it.

    Raises:
        OutputError: if it is one that cannot be read.
    """
    if not _is_sqlite(path):
        return {}
    with _open(path) as database:
        listed = database.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        names = [name for (name,) in listed]
        if "gpkg_contents" not in names:
            return {}
        kinds = dict(database.execute("SELECT table_name, data_type FROM gpkg_contents"))
    data = (name for name in names if not name.lower().startswith(_OWN))
    return {name: kinds.get(name, "table") for name in data}


def copy_geopackage(path: Path, target: Path) -> None:
    """Copy a GeoPackage as it stands, with what another program has committed beside it.

    Raises:
        OutputError: if it cannot be read.
    """
    with _open(path) as database, closing(sqlite3.connect(target)) as copy:
        database.backup(copy)


def check_layer_fits(path: Path, layer: str, *, overwrite: bool) -> None:
    """Refuse a layer that cannot be put into a file while all else in it is kept.

    Raises:
        OutputError: if the file is no GeoPackage, or has the layer already and may not lose it.
    """
    tables = tables_of(path)
    if not tables and not _is_sqlite(path):
        raise OutputError(f"{path} is no GeoPackage, so --layer cannot add to it; name another")
    taken = next((name for name in tables if name.lower() == layer.lower()), None)
    if taken is None:
        return
    if taken != layer:
        raise OutputError(f"{path} has a layer {taken}; name it so by --layer, or otherwise")
    if tables[taken] not in _LAYERS:
        raise OutputError(f"{path}: {taken} holds {tables[taken]}; name another --layer")
    if not overwrite:
        raise OutputError(
            f"{path} has a layer {layer}; replace it with --overwrite or name another --layer"
        )


def check_nothing_else(path: Path, layer: str) -> None:
    """Refuse to replace a GeoPackage that holds more than a layer, naming what would be lost.

    Raises:
        OutputError: saying how it is kept.
    """
    others = [name for name in tables_of(path) if name != layer]
    if others:
        raise OutputError(
            f"{path} holds other layers ({', '.join(others)}), which --overwrite would remove; "
            "--layer NAME adds or replaces one and keeps them, or name another file"
        )


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_MAGIC)) == _MAGIC


@contextmanager
def _open(path: Path) -> Iterator[sqlite3.Connection]:
    place = f"{path.absolute().as_uri()}?mode=ro"
    with (
        reading(path, "its layers cannot be read; name another", raises=OutputError),
        closing(sqlite3.connect(place, uri=True)) as database,
    ):
        yield database
