"""GeoTIFF and COG: tiled, compressed, with overviews, colours and the names of the classes."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio.control import GroundControlPoint
from rasterio.enums import Resampling
from rasterio.io import DatasetWriter, MemoryFile
from rasterio.rpc import RPC

from lemevit_cli.atomic import replacing
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS, ClassInfo
from lemevit_cli.qgis_style import write_style
from lemevit_cli.raster.gdal import (
    TILE_SIZE,
    TileRows,
    gdal_cache,
    gdal_refusals,
    overview_cache_bytes,
    plain_tiles,
    quiet_without_georeference,
    tile_rows,
)
from lemevit_cli.raster.spec import RasterSpec, Sink, Writer
from lemevit_cli.settings import OutputOptions

SMALLEST_OVERVIEW = 256  # pixels on the longer side; smaller ones save a viewer nothing
_USUAL_CHUNK = 10 * 2**20  # bytes that GDAL makes overviews of at once, unless told
COMPANIONS = (".aux.xml", ".ovr", ".msk")  # what GDAL may have put beside an older target

# DEFLATE opens everywhere; ZSTD, one --co away, made 8192 x 8192 class ids 13 % smaller in
# equal time.
_OTHER_COLOR = (40, 40, 40)
_ATTRIBUTES = "GDALRasterAttributeTable"
# Name; type (0 is whole numbers, 2 text) and usage (value, name, red, ...) as GDAL counts them.
_COLUMNS = (("Value", 0, 5), ("Class", 2, 2), ("Red", 0, 6), ("Green", 0, 7), ("Blue", 0, 8))
_PROFILE: dict[str, Any] = {"COMPRESS": "DEFLATE", "NUM_THREADS": "ALL_CPUS", "BIGTIFF": "IF_SAFER"}


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a raster in memory, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know, or one that only
            a vector result has.
    """
    driver = writer.driver
    if options.asked_of_polygons:
        raise OutputError(
            f"{options.asked_of_polygons[0]} is for polygons, and {driver} holds pixels; "
            "write .gpkg, .shp, .fgb or .geojson, or leave it out"
        )
    if options.style and options.output_type == "scores":
        raise OutputError("--style: scores are no classes; leave it out, or write class ids")
    if options.classes is not None and options.output_type == "scores":
        raise OutputError("--classes: scores are of all classes; leave it out, or write class ids")
    dtype = "uint8" if options.output_type == "classes" else "float32"
    profile = _gtiff_profile(dtype, TILE_SIZE, TILE_SIZE, options, driver)
    shape = {"width": TILE_SIZE, "height": TILE_SIZE, "count": 1, "dtype": dtype}
    with gdal_refusals(f"--co, {driver}", warnings_too=True), MemoryFile() as memory:
        with quiet_without_georeference(), memory.open(driver="GTiff", **shape, **profile):
            pass
        if driver == "COG":
            with MemoryFile() as copy:
                _copy_as_cog(memory.name, copy.name, options)


@contextmanager
def open_sink(
    target: Path, spec: RasterSpec, options: OutputOptions, writer: Writer
) -> Iterator[Sink]:
    """Open a raster to be written window by window; it is complete when the block has closed.

    Of ``options.classes`` it holds a mask, see :func:`mask_of`. ``options.style`` puts a style for
    QGIS beside it.

    Raises:
        OutputError: if the target exists, cannot be written, or the disk is full.
    """
    blame = f"{target} cannot be written (is the disk full?)"
    companions = [target.name + suffix for suffix in COMPANIONS]
    spec, values = mask_of(spec, options)
    with (
        replacing(target, overwrite=options.overwrite, companions=companions) as path,
        gdal_cache(spec),
    ):
        draft = path if writer.driver == "GTiff" else path.with_name(path.name + ".draft.tif")
        with gdal_refusals(blame):
            dataset = _create(draft, spec, options, writer.driver)
        with tile_rows(dataset, blame) as rows:
            yield _RasterSink(rows, spec, blame, values)
        with gdal_refusals(blame):
            _build_overviews(draft, spec)
            if writer.driver == "COG":
                _copy_as_cog(draft, path, options)
                rasterio.shutil.delete(draft)
            if spec.output_type == "classes":
                _write_legend(path, spec.classes)
                if options.style:
                    write_style(path.with_suffix(".qml"), raster=spec.classes)


