"""``lemevit quicklook BEFORE AFTER``: two dates, and what has changed, side by side."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import Resampling

from lemevit_cli.analysis.quicklook import Drawn, QuicklookOptions, check_target, save_sheet
from lemevit_cli.analysis.quicklook_layers import (
    Layer,
    Sheet,
    blend_layer,
    class_layer,
    draw_polygons,
    is_layer,
    parts_shown,
    put_side_by_side,
    read_over,
    sheet_of,
    warp,
)
from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.bounds import window_of_bounds
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.pictures.picture import scale_for_display
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.acquisition import credit_of
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.scene_pair import ScenePair, open_pair
from lemevit_cli.raster.source import stem_of
from lemevit_cli.tasks.change.classes import UNCHANGED


def pair_quicklook(
    before: str,
    after: str,
    target: str | None = None,
    *,
    change: str | None = None,
    options: QuicklookOptions | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw two dates on the grid of the first, where both are, and the change over the second.

    Args:
        before, after: scenes on any grids.
        target: a PNG or JPEG; None makes it ``<after>_quicklook.png`` in the current folder.
        change: a layer or a mask; None takes ``<after>_changes.shp`` in the current folder where
            ``change`` has left one, else the two dates stand alone.
        options: ``over`` and ``beside`` mean nothing here; ``size`` is of one panel.

    Returns:
        ``path``, ``panels``, ``width`` and ``height`` of one in pixels, ``change`` that was drawn,
        ``classes`` in the legend, and the ``scale_bar``.

    Raises:
        LemevitError: if something cannot be read or written, or the dates do not go together.
    """
    options, progress = options or QuicklookOptions(), progress or Silent()
    target = check_target(target, after, overwrite=options.overwrite)
    usual = f"{stem_of(after)}_changes.shp"
    if change is None and Path(usual).is_file():
        change = usual
    with open_pair(before, after) as pair:
        part = pair.overlap
        if options.bounds is not None:
            part = _shared_part(pair, window_of_bounds(pair.before, options.bounds))
        sheet = sheet_of(pair.before, part, options.size)
        pictures = [
            scale_for_display(*pair.before.read_overview_by_band(options.size, window=part)),
            scale_for_display(*_read_after(sheet, pair, part)),
        ]
        titles = [Path(before).name, Path(after).name]
        layer = None if change is None else _read_change(sheet, pair, part, change)
        credit = " | ".join(dict.fromkeys(filter(None, map(credit_of, (pair.before, pair.after)))))
        if change is not None:
            pictures.append(
                pictures[1] if layer is None else blend_layer(pictures[1], layer, options.alpha)
            )
            titles.append(Path(change).name)
    for note in () if layer is None else layer.notes:
        progress.note(note)
    drawn = Drawn(sheet, put_side_by_side(pictures), [] if layer is None else [layer], credit)
    record = save_sheet(target, drawn, titles, overwrite=options.overwrite)
    return {**record, "panels": len(pictures), "change": change}


def _shared_part(pair: ScenePair, part: Window) -> Window:
    shared = pair.overlap.intersection(part)
    if shared is None:
        raise SceneError(f"{pair.name}: nothing within --bounds is in both")
    return shared


def _read_after(
    sheet: Sheet, pair: ScenePair, part: Window
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Bring the second date onto the sheet: read decimated, then bilinear where grids differ."""
    after, longest = pair.after, max(sheet.shape)
    if pair.resampling is None:
        pixels, valid = after.read_overview_by_band(longest, window=part)
        return pixels.astype(np.float32), valid
    warped = np.full((after.num_bands, *sheet.shape), np.nan, dtype=np.float32)
    for turn, reached, read in parts_shown(after, sheet, pair.before, part):
        pixels, valid = after.read_overview_by_band(2 * longest, window=reached)
        # Whatever nodata pixels hold must not be mixed into those around them.
        known = pixels.astype(np.float32)
        known[~valid] = np.nan
        shown = warp(known, read.moved(turn), sheet, nodata=np.nan, resampling=Resampling.bilinear)
        warped = np.where(np.isfinite(warped), warped, shown)
    return np.nan_to_num(warped), np.isfinite(warped)


def _read_change(sheet: Sheet, pair: ScenePair, part: Window, change: str) -> Layer | None:
    """Bring what has changed onto a sheet; None of a layer without polygons."""
    if is_layer(change):
        polygons, table = read_over(change, sheet, pair.before, part)
        return draw_polygons(polygons, table, change, sheet) if len(table) else None
    with open_scene(change) as raster:
        layer = class_layer(raster, sheet, pair.before, part)
    if layer.classes[0].name != UNCHANGED:
        return layer
    ids = np.where(layer.ids == 0, np.uint8(NODATA_CLASS), layer.ids)
    return replace(layer, ids=ids, listed=tuple(c for c in layer.listed if c.name != UNCHANGED))
