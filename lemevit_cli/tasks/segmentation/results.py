"""Class polygons, outlined once from the finished map of classes, through GDAL's vector drivers.

Their fields are ``class``, ``class_id``, ``score`` (mean over the pixels of the scores that their
class has there, 0 to 1) and ``area_m2`` (of the polygon as it is drawn, on the ground; where
nothing ties the scene to the earth ``area_px``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from numpy.typing import NDArray

from lemevit_cli.errors import OutputError
from lemevit_cli.raster.spec import RasterSpec, Writer
from lemevit_cli.settings import OutputOptions
from lemevit_cli.vector.region_layers import (
    RegionSink,
    RegionSpec,
    RegionTable,
    check_region_options,
    open_layers,
)


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know, or one that only
            a raster has.
    """
    if options.output_type == "scores":
        raise OutputError(f"{writer.driver} holds polygons, no scores; write scores to a .tif")
    check_region_options(_fields_of, options, writer)


@contextmanager
def open_polygons(
    target: str,
    spec: RasterSpec,
    options: OutputOptions,
    writers: Sequence[Writer],
    *,
    sides: tuple[float, float] | None = None,
) -> Iterator[RegionSink]:
    """Open a map of classes to be written window by window; the outlines of it are the result.

    Args:
        sides: of a pixel in metres, along rows and down columns; None where it has no size.

    Raises:
        OutputError: if the target exists, cannot be written, or the disk is full.
    """
    names = [info.name for info in spec.classes]
    regions = RegionSpec(
        raster=spec,
        kept=[i for i, name in enumerate(names) if name in (options.classes or names)],
        fields_of=_fields_of,
        simplify=options.simplify_m or 0.0,
        sides=sides or (1.0, 1.0),
    )
    with open_layers([target], regions, options, writers) as sink:
        yield sink


def _fields_of(table: RegionTable) -> dict[str, NDArray[Any]]:
    return {
        "class": table.class_names,
        "class_id": table.class_ids,
        "score": table.scores,
        table.area_field: table.areas,
    }
