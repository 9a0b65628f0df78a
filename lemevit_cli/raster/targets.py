"""Results become files, by their suffix: rasters, and what the writers of a room make of them."""

from __future__ import annotations

import importlib
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lemevit_cli.atomic import check_replaceable, followed, spooled_to_stdout
from lemevit_cli.errors import OutputError
from lemevit_cli.legend import ClassInfo
from lemevit_cli.progress import Progress
from lemevit_cli.raster.spec import RasterSpec, Sink, Writer
from lemevit_cli.settings import OutputOptions

STDOUT = "-"
_GEOTIFF = "lemevit_cli.raster.geotiff"
_SUFFIX_OF = {".tiff": ".tif", ".json": ".geojson"}  # that people write instead

# A room adds the vector formats of its results. The first writer of a suffix goes by it, the first
# of all goes to stdout.
RASTERS = (
    Writer("GTiff", ".tif", "raster", _GEOTIFF),
    Writer("COG", ".tif", "raster", _GEOTIFF),
)


def find_writer(target: str, options: OutputOptions, writers: Sequence[Writer] = RASTERS) -> Writer:
    """Choose by ``options.format``, else by the suffix; stdout gets the first unless told.

    Raises:
        OutputError: naming the formats or suffixes that are known.
    """
    if options.format is not None:
        for writer in writers:
            if writer.driver.lower() == options.format.lower():
                return writer
        known = ", ".join(writer.driver for writer in writers)
        raise OutputError(f"--format {options.format} is not known; take one of {known}")
    if target == STDOUT:
        return writers[0]
    suffix = Path(target).suffix.lower()
    for writer in writers:
        if writer.suffix == _SUFFIX_OF.get(suffix, suffix):
            return writer
    known = ", ".join(dict.fromkeys(writer.suffix for writer in writers))
    raise OutputError(
        f"{target}: no format goes by the suffix {suffix!r}; "
        f"take one of {known} or name a driver with --format"
    )


def check_target(
    target: str,
    options: OutputOptions,
    writers: Sequence[Writer] = RASTERS,
    progress: Progress | None = None,
) -> None:
    """Refuse, before any work, a target or options that could not be written at its end.

    Args:
        progress: hears of an older style that QGIS would give to the result.

    Raises:
        OutputError: for an unknown format, options that the format does not know, a missing
            folder, or a file that exists.
    """
    writer = find_writer(target, options, writers)
    _check_layer(writer, options)
    if target != STDOUT:
        place = followed(Path(target))
        check_replaceable(
            place,
            overwrite=options.overwrite,
            layer=options.layer,
            companions=writer.companions(place),
        )
    if options.style and target == STDOUT:
        raise OutputError("--style writes a file beside the result; name one by -o")
    if writer.driver == "ESRI Shapefile" and not target.lower().endswith(".shp"):
        raise OutputError(
            f"a shapefile is several files around NAME.shp, which {target} cannot be; "
            "name it so, or take --format FlatGeobuf or GeoJSON"
        )
    if options.style:
        check_replaceable(Path(target).with_suffix(".qml"), overwrite=options.overwrite)
    importlib.import_module(writer.module).check_options(options, writer)
    style = Path(target).with_suffix(".qml")
    if progress is not None and not options.style and target != STDOUT and style.exists():
        progress.note(f"{style} stays as it is, and QGIS gives it to {target}; --style renews it")


def _check_layer(writer: Writer, options: OutputOptions) -> None:
    name = options.layer
    if name is None:
        return
    if writer.driver != "GPKG":
        raise OutputError(f"--layer: a file of {writer.driver} has no named layers; write a .gpkg")
    if not name.strip() or name.lower().startswith(("gpkg", "sqlite_", "rtree_")):
        raise OutputError(f"--layer {name!r}: GeoPackage keeps such names to itself; take another")
    if options.style:
        raise OutputError(
            "--style: QGIS would give the style to every layer of the file; leave out --layer"
        )


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


def check_disk(target: str, spec: RasterSpec, *, is_copied: bool = False) -> None:
    """Refuse a result that would not fit the disk if nothing of it could be compressed.

    Args:
        is_copied: from a draft, as a COG is.

    Raises:
        OutputError: with both sizes.
    """
    folder = tempfile.gettempdir() if target == STDOUT else str(followed(Path(target)).parent)
    factor = 2.8 if is_copied else 1.4  # a third for overviews, and some for tiles at the edges
    needed = int(factor * spec.width * spec.height * spec.bytes_per_pixel)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"{target}: up to {needed / 1e6:,.1f} MB are needed in {folder}, "
            f"{free / 1e6:,.1f} MB are free; free some, or write to another disk"
        )


@contextmanager
def open_sink(
    target: str, spec: RasterSpec, options: OutputOptions, writers: Sequence[Writer] = RASTERS
) -> Iterator[Sink]:
    """Open the target for windows of pixels; it appears, whole, when the block closes.

    Any exception in the block, Ctrl-C included, leaves neither target nor temporary files.
    ``-`` spools to a temporary file and sends it to stdout at the end. GDAL's own programs need
    ``/vsistdin?buffer_limit=-1`` for one above 1 MB: they seek in it.

    Raises:
        OutputError: if the target cannot be written.
        BrokenPipeError: if stdout's reader has gone.
    """
    writer = find_writer(target, options, writers)
    check_classes(spec.classes, options)
    check_disk(target, spec, is_copied=writer.driver == "COG")
    module = importlib.import_module(writer.module)
    if target != STDOUT:
        with module.open_sink(Path(target), spec, options, writer) as sink:
            yield sink
        return
    with (
        spooled_to_stdout(writer.suffix) as spool,
        module.open_sink(spool, spec, options, writer) as sink,
    ):
        yield sink
