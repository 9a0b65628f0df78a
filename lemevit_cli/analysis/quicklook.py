"""``lemevit quicklook``: a result over its scene as one picture, whatever their size."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from geopandas import GeoDataFrame
from numpy.typing import NDArray

from lemevit_cli.analysis.quicklook_layers import (
    Layer,
    Sheet,
    blend_layer,
    class_layer,
    color_layer,
    holds_classes,
    is_layer,
    layer_of,
    polygon_layer,
    read_polygons,
    sheet_of,
)
from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, north_in_pixels, pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.bounds import window_of_bounds
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.pictures.map_picture import round_scale_bar, write_map
from lemevit_cli.pictures.picture import scale_for_display
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.source import stem_of
from lemevit_cli.settings import SceneOptions

_BAR_SHARE = 0.25  # of the map's width, at most
_MARGIN = 0.03  # around a layer that is drawn alone


@dataclass(frozen=True, kw_only=True)
class QuicklookOptions:
    """Options of a quicklook: what it shows.

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


def quicklook(
    result: str,
    target: str | None = None,
    options: QuicklookOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw a result over its scene, a result alone, or a scene alone, from one decimated read each.

    Args:
        result: a raster of classes or scores, ours or another's, a layer of polygons, whose field
            ``class`` tells their classes, boxes as ``detect`` writes them, or any scene.
        target: a PNG; None makes it ``<result>_quicklook.png`` in the current folder.

    Returns:
        ``path``, ``width`` and ``height`` of the map in pixels, ``classes`` in the legend, of boxes
        the number of ``objects`` of each, and the ``scale_bar`` (None without a place on the
        earth).

    Raises:
        LemevitError: if something cannot be read or written, or result and scene do not overlap.
    """
    options, progress = options or QuicklookOptions(), progress or Silent()
    target = check_target(target, result.partition("|")[0], overwrite=options.overwrite)
    check_inputs_kept([target], [result, options.over])
    if options.over is None:
        sheet, rgb, layer = _draw_alone(result, options)
    else:
        sheet, rgb, layer = _draw_over(options.over, result, options)
    for note in () if layer is None else layer.notes:
        progress.note(note)
    title = Path(result).name + (f" over {Path(options.over).name}" if options.over else "")
    record = save_sheet(target, sheet, rgb, layer, title, overwrite=options.overwrite)
    if layer is not None and layer.counts is not None:
        record["objects"] = dict(zip(record["classes"], layer.counts, strict=True))
    return record


def check_target(target: str | None, shown: str, *, overwrite: bool) -> str:
    """Return the PNG of a quicklook: the one named, or that of what is shown.

    Raises:
        OutputError: if it is no PNG, or could not be written.
    """
    target = target or f"{stem_of(shown)}_quicklook.png"
    if Path(target).suffix.lower() != ".png":
        raise OutputError(f"{target}: a quicklook is a PNG; name it so")
    check_replaceable(target, overwrite=overwrite)
    return target


def save_sheet(
    target: str,
    sheet: Sheet,
    rgb: NDArray[np.uint8],
    layer: Layer | None,
    title: str | Sequence[str],
    *,
    overwrite: bool,
) -> dict[str, Any]:
    """Write a sheet, or panels of its size, with legend, scale bar and north; return the record."""
    middle = {"col": sheet.width / 2, "row": sheet.height / 2}
    metric = pixel_metric_m2(sheet.georeference, **middle)
    scale_bar = None
    if metric is not None:
        scale_bar = round_scale_bar(float(metric[0, 0] ** 0.5), most_px=_BAR_SHARE * sheet.width)
    with replacing(target, overwrite=overwrite) as path:
        write_map(
            path,
            rgb,
            title=title,
            legend=() if layer is None else layer.legend,
            scale_bar=scale_bar,
            north=north_in_pixels(sheet.georeference, **middle),
        )
    return {
        "path": target,
        "width": sheet.width,
        "height": sheet.height,
        "classes": [] if layer is None else [info.name for info in layer.listed],
        "scale_bar": scale_bar and scale_bar.label,
    }


Drawn = tuple[Sheet, NDArray[np.uint8], Layer | None]


def _draw_alone(result: str, options: QuicklookOptions) -> Drawn:
    if is_layer(result):
        table = read_polygons(result)
        sheet = _sheet_around(table, result, options)
        layer = polygon_layer(table, result, sheet)
        return sheet, color_layer(layer), layer
    with open_scene(result) as raster:
        part = _part(raster, options)
        sheet = sheet_of(raster, part, options.size)
        if holds_classes(raster):
            layer = class_layer(raster, sheet, raster, part)
            return sheet, color_layer(layer), layer
        return (
            sheet,
            scale_for_display(*raster.read_overview_by_band(options.size, window=part)),
            None,
        )


def _draw_over(over: str, result: str, options: QuicklookOptions) -> Drawn:
    with open_scene(over, SceneOptions(expand_palette=True)) as scene:
        part = _part(scene, options)
        sheet = sheet_of(scene, part, options.size)
        layer = layer_of(result, sheet, scene, part)
        rgb = scale_for_display(*scene.read_overview_by_band(options.size, window=part))
        return sheet, blend_layer(rgb, layer, options.alpha), layer


def _part(scene: Scene, options: QuicklookOptions) -> Window:
    return scene.window if options.bounds is None else window_of_bounds(scene, options.bounds)


def _sheet_around(table: GeoDataFrame, path: str, options: QuicklookOptions) -> Sheet:
    """Lay a sheet, north up, around a layer or on its bounds, with pixels square on the ground."""
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
