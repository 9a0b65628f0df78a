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
    put_side_by_side,
    read_polygons,
    sheet_of,
)
from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import is_tied_to_earth, north_in_pixels, pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.bounds import window_of_bounds
from lemevit_cli.pictures.map_picture import JPEG_SUFFIXES, round_scale_bar, write_map
from lemevit_cli.pictures.picture import scale_for_display
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.acquisition import credit_of
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
        beside: what stands to the left, each in a panel of its own: ``over`` for the bare scene, or
            other results over it.
        alpha: opacity of the result over its scene, 0 to 1.
        size: longest side of the map in pixels.
        bounds: ``(west, south, east, north)`` in map units of the scene, or of what is shown alone.
        overwrite: replace an existing picture.
    """

    over: str | None = None
    beside: tuple[str, ...] = ()
    alpha: float = 0.5
    size: int = 1600
    bounds: tuple[float, float, float, float] | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class Drawn:
    """Panels of a sheet's size side by side, what lies on them, and whom the scene is owed to.

    Args:
        rgb: of all panels, ``(H, W, 3)``.
        layers: the result's first.
    """

    sheet: Sheet
    rgb: NDArray[np.uint8]
    layers: Sequence[Layer]
    credit: str = ""


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
        target: a PNG or JPEG, by suffix; None makes it ``<result>_quicklook.png`` in the current
            folder.

    Returns:
        ``path``, ``width`` and ``height`` of the map in pixels, ``classes`` in the legend, of boxes
        the number of ``objects`` of each, and the ``scale_bar`` (None without a place on the
        earth).

    Raises:
        LemevitError: if something cannot be read or written, or result and scene do not overlap.
    """
    options, progress = options or QuicklookOptions(), progress or Silent()
    target = check_target(target, result.partition("|")[0], overwrite=options.overwrite)
    if options.over is None:
        drawn = _draw_alone(result, options)
    else:
        drawn = _draw_over(options.over, result, options)
    for note in dict.fromkeys(note for layer in drawn.layers for note in layer.notes):
        progress.note(note)
    title = Path(result).name + (f" over {Path(options.over).name}" if options.over else "")
    titles = [*(Path(other).name for other in options.beside), title]
    record = save_sheet(target, drawn, titles, overwrite=options.overwrite)
    if drawn.layers and drawn.layers[0].counts is not None:
        names = [info.name for info in drawn.layers[0].listed]
        record["objects"] = dict(zip(names, drawn.layers[0].counts, strict=True))
    return record


def check_target(
    target: str | None,
    shown: str,
    *,
    overwrite: bool,
    suffixes: Sequence[str] = (".png", *JPEG_SUFFIXES),
) -> str:
    """Return the picture of a quicklook: the one named, or that of what is shown.

    Raises:
        OutputError: if it has another suffix, or could not be written.
    """
    target = target or f"{stem_of(shown)}_quicklook.png"
    if Path(target).suffix.lower() not in suffixes:
        names = "a PNG" if len(suffixes) == 1 else "a PNG or JPEG"
        raise OutputError(f"{target}: a quicklook is {names}; name it so")
    check_replaceable(target, overwrite=overwrite)
    return target


def save_sheet(
    target: str, drawn: Drawn, titles: Sequence[str], *, overwrite: bool
) -> dict[str, Any]:
    """Write titled panels with legend, scale bar, north and credit; return the record."""
    sheet = drawn.sheet
    legend = dict.fromkeys(info for layer in drawn.layers for info in layer.legend)
    listed = dict.fromkeys(info.name for layer in drawn.layers for info in layer.listed)
    middle = {"col": sheet.width / 2, "row": sheet.height / 2}
    metric = pixel_metric_m2(sheet.georeference, **middle)
    scale_bar = None
    if metric is not None:
        scale_bar = round_scale_bar(float(metric[0, 0] ** 0.5), most_px=_BAR_SHARE * sheet.width)
    with replacing(target, overwrite=overwrite) as path:
        write_map(
            path,
            drawn.rgb,
            title=titles,
            legend=tuple(legend),
            scale_bar=scale_bar,
            north=north_in_pixels(sheet.georeference, **middle),
            credit=drawn.credit,
        )
    return {
        "path": target,
        "width": sheet.width,
        "height": sheet.height,
        "classes": list(listed),
        "scale_bar": scale_bar and scale_bar.label,
    }


def _draw_alone(result: str, options: QuicklookOptions) -> Drawn:
    if is_layer(result):
        table = read_polygons(result)
        sheet = _sheet_around(table, result, options)
        layer = polygon_layer(table, result, sheet)
        return Drawn(sheet, color_layer(layer), [layer])
    with open_scene(result) as raster:
        part = _part(raster, options)
        sheet = sheet_of(raster, part, options.size)
        if holds_classes(raster):
            layer = class_layer(raster, sheet, raster, part)
            return Drawn(sheet, color_layer(layer), [layer])
        rgb = scale_for_display(*raster.read_overview_by_band(options.size, window=part))
        return Drawn(sheet, rgb, [], credit_of(raster))


def _draw_over(over: str, result: str, options: QuicklookOptions) -> Drawn:
    with open_scene(over, SceneOptions(expand_palette=True)) as scene:
        part = _part(scene, options)
        sheet = sheet_of(scene, part, options.size)
        rgb = scale_for_display(*scene.read_overview_by_band(options.size, window=part))
        layers = {
            path: layer_of(path, sheet, scene, part)
            for path in (result, *options.beside)
            if path == result or path != over
        }
        panels = [
            blend_layer(rgb, layers[path], options.alpha) if path in layers else rgb
            for path in (*options.beside, result)
        ]
        return Drawn(sheet, put_side_by_side(panels), list(layers.values()), credit_of(scene))


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
