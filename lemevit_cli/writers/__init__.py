"""Results become files: rasters and class polygons, by the target's suffix."""

from __future__ import annotations

import importlib
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lemevit_cli.errors import OutputError
from lemevit_cli.legend import ClassInfo
from lemevit_cli.settings import OutputOptions
from lemevit_cli.writers.atomic import check_replaceable, replacing
from lemevit_cli.writers.spec import RasterSpec, Sink, Writer

__all__ = [
    "FORMATS",
    "WRITERS",
    "RasterSpec",
    "Sink",
    "Writer",
    "check_classes",
    "check_disk",
    "check_target",
    "find_writer",
    "open_sink",
    "replacing",
]

STDOUT = "-"
_GEOTIFF = "lemevit_cli.writers.geotiff"
_VECTOR = "lemevit_cli.writers.vector"

_ALL_WRITERS = (
    Writer("GTiff", ".tif", "raster", _GEOTIFF),
    Writer("COG", ".tif", "raster", _GEOTIFF),
    Writer("GPKG", ".gpkg", "vector", _VECTOR),
    Writer("FlatGeobuf", ".fgb", "vector", _VECTOR),
    Writer("GeoJSON", ".geojson", "vector", _VECTOR),
    Writer("ESRI Shapefile", ".shp", "vector", _VECTOR),
    # Another of GDAL's vector formats is one more line.
)
FORMATS = {writer.driver.lower(): writer for writer in _ALL_WRITERS}
# COG has no suffix of its own: --format COG.
WRITERS = {writer.suffix: writer for writer in _ALL_WRITERS if writer.driver != "COG"}
WRITERS[".tiff"] = WRITERS[".tif"]


def find_writer(target: str, options: OutputOptions) -> Writer:
    """Choose by ``options.format``, else by the suffix; stdout is a GeoTIFF unless told.

    Raises:
        OutputError: naming the formats or suffixes that are known.
    """
    if options.format is not None:
        writer = FORMATS.get(options.format.lower())
        if writer is None:
            known = ", ".join(writer.driver for writer in _ALL_WRITERS)
            raise OutputError(f"--format {options.format} is not known; take one of {known}")
        return writer
    if target == STDOUT:
        return WRITERS[".tif"]
    suffix = Path(target).suffix.lower()
    if suffix not in WRITERS:
        raise OutputError(
            f"{target}: no format goes by the suffix {suffix!r}; "
            f"take one of {', '.join(WRITERS)} or name a driver with --format"
        )
    return WRITERS[suffix]


def check_target(target: str, options: OutputOptions) -> None:
    """Refuse, before any work, a target or options that could not be written at its end.

    Raises:
        OutputError: for an unknown format, options that the format does not know, a missing
            folder, or a file that exists.
    """
    writer = find_writer(target, options)
    if target != STDOUT:
        check_replaceable(target, overwrite=options.overwrite)
    if writer.driver == "ESRI Shapefile" and not target.lower().endswith(".shp"):
        raise OutputError(
            f"a shapefile is several files around NAME.shp, which {target} cannot be; "
            "name it so, or take --format FlatGeobuf or GeoJSON"
        )
    importlib.import_module(writer.module).check_options(options, writer)


def check_classes(classes: Sequence[ClassInfo], options: OutputOptions) -> None:
    """Refuse names of classes that the weights do not know.

    Raises:
        OutputError: naming those that they know.
    """
    known = [info.name for info in classes]
    for name in options.classes or ():
        if name not in known:
            raise OutputError(
                f"--classes: no class is named {name!r}; there are {', '.join(known)}"
            )


def check_disk(target: str, spec: RasterSpec, options: OutputOptions) -> None:
    """Refuse a result that would not fit the disk if nothing of it could be compressed.

    Raises:
        OutputError: with both sizes.
    """
    folder = tempfile.gettempdir() if target == STDOUT else str(Path(target).parent)
    # A third for overviews, and some for tiles at the edges; a COG is copied from a draft.
    factor = 2.8 if find_writer(target, options).driver == "COG" else 1.4
    needed = int(factor * spec.width * spec.height * spec.bytes_per_pixel)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{target}: up to {needed / 1e6:,.1f} MB are needed in {folder}, "
            f"{free / 1e6:,.1f} MB are free; free some, or write to another disk"
        )


@contextmanager
def open_sink(target: str, spec: RasterSpec, options: OutputOptions) -> Iterator[Sink]:
    """Open the target for windows of pixels; it appears, whole, when the block closes.

    Any exception in the block, Ctrl-C included, leaves neither target nor temporary files.
    ``-`` spools to a temporary file and sends it to stdout at the end. GDAL's own programs need
    ``/vsistdin?buffer_limit=-1`` for one above 1 MB: they seek in it.

    Raises:
        OutputError: if the target cannot be written.
        BrokenPipeError: if stdout's reader has gone.
    """
    writer = find_writer(target, options)
    check_classes(spec.classes, options)
    check_disk(target, spec, options)
    module = importlib.import_module(writer.module)
    if target != STDOUT:
        with module.open_sink(Path(target), spec, options, writer) as sink:
            yield sink
        return
    with tempfile.TemporaryDirectory(prefix="lemevit-") as folder:
        spool = Path(folder) / f"result{writer.suffix}"
        with module.open_sink(spool, spec, options, writer) as sink:
            yield sink
        _send_to_stdout(spool)


def _send_to_stdout(path: Path) -> None:
    try:
        with path.open("rb") as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 2**20)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"stdout cannot be written: {error.strerror}") from error
