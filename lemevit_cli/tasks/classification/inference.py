"""``lemevit predict --task cls``: a class for every window of a scene, or for a whole picture."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.atomic import check_replaceable
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Part, Piece, Plan, blocks_of
from lemevit_cli.inference.pixels import Census, raster_spec
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.inference.scene_input import SceneInput, open_input, scene_input
from lemevit_cli.inference.scenes import (
    Record,
    Report,
    infer_scenes,
    prepare_weights,
    read_beside,
    targets_of,
)
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.inspection import picture_warnings
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.source import STDIN
from lemevit_cli.raster.spec import RasterSpec
from lemevit_cli.raster.targets import RASTERS, Writer, check_target, find_writer, open_sink
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import InferenceSettings, OutputOptions, ReadingOptions
from lemevit_cli.tasks import TASKS
from lemevit_cli.tasks.classification.cells import CellGrid
from lemevit_cli.tasks.classification.network import NETWORK
from lemevit_cli.tasks.classification.results import write_table

_TASK = NETWORK.task
_POLYGONS = "lemevit_cli.tasks.classification.results"
_BLOCK = 256  # cells: their scores wait in memory until all are known
_SPREAD_BLOCK = 16  # where several processes share in them

WRITERS = (
    *RASTERS,
    Writer("GPKG", ".gpkg", "cells", _POLYGONS),
    Writer("FlatGeobuf", ".fgb", "cells", _POLYGONS),
    Writer("GeoJSON", ".geojson", "cells", _POLYGONS),
    Writer("ESRI Shapefile", ".shp", "cells", _POLYGONS),
)


def classify(
    scenes: list[str],
    target: str | None,
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
    report: Report | None = None,
) -> Report:
    """Classify the windows of one scene, or of several with weights loaded once; or pictures.

    A picture gets one class: all that is named is taken for pictures if the target is a CSV, or if
    nothing is said of the result and none of them has a place on the earth.

    Args:
        scenes: paths, or ``-`` for a raster on stdin.
        target: a file, ``-`` for stdout, a folder ending in a slash, a CSV for all pictures, or
            None for ``<scene>_cls.tif`` in the current folder, of pictures for lines alone.
        report: filled as results come; a new one unless given. A CSV is one result.

    Raises:
        LemevitError: before any scene is opened; else as :func:`infer_scenes`.
    """
    card, load = prepare_weights(NETWORK, weights or TASKS[_TASK].starter, settings, progress)
    if is_table(target) or (target is None and are_pictures(scenes, settings)):
        _refuse_options_of_maps(settings)
        for warning in picture_warnings([path for path in scenes if path != STDIN]):
            progress.warn(warning)
        pictures = Pictures(card, settings, progress)
        if target is None or settings.dry_run:
            return infer_scenes(pictures, scenes, scenes, load, report)
        check_inputs_kept([target], [*scenes, weights])
        check_replaceable(target, overwrite=settings.output.overwrite)
        found = infer_scenes(pictures, scenes, scenes, load)
        return _tabulate(found, target, settings.output, report or Report())
    ending = f"_{_TASK}{find_writer('result.tif', settings.output, WRITERS).suffix}"
    reads = read_beside(weights or TASKS[_TASK].starter, settings)
    targets = targets_of(scenes, target, ending, reads=reads)
    return infer_scenes(Windows(card, settings, progress), scenes, targets, load, report)


def is_table(target: str | None) -> bool:
    """Tell whether a target holds the classes of all pictures."""
    return target is not None and target.lower().endswith(TASKS[_TASK].joint)


def are_pictures(scenes: Sequence[str], settings: InferenceSettings) -> bool:
    """Tell whether no scene has a place on the earth, and nothing is said of a map."""
    is_map = replace(settings.output, overwrite=False) != OutputOptions() or settings.reading.bounds
    return not is_map and all(_is_placeless(scene, settings) for scene in scenes)


def _refuse_options_of_maps(settings: InferenceSettings) -> None:
    """Refuse what a table of pictures has no use for.

    Raises:
        OutputError: naming the option.
    """
    output, usual = settings.output, OutputOptions()
    given = {
        "--output-type": output.output_type != usual.output_type,
        "--co": bool(output.creation_options),
        "--classes": output.classes is not None,
        "--style": output.style,
        "--layer": output.layer is not None,
        "--format": output.format not in (None, "CSV"),
        "--bounds": settings.reading.bounds is not None,
        "--gsd": settings.reading.gsd not in (ReadingOptions.gsd, "native"),
        **dict.fromkeys(output.asked_of_polygons, True),
    }
    for name, is_given in given.items():
        if is_given:
            raise OutputError(f"{name} is for maps, such as -o map.tif; pictures have a class each")


def _is_placeless(path: str, settings: InferenceSettings) -> bool:
    if path == STDIN:
        return False
    try:
        with open_scene(path, settings.scene) as scene:
            place = scene.georeference
            return place.transform is None and not place.gcps and not place.rpcs
    except SceneError:
        return True  # told when it has its turn


def _tabulate(found: Report, target: str, options: OutputOptions, report: Report) -> Report:
    """Write what was found of pictures as one table, and report that."""
    if found.results:
        write_table(target, found.results, overwrite=options.overwrite)
        report.add(target, {"path": target, "pictures": found.results})
    for picture, failure in found.failures.items():
        report.add(picture, failure)
    return report


def cells_of(run: BlockInference) -> CellGrid:
    """Return the cells over a scene, on the model's grid."""
    view, grid = run.view, run.grid
    return CellGrid(
        width=view.width, height=view.height, size=grid.size, stride=grid.size - grid.overlap
    )


