"""``lemevit quicklook``: a result over its scene as one picture, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray
from rasterio.features import rasterize
from rasterio.warp import Resampling, reproject

from lemevit_cli.errors import DataError, OutputError, SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, north_in_pixels, pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import MAX_CLASSES, NODATA_CLASS, ClassInfo, classes_from_names
from lemevit_cli.pipelines.progress import Progress, Silent
from lemevit_cli.scenes.bounds import window_of_bounds
from lemevit_cli.scenes.class_raster import as_class_ids, check_class_raster, read_legend
from lemevit_cli.scenes.layer import is_vector, layer_name, polygons_on, read_layer
from lemevit_cli.scenes.overlap import apply, outline_in, part_over, same_grid, window_around
from lemevit_cli.scenes.scene import Scene, open_scene
from lemevit_cli.scenes.source import STDIN, stem_of
from lemevit_cli.training.datasets.labels import class_texts, in_order
from lemevit_cli.writers.atomic import check_replaceable, replacing
from lemevit_cli.writers.map_picture import round_scale_bar, write_map
from lemevit_cli.writers.picture import colorize, displayed

_BAR_SHARE = 0.25  # of the map's width, at most
_MARGIN = 0.03  # around a layer that is drawn alone
_CLASS_FIELD = "class"


@dataclass(frozen=True, kw_only=True)
class QuicklookOptions:
    """What a quicklook shows.

    Args:
        over: the scene under the result; None shows the result alone.
        alpha: opacity of the result over its scene, 0 to 1.
        size: longest side of the map in pixels.
        bounds: ``(west, south, east, north)`` in map units of the scene, or of what is shown alone.
        overwrite: replace an existing picture.
    """

    over: str | None = None
    alpha: float = 0.5
    size: int = 1600
    bounds: tuple[float, float, float, float] | None = None
    overwrite: bool = False


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


@dataclass(frozen=True)
class Layer:
    """Classes on a sheet.

    Args:
        ids: ``(H, W)``, ``NODATA_CLASS`` where nothing is drawn.
        classes: by id.
        told: those that the legend names.
        outlines: ids where a line is drawn, fully opaque; None draws none.
    """

    ids: NDArray[np.uint8]
    classes: tuple[ClassInfo, ...]
    told: tuple[ClassInfo, ...]
    outlines: NDArray[np.uint8] | None = None


def quicklook(
    result: str,
    target: str | None = None,
    options: QuicklookOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw a result over its scene, a result alone, or a scene alone, from one decimated read each.

    Args:
        result: a raster of classes or scores, ours or another's, a layer of polygons, whose field
            ``class`` tells their classes, or any scene.
        target: a PNG; None makes it ``<result>_quicklook.png`` in the current folder.

    Returns:
        ``path``, ``width`` and ``height`` of the map in pixels, ``classes`` in the legend, and the
        ``scale_bar`` (None without a place on the earth).

    Raises:
        LemevitError: if something cannot be read or written, or result and scene do not overlap.
    """
    options, progress = options or QuicklookOptions(), progress or Silent()
    target = target or f"{stem_of(result.partition('|')[0])}_quicklook.png"
    if Path(target).suffix.lower() != ".png":
        raise OutputError(f"{target}: a quicklook is a PNG; name it so")
    check_replaceable(target, overwrite=options.overwrite)
    draw = _draw_vector if result != STDIN and is_vector(result) else _draw_raster
    sheet, rgb, told = draw(result, options, progress)
    metric = pixel_metric_m2(sheet.georeference, col=sheet.width / 2, row=sheet.height / 2)
    scale_bar = None
    if metric is not None:
        scale_bar = round_scale_bar(float(metric[0, 0] ** 0.5), most_px=_BAR_SHARE * sheet.width)
    title = Path(result).name + (f" over {Path(options.over).name}" if options.over else "")
    with replacing(target, overwrite=options.overwrite) as path:
        write_map(
            path,
            rgb,
            title=title,
            legend=told,
            scale_bar=scale_bar,
            north=north_in_pixels(sheet.georeference, col=sheet.width / 2, row=sheet.height / 2),
        )
    return {
        "path": target,
        "width": sheet.width,
        "height": sheet.height,
        "classes": [info.name for info in told],
        "scale_bar": scale_bar and scale_bar.label,
    }


Drawn = tuple[Sheet, NDArray[np.uint8], tuple[ClassInfo, ...]]


