"""What a quicklook draws: classes, polygons and boxes on the grid of the picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.warp import Resampling, reproject

from lemevit_cli.errors import DataError, SceneError, reading
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS, ClassInfo, classes_from_names
from lemevit_cli.pictures.picture import colorize
from lemevit_cli.raster.class_raster import (
    NO_WHITE,
    WHITE,
    as_class_ids,
    check_class_raster,
    is_lossy,
    read_legend,
    white_of,
)
from lemevit_cli.raster.overlap import outlines_of, part_over, same_grid, window_around
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.source import STDIN
from lemevit_cli.tasks.detection.files import read_boxes
from lemevit_cli.training.datasets.labels import class_texts, sort_names
from lemevit_cli.vector.frames import without_false_degrees
from lemevit_cli.vector.scene_polygons import (
    ScenePolygons,
    is_vector,
    layer_name,
    polygons_on,
    read_layer,
    read_polygons_on,
)

_CLASS_FIELD, _ID_FIELD, _SCORE_FIELD = "class", "class_id", "score"
_BEARING_FIELD, _PIXEL_FIELD = "bearing", "length_px"
_AREA_IN_PIXELS = "area_px"
_BOX_FIELDS = {_CLASS_FIELD, _BEARING_FIELD}  # what detect writes of boxes alone
_NOTES = "notes"  # of a table: what its reader told
_BOX_TABLES = (".txt", ".csv", ".parquet")
_BOX_LINE_PX = 1.8
_GAP_PX = 8  # between two panels


@dataclass(frozen=True)
class Sheet:
    """The map's grid: pixels of the picture, and where they lie."""

    name: str
    width: int
    height: int
    georeference: Georeference

    @property
    def window(self) -> Window:
        return Window(col_off=0, row_off=0, width=self.width, height=self.height)

    @property
    def shape(self) -> tuple[int, int]:
        return self.height, self.width

    def moved(self, turn: float) -> Sheet:
        """Return the sheet some map units further to the east."""
        transform = Affine.translation(turn, 0) @ (self.georeference.transform or Affine.identity())
        return replace(self, georeference=replace(self.georeference, transform=transform))


@dataclass(frozen=True)
class Layer:
    """Classes on a sheet.

    Args:
        ids: ``(H, W)``, ``NODATA_CLASS`` where nothing is drawn.
        classes: by id.
        listed: those that the legend names.
        outlines: ids where a line is drawn, fully opaque; None draws none.
        counts: objects of each of those listed, where objects are what is drawn.
        notes: what a user should know of how polygons were read, a line each.
    """

    ids: NDArray[np.uint8]
    classes: tuple[ClassInfo, ...]
    listed: tuple[ClassInfo, ...]
    outlines: NDArray[np.uint8] | None = None
    counts: tuple[int, ...] | None = None
    notes: tuple[str, ...] = ()

    @property
    def legend(self) -> tuple[ClassInfo, ...]:
        """Return the legend's classes, with the number of their objects where there are any."""
        if self.counts is None:
            return self.listed
        pairs = zip(self.listed, self.counts, strict=True)
        return tuple(replace(info, name=f"{info.name} ({count})") for info, count in pairs)


def sheet_of(scene: Scene, part: Window, size: int) -> Sheet:
    """Return the grid that :meth:`Scene.read_overview` answers on."""
    shrink = max(1.0, max(part.width, part.height) / size)
    width, height = max(1, round(part.width / shrink)), max(1, round(part.height / shrink))
    transform, crs_wkt = scene.georeference.transform, scene.georeference.crs_wkt
    if transform is None:
        # What lies in pixels of the scene finds its place on a sheet of fewer or a part of them.
        transform, crs_wkt = Affine.identity(), None
    corner = Affine.translation(part.col_off, part.row_off)
    transform = transform @ corner @ Affine.scale(part.width / width, part.height / height)
    return Sheet(scene.name, width, height, Georeference(transform=transform, crs_wkt=crs_wkt))


def holds_classes(raster: Scene) -> bool:
    """Say whether a raster is of classes or scores, rather than a scene."""
    legend = read_legend(raster)
    is_one_band = raster.num_bands == 1 and bool(legend.names or legend.colors)
    return is_one_band or _score_names(raster) is not None