@dataclass(frozen=True)
class Windows:
    """Answers every window of a scene: a part is scores of cells.

    The result is a coarse raster of the scene: a pixel is a cell, as wide as two neighbouring
    windows are apart, and says what its window is. A cell without a valid pixel is nodata. Blocks
    are of cells, and change nothing.

    Args:
        card: of the weights.
    """

    card: Card
    settings: InferenceSettings
    progress: Progress

    def check_target(self, target: str) -> None:
        """Refuse a target that could not be written at the end."""
        check_target(target, self.settings.output, WRITERS, self.progress)

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return the one file."""
        return (target,)

    def open(self, scene: str) -> AbstractContextManager[SceneInput]:
        """Open a scene, and decide how it is read."""
        return open_input(scene, self.card, self.settings, self.progress)

    def plan(self, run: BlockInference) -> Plan:
        """Choose blocks of cells."""
        cells = cells_of(run)
        wanted = cells.cells_over(run.source.on_view(run.source.area))
        usual = _SPREAD_BLOCK if self.settings.cluster.is_used else _BLOCK
        blocks = tuple(blocks_of(wanted, self.settings.tiling.block_size or usual))
        return Plan(blocks, sum(map(cells.count_windows, blocks)))

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield ``scores`` ``(classes, H, W)`` of the cells, NaN where no pixel is valid."""
        cells, places = cells_of(run), defaultdict(list)
        for row in range(block.row_off, block.bottom):
            for col in range(block.col_off, block.right):
                places[cells.window(col, row)].append((col, row))
        shape = (run.num_classes, block.height, block.width)
        scores = np.full(shape, np.nan, dtype=np.float32)
        for batch, answers in run.batches(places):
            shares = zip(batch.windows, answers, batch.valid, strict=False)
            for window, share, valid in shares:
                for col, row in places[window]:
                    core = cells.core(col, row).relative_to(window)
                    if valid[core.slices].any():
                        scores[:, row - block.row_off, col - block.col_off] = share[:, 0, 0]
        yield Piece(block, {"scores": scores})

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Write the cells as they come."""
        options = self.settings.output
        spec, cells = self._spec(run, target), cells_of(run)
        on_view = run.source.on_view(run.source.area)
        area = cells.cells_over(on_view)
        census = Census(run, spec.georeference)
        with run.account.time("assemble"), open_sink(target, spec, options, WRITERS) as sink:
            for part in parts:
                for piece in part:
                    with run.account.time("write"):
                        scores, place = piece.arrays["scores"], piece.window.relative_to(area)
                        ids = best_ids(scores)
                        census.add(place, ids, cells.shares_within(on_view, piece.window))
                        sink.write(place, scores if spec.output_type == "scores" else ids)
        if not census.valid_pixels:
            self.progress.warn(f"{run.source.name}: no valid pixel, the result is all nodata")
        return {
            "path": target,
            "scene": run.source.name,
            "weights": run.predictor.name,
            **run.predictor.figures(),
            "width": spec.width,
            "height": spec.height,
            "gsd_m": run.source.scene.gsd_m,
            **census.summary(),
            **run.account.figures(),
        }

    def _spec(self, run: BlockInference, target: str) -> RasterSpec:
        """Return the result's grid; polygons are told the scores, to keep the best of them."""
        cells, view, scene = cells_of(run), run.view, run.source.scene
        area = cells.cells_over(run.source.on_view(run.source.area))
        coarse = scene.georeference.coarsen(
            cols=cells.stride * view.scene.width / view.width,
            rows=cells.stride * view.scene.height / view.height,
        )
        spec = raster_spec(run, self.settings)
        is_vector = find_writer(target, self.settings.output, WRITERS).kind == "cells"
        return replace(
            spec,
            width=area.width,
            height=area.height,
            georeference=coarse.crop(area, of=cells.whole),
            output_type="scores" if is_vector else spec.output_type,
        )


