"""Change compared with true change: as pixels, pooled, and as polygons."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import geopandas
import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.ground import period_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.polygons import area_figures
from lemevit_cli.progress import Progress
from lemevit_cli.raster.class_raster import (
    NO_WHITE,
    WHITE,
    check_class_raster,
    read_legend,
    white_note,
    white_of,
)
from lemevit_cli.raster.joined import JoinedScenes
from lemevit_cli.raster.overlap import open_classes_on_grid_of
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.tasks.change.classes import ONE_KIND, UNCHANGED
from lemevit_cli.tasks.change.figures import BatchTally
from lemevit_cli.tasks.change.tally import ChangeTally, ObjectTally
from lemevit_cli.tasks.scoring import (
    OF_LAYERS,
    POLYGONS,
    RASTER,
    ScoreOptions,
    Scoring,
    refuse_unheeded,
)
from lemevit_cli.vector.frames import without_false_degrees
from lemevit_cli.vector.mending import single_polygons
from lemevit_cli.vector.scene_polygons import (
    ScenePolygons,
    field_names,
    is_vector,
    read_layer,
    read_polygons_on,
)

_CHANGE = "change"  # as a kind of file
_FIELDS = {"id", "class", "score", "before", "after"}  # what change writes of polygons alone


def is_change(path: str) -> bool:
    """Say whether a file is a mask or a layer of change, as ``lemevit change`` writes them."""
    if is_vector(path):
        return set(field_names(path)) >= _FIELDS
    with open_scene(path) as raster:
        names = read_legend(raster).class_names
    return names is not None and names[0] == UNCHANGED


def score_change(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> dict[str, Any]:
    """Compare change with true change; either is a raster or a layer of polygons.

    In a raster 0 is what has not changed, whatever else is valid has, 255 only where it stands
    alone beside 0 (``raster/class_raster.py``); what lies in a polygon has changed. All kinds of
    change are one. Both are compared on the grid of the prediction, of the truth if only that has
    one; two layers by their areas. Only pixels that are valid in both count.

    Returns:
        The figures of :class:`ChangeTally`. The objects are what is connected on the grid; where
        both are layers they are the layers' own polygons, and there are no batches and no pixels.

    Raises:
        LemevitError: if they cannot be read or compared.
    """
    are_layers = is_vector(prediction), is_vector(truth)
    of_truth = (*OF_LAYERS, "--all-touched") if are_layers == (False, True) else OF_LAYERS
    refuse_unheeded(options, "change is", of_truth if are_layers[1] else ())
    if all(are_layers):
        return _compare_layers(prediction, truth, options, progress)
    figures = _compare_on_grid(prediction, truth, options, progress)
    if not figures["pixels"]:
        raise DataError(f"{prediction} and {truth}: no pixel is valid in both")
    return figures


class ChangeReader(Protocol):
    """Change on a grid."""

    def read(self, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Read where there is change ``(H, W)``, and where that can be told."""
        ...