def _draw_raster(result: str, options: QuicklookOptions, progress: Progress) -> Drawn:
    with open_scene(result) as raster:
        if options.over is not None:
            return _draw_over(
                options,
                progress,
                lambda sheet, scene, part: _class_layer(raster, sheet, scene, part),
            )
        part = _part(raster, options)
        sheet = _sheet_of(raster, part, options.size)
        if _holds_classes(raster):
            layer = _class_layer(raster, sheet, raster, part)
            return sheet, _colored(layer), layer.told
        return sheet, displayed(*raster.read_overview(options.size, window=part)), ()


def _draw_vector(result: str, options: QuicklookOptions, progress: Progress) -> Drawn:
    table = read_layer(result)
    if options.over is not None:
        return _draw_over(
            options, progress, lambda sheet, scene, part: _polygon_layer(table, result, sheet)
        )
    sheet = _sheet_around(table, result, options)
    layer = _polygon_layer(table, result, sheet)
    return sheet, _colored(layer), layer.told


def _draw_over(
    options: QuicklookOptions,
    progress: Progress,
    layer_on: Callable[[Sheet, Scene, Window], Layer],
) -> Drawn:
    with open_scene(str(options.over)) as scene:
        part = _part(scene, options)
        sheet = _sheet_of(scene, part, options.size)
        layer = layer_on(sheet, scene, part)
        rgb = displayed(*scene.read_overview(options.size, window=part))
        return sheet, _blended(rgb, layer, options.alpha), layer.told


def _part(scene: Scene, options: QuicklookOptions) -> Window:
    return scene.window if options.bounds is None else window_of_bounds(scene, options.bounds)


def _sheet_of(scene: Scene, part: Window, size: int) -> Sheet:
    """The grid that :meth:`Scene.read_overview` answers on."""
    shrink = max(1.0, max(part.width, part.height) / size)
    width, height = max(1, round(part.width / shrink)), max(1, round(part.height / shrink))
    transform = scene.georeference.transform
    if transform is not None:
        corner = Affine.translation(part.col_off, part.row_off)
        transform = transform @ corner @ Affine.scale(part.width / width, part.height / height)
    place = Georeference(transform=transform, crs_wkt=scene.georeference.crs_wkt)
    return Sheet(scene.name, width, height, place)


def _holds_classes(raster: Scene) -> bool:
    legend = read_legend(raster)
    is_one_band = raster.num_bands == 1 and bool(legend.names or legend.colors)
    return is_one_band or _score_names(raster) is not None


def _score_names(raster: Scene) -> tuple[str, ...] | None:
    """Classes of a raster of scores, a band each, as our writer leaves them; None for others."""
    dataset = raster.dataset()
    names = tuple(dataset.descriptions[b - 1] for b in raster.bidx)
    is_ours = raster.dtype == "float32" and "LEMEVIT_TASK" in dataset.tags()
    return names if is_ours and raster.num_bands > 1 and all(names) else None


def _class_layer(raster: Scene, sheet: Sheet, scene: Scene, part: Window) -> Layer:
    """Classes of a raster on the sheet of a scene's part, from one decimated read."""
    names = _score_names(raster)
    if names is None:
        check_class_raster(raster)
    if raster is scene or same_grid(scene, raster):
        ids = _decimated_ids(raster, part, sheet.shape, is_scores=names is not None)
    else:
        ids = _warped_ids(raster, sheet, scene, part, is_scores=names is not None)
    legend = read_legend(raster)
    present = np.setdiff1d(ids, [NODATA_CLASS]).tolist()
    known = [info.name for info in legend.classes(names)]
    for number in range(len(known), max(present, default=-1) + 1):
        known.append(f"class_{number}")
    classes = legend.classes(tuple(known))
    is_named = names is not None or bool(legend.names)
    return Layer(ids, classes, classes if is_named else tuple(classes[i] for i in present))


def _decimated_ids(
    raster: Scene, part: Window, shape: tuple[int, int], *, is_scores: bool
) -> NDArray[np.uint8]:
    pixels, valid = raster.read_overview(max(shape), window=part)
    best = pixels.argmax(axis=0).astype(np.uint8) if is_scores else pixels[0]
    return as_class_ids(best, valid, name=raster.name)