def mask_of(
    spec: RasterSpec, options: OutputOptions
) -> tuple[RasterSpec, NDArray[np.uint8] | None]:
    """Return what a raster of some classes is: 0 where there is another, then they, in order.

    Returns:
        The spec with ``other`` and the kept classes, and the value ``(256,)`` of each id; None
        where all are kept as they are.
    """
    names = options.classes or ()
    kept = [i for i, info in enumerate(spec.classes) if info.name in names]
    if not kept or len(kept) == len(spec.classes):
        return spec, None
    values = np.zeros(256, np.uint8)
    values[kept] = np.arange(1, len(kept) + 1)
    values[NODATA_CLASS] = NODATA_CLASS
    other = "elsewhere" if "other" in names else "other"
    classes = (ClassInfo(other, _OTHER_COLOR), *(spec.classes[i] for i in kept))
    return replace(spec, classes=classes), values


class _RasterSink:
    """Writes windows into an open dataset, class ids by the values that stand for them."""

    def __init__(
        self, rows: TileRows, spec: RasterSpec, blame: str, values: NDArray[np.uint8] | None
    ) -> None:
        self._rows, self._values = rows, values
        self._spec = spec
        self._blame = blame

    def write(self, window: Window, values: NDArray[Any]) -> None:
        self._spec.check_values(window, values)
        if self._values is not None:
            values = self._values[values]
        with gdal_refusals(self._blame):
            self._rows.write(window, values[np.newaxis] if values.ndim == 2 else values)


def _create(path: Path, spec: RasterSpec, options: OutputOptions, driver: str) -> DatasetWriter:
    classes_only = spec.output_type == "classes"
    dtype = "uint8" if classes_only else "float32"
    with quiet_without_georeference():
        dataset = rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=spec.width,
            height=spec.height,
            count=1 if classes_only else len(spec.classes),
            dtype=dtype,
            nodata=NODATA_CLASS if classes_only else float("nan"),
            **_gtiff_profile(dtype, spec.width, spec.height, options, driver),
            **_georeference_profile(spec.georeference),
        )
    # All of it before the first pixel: later, GDAL would put colours and tags beside the file.
    dataset.update_tags(**_dataset_tags(spec))
    if classes_only:
        _describe_class_band(dataset, spec.classes)
    else:
        dataset.descriptions = [info.name for info in spec.classes]
    return dataset


def _gtiff_profile(
    dtype: str, width: int, height: int, options: OutputOptions, driver: str
) -> dict[str, Any]:
    profile = _PROFILE | plain_tiles(width, height)
    # A COG is copied from a plain GeoTIFF; the user's options are for the copy.
    chosen = options.creation_options if driver == "GTiff" else {}
    compression = chosen.get("COMPRESS", "DEFLATE").upper()
    if dtype == "float32" and compression in ("DEFLATE", "LZW", "ZSTD"):
        profile["PREDICTOR"] = 3
    return profile | chosen


def _georeference_profile(georeference: Georeference) -> dict[str, Any]:
    profile: dict[str, Any] = {"crs": georeference.crs_wkt or None}
    if georeference.transform is not None:
        # A GeoTIFF holds one placement: the scene was read by its transform, and so is the result.
        profile["transform"] = georeference.transform
    elif georeference.gcps:
        profile["crs"] = georeference.gcps_crs_wkt or None
        profile["gcps"] = [
            GroundControlPoint(row=row, col=col, x=x, y=y, z=z, id=name, info=info)
            for row, col, x, y, z, name, info in georeference.gcps
        ]
    if georeference.rpcs:
        profile["rpcs"] = RPC.from_gdal(dict(georeference.rpcs))
    return profile


