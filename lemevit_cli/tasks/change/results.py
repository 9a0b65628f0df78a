"""Polygons of change, outlined once from the finished mask, through GDAL's vector drivers.

Their fields are ``id`` (from 1, in the order of their first pixels, row by row), ``class``,
``score`` (mean score of change over the pixels, 0 to 1), ``area_m2`` and ``perim_m`` (of the
polygon as it is drawn, on the ground), ``before`` and ``after`` (dates, or names). Where nothing
ties the scenes to the earth areas and perimeters are ``area_px`` and ``perim_px``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.atomic import spooled_to_stdout
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import (
    is_tied_to_earth,
    polygon_perimeters_m,
)
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS, ClassInfo
from lemevit_cli.raster.gdal import TileRows, gdal_cache, gdal_refusals, tile_rows
from lemevit_cli.raster.spec import RasterSpec, Writer
from lemevit_cli.raster.targets import RASTERS, STDOUT, check_disk, find_writer
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
from lemevit_cli.vector.outlines import (
    NO_REGIONS,
    NOTHING,
    Regions,
    areas_of,
    create_draft,
    outline_regions,
    simplify_regions,
    sums_within,
)
from lemevit_cli.vector.qgis_style import write_style

# Another of GDAL's vector formats is one more line.
WRITERS = (
    Writer("GeoJSON", ".geojson", "changes", __name__),
    Writer("ESRI Shapefile", ".shp", "changes", __name__),
    Writer("GPKG", ".gpkg", "changes", __name__),
    Writer("FlatGeobuf", ".fgb", "changes", __name__),
    *RASTERS,
)
UNCHANGED_ID = 0
DRAFT_BYTES_PER_PIXEL = 4  # the mask's, the scores', and of regions outlined a second time
_FULL_SCORE = 65535  # of the draft: whole numbers, whose sums are exact
_HALF_A_PIXEL = 0.5


@dataclass(frozen=True, kw_only=True)
class ChangeSpec:
    """What layers of change say besides where it is.

    Args:
        raster: grid and classes of the mask; class 0 is what has not changed.
        before, after: dates or names of the scenes.
        simplify: how far outlines may move, in the unit of ``sides``; None is half a pixel.
        sides: of a pixel in metres, along rows and down columns; 1, 1 where it has no size.
    """

    raster: RasterSpec
    before: str
    after: str
    simplify: float | None = None
    sides: tuple[float, float] = (1.0, 1.0)


class ChangeSink:
    """Takes the pixels of a mask with their scores, in any order of windows.

    Attributes:
        polygons: how many came of it, once the sink has closed.
    """

    def __init__(self, mask: TileRows, scores: TileRows, spec: RasterSpec, blame: str) -> None:
        self._mask, self._scores = mask, scores
        self._spec, self._blame = spec, blame
        self.polygons = 0

    def write(self, window: Window, ids: NDArray[np.uint8], scores: NDArray[np.float32]) -> None:
        """Take class ids and scores of change in [0, 1] of a window, ``(H, W)`` each."""
        self._spec.check_values(window, ids)
        is_changed = (ids != UNCHANGED_ID) & (ids != NODATA_CLASS)
        # Scores elsewhere are never asked for, and zeros cost nothing on the disk.
        whole = np.where(is_changed, np.rint(scores.clip(0, 1) * _FULL_SCORE), 0)
        with gdal_refusals(self._blame):
            self._mask.write(window, np.where(is_changed, ids, np.uint8(NOTHING))[np.newaxis])
            self._scores.write(window, whole.astype(np.uint16)[np.newaxis])


def check_options(options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know.
    """
    check_layer_options(layer_of(NO_REGIONS, np.empty(0), _NO_SPEC, min_area=0.0), options, writer)


