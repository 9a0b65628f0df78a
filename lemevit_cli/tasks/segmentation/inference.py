"""``lemevit predict``: classes or scores of every pixel of a scene, on the scene's own grid."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Part, Piece, Plan
from lemevit_cli.inference.pixels import Census, plan_of_rows, raster_spec
from lemevit_cli.inference.run import BlockInference, class_ids, masked_scores
from lemevit_cli.inference.scene_input import SceneInput, open_input
from lemevit_cli.inference.scenes import (
    Record,
    Report,
    infer_scenes,
    prepare_weights,
    targets_of,
)
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.spec import DRAFT_BYTES_PER_PIXEL, RasterSpec, whole_scores
from lemevit_cli.raster.targets import RASTERS, Writer, check_target, find_writer, open_sink
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks import TASKS
from lemevit_cli.tasks.segmentation.network import NETWORK

_TASK = NETWORK.task
_POLYGONS = "lemevit_cli.tasks.segmentation.results"  # imported when it is asked for

# Another of GDAL's vector formats is one more line.
WRITERS = (
    *RASTERS,
    Writer("GPKG", ".gpkg", "regions", _POLYGONS),
    Writer("FlatGeobuf", ".fgb", "regions", _POLYGONS),
    Writer("GeoJSON", ".geojson", "regions", _POLYGONS),
    Writer("ESRI Shapefile", ".shp", "regions", _POLYGONS),
)


def predict(
    scenes: list[str],
    target: str | None,
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
    report: Report | None = None,
) -> Report:
    """Predict one scene, or several with weights loaded once.

    Args:
        scenes: paths, or ``-`` for a raster on stdin.
        target: a file, ``-`` for stdout, a folder ending in a slash, or None for
            ``<scene>_seg.tif`` in the current folder.
        report: filled as results come; a new one unless given.

    Raises:
        LemevitError: before any scene is opened; else as :func:`infer_scenes`.
    """
    ending = f"_{_TASK}{find_writer('result.tif', settings.output, WRITERS).suffix}"
    card, load = prepare_weights(NETWORK, weights or TASKS[_TASK].starter, settings, progress)
    targets = targets_of(scenes, target, ending)
    kind = find_writer(targets[0], settings.output, WRITERS).kind  # of all: they have one suffix
    task = Segmentation(card, settings, progress, as_polygons=kind == "regions")
    return infer_scenes(task, scenes, targets, load, report)


@dataclass(frozen=True)
class Segmentation:
    """Answers every pixel of a scene: a part is rows of class ids, with scores as they are needed.

    Args:
        card: of the weights.
        as_polygons: the targets are layers, not rasters.
    """

    card: Card
    settings: InferenceSettings
    progress: Progress
    as_polygons: bool = False

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
        """Choose blocks for their memory."""
        spec = raster_spec(run, self.settings)
        pixel_bytes = DRAFT_BYTES_PER_PIXEL if self.as_polygons else spec.bytes_per_pixel
        return plan_of_rows(run, self.settings, spec, pixel_bytes=pixel_bytes)

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield rows of ``ids`` ``(H, W)``, and ``scores`` ``(classes, H, W)`` if asked for.

        With polygons go ``best``, the scores of the ids ``(H, W)``, in whole numbers.
        """
        for rows in run.rows(block):
            with run.account.time("write"):
                arrays: dict[str, NDArray[Any]] = {"ids": class_ids(rows, NODATA_CLASS)}
                if self.settings.output.output_type == "scores":
                    arrays["scores"] = masked_scores(rows)
                if self.as_polygons:
                    arrays["best"] = whole_scores(rows.scores.max(axis=0))
            yield Piece(rows.window, arrays)

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Write the rows as they come."""
        spec, census = raster_spec(run, self.settings), Census(run)
        written = self._written()
        with run.account.time("assemble"), self._open(run, spec, target) as sink:
            for part in parts:
                for piece in part:
                    with run.account.time("write"):
                        census.add(piece.window, piece.arrays["ids"])
                        place = piece.window.relative_to(run.source.area)
                        sink.write(place, *(piece.arrays[name] for name in written))
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
            **self._count(run, sink),
            **census.summary(),
            **run.account.figures(),
        }

    def _written(self) -> tuple[str, ...]:
        """Return which arrays of a piece a sink takes."""
        if self.as_polygons:
            return "ids", "best"
        return ("scores" if self.settings.output.output_type == "scores" else "ids",)

    def _open(
        self, run: BlockInference, spec: RasterSpec, target: str
    ) -> AbstractContextManager[Any]:
        options = self.settings.output
        if not self.as_polygons:
            return open_sink(target, spec, options, WRITERS)
        polygons, sides = importlib.import_module(_POLYGONS), run.source.scene.pixel_sides_m
        opening: AbstractContextManager[Any] = polygons.open_polygons(
            target, spec, options, WRITERS, sides=sides
        )
        return opening

    def _count(self, run: BlockInference, sink: Any) -> dict[str, int]:
        """Count the polygons; say how many were left out."""
        if not self.as_polygons:
            return {}
        if told := sink.describe_left_out():
            self.progress.note(f"{run.source.name}: {told}")
        return {"polygons": sink.polygons, "polygons_left_out": sink.left_out}


INFERENCE = predict