def _score_names(raster: Scene) -> tuple[str, ...] | None:
    """Return the classes of a raster of scores, a band each, if our writer left it; else None."""
    with reading(raster.name, "its tags cannot be read"):
        dataset = raster.dataset()
        names = tuple(dataset.descriptions[b - 1] for b in raster.bidx)
        is_ours = raster.dtype == "float32" and "LEMEVIT_TASK" in dataset.tags()
    return names if is_ours and raster.num_bands > 1 and all(names) else None


def class_layer(raster: Scene, sheet: Sheet, scene: Scene, part: Window) -> Layer:
    """Read the classes of a raster on the sheet of a scene's part, by one decimated read."""
    names = _score_names(raster)
    if names is None:
        check_class_raster(raster)
    if raster is scene or same_grid(scene, raster):
        ids = _read_ids(raster, part, sheet.shape, is_scores=names is not None)
    else:
        ids = _warp_ids(raster, sheet, scene, part, is_scores=names is not None)
    legend = read_legend(raster)
    present = np.setdiff1d(ids, [NODATA_CLASS]).tolist()
    known = [info.name for info in legend.classes(names)]
    for number in range(len(known), max(present, default=-1) + 1):
        known.append(f"class_{number}")
    classes = legend.classes(tuple(known))
    is_named = names is not None or bool(legend.names)
    return Layer(ids, classes, classes if is_named else tuple(classes[i] for i in present))


def _read_ids(
    raster: Scene, part: Window, shape: tuple[int, int], *, is_scores: bool
) -> NDArray[np.uint8]:
    pixels, valid = raster.read_overview(max(shape), window=part)
    best = pixels.argmax(axis=0).astype(np.uint8) if is_scores else pixels[0]
    ids = as_class_ids(best, valid, name=raster.name)
    may_be_white = WHITE in best[valid] or is_lossy(raster)
    if not is_scores and may_be_white and (white := white_of(raster)) != NO_WHITE:
        ids[valid] = best[valid] >= white
    return ids


def _warp_ids(
    raster: Scene, sheet: Sheet, scene: Scene, part: Window, *, is_scores: bool
) -> NDArray[np.uint8]:
    """Warp classes from another grid: read at about the sheet's pixel size, then nearest."""
    part_over(scene, raster)  # for what it says if there is none
    warped = np.full(sheet.shape, NODATA_CLASS, dtype=np.uint8)
    for turn, reached, read in parts_shown(raster, sheet, scene, part):
        ids = _read_ids(raster, reached, read.shape, is_scores=is_scores)
        ids = warp(ids, read.moved(turn), sheet, nodata=NODATA_CLASS, resampling=Resampling.nearest)
        warped = np.where(warped == NODATA_CLASS, ids, warped)
    return warped


def parts_shown(
    raster: Scene, sheet: Sheet, scene: Scene, part: Window
) -> list[tuple[float, Window, Sheet]]:
    """Find what a raster has of a scene's part, and the grid to read it on, twice as fine.

    Returns:
        One, or several turns round the globe, see :func:`outlines_of`.

    Raises:
        SceneError: if it has nothing of it.
    """
    found = []
    for turn, outline in outlines_of(scene, raster, part).items():
        reached = window_around(raster, outline)
        if reached is not None:
            found.append((turn, reached, sheet_of(raster, reached, 2 * max(sheet.shape))))
    if not found:
        raise SceneError(f"{raster.name}: does not reach this part of {scene.name}")
    return found


def warp(
    values: NDArray[Any], read: Sheet, sheet: Sheet, *, nodata: float, resampling: Resampling
) -> NDArray[Any]:
    """Bring values ``(..., H, W)`` from the grid that they were read on onto another."""
    warped = np.full((*values.shape[:-2], *sheet.shape), nodata, dtype=values.dtype)
    reproject(
        values,
        warped,
        src_transform=read.georeference.transform,
        src_crs=read.georeference.crs_wkt,
        dst_transform=sheet.georeference.transform,
        dst_crs=sheet.georeference.crs_wkt,
        src_nodata=nodata,
        dst_nodata=nodata,
        resampling=resampling,
    )
    return warped


def layer_of(result: str, sheet: Sheet, scene: Scene, part: Window) -> Layer:
    """Draw a result, whatever it is, on the sheet of a scene's part."""
    if is_layer(result):
        return draw_polygons(*read_over(result, sheet, scene, part), result, sheet)
    with open_scene(result) as raster:
        return class_layer(raster, sheet, scene, part)


