"""``lemevit predict``: classes or scores of every pixel of a scene, on the scene's own grid."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli import __version__
from lemevit_cli.geometry.ground import pixel_area_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import Predictor, check_weights, load_predictor
from lemevit_cli.inference.run import (
    Account,
    class_ids,
    inference_over,
    masked_scores,
)
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.inference.scenes import (
    Report,
    check_settings,
    check_targets,
    run_over_scenes,
    target_of,
)
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.gdal import tile_width
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.scene_pair import ScenePair
from lemevit_cli.raster.targets import RasterSpec, check_target, find_writer, open_sink
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks import STARTERS
from lemevit_cli.tasks.segmentation.network import NETWORK

_CENSUS_COLUMNS = 2048  # pixels that are counted with one area on the ground


def predict(
    scenes: list[str],
    target: str | None,
    *,
    weights: str | None,
    task: str,
    settings: InferenceSettings,
    progress: Progress,
) -> Report:
    """Predict one scene, or several with weights loaded once.

    Args:
        scenes: paths, or ``-`` for a raster on stdin.
        target: a file, ``-`` for stdout, a folder ending in a slash, or None for
            ``<scene>_<task>.tif`` in the current folder.

    Raises:
        LemevitError: before any scene is opened; else as :func:`run_over_scenes`.
    """
    ending = f"_{task}{find_writer('result.tif', settings.output).suffix}"
    targets = [target_of(scene, target, ending) for scene in scenes]
    name, _, card = check_weights(weights, task, starter=STARTERS[task])
    check_settings(card, settings)
    check_targets(scenes, targets)
    return run_over_scenes(
        scenes,
        targets,
        card=card,
        settings=settings,
        progress=progress,
        check=lambda where: check_target(where, settings.output),
        load=lambda: load_predictor(name, NETWORK, settings.runtime),
        run=partial(predict_scene, settings=settings, progress=progress),
    )


def predict_scene(
    scene: Scene,
    source: SceneInput,
    target: str,
    predictor: Predictor,
    settings: InferenceSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Blocks of the output, windows of the model, one band of scores in memory.

    Returns:
        The record that ``--json`` prints.
    """
    started = time.perf_counter()
    census = Census(scene, predictor.card)
    with inference_over(source, predictor, settings.tiling, progress) as inference:
        spec = raster_spec(scene, source, predictor, inference.grid, settings)
        blocks = inference.blocks(
            source.area,
            settings.tiling,
            tile_width=tile_width(spec, settings.output),
            pixel_bytes=spec.bytes_per_pixel,
        )
        total = sum(inference.grid.count_over(inference.area_of(block)) for block in blocks)
        progress.start(scene.name, total=total, unit="windows")
        try:
            with inference.account.timed("total"), open_sink(target, spec, settings.output) as sink:
                for block in blocks:
                    for rows in inference.rows(block):
                        with inference.account.timed("write"):
                            ids = class_ids(rows, NODATA_CLASS)
                            census.add(rows.window, ids)
                            as_scores = settings.output.output_type == "scores"
                            values = masked_scores(rows) if as_scores else ids
                            sink.write(rows.window.relative_to(source.area), values)
                    del rows  # a view, which would keep this block's band beside the next one's
        finally:
            progress.finish()
    if not census.valid_pixels:
        progress.warn(f"{scene.name}: no valid pixel, the result is all nodata")
    return {
        "path": target,
        "scene": scene.name,
        "weights": predictor.name,
        "device": predictor.device,
        "width": spec.width,
        "height": spec.height,
        "gsd_m": scene.gsd_m,
        "windows": inference.account.windows,
        "windows_skipped": inference.account.windows_skipped,
        **census.summary(),
        "seconds": phases(inference.account, time.perf_counter() - started),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


def raster_spec(
    scene: Scene | ScenePair,
    source: SceneInput,
    predictor: Predictor,
    grid: WindowGrid,
    settings: InferenceSettings,
) -> RasterSpec:
    """What the writer has to know, with tags that tell how the result came about."""
    tags = {
        "software": f"lemevit {__version__}",
        "task": predictor.card.task,
        "weights": f"{Path(predictor.name).name} sha256:{predictor.digest}",
        "window": f"{grid.size}",
        "overlap": f"{grid.overlap}",
        "bands": ",".join(map(str, scene.bidx)),
        "stretch": source.stretch.describe() if source.stretch else "none",
        "model_grid": f"{source.view.width} x {source.view.height}",
        "symmetries": "8" if settings.runtime.tta else "1",
    }
    return RasterSpec(
        width=source.area.width,
        height=source.area.height,
        georeference=scene.georeference.cropped(source.area, of=scene.window),
        classes=predictor.card.classes,
        output_type=settings.output.output_type,
        tags=tags,
    )


class Census:
    """Counts the pixels of each class, and their area on the ground."""

    def __init__(self, scene: Scene | ScenePair, card: Card) -> None:
        self._georeference = scene.georeference
        self._card = card
        self._pixels = np.zeros(256, dtype=np.int64)
        self._area_m2 = np.zeros(256)
        self._on_ground = scene.gsd_m is not None

    def add(self, window: Window, ids: NDArray[np.uint8]) -> None:
        """Count rows of class ids; pixels count with the area of those amid them."""
        for left in range(0, window.width, _CENSUS_COLUMNS):
            part = ids[:, left : left + _CENSUS_COLUMNS]
            counts = np.bincount(part.ravel(), minlength=256)
            self._pixels += counts
            if self._on_ground:
                area = pixel_area_m2(
                    self._georeference,
                    col=window.col_off + left + part.shape[1] / 2,
                    row=window.row_off + window.height / 2,
                )
                self._area_m2 += np.where(counts > 0, counts * (area or np.nan), 0.0)

    @property
    def valid_pixels(self) -> int:
        return int(self._pixels.sum() - self._pixels[NODATA_CLASS])

    def summary(self) -> dict[str, Any]:
        """Share of valid pixels; for every class its pixels, share of these, and area.

        The area is None where it is unknown: without a CRS on the earth, or beyond its domain.
        """
        total = max(self.valid_pixels, 1)
        known = self._on_ground & np.isfinite(self._area_m2)
        classes = {
            info.name: {
                "pixels": int(self._pixels[i]),
                "share": float(self._pixels[i] / total),
                "area_m2": float(self._area_m2[i]) if known[i] else None,
            }
            for i, info in enumerate(self._card.classes)
        }
        valid_share = self.valid_pixels / max(int(self._pixels.sum()), 1)
        return {"valid_share": valid_share, "classes": classes}


def phases(account: Account, total: float) -> dict[str, float]:
    """Seconds by phase; ``finish`` is what closing the result took.

    Args:
        total: of the whole run; that of the account is from the first window to the result.
    """
    seconds = {**account.seconds, "total": total}
    known = sum(seconds.get(phase, 0.0) for phase in ("read", "model", "blend", "write"))
    seconds["finish"] = max(0.0, account.seconds["total"] - known)
    return {phase: round(value, 3) for phase, value in seconds.items()}