def _dataset_tags(spec: RasterSpec) -> dict[str, str]:
    tags = {
        "TIFFTAG_SOFTWARE" if name == "software" else f"LEMEVIT_{name.upper()}": text
        for name, text in spec.tags.items()
    }
    if spec.georeference.area_or_point:
        tags["AREA_OR_POINT"] = spec.georeference.area_or_point
    return tags


def _describe_class_band(dataset: DatasetWriter, classes: tuple[ClassInfo, ...]) -> None:
    colors = {class_id: (*info.color, 255) for class_id, info in enumerate(classes)}
    dataset.write_colormap(1, colors | {NODATA_CLASS: (0, 0, 0, 0)})
    dataset.set_band_description(1, "class")
    dataset.update_tags(1, **{f"CLASS_{i}": info.name for i, info in enumerate(classes)})


def _build_overviews(path: Path, spec: RasterSpec) -> None:
    """Halve the raster until its longer side fits a screen.

    Classes by majority, not by the nearest pixel: at 8192 x 8192 it costs 0.2 s more, a
    thin road does not break up, and the overviews are a fifth of the size.
    """
    side = max(spec.width, spec.height)
    if side <= TILE_SIZE:
        return
    factors = [2]
    while side / factors[-1] > SMALLEST_OVERVIEW:
        factors.append(2 * factors[-1])
    resampling = Resampling.mode if spec.output_type == "classes" else Resampling.average
    # All pixels under a tile and a border of one: with less, GDAL writes its parts one by one and
    # reads every tile again for each.
    chunk_bytes = max(_USUAL_CHUNK, (2 * TILE_SIZE + 2) ** 2 * spec.bytes_per_pixel)
    settings = {
        "GDAL_NUM_THREADS": "ALL_CPUS",
        "GDAL_OVR_CHUNK_MAX_SIZE": chunk_bytes,
        "GDAL_CACHEMAX": overview_cache_bytes(spec),
    }
    with (
        rasterio.Env(**settings),
        quiet_without_georeference(),
        rasterio.open(path, "r+", NUM_THREADS="ALL_CPUS") as dataset,
    ):
        dataset.build_overviews(factors, resampling)


def _copy_as_cog(source: str | Path, target: str | Path, options: OutputOptions) -> None:
    with quiet_without_georeference():
        rasterio.shutil.copy(source, target, driver="COG", **(_PROFILE | options.creation_options))


def _write_legend(path: Path, classes: tuple[ClassInfo, ...]) -> None:
    """Name the classes in ``<path>.aux.xml``, GDAL's place for what TIFF has no tag for.

    The colours of a TIFF are always 256, and QGIS shows each, unless a table of attributes lists
    those that count (from QGIS 3.30 on).
    """
    sidecar = path.with_name(path.name + ".aux.xml")
    # GDAL has written one already where the CRS does not fit a GeoTIFF.
    root = ET.parse(sidecar).getroot() if sidecar.exists() else ET.Element("PAMDataset")
    band = root.find("PAMRasterBand[@band='1']")
    if band is None:
        band = ET.SubElement(root, "PAMRasterBand", band="1")
    for older in (*band.findall("CategoryNames"), *band.findall(_ATTRIBUTES)):
        band.remove(older)
    names = ET.SubElement(band, "CategoryNames")
    for info in classes:
        ET.SubElement(names, "Category").text = info.name
    _add_attributes(band, classes)
    ET.indent(root)
    ET.ElementTree(root).write(sidecar, encoding="utf-8")


def _add_attributes(band: ET.Element, classes: tuple[ClassInfo, ...]) -> None:
    table = ET.SubElement(band, _ATTRIBUTES, tableType="thematic")
    for index, (name, of_type, usage) in enumerate(_COLUMNS):
        column = ET.SubElement(table, "FieldDefn", index=str(index))
        for tag, text in (("Name", name), ("Type", of_type), ("Usage", usage)):
            ET.SubElement(column, tag).text = str(text)
    for class_id, info in enumerate(classes):
        row = ET.SubElement(table, "Row", index=str(class_id))
        for cell in (class_id, info.name, *info.color):
            ET.SubElement(row, "F").text = str(cell)