def _warped_ids(
    raster: Scene, sheet: Sheet, scene: Scene, part: Window, *, is_scores: bool
) -> NDArray[np.uint8]:
    """Classes on another grid: read at about the sheet's pixel size, then nearest."""
    part_over(scene, raster)  # for what it says if there is none
    shown = outline_in(scene, raster.georeference.crs_wkt, part)
    reached = window_around(raster, shown)
    if reached is None:
        raise SceneError(f"{raster.name}: does not reach this part of {scene.name}")
    ids = np.full(sheet.shape, NODATA_CLASS, dtype=np.uint8)
    read = _sheet_of(raster, reached, 2 * max(sheet.shape))
    source = _decimated_ids(raster, reached, read.shape, is_scores=is_scores)
    reproject(
        source,
        ids,
        src_transform=read.georeference.transform,
        src_crs=read.georeference.crs_wkt,
        dst_transform=sheet.georeference.transform,
        dst_crs=sheet.georeference.crs_wkt,
        src_nodata=NODATA_CLASS,
        dst_nodata=NODATA_CLASS,
        resampling=Resampling.nearest,
    )
    return ids


def _polygon_layer(table: GeoDataFrame, path: str, sheet: Sheet) -> Layer:
    """Polygons filled and outlined on a sheet, by their field ``class``, else as one class."""
    polygons = polygons_on(sheet, table, path)
    names: list[str | None] = [layer_name(path)[1]] * len(table)
    if _CLASS_FIELD in table.columns:
        names = class_texts(table[_CLASS_FIELD])
    found = in_order({name for name in names if name is not None})
    if len(found) > MAX_CLASSES:
        raise DataError(
            f"{path}: {len(found)} different classes; at most {MAX_CLASSES} can be drawn"
        )
    id_of: dict[str | None, int] = {name: i for i, name in enumerate(found)}
    ids = np.array([id_of.get(names[row], NODATA_CLASS) for row in polygons.rows], np.uint8)
    to_pixels = ~polygons.transform
    lines = shapely.transform(shapely.boundary(polygons.polygons), lambda xy: apply(to_pixels, xy))
    outlines: NDArray[np.uint8] = rasterize(
        zip(lines, ids.tolist(), strict=True),
        out_shape=sheet.shape,
        fill=NODATA_CLASS,
        transform=Affine.identity(),
        all_touched=True,
        dtype=np.uint8,
    )
    filled = polygons.burn(sheet.window, ids, background=NODATA_CLASS)
    classes = classes_from_names(found)
    return Layer(filled, classes, classes, outlines)


def _sheet_around(table: GeoDataFrame, path: str, options: QuicklookOptions) -> Sheet:
    """North up around a layer, or on its bounds, with pixels that are squares on the ground."""
    crs_wkt = table.crs.to_wkt() if table.crs is not None else None
    west, south, east, north = (float(v) for v in table.total_bounds)
    if options.bounds is not None:
        west, south, east, north = options.bounds
    elif math.isfinite(west):
        margin = max(_MARGIN * max(east - west, north - south), 1e-9)
        west, south, east, north = west - margin, south - margin, east + margin, north + margin
    if not (west < east and south < north):
        raise SceneError(f"{path}: holds no polygons, or --bounds are not W S E N")
    aspect = 1.0  # of a map unit's length along x and y
    if is_tied_to_earth(crs_wkt):
        middle = Affine.translation((west + east) / 2, (south + north) / 2)
        place = Georeference(transform=middle @ Affine.scale(1e-6), crs_wkt=crs_wkt)
        metric = pixel_metric_m2(place, col=0, row=0)
        aspect = 1.0 if metric is None else float((metric[0, 0] / metric[1, 1]) ** 0.5)
    across, down = (east - west) * aspect, north - south
    scale = options.size / max(across, down)
    width, height = max(1, round(across * scale)), max(1, round(down * scale))
    corner = Affine.translation(west, north)
    transform = corner @ Affine.scale((east - west) / width, -(north - south) / height)
    return Sheet(path, width, height, Georeference(transform=transform, crs_wkt=crs_wkt))


def _colored(layer: Layer) -> NDArray[np.uint8]:
    rgb = colorize(layer.ids, layer.classes)
    if layer.outlines is None:
        return rgb
    dark = np.where(layer.outlines != NODATA_CLASS, 0.6, 1.0)[..., None]
    return (rgb * dark).round().astype(np.uint8)


def _blended(rgb: NDArray[np.uint8], layer: Layer, alpha: float) -> NDArray[np.uint8]:
    """The layer over a scene; its outlines are opaque."""
    opacity = np.where(layer.ids == NODATA_CLASS, 0.0, alpha)[..., None]
    mixed = rgb * (1 - opacity) + colorize(layer.ids, layer.classes) * opacity
    out = mixed.round().astype(np.uint8)
    if layer.outlines is not None:
        drawn = layer.outlines != NODATA_CLASS
        out[drawn] = colorize(layer.outlines, layer.classes)[drawn]
    return out
