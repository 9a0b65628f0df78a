"""What tasks with an answer for every pixel share: their blocks, the raster, the census."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli import __version__
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import pixel_area_m2
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Plan, aligned_blocks, block_size_of, large_block_height
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.legend import NODATA_CLASS, ClassInfo
from lemevit_cli.raster.gdal import TILE_SIZE, tile_width
from lemevit_cli.raster.spec import RasterSpec
from lemevit_cli.settings import InferenceSettings

_CENSUS_COLUMNS = 2048  # pixels that are counted with one area on the ground


def plan_of_rows(
    run: BlockInference, settings: InferenceSettings, spec: RasterSpec, *, pixel_bytes: int
) -> Plan:
    """Cut the output into blocks that fit into memory and share no tile of its file.

    Strips as wide as the scene are shared where a block of them all would not fit.

    Args:
        pixel_bytes: of a pixel of all files; rows wait in memory until their tiles are full.
    """
    area, tiling = run.source.area, settings.tiling
    tile = tile_width(spec, settings.output)
    block_size = block_size_of(settings)
    band = min(run.grid.size, run.view.height) * (4 * run.num_classes + 1)
    waiting = min(TILE_SIZE, area.height) * pixel_bytes
    column_bytes = band * run.view.width / run.view.scene.width + waiting
    step = tile if tile < area.width else min(TILE_SIZE, area.width)
    most = max(int(tiling.block_bytes / column_bytes) // step * step, step)
    if block_size is not None:
        own = tile if tile < area.width else 1  # strips are shared in any case
        height = -(-block_size // own) * own
        width = min(height, most)
    else:
        width, height = most, large_block_height(area, most, step=TILE_SIZE)
    blocks = tuple(aligned_blocks(area, width=width, height=height))
    windows = sum(run.grid.count_over(run.area_of(block)) for block in blocks)
    return Plan(blocks, windows, int(min(width, area.width) * column_bytes))


def raster_spec(run: BlockInference, settings: InferenceSettings) -> RasterSpec:
    """Return what the writer has to know, with tags that tell how the result came about."""
    source, scene = run.source, run.source.scene
    tags = {
        "software": f"lemevit {__version__}",
        "task": run.predictor.card.task,
        "weights": f"{Path(run.predictor.name).name} sha256:{run.predictor.digest}",
        "window": f"{run.grid.size}",
        "overlap": f"{run.grid.overlap}",
        "bands": ",".join(map(str, scene.bidx)),
        "stretch": source.stretch.describe() if source.stretch else "none",
        "model_grid": f"{run.view.width} x {run.view.height}",
        "runtime": run.predictor.version,
        "arithmetic": run.predictor.arithmetic,
        "symmetries": "8" if settings.runtime.tta else "1",
    }
    if run.predictor.fuse_tokens != "0":
        tags["fuse_tokens"] = run.predictor.fuse_tokens
    return RasterSpec(
        width=source.area.width,
        height=source.area.height,
        georeference=scene.georeference.crop(source.area, of=scene.window),
        classes=run.predictor.card.classes,
        output_type=settings.output.output_type,
        tags=tags,
    )


class Census:
    """Counts the pixels of each class, and their area on the ground.

    Args:
        georeference: of the pixels, where they are not the scene's.
    """

    def __init__(self, run: BlockInference, georeference: Georeference | None = None) -> None:
        self._georeference = georeference or run.source.scene.georeference
        self._classes: tuple[ClassInfo, ...] = run.predictor.card.classes
        self._pixels = np.zeros(256, dtype=np.int64)
        self._area_m2 = np.zeros(256)
        self._on_ground = run.source.scene.gsd_m is not None

    def add(
        self,
        window: Window,
        ids: NDArray[np.uint8],
        shares: NDArray[np.float64] | None = None,
    ) -> None:
        """Count rows of class ids; pixels count with the area of those amid them.

        Args:
            shares: of each pixel ``(H, W)`` that belongs to the scene; None: all of it.
        """
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
                parts = counts
                if shares is not None:
                    of_part = shares[:, left : left + _CENSUS_COLUMNS].ravel()
                    parts = np.bincount(part.ravel(), weights=of_part, minlength=256)
                self._area_m2 += np.where(counts > 0, parts * (area or np.nan), 0.0)

    @property
    def valid_pixels(self) -> int:
        return int(self._pixels.sum() - self._pixels[NODATA_CLASS])

    def summary(self) -> dict[str, Any]:
        """Return the share of valid pixels; of every class its pixels, share of these, and area.

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
            for i, info in enumerate(self._classes)
        }
        valid_share = self.valid_pixels / max(int(self._pixels.sum()), 1)
        return {"valid_share": valid_share, "classes": classes}
