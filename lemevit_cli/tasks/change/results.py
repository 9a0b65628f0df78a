"""Polygons of change, outlined once from the finished mask, through GDAL's vector drivers.

Their fields are ``id`` (from 1, in the order of their first pixels, row by row), ``class``,
``score`` (mean score of change over the pixels, 0 to 1), ``area_m2`` and ``perim_m`` (of the
polygon as it is drawn, on the ground), ``before`` and ``after`` (dates, or names). Where nothing
ties the scenes to the earth areas and perimeters are ``area_px`` and ``perim_px``.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.raster.spec import RasterSpec, Writer
from lemevit_cli.raster.targets import RASTERS
from lemevit_cli.settings import OutputOptions
from lemevit_cli.vector.region_layers import RegionSpec, RegionTable, check_region_options

# Another of GDAL's vector formats is one more line.
WRITERS = (
    Writer("GeoJSON", ".geojson", "regions", __name__),
    Writer("ESRI Shapefile", ".shp", "regions", __name__),
    Writer("GPKG", ".gpkg", "regions", __name__),
    Writer("FlatGeobuf", ".fgb", "regions", __name__),
    *RASTERS,
)
UNCHANGED_ID = 0
_HALF_A_PIXEL = 0.5


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know.
    """
    check_region_options(partial(_fields_of, before="", after=""), options, writer)


def change_spec(
    spec: RasterSpec,
    options: OutputOptions,
    *,
    before: str,
    after: str,
    sides: tuple[float, float] | None,
) -> RegionSpec:
    """Return what is outlined of a mask: all but its class 0, which is what has not changed.

    Args:
        before, after: dates or names of the scenes.
        sides: of a pixel in metres, along rows and down columns; None where it has no size.
    """
    tolerance = options.simplify_m
    if tolerance is None:
        tolerance, sides = _HALF_A_PIXEL, None
    return RegionSpec(
        raster=spec,
        kept=range(UNCHANGED_ID + 1, len(spec.classes)),
        fields_of=partial(_fields_of, before=before, after=after),
        simplify=tolerance,
        sides=sides or (1.0, 1.0),
        has_perimeters=True,
        label="class and score",
    )


def _fields_of(table: RegionTable, before: str, after: str) -> dict[str, NDArray[Any]]:
    count = len(table.class_ids)
    return {
        "id": np.arange(1, count + 1, dtype=np.int32),
        "class": table.class_names,
        "score": table.scores,
        table.area_field: table.areas,
        f"perim_{table.unit}": table.perimeters,
        "before": np.full(count, before, object),
        "after": np.full(count, after, object),
    }