@dataclass(frozen=True)
class _RasterOfChange:
    raster: Scene | JoinedScenes
    white: int

    def read(self, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        pixels, valid = self.raster.read(window)
        if self.white == NO_WHITE:
            return pixels[0] != 0, valid & (pixels[0] != WHITE)
        return pixels[0] >= self.white, valid


@dataclass(frozen=True)
class _PolygonsOfChange:
    polygons: ScenePolygons | None  # None: there are none
    all_touched: bool = False

    def read(self, window: Window) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        everywhere = np.ones((window.height, window.width), bool)
        if self.polygons is None:
            return ~everywhere, everywhere
        ones = np.ones(len(self.polygons.polygons), np.uint8)
        drawn = self.polygons.burn(window, ones, background=0, all_touched=self.all_touched)
        return drawn == 1, everywhere


def _compare_on_grid(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> dict[str, Any]:
    truth_has_grid = is_vector(prediction)
    first, second = (truth, prediction) if truth_has_grid else (prediction, truth)
    reading = ScoreOptions() if truth_has_grid else options
    with open_scene(first) as grid:
        check_class_raster(grid)
        white = white_of(grid)
        if white not in (WHITE, NO_WHITE):
            progress.note(white_note(first, white))
        with _open_on_grid_of(grid, second, reading, progress) as (other, area):
            pair: tuple[ChangeReader, ChangeReader] = (
                _RasterOfChange(grid, white),
                other,
            )
            found, true = pair[::-1] if truth_has_grid else pair
            return _count(found, true, area, options.block_size, progress)


def _count(
    prediction: ChangeReader,
    truth: ChangeReader,
    area: Window,
    block_size: int,
    progress: Progress,
) -> dict[str, Any]:
    """Count pixels block by block, and write both masks down, to be outlined at the end."""
    tally = ChangeTally(ONE_KIND)
    blocks = list(blocks_of(area, block_size))
    progress.start("scoring", total=len(blocks), unit="blocks")
    try:
        with tally.over(area) as add:
            for block in blocks:
                (answers, known), (truths, labelled) = prediction.read(block), truth.read(block)
                ids = np.where(known & labelled, truths, NODATA_CLASS).astype(np.uint8)
                add(block, ids, answers.astype(np.uint8))
                progress.advance()
    finally:
        progress.finish()
    return tally.figures()


@contextmanager
def _open_on_grid_of(
    grid: Scene, path: str, options: ScoreOptions, progress: Progress
) -> Iterator[tuple[ChangeReader, Window]]:
    """Open the change in a file on the grid of a raster, and give the part that both reach."""
    if is_vector(path):
        labels = options.labels
        polygons, table = read_polygons_on(grid, path, layer=labels.layer, where=labels.where)
        for note in polygons.notes:
            progress.note(note)
        found = None if table.empty else polygons
        yield _PolygonsOfChange(found, labels.all_touched), grid.window
        return
    with open_classes_on_grid_of(grid, path, progress) as (_, ids, part):
        yield _RasterOfChange(ids.scene, ids.white), part


def _compare_layers(
    prediction: str, truth: str, options: ScoreOptions, progress: Progress
) -> dict[str, Any]:
    labels = options.labels
    of_truth = read_layer(truth, layer=labels.layer, where=labels.where)
    tables = _bring_to_one_map(
        without_false_degrees(read_layer(prediction), prediction),
        without_false_degrees(of_truth, truth),
        truth,
    )
    pairs = zip(tables, (prediction, truth), strict=True)
    found, true = (_valid_areas(table, path, progress) for table, path in pairs)
    objects = ObjectTally()
    objects.add(found, true)
    return {
        **area_figures(found, true),
        **BatchTally().figures(),
        "objects": objects.figures(),
        "pixels": None,
    }


def _bring_to_one_map(
    found: geopandas.GeoDataFrame, true: geopandas.GeoDataFrame, truth: str
) -> tuple[geopandas.GeoDataFrame, geopandas.GeoDataFrame]:
    """Bring both to the prediction's map; to the truth's where only that has a plane.

    Raises:
        DataError: if only one has a CRS, or the map of one cannot hold the other.
    """
    if (found.crs is None) != (true.crs is None):
        raise DataError(
            f"{truth} and its prediction: one has a CRS and the other has none, or holds pixels; "
            "state it (ogr2ogr -a_srs), or score both on one scene"
        )
    if found.crs is None:
        return found, true
    if found.crs == true.crs:
        return found, _turned_to(found, true)
    if found.crs.is_geographic:
        found = found.to_crs(true.crs)
    else:
        true = true.to_crs(found.crs)
    for table in (found, true):
        bounds = table.geometry.bounds.to_numpy()
        num_lost = int((~np.isfinite(bounds[~table.geometry.is_empty])).any(axis=1).sum())
        if num_lost:
            raise DataError(
                f"{truth} and its prediction: {num_lost} polygons of one lie beyond the CRS of the "
                "other; bring both to one that holds them (ogr2ogr -t_srs)"
            )
    return found, _turned_to(found, true)


def _turned_to(
    found: geopandas.GeoDataFrame, true: geopandas.GeoDataFrame
) -> geopandas.GeoDataFrame:
    """Move a layer round the globe to where another of its CRS counts its longitudes."""
    period = period_of(found.crs.to_wkt())
    west, _, east, _ = np.array([found.total_bounds, true.total_bounds]).T
    apart = np.diff((west + east) / 2)[0]
    if period is None or not np.isfinite(apart) or round(apart / period) == 0:
        return true
    return true.set_geometry(true.translate(-period * round(apart / period)))


def _valid_areas(table: geopandas.GeoDataFrame, path: str, progress: Progress) -> NDArray[Any]:
    """Return the polygons of a layer that have an area; a multipolygon's parts are its polygons."""
    single = single_polygons(table.geometry.to_numpy())
    if len(table) and not len(single.polygons):
        raise DataError(f"{path}: holds no polygons")
    for note in single.notes(path):
        progress.note(note)
    return single.polygons


SCORING = Scoring(
    compare=score_change,
    pairs=frozenset(
        {
            *((_CHANGE, truth) for truth in (_CHANGE, RASTER, POLYGONS)),
            *((prediction, _CHANGE) for prediction in (RASTER, POLYGONS)),
        }
    ),
    kind=_CHANGE,
    is_kind=is_change,
)
