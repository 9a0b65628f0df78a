"""The rules of ``validity.py`` as an alpha band, the one way to tell all of them to GDAL's warper.

The warper asks a file for its alpha band, else for a nodata value that all bands share, else for a
mask. A NaN beside these is a number to it, and makes a NaN of every pixel that it has a part in.
"""

from __future__ import annotations

import re
import sys
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from rasterio.dtypes import dtype_rev, typename_fwd

from lemevit_cli.raster.validity import as_dtype, is_colour

# Tables, `number:answer`. GDAL draws lines between their stops: the ends of the finite numbers are
# stops, so that none of these lies on a line down to 0.
_LARGEST = sys.float_info.max
_IS_FINITE = f"nan:0,-inf:0,{-_LARGEST!r}:1,0:1,{_LARGEST!r}:1,inf:0"
_ALWAYS, _OPAQUE = "0:1", "0:255"

# GDAL's file systems by the schemes of URIs that rasterio takes.
_FILE_SYSTEMS = {
    "file": "", "zip": "/vsizip", "tar": "/vsitar", "gzip": "/vsigzip", "http": "/vsicurl",
    "https": "/vsicurl", "ftp": "/vsicurl", "s3": "/vsis3", "gs": "/vsigs", "az": "/vsiaz",
    "oss": "/vsioss",
}  # fmt: skip


def validity_vrt(
    dataset: Any,
    file: str,
    *,
    bands: Sequence[int],
    nodata: Sequence[float | None],
    alpha: int | None,
    masked_bands: Sequence[int],
) -> str:
    """Write a VRT with a file's bands and, in place of its alpha band or last, one of all rules.

    Args:
        dataset: the file, opened by rasterio.
        file: as rasterio opens it; the VRT is opened likewise, by its text.
        bands: those that the rules are about, counted from 1.
        nodata: a raw number for each of them, None where there is none.
        alpha: the file's alpha band, None without one.
        masked_bands: those whose masks GDAL keeps; a pixel is nodata where all of these say so.
    """
    source, dtypes = gdal_name(file), dataset.dtypes
    root, shown = _raster_like(dataset), None
    _add_placement(root, dataset)
    for band, dtype in enumerate(dtypes, start=1):
        added = _add_product(root, dtype) if band == alpha else _add_plain(root, dataset, band)
        _add_source(added, source, f"{band}")
        shown = added if band == alpha else shown
    if shown is None:
        shown = _add_product(root, "uint8")
        _add_source(shown, source, "1", table=_OPAQUE)
    for rule in (
        [(f"mask,{band}", 0.0) for band in masked_bands],
        _numbers_of_nodata(dtypes, bands, nodata),
        *_numbers_of_gaps(dtypes, bands, nodata),
    ):
        if rule:
            _add_source(shown, _any_other(dataset, source, rule), "1")
    for band in bands:
        if np.issubdtype(np.dtype(dtypes[band - 1]), np.floating):
            _add_source(shown, source, f"{band}", table=_IS_FINITE)
    return ET.tostring(root, encoding="unicode")


def gdal_name(file: str) -> str:
    """Return the name by which GDAL opens what rasterio opens: ``zip://a.zip!b.tif`` has its own.

    ``file`` is a path, a name that is GDAL's already, or a URI of one or more schemes.
    """
    schemes, separator, rest = file.partition("://")
    steps = schemes.split("+")
    if not separator or not set(steps) <= set(_FILE_SYSTEMS):
        return file
    systems = [_FILE_SYSTEMS[step] for step in steps if step != "file"]
    if systems and systems[-1] == "/vsicurl":
        rest = f"{steps[-1]}://{rest}"
    if steps[0] in ("zip", "tar", "gzip"):
        rest = re.sub("!/*", "/", rest, count=1)  # between the archive and the file in it
    return "/".join(["".join(systems), rest]) if systems else rest


def _gdal_type(dtype: str) -> str:
    name: str = typename_fwd[dtype_rev[dtype]]
    return name


def _numbers_of_nodata(
    dtypes: Sequence[str], bands: Sequence[int], nodata: Sequence[float | None]
) -> list[tuple[str, float]]:
    """List bands with their nodata number if all hold theirs; none if one cannot."""
    stated = [(b, v) for b, v in zip(bands, nodata, strict=True) if v is not None]
    numbers = [(b, as_dtype(value, np.dtype(dtypes[b - 1]))) for b, value in stated]
    known = [(f"{b}", float(number)) for b, number in numbers if number is not None]
    return known if len(known) == len(numbers) else []


def _numbers_of_gaps(
    dtypes: Sequence[str], bands: Sequence[int], nodata: Sequence[float | None]
) -> list[list[tuple[str, float]]]:
    """List bands, each a rule of its own, whose nodata number is no colour."""
    gaps = [(b, v) for b, v in zip(bands, nodata, strict=True) if v is not None]
    return [
        numbers
        for band, value in gaps
        if not is_colour(value) and (numbers := _numbers_of_nodata(dtypes, [band], [value]))
    ]


def _any_other(dataset: Any, file: str, rule: Iterable[tuple[str, float]]) -> str:
    """Write a VRT that is 1 where one of the bands holds another number than its own, else 0."""
    root = _raster_like(dataset)
    band = ET.SubElement(root, "VRTRasterBand", dataType="Float64")
    for what, number in rule:
        # Where a source holds its nodata it leaves what those before it have put there.
        ET.SubElement(_add_source(band, file, what, table=_ALWAYS), "NODATA").text = repr(number)
    return ET.tostring(root, encoding="unicode")


def _raster_like(dataset: Any) -> ET.Element:
    return ET.Element("VRTDataset", rasterXSize=f"{dataset.width}", rasterYSize=f"{dataset.height}")


def _add_placement(root: ET.Element, dataset: Any) -> None:
    if dataset.crs:
        ET.SubElement(root, "SRS").text = dataset.crs.to_wkt()
    if not dataset.transform.is_identity:
        numbers = (repr(float(number)) for number in dataset.transform.to_gdal())
        ET.SubElement(root, "GeoTransform").text = ", ".join(numbers)


def _add_plain(root: ET.Element, dataset: Any, band: int) -> ET.Element:
    """Add a band as it is in the file, with its scale and offset."""
    plain = ET.SubElement(root, "VRTRasterBand", dataType=_gdal_type(dataset.dtypes[band - 1]))
    ET.SubElement(plain, "Offset").text = repr(float(dataset.offsets[band - 1]))
    ET.SubElement(plain, "Scale").text = repr(float(dataset.scales[band - 1]))
    return plain


def _add_product(root: ET.Element, dtype: str) -> ET.Element:
    """Add an alpha band: the product of its sources, of which GDAL wants two at least."""
    kind = {"dataType": _gdal_type(dtype), "subClass": "VRTDerivedRasterBand"}
    band = ET.SubElement(root, "VRTRasterBand", kind)
    ET.SubElement(band, "ColorInterp").text = "Alpha"
    ET.SubElement(band, "PixelFunctionType").text = "mul"
    # In single precision, as GDAL would choose for bytes, a large double is infinite.
    ET.SubElement(band, "SourceTransferType").text = "Float64"
    return band


def _add_source(band: ET.Element, file: str, what: str, *, table: str | None = None) -> ET.Element:
    source = ET.SubElement(band, "SimpleSource" if table is None else "ComplexSource")
    ET.SubElement(source, "SourceFilename", relativeToVRT="0").text = file
    ET.SubElement(source, "SourceBand").text = what
    if table is not None:
        ET.SubElement(source, "LUT").text = table
    return source
