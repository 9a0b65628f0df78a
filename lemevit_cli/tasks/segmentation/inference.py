"""``lemevit predict``: classes or scores of every pixel of a scene, on the scene's own grid."""

from __future__ import annotations

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
    read_beside,
    targets_of,
)
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.targets import RASTERS, Writer, check_target, find_writer, open_sink
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks import TASKS
from lemevit_cli.tasks.segmentation.network import NETWORK

_TASK = NETWORK.task
_POLYGONS = "lemevit_cli.tasks.segmentation.results"  # imported when it is asked for

# Another of GDAL's vector formats is one more line.
WRITERS = (
    *RASTERS,
    Writer("GPKG", ".gpkg", "vector", _POLYGONS),
    Writer("FlatGeobuf", ".fgb", "vector", _POLYGONS),
    Writer("GeoJSON", ".geojson", "vector", _POLYGONS),
    Writer("ESRI Shapefile", ".shp", "vector", _POLYGONS),
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
    card, load = prepare_weights(NETWORK, weights or TASKS[_TASK].starter, settings)
    reads = read_beside(weights or TASKS[_TASK].starter, settings)
    targets = targets_of(scenes, target, ending, reads=reads)
    return infer_scenes(Segmentation(card, settings, progress), scenes, targets, load, report)


@dataclass(frozen=True)
class Segmentation:
    """Answers every pixel of a scene: a part is rows of class ids, or of scores.

    Args:
        card: of the weights.
    """

    card: Card
    settings: InferenceSettings
    progress: Progress

    def check_target(self, target: str) -> None:
        """Refuse a target that could not be written at the end."""
        check_target(target, self.settings.output, WRITERS)

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return the one file."""
        return (target,)

    def open(self, scene: str) -> AbstractContextManager[SceneInput]:
        """Open a scene, and decide how it is read."""
        return open_input(scene, self.card, self.settings, self.progress)

    def plan(self, run: BlockInference) -> Plan:
        """Choose blocks for their memory."""
        spec = raster_spec(run, self.settings)
        return plan_of_rows(run, self.settings, spec, pixel_bytes=spec.bytes_per_pixel)

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield rows of ``ids`` ``(H, W)``, and ``scores`` ``(classes, H, W)`` if asked for."""
        for rows in run.rows(block):
            with run.account.time("write"):
                arrays: dict[str, NDArray[Any]] = {"ids": class_ids(rows, NODATA_CLASS)}
                if self.settings.output.output_type == "scores":
                    arrays["scores"] = masked_scores(rows)
            yield Piece(rows.window, arrays)

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Write the rows as they come."""
        spec, census = raster_spec(run, self.settings), Census(run)
        written = "scores" if self.settings.output.output_type == "scores" else "ids"
        opening = open_sink(target, spec, self.settings.output, WRITERS)
        with run.account.time("assemble"), opening as sink:
            for part in parts:
                for piece in part:
                    with run.account.time("write"):
                        census.add(piece.window, piece.arrays["ids"])
                        place = piece.window.relative_to(run.source.area)
                        sink.write(place, piece.arrays[written])
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


INFERENCE = predict