def read_over(
    path: str, sheet: Sheet, scene: Scene, part: Window
) -> tuple[ScenePolygons | None, GeoDataFrame]:
    """Read polygons or boxes where a scene is, in pixels of the sheet of a part of it.

    Returns:
        The polygons, None where the file has none at all, and the table that their rows are of.
    """
    if _is_box_table(path):
        table = _read_box_table(path)
        polygons = None if table.empty else polygons_on(scene, table, path)
    else:
        polygons, table = read_polygons_on(scene, path)
    if polygons is None or table.empty:
        return None, table
    scale = Affine.scale(sheet.width / part.width, sheet.height / part.height)
    to_sheet = scale @ Affine.translation(-part.col_off, -part.row_off)
    return polygons.moved(to_sheet), table


def is_layer(path: str) -> bool:
    """Say whether a result is polygons or boxes, rather than a raster."""
    return path != STDIN and (_is_box_table(path) or is_vector(path))


def read_polygons(path: str) -> GeoDataFrame:
    """Read polygons or boxes that lie on a map.

    Raises:
        LemevitError: if they cannot be read, or are in pixels of a scene.
    """
    if _is_box_table(path):
        table = _read_box_table(path)
    else:
        table = without_false_degrees(read_layer(path), path)
    is_placed = table.crs is not None or _AREA_IN_PIXELS not in table.columns
    if _PIXEL_FIELD in table.columns or not is_placed:
        raise DataError(f"{path}: holds pixels of a scene; name it by --over SCENE")
    return table


def _is_box_table(path: str) -> bool:
    return Path(path).suffix.lower() in _BOX_TABLES


def _read_box_table(path: str) -> GeoDataFrame:
    """Read boxes of a file that GDAL reads as no polygons, with the fields of ``detect``."""
    file = read_boxes(path)
    fields: dict[str, Any] = {_CLASS_FIELD: file.classes, _BEARING_FIELD: 0.0}
    if file.scores is not None:
        fields[_SCORE_FIELD] = file.scores
    if file.in_pixels:
        fields[_PIXEL_FIELD] = 0.0
    table = GeoDataFrame(fields, geometry=list(shapely.polygons(file.corners)), crs=file.crs_wkt)
    table.attrs[_NOTES] = file.notes
    return table


def polygon_layer(table: GeoDataFrame, path: str, sheet: Sheet) -> Layer:
    """Draw polygons on a sheet, by their field ``class``, else as one class.

    They are filled and outlined; boxes are outlined alone, and counted.
    """
    polygons = None if table.empty else polygons_on(sheet, table, path)
    return draw_polygons(polygons, table, path, sheet)


def draw_polygons(
    polygons: ScenePolygons | None, table: GeoDataFrame, path: str, sheet: Sheet
) -> Layer:
    """Draw polygons in pixels of a sheet, with the fields of their table; None is none."""
    layer = _draw_polygons(polygons, table, path, sheet)
    return replace(layer, notes=(*table.attrs.get(_NOTES, ()), *layer.notes))


def _draw_polygons(
    polygons: ScenePolygons | None, table: GeoDataFrame, path: str, sheet: Sheet
) -> Layer:
    # A GeoJSON without features has no fields at all: nothing was found.
    is_empty = len(table) == 0 and list(table.columns) == ["geometry"]
    if is_empty or set(table.columns) >= _BOX_FIELDS:
        return _box_layer(polygons, table, path, sheet)
    if polygons is None:
        raise SceneError(f"{path}: holds no polygons")
    classes, ids_of_rows = _classes_of(table, path)
    ids = ids_of_rows[polygons.rows]
    lines = shapely.boundary(polygons.polygons)
    outlines = _rasterize(lines, ids, sheet, all_touched=True)
    filled = polygons.burn(sheet.window, ids, background=NODATA_CLASS)
    return Layer(filled, classes, classes, outlines, notes=polygons.notes)


