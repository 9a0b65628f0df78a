"""Layers of polygons that outline the regions of a map of classes, whatever task made it.

A region is what hangs together of one class, by the sides of pixels. Classes and scores are written
to drafts, window by window; at the end regions are outlined once, holes are filled, specks left
out, outlines simplified, and the polygons written to every layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.atomic import spooled_to_stdout
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, polygon_perimeters_m
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import ClassInfo
from lemevit_cli.qgis_style import write_style
from lemevit_cli.raster.gdal import TileRows, gdal_cache, gdal_refusals, tile_rows
from lemevit_cli.raster.spec import FULL_SCORE, RasterSpec, Writer
from lemevit_cli.raster.targets import STDOUT, check_classes, check_disk, find_writer
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
    holes_of,
    outline_regions,
    simplify_regions,
    sums_within,
    without_holes,
)

SMALLEST_PX = 8  # pixels of a region that becomes a polygon, unless the user says otherwise
_FIRST_ID = NOTHING + 1  # of the draft of classes, where ids are shifted by as much


@dataclass(frozen=True, kw_only=True)
class RegionTable:
    """Describe polygons, in the order of their first pixels, row by row; ``(N,)`` each.

    Args:
        class_ids: int32.
        class_names: text.
        scores: mean over the pixels that were of the class, in [0, 1]: neither filled holes nor
            simplified outlines count.
        areas: of the polygon as it is drawn: m2 on the ground, or pixels.
        perimeters: likewise, in metres or pixels; zeros unless they were asked for.
        unit: ``m`` or, where nothing ties the scene to the earth, ``px``.
    """

    class_ids: NDArray[np.int32]
    class_names: NDArray[Any]
    scores: NDArray[np.float64]
    areas: NDArray[np.float64]
    perimeters: NDArray[np.float64]
    unit: str

    @property
    def area_field(self) -> str:
        """Return what the field of areas is called."""
        return "area_m2" if self.unit == "m" else "area_px"


FieldsOf = Callable[[RegionTable], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True, kw_only=True)
class RegionSpec:
    """What a task says of its polygons.

    Args:
        raster: grid and classes of the map.
        kept: ids of the classes that become polygons.
        fields_of: gives the fields of a layer, see :class:`PolygonLayer`.
        simplify: how far outlines may move, in the unit of ``sides``; 0 leaves those of pixels.
        sides: of a pixel in metres, along rows and down columns; 1, 1 where it has no size.
        has_perimeters: whether they are measured.
        label: of the style, see :func:`write_style`.
    """

    raster: RasterSpec
    kept: Sequence[int]
    fields_of: FieldsOf
    simplify: float = 0.0
    sides: tuple[float, float] = (1.0, 1.0)
    has_perimeters: bool = False
    label: str | None = None

    @property
    def kept_classes(self) -> tuple[ClassInfo, ...]:
        """Return the classes that become polygons."""
        return tuple(self.raster.classes[class_id] for class_id in self.kept)


class RegionSink:
    """Takes the classes of pixels with their scores, in any order of windows.

    Attributes:
        polygons, left_out: how many came of it, and how many were too small, once it has closed.
    """

    def __init__(
        self,
        ids: TileRows,
        scores: TileRows,
        spec: RegionSpec,
        options: OutputOptions,
        blame: str,
    ) -> None:
        self._ids, self._scores = ids, scores
        self._spec, self._options, self._blame = spec.raster, options, blame
        self._draft_values = np.full(256, NOTHING, np.uint8)
        self._draft_values[list(spec.kept)] = np.array(spec.kept, np.uint8) + _FIRST_ID
        self.polygons = self.left_out = 0

    def write(self, window: Window, ids: NDArray[np.uint8], scores: NDArray[np.uint16]) -> None:
        """Take class ids of a window, and scores as ``raster.spec.whole_scores`` makes them."""
        self._spec.check_values(window, ids)
        values = self._draft_values[ids]
        # Scores elsewhere are never asked for, and zeros cost nothing on the disk.
        scores = np.where(values == NOTHING, np.uint16(0), scores)
        with gdal_refusals(self._blame):
            self._ids.write(window, values[np.newaxis])
            self._scores.write(window, scores[np.newaxis])

    def describe_left_out(self) -> str | None:
        """Say in one line how many polygons were too small; None if there were none."""
        if self.left_out == 0:
            return None
        told = "1 polygon" if self.left_out == 1 else f"{self.left_out} polygons"
        if self._options.min_area_m2 is not None:
            return f"{told} smaller than --min-area left out"
        return f"{told} of less than {SMALLEST_PX} pixels left out; --min-area 0 keeps all"


def check_region_options(fields_of: FieldsOf, options: OutputOptions, writer: Writer) -> None:
    """Let GDAL try the creation options on a layer without polygons, before any work.

    Raises:
        OutputError: for an option or a value that the driver does not know.
    """
    nowhere = Georeference(transform=None, crs_wkt=None)
    raster = RasterSpec(
        width=1, height=1, georeference=nowhere, classes=(ClassInfo("", (0, 0, 0)),)
    )
    spec = RegionSpec(raster=raster, kept=(), fields_of=fields_of)
    empty, _ = layer_of(NO_REGIONS, np.empty(0), spec, OutputOptions())
    check_layer_options(empty, options, writer)


@contextmanager
def open_layers(
    targets: Sequence[str], spec: RegionSpec, options: OutputOptions, writers: Sequence[Writer]
) -> Iterator[RegionSink]:
    """Open a map to be written window by window; its outlines go to all targets at the end.

    Each layer has its target's stem as name. ``options.min_area_m2`` is of a polygon as it is
    drawn.

    Raises:
        OutputError: if a target exists, cannot be written, or the disk is full.
    """
    check_classes(spec.raster.classes, options)
    for target in targets:
        check_disk(target, spec.raster)
    blame = f"{' and '.join(targets)} cannot be written (is the disk full?)"
    with ExitStack() as stack:
        opened = [stack.enter_context(_place_of(t, options, writers)) for t in targets]
        stack.enter_context(gdal_cache(spec.raster))
        ids_path, scores_path = (
            opened[0].with_name(f"{opened[0].name}.{part}.draft.tif") for part in ("ids", "scores")
        )
        width, height = spec.raster.width, spec.raster.height
        with gdal_refusals(blame):
            ids = create_draft(ids_path, width=width, height=height)
            scores = create_draft(scores_path, width=width, height=height, dtype="uint16")
        with tile_rows(scores, blame) as scores_rows, tile_rows(ids, blame) as ids_rows:
            sink = RegionSink(ids_rows, scores_rows, spec, options, blame)
            yield sink
        with gdal_refusals(blame):
            regions = outline_regions(ids_path)
            mean_scores = sums_within(regions, scores_path) / areas_of(regions) / FULL_SCORE
        ids_path.unlink()
        scores_path.unlink()
        layer, sink.left_out = layer_of(regions, mean_scores, spec, options)
        sink.polygons = len(layer.wkb)
        for target, path in zip(targets, opened, strict=True):
            writer = find_writer(target, options, writers)
            place = None if target == STDOUT else Path(target)
            write_layer(path, layer, options, writer, blame=blame, target=place)
        if options.style:
            _write_styles(targets, opened, spec)


def _place_of(
    target: str, options: OutputOptions, writers: Sequence[Writer]
) -> AbstractContextManager[Path]:
    writer = find_writer(target, options, writers)
    if target == STDOUT:
        return spooled_to_stdout(writer.suffix)
    return replacing_layer(Path(target), options, writer)


def _write_styles(targets: Sequence[str], opened: Sequence[Path], spec: RegionSpec) -> None:
    """Write one style for all layers of a name, and a raster of it: QGIS gives it to each."""
    styles = {
        Path(target).with_suffix(".qml"): path.with_suffix(".qml")
        for target, path in zip(targets, opened, strict=True)
    }
    for style in styles.values():
        write_style(
            style,
            polygons=spec.kept_classes,
            label=spec.label,
            filled=True,
            raster=spec.raster.classes,
        )


def layer_of(
    regions: Regions, scores: NDArray[np.float64], spec: RegionSpec, options: OutputOptions
) -> tuple[PolygonLayer, int]:
    """Draw regions as a layer on the map; count those that are left out for their size.

    Args:
        scores: ``(N,)``, means over the regions.
    """
    if options.fill_holes_m2 > 0:
        regions, stays = _fill_holes(regions, spec, options.fill_holes_m2)
        scores = scores[stays]
    num_regions = len(regions)
    if options.min_area_m2 is None:
        large = np.flatnonzero(areas_of(regions) >= SMALLEST_PX)
        regions, scores = regions.take(large), scores[large]
    regions = simplify_regions(regions, spec.simplify, sides=spec.sides)
    layer = _layer_of(regions, scores, spec, min_area=options.min_area_m2 or 0.0)
    return layer, num_regions - len(layer.wkb)


def _fill_holes(
    regions: Regions, spec: RegionSpec, area: float
) -> tuple[Regions, NDArray[np.bool_]]:
    """Fill the holes that are smaller, with what lies in them, see :func:`without_holes`."""
    holes, rings = holes_of(regions)
    place = spec.raster.georeference

    def describe(part: Regions) -> tuple[NDArray[Any], ...]:
        return (large_on_the_map(part.polygons, place, min_area=area)[2],)

    (is_large,) = in_parts(describe, holes.parts())
    return without_holes(regions, rings[~is_large])


def _layer_of(
    regions: Regions, scores: NDArray[np.float64], spec: RegionSpec, *, min_area: float
) -> PolygonLayer:
    """Lay regions as they are drawn on the map, without those that are too small there."""
    place = spec.raster.georeference
    crs_wkt = crs_of_map(place)
    is_tied = is_tied_to_earth(crs_wkt)

    def describe(part: Regions) -> tuple[NDArray[Any], ...]:
        polygons = part.polygons
        mapped, areas, kept = large_on_the_map(polygons, place, min_area=min_area)
        perimeters = np.zeros(len(mapped))
        if spec.has_perimeters and is_tied:
            perimeters = polygon_perimeters_m(mapped, crs_wkt)
        elif spec.has_perimeters:
            perimeters = shapely.length(polygons[kept])
        return shapely.to_wkb(mapped), part.values[kept] - _FIRST_ID, areas, perimeters, kept

    wkb, class_ids, areas, perimeters, kept = in_parts(describe, regions.parts())
    names = np.array([info.name for info in spec.raster.classes], object)
    table = RegionTable(
        class_ids=class_ids,
        class_names=names[class_ids],
        scores=scores[kept],
        areas=areas,
        perimeters=perimeters,
        unit="m" if is_tied else "px",
    )
    fields = spec.fields_of(table)
    pixel_m = pixel_amid_m(spec.raster)
    return PolygonLayer(wkb=wkb, fields=fields, crs_wkt=crs_wkt, pixel_m=pixel_m)
