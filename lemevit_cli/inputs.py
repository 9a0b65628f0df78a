"""Files that a run reads, whatever their spelling: nothing that it writes may replace one."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from lemevit_cli.errors import OutputError

# What GDAL reads with a raster, and what belongs to a layer; by the suffix of the file.
_OF_RASTERS = (".aux.xml", ".ovr", ".msk")
_OF_LAYERS = {
    ".shp": (".shx", ".dbf", ".prj", ".cpg", ".qix", ".qmd", ".qpj", ".sbn", ".sbx"),
    # Journals of a GeoPackage that was not closed; they would be applied to a new one.
    ".gpkg": ("-wal", "-shm", "-journal"),
    ".geojson": (), ".fgb": (), ".csv": (), ".parquet": (), ".txt": (),
}  # fmt: skip
_OF_STEM = _OF_LAYERS[".shp"]  # follow the name without its suffix, all others the name
_WORLD_FILES = (".tfw", ".jgw", ".pgw", ".wld", ".prj", ".imd", ".rpb")
_IMAGE_FILES = "_rpc.txt"

_SOURCES = re.compile(
    rb"<(?:Source(?:Filename|Dataset|DataSource)|SrcDataSource)\b([^>]*)>\s*([^<]+?)\s*<"
)
_LONGEST_VRT = 50_000_000  # bytes
_NOT_DATA = (".safetensors",)  # among data; weights that are read are named themselves

_Key = tuple[int, int]  # device and inode


def companions_of(target: Path, suffix: str | None = None) -> list[str]:
    """Name the files beside a target that are read with it, should they be there.

    Args:
        suffix: of its format; None takes the target's own.
    """
    kind = (suffix or target.suffix).lower()
    if kind == ".shp":
        return [target.stem + end for end in _OF_STEM]
    return [target.name + end for end in _OF_LAYERS.get(kind, _OF_RASTERS)]


def check_inputs_kept(outputs: Iterable[str | Path], inputs: Iterable[str | None]) -> None:
    """Refuse an output that would replace a file that is read, or what is read with it.

    Files are told by device and inode: links, paths within archives, parts of files and the sources
    of a VRT count as what they are. Costs nothing unless an output is there already.

    Args:
        outputs: ``-`` for stdout is no file.
        inputs: files, folders, and whatever else GDAL opens; None is none.

    Raises:
        OutputError: naming both.
    """
    present: dict[_Key, Path] = {}
    paths = [Path(output) for output in outputs]
    folders = [path.resolve() for path in paths if path.is_dir()]
    for output in paths:
        for path in (output, *map(output.with_name, companions_of(output) if output.name else ())):
            key = _key_of(path)
            if key is not None and path.is_file():
                present[key] = path
    for name in inputs if present or folders else ():
        if name is None:
            continue
        for file in files_behind(name):
            within = file.parent.resolve() / file.name
            folder = next((place for place in folders if within.is_relative_to(place)), None)
            if folder is not None:
                raise OutputError(f"{file} is read, and -o would replace {folder}; name another")
            written = present.get(_key_of(file) or (-1, -1))
            if written is not None:
                is_itself = _key_of(Path(name)) == _key_of(written)
                shown = "a VRT" if name.lstrip().startswith("<") else name
                told = "an input itself" if is_itself else f"{file}, which is read with {shown}"
                raise OutputError(f"{written} is {told}; name another file by -o")


def files_behind(name: str) -> Iterator[Path]:
    """Yield the files of this machine that are read with an input, those of its VRTs too."""
    waiting, seen = [name], set[str]()
    while waiting:
        text = waiting.pop()
        if text in seen:
            continue
        seen.add(text)
        if text.lstrip().startswith("<"):
            waiting += _sources_in(text.encode(), Path())
            continue
        path = local_path(text)
        if path is None:
            continue
        if path.is_dir():
            yield from _files_in(path)
            continue
        yield path
        yield from _read_with(path)
        waiting += _sources_of(path)


def local_path(name: str) -> Path | None:
    """Return the file or folder of this machine that a name of GDAL leads to; None of others."""
    if is_there(name):
        return Path(name)
    rest = re.sub(r"^[\w+]+:(?=//)", "", name).partition("|")[0]
    while prefix := re.match(r"/*(?:vsi\w+/|[\w.+-]*\?[^,]*?file=)", rest):
        rest = rest[prefix.end() :]
    rest = rest.replace("{", "").replace("}", "").partition("!")[0]
    # /vsisubfile/0_500,FILE; NETCDF:"FILE":VARIABLE; GTIFF_DIR:2:FILE; FILE?bands=1
    parts = [re.split(mark, rest) for mark in '":']
    plain = rest.partition("?")[0].removeprefix("//")
    spans = [rest, plain, rest.partition(",")[2], *parts[0], *parts[1]]
    return next((path for span in spans if (path := _existing(span)) is not None), None)


def _existing(name: str) -> Path | None:
    """Return a path, or the archive that it leads into."""
    if is_there(name):
        return Path(name)
    folders = (parent for parent in Path(name).parents if "\0" not in name)
    return next((parent for parent in folders if parent.is_file()), None)


def is_there(name: str) -> bool:
    """Tell whether a file or a folder has a name, which may be too long for one, or no name."""
    try:
        return bool(name) and Path(name).exists()
    except (OSError, ValueError):
        return False


def _key_of(path: Path) -> _Key | None:
    try:
        state = path.stat()
    except (OSError, ValueError):
        return None
    return state.st_dev, state.st_ino


def _read_with(path: Path) -> Iterator[Path]:
    names = [path.name + end for end in (*_OF_RASTERS, *_OF_LAYERS[".gpkg"])]
    names += [path.stem + end for end in (*_OF_STEM, *_WORLD_FILES, _IMAGE_FILES)]
    yield from (beside for name in names if (beside := path.with_name(name)).is_file())


def _files_in(folder: Path) -> Iterator[Path]:
    for root, _, names in os.walk(folder, followlinks=True):
        yield from (Path(root, n) for n in names if not n.lower().endswith(_NOT_DATA))


def _sources_of(path: Path) -> list[str]:
    """List what a VRT, of a raster or a layer, names as its sources."""
    try:
        with path.open("rb") as file:
            head = file.read(2000)
            if b"VRTDataset" not in head and b"OGRVRTDataSource" not in head:
                return []
            content = head + file.read(_LONGEST_VRT)
    except OSError:
        return []
    return _sources_in(content, path.parent)


def _sources_in(content: bytes, folder: Path) -> list[str]:
    found = []
    for attributes, text in _SOURCES.findall(content):
        name = os.fsdecode(text).replace("&quot;", '"').replace("&amp;", "&")
        is_relative = re.search(rb"relativeTo(?:VRT|VRT_)?\s*=\s*[\"']1", attributes, re.IGNORECASE)
        found.append(str(folder / name) if is_relative else name)
    return found