@contextmanager
def open_layers(
    targets: Sequence[str], spec: ChangeSpec, options: OutputOptions
) -> Iterator[ChangeSink]:
    """Open a mask to be written window by window; its outlines go to all targets at the end.

    Each layer has its target's stem as name. ``options.min_area_m2`` is of a polygon as it is
    drawn, in pixels where they have no size.

    Raises:
        OutputError: if a target exists, cannot be written, or the disk is full.
    """
    for target in targets:
        check_disk(target, spec.raster)
    blame = f"{' and '.join(targets)} cannot be written (is the disk full?)"
    with ExitStack() as stack:
        paths = [stack.enter_context(_place_of(target, options)) for target in targets]
        stack.enter_context(gdal_cache(spec.raster))
        mask_path, scores_path = (
            paths[0].with_name(f"{paths[0].name}.{part}.draft.tif") for part in ("mask", "scores")
        )
        width, height = spec.raster.width, spec.raster.height
        with gdal_refusals(blame):
            mask = create_draft(mask_path, width=width, height=height)
            scores = create_draft(scores_path, width=width, height=height, dtype="uint16")
        with tile_rows(scores, blame) as scores_rows, tile_rows(mask, blame) as mask_rows:
            sink = ChangeSink(mask_rows, scores_rows, spec.raster, blame)
            yield sink
        with gdal_refusals(blame):
            regions = outline_regions(mask_path)
            mean_scores = _mean_scores(regions, scores_path)
        mask_path.unlink()
        scores_path.unlink()
        layer = layer_of(regions, mean_scores, spec, min_area=options.min_area_m2)
        sink.polygons = len(layer.wkb)
        for target, path in zip(targets, paths, strict=True):
            writer = find_writer(target, options, WRITERS)
            place = None if target == STDOUT else Path(target)
            write_layer(path, layer, options, writer, blame=blame, target=place)
        if options.style:
            _write_styles(targets, paths, spec.raster.classes[UNCHANGED_ID + 1 :])


def _place_of(target: str, options: OutputOptions) -> AbstractContextManager[Path]:
    writer = find_writer(target, options, WRITERS)
    if target == STDOUT:
        return spooled_to_stdout(writer.suffix)
    return replacing_layer(Path(target), options, writer)


def _write_styles(
    targets: Sequence[str], paths: Sequence[Path], classes: tuple[ClassInfo, ...]
) -> None:
    """Write one style for all layers of a name: QGIS takes it up for each of them."""
    styles = {
        Path(target).with_suffix(".qml"): path.with_suffix(".qml")
        for target, path in zip(targets, paths, strict=True)
    }
    for style in styles.values():
        write_style(style, classes, label="class and score", filled=True)


def _mean_scores(regions: Regions, scores: Path) -> NDArray[np.float64]:
    return sums_within(regions, scores) / areas_of(regions) / _FULL_SCORE


def layer_of(
    regions: Regions, scores: NDArray[np.float64], spec: ChangeSpec, *, min_area: float
) -> PolygonLayer:
    """Regions of the mask as a layer on the map, those that are too small left out.

    Args:
        scores: ``(N,)``, means over the regions.
    """
    tolerance, sides = spec.simplify, spec.sides
    if tolerance is None:
        tolerance, sides = _HALF_A_PIXEL, (1.0, 1.0)
    drawn = simplify_regions(regions, tolerance, sides=sides)
    georeference = spec.raster.georeference
    crs_wkt = crs_of_map(georeference)
    is_tied = is_tied_to_earth(crs_wkt)

    def describe(part: Regions) -> tuple[NDArray[Any], ...]:
        polygons = part.polygons
        mapped, areas, kept = large_on_the_map(polygons, georeference, min_area=min_area)
        if is_tied:
            lengths = polygon_perimeters_m(mapped, crs_wkt)
        else:
            lengths = shapely.length(polygons[kept])
        return shapely.to_wkb(mapped), part.values[kept], areas, lengths, kept

    wkb, class_ids, areas, perimeters, kept = in_parts(describe, drawn.parts())
    names = np.array([info.name for info in spec.raster.classes], object)
    unit = "m" if is_tied else "px"
    return PolygonLayer(
        wkb=wkb,
        fields={
            "id": np.arange(1, len(wkb) + 1, dtype=np.int32),
            "class": names[class_ids],
            "score": scores[kept],
            "area_m2" if is_tied else "area_px": areas,
            f"perim_{unit}": perimeters,
            "before": np.full(len(wkb), spec.before, object),
            "after": np.full(len(wkb), spec.after, object),
        },
        crs_wkt=crs_wkt,
        pixel_m=pixel_amid_m(spec.raster),
    )


_NO_SPEC = ChangeSpec(
    raster=RasterSpec(
        width=1,
        height=1,
        georeference=Georeference(transform=None, crs_wkt=None),
        classes=(ClassInfo("unchanged", (0, 0, 0)), ClassInfo("changed", (0, 0, 0))),
    ),
    before="",
    after="",
)