def _box_layer(
    polygons: ScenePolygons | None, table: GeoDataFrame, path: str, sheet: Sheet
) -> Layer:
    """Draw outlines of boxes, the surest on top."""
    nothing = np.full(sheet.shape, NODATA_CLASS, dtype=np.uint8)
    if polygons is None:
        return Layer(nothing, (), (), nothing, ())
    classes, ids_of_rows = _classes_of(table, path)
    boxes, rows = polygons.polygons, polygons.rows
    if _SCORE_FIELD in table.columns:
        order = np.argsort(table[_SCORE_FIELD].to_numpy(np.float64)[rows], kind="stable")
        boxes, rows = boxes[order], rows[order]
    ids = ids_of_rows[rows]
    # A ring as wide as the line: rasterize draws lines of one pixel alone.
    rings = shapely.buffer(shapely.boundary(boxes), _BOX_LINE_PX / 2, join_style="mitre")
    counts = np.bincount(ids, minlength=len(classes))[: len(classes)]
    present = np.flatnonzero(counts).tolist()
    return Layer(
        ids=nothing,
        classes=classes,
        listed=tuple(classes[i] for i in present),
        outlines=_rasterize(rings, ids, sheet, all_touched=False),
        counts=tuple(int(counts[i]) for i in present),
        notes=polygons.notes,
    )


def _classes_of(table: GeoDataFrame, path: str) -> tuple[tuple[ClassInfo, ...], NDArray[np.uint8]]:
    """Return the classes of a layer, and each row's place in them, ``NODATA_CLASS`` of none.

    By the field ``class``, in the order of ``class_id`` where there is one, which is that of the
    weights and gives their colours; without a class all rows are of one.

    Raises:
        DataError: if there are too many to be drawn.
    """
    names: list[str | None]
    if _CLASS_FIELD in table.columns:
        names = class_texts(table[_CLASS_FIELD])
    else:
        names = [layer_name(path)[1]] * len(table)
    classes = sort_names({name for name in names if name is not None})
    if _ID_FIELD in table.columns:
        classes = _by_id(names, table[_ID_FIELD].to_numpy()) or classes
    if len(classes) > MAX_CLASSES:
        raise DataError(
            f"{path}: {len(classes)} different classes; at most {MAX_CLASSES} can be drawn"
        )
    id_of: dict[str | None, int] = {name: i for i, name in enumerate(classes)}
    ids = np.array([id_of.get(name, NODATA_CLASS) for name in names], np.uint8)
    return classes_from_names(classes), ids


def _by_id(names: list[str | None], ids: NDArray[Any]) -> list[str] | None:
    """Put names at the places of their ids, gaps filled; None unless each has an id of its own."""
    pairs = set(zip(names, ids.tolist(), strict=True))
    name_of = {number: name for name, number in pairs if name is not None}
    is_clear = len(pairs) == len(name_of) == len(set(names))
    if not is_clear or not all(number in range(MAX_CLASSES) for number in name_of):
        return None
    return [name_of.get(i, f"class_{i}") for i in range(max(name_of, default=-1) + 1)]


def _rasterize(
    shapes: NDArray[Any], ids: NDArray[np.uint8], sheet: Sheet, *, all_touched: bool
) -> NDArray[np.uint8]:
    drawn: NDArray[np.uint8] = rasterize(
        zip(shapes, ids.tolist(), strict=True),
        out_shape=sheet.shape,
        fill=NODATA_CLASS,
        transform=Affine.identity(),
        all_touched=all_touched,
        dtype=np.uint8,
    )
    return drawn


def color_layer(layer: Layer) -> NDArray[np.uint8]:
    """Colour the layer alone; outlines of what is filled are a darker shade."""
    rgb = colorize(layer.ids, layer.classes)
    if layer.outlines is None:
        return rgb
    drawn = layer.outlines != NODATA_CLASS
    shade = np.where(layer.ids == NODATA_CLASS, 1.0, 0.6)[drawn, None]
    rgb[drawn] = (colorize(layer.outlines, layer.classes)[drawn] * shade).round()
    return rgb


def put_side_by_side(pictures: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Put pictures of one height from left to right, some white pixels between them."""
    gap = np.full((len(pictures[0]), _GAP_PX, 3), 255, np.uint8)
    between = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(between[1:], axis=1)


def blend_layer(rgb: NDArray[np.uint8], layer: Layer, alpha: float) -> NDArray[np.uint8]:
    """Blend the layer over a scene; its outlines are opaque."""
    opacity = np.where(layer.ids == NODATA_CLASS, 0.0, alpha)[..., None]
    mixed = rgb * (1 - opacity) + colorize(layer.ids, layer.classes) * opacity
    out = mixed.round().astype(np.uint8)
    if layer.outlines is not None:
        drawn = layer.outlines != NODATA_CLASS
        out[drawn] = colorize(layer.outlines, layer.classes)[drawn]
    return out