def best_ids(scores: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return the best class ``(H, W)`` of scores ``(classes, H, W)``, nodata where they are NaN."""
    ids = np.nan_to_num(scores, nan=-1.0).argmax(axis=0).astype(np.uint8)
    ids[np.isnan(scores[0])] = NODATA_CLASS
    return ids


@dataclass(frozen=True)
class Pictures:
    """Answers a picture as one window; the result is its record.

    Args:
        card: of the weights.
        told: kinds of remarks on how pictures are read: the first of each is enough.
    """

    card: Card
    settings: InferenceSettings
    progress: Progress
    told: set[str] = field(default_factory=set, compare=False)

    def check_target(self, target: str) -> None:
        """Refuse nothing: a picture has no file of its own."""

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return none."""
        return ()

    @contextmanager
    def open(self, scene: str) -> Iterator[SceneInput]:
        """Open a picture, and decide how it is read; tell what is odd about it."""
        # Silent: that it has no place on the earth is what makes it a picture. It is shrunk to a
        # window, whatever the size of its pixels.
        reading = replace(self.settings.reading, gsd="native")
        with open_scene(scene, replace(self.settings.scene, expand_palette=True)) as picture:
            source = scene_input(picture, self.card, reading, Silent())
            remarks = {line: line for line in picture.band_warnings}
            if source.stretch is not None:
                remarks["stretch"] = f"stretched, {source.stretch.describe()}"
            for kind, remark in remarks.items():
                if kind not in self.told:
                    self.told.add(kind)
                    self.progress.warn(f"{scene}: {remark}; further pictures so read are not named")
            yield source

    def plan(self, run: BlockInference) -> Plan:
        """Take the picture as one block of one window."""
        return Plan((run.source.area,), 1)

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield ``scores`` ``(classes,)``."""
        scores = classify_whole(run)
        if scores is None:
            raise SceneError(f"{run.source.name}: no pixel of it is valid")
        yield Piece(block, {"scores": scores})

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Name the best class; ``line`` is what stands for a file."""
        (piece,) = (piece for part in parts for piece in part)
        named: dict[str, Any] = dict(
            zip(self.card.class_names, piece.arrays["scores"].tolist(), strict=True)
        )
        scores = dict(sorted(named.items(), key=lambda item: -item[1]))
        best, score = next(iter(scores.items()))
        return {
            "path": target,
            "class": best,
            "score": score,
            "scores": scores,
            "arithmetic": run.predictor.arithmetic,
            "fuse_tokens": run.predictor.fuse_tokens,
            "line": f"{target}\t{best}\t{score:.4f}",
        }


def classify_whole(run: BlockInference) -> NDArray[np.float32] | None:
    """Answer a picture as one window: scores ``(classes,)``, None where no pixel is valid.

    Its middle square is brought to the size of a window.
    """
    scene, size = run.view.scene, run.grid.size
    scale = size / min(scene.width, scene.height)
    view = SceneView(scene, scale=scale, stretch=run.source.stretch, fill=run.predictor.card.mean)
    middle = Window(
        col_off=(view.width - size) // 2,
        row_off=(view.height - size) // 2,
        width=size,
        height=size,
    )
    # By itself: a batch that is filled with zeros would cost as much as a full one.
    alone = replace(run, source=replace(run.source, view=view), batch_size=1)
    for _, answers in alone.batches([middle]):
        scores: NDArray[np.float32] = answers[0, :, 0, 0]
        return scores
    return None


INFERENCE = classify
