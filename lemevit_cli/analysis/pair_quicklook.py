"""``lemevit quicklook BEFORE AFTER``: two dates, and what has changed, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.warp import Resampling, reproject

from lemevit_cli.analysis.quicklook import BAR_SHARE, QuicklookOptions
from lemevit_cli.analysis.quicklook_layers import (
    Layer,
    Sheet,
    blended,
    class_layer,
    is_layer,
    polygon_layer,
    read_polygons,
    sheet_of,
)
from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.geometry.ground import north_in_pixels, pixel_metric_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.bounds import window_of_bounds
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.pictures.map_picture import round_scale_bar, write_map
from lemevit_cli.pictures.picture import displayed
from lemevit_cli.raster.overlap import outline_in, window_around
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.scene_pair import ScenePair, open_pair
from lemevit_cli.raster.source import stem_of
from lemevit_cli.tasks.change.classes import UNCHANGED

_GAP = 8  # white pixels between two panels


def pair_quicklook(
    before: str,
    after: str,
    target: str | None = None,
    *,
    change: str | None = None,
    options: QuicklookOptions | None = None,
) -> dict[str, Any]:
    """Draw two dates on the grid of the first, where both are, and the change over the second.

    Args:
        before, after: scenes on any grids.
        target: a PNG; None makes it ``<after>_quicklook.png`` in the current folder.
        change: a layer or a mask; None takes ``<after>_changes.shp`` in the current folder where
            ``change`` has left one, else the two dates stand alone.
        options: ``over`` means nothing here; ``size`` is of one panel.

    Returns:
        ``path``, ``panels``, ``width`` and ``height`` of one in pixels, ``change`` that was drawn,
        ``classes`` in the legend, and the ``scale_bar``.

    Raises:
        LemevitError: if something cannot be read or written, or the dates do not go together.
    """
    options = options or QuicklookOptions()
    target = target or f"{stem_of(after)}_quicklook.png"
    if Path(target).suffix.lower() != ".png":
        raise OutputError(f"{target}: a quicklook is a PNG; name it so")
    check_replaceable(target, overwrite=options.overwrite)
    usual = f"{stem_of(after)}_changes.shp"
    if change is None and Path(usual).is_file():
        change = usual
    with open_pair(before, after) as pair:
        part = pair.overlap
        if options.bounds is not None:
            part = _common(pair, window_of_bounds(pair.before, options.bounds))
        sheet = sheet_of(pair.before, part, options.size)
        pictures = [
            displayed(*pair.before.read_overview_by_band(options.size, window=part)),
            displayed(*_after_on(sheet, pair, part)),
        ]
        titles = [Path(before).name, Path(after).name]
        layer = None if change is None else _change_on(sheet, pair, part, change)
        if change is not None:
            pictures.append(
                pictures[1] if layer is None else blended(pictures[1], layer, options.alpha)
            )
            titles.append(Path(change).name)
    metric = pixel_metric_m2(sheet.georeference, col=sheet.width / 2, row=sheet.height / 2)
    scale_bar = None
    if metric is not None:
        scale_bar = round_scale_bar(float(metric[0, 0] ** 0.5), most_px=BAR_SHARE * sheet.width)
    with replacing(target, overwrite=options.overwrite) as path:
        write_map(
            path,
            _side_by_side(pictures),
            title=titles,
            legend=() if layer is None else layer.legend,
            scale_bar=scale_bar,
            north=north_in_pixels(sheet.georeference, col=sheet.width / 2, row=sheet.height / 2),
        )
    return {
        "path": target,
        "panels": len(pictures),
        "width": sheet.width,
        "height": sheet.height,
        "change": change,
        "classes": [] if layer is None else [info.name for info in layer.told],
        "scale_bar": scale_bar and scale_bar.label,
    }


def _common(pair: ScenePair, part: Window) -> Window:
    shared = pair.overlap.intersection(part)
    if shared is None:
        raise SceneError(f"{pair.name}: nothing within --bounds is in both")
    return shared


def _after_on(
    sheet: Sheet, pair: ScenePair, part: Window
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bring the second date onto the sheet: read decimated, then bilinear where grids differ."""
    after, longest = pair.after, max(sheet.shape)
    if pair.resampling is None:
        pixels, valid = after.read_overview_by_band(longest, window=part)
        return pixels.astype(np.float32), valid
    reached = window_around(after, outline_in(pair.before, after.georeference.crs_wkt, part))
    if reached is None:
        raise SceneError(f"{after.name}: does not reach this part of {pair.before.name}")
    read = sheet_of(after, reached, 2 * longest)
    pixels, valid = after.read_overview_by_band(2 * longest, window=reached)
    # Whatever nodata pixels hold must not be mixed into those around them.
    known = pixels.astype(np.float32)
    known[~valid] = np.nan
    shown = np.empty((len(pixels), *sheet.shape), np.float32)
    reproject(
        known,
        shown,
        src_transform=read.georeference.transform,
        src_crs=read.georeference.crs_wkt,
        dst_transform=sheet.georeference.transform,
        dst_crs=sheet.georeference.crs_wkt,
        src_nodata=np.nan,
        dst_nodata=np.nan,
        resampling=Resampling.bilinear,
    )
    return np.nan_to_num(shown), np.isfinite(shown)


def _change_on(sheet: Sheet, pair: ScenePair, part: Window, change: str) -> Layer | None:
    """Bring what has changed onto a sheet; None of a layer without polygons."""
    if is_layer(change):
        table = read_polygons(change, pair.before)
        return polygon_layer(table, change, sheet) if len(table) else None
    with open_scene(change) as raster:
        layer = class_layer(raster, sheet, pair.before, part)
    if layer.classes[0].name != UNCHANGED:
        return layer
    ids = np.where(layer.ids == 0, np.uint8(NODATA_CLASS), layer.ids)
    return replace(layer, ids=ids, told=tuple(c for c in layer.told if c.name != UNCHANGED))


def _side_by_side(pictures: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    height = len(pictures[0])
    gap = np.full((height, _GAP, 3), 255, np.uint8)
    between = [part for picture in pictures for part in (gap, picture)]
    return np.concatenate(between[1:], axis=1)
