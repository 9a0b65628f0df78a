"""Class polygons, outlined once from the finished class raster, through GDAL's vector drivers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.raster.gdal import TileRows, gdal_cache, gdal_refusals, tile_rows
from lemevit_cli.raster.spec import RasterSpec, Sink, Writer
from lemevit_cli.settings import OutputOptions
from lemevit_cli.vector.layer import (
    PolygonLayer,
    check_layer_options,
    crs_of_map,
    in_parts,
    large_on_the_map,
    pixel_amid_m,
    replacing_layer,
    write_layer,
)
from lemevit_cli.vector.outlines import NO_REGIONS, NOTHING, Regions, create_draft, outline_regions

_FIRST_ID = NOTHING + 1  # of the draft raster, where class ids are shifted by as much


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know, or one that only
            a raster has.
    """
    if options.output_type == "scores":
        raise OutputError(f"{writer.driver} holds polygons, no scores; write scores to a .tif")
    nothing = Georeference(transform=None, crs_wkt=None)
    empty = _layer(NO_REGIONS, [], nothing, min_area=0.0)
    check_layer_options(empty, options, writer)


@contextmanager
def open_sink(
    target: Path, spec: RasterSpec, options: OutputOptions, writer: Writer
) -> Iterator[Sink]:
    """Open a class raster to be written window by window; its outlines are the result.

    The layer has the target's stem as name and the fields ``class``, ``class_id`` and
    ``area_m2``; without a CRS tied to the earth the last is ``area_px``, and
    ``options.min_area_m2`` counts pixels.

    Raises:
        OutputError: if the target exists, cannot be written, or the disk is full.
    """
    blame = f"{target} cannot be written (is the disk full?)"
    with (
        replacing_layer(target, options, writer) as path,
        gdal_cache(spec),
    ):
        draft = path.with_name(path.name + ".draft.tif")
        with gdal_refusals(blame):
            dataset = create_draft(draft, width=spec.width, height=spec.height)
        with tile_rows(dataset, blame) as rows:
            yield _ClassSink(rows, spec, options, blame)
        with gdal_refusals(blame):
            regions = outline_regions(draft)
        draft.unlink()
        names = [info.name for info in spec.classes]
        layer = _layer(regions, names, spec.georeference, min_area=options.min_area_m2)
        layer = replace(layer, pixel_m=pixel_amid_m(spec))
        write_layer(path, layer, options, writer, blame=blame, target=target)


class _ClassSink:
    """Writes the kept classes of a window into the draft raster, everything else as 0."""

    def __init__(
        self, rows: TileRows, spec: RasterSpec, options: OutputOptions, blame: str
    ) -> None:
        self._rows = rows
        self._spec = spec
        self._blame = blame
        self._draft_values = np.zeros(256, np.uint8)
        for class_id, info in enumerate(spec.classes):
            if class_id != NODATA_CLASS and info.name in (options.classes or (info.name,)):
                self._draft_values[class_id] = class_id + _FIRST_ID

    def write(self, window: Window, values: NDArray[Any]) -> None:
        self._spec.check_values(window, values)
        with gdal_refusals(self._blame):
            self._rows.write(window, self._draft_values[values][np.newaxis])


def _layer(
    regions: Regions, names: list[str], georeference: Georeference, *, min_area: float
) -> PolygonLayer:
    """Outlines in pixels as a layer on the map, those that are too small left out.

    Args:
        names: of the classes, by id.
        min_area: in m2 on the ground, or pixels without a CRS on the earth.
    """
    crs_wkt = crs_of_map(georeference)
    is_tied = is_tied_to_earth(crs_wkt)

    def describe(part: Regions) -> tuple[NDArray[Any], ...]:
        mapped, areas, kept = large_on_the_map(part.polygons, georeference, min_area=min_area)
        return shapely.to_wkb(mapped), areas, part.values[kept] - _FIRST_ID

    wkb, areas, class_ids = in_parts(describe, regions.parts())
    fields = {
        "class": np.array(names, object)[class_ids],
        "class_id": class_ids,
        "area_m2" if is_tied else "area_px": areas,
    }
    return PolygonLayer(wkb=wkb, fields=fields, crs_wkt=crs_wkt)
