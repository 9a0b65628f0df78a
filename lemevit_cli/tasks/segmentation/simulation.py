"""Simulated towns as a data set of this task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.simulation.files import SceneFiles, put
from lemevit_cli.simulation.scenes import Layout
from lemevit_cli.simulation.world import CLASS_NAMES, World, WorldSpec


def _write(files: SceneFiles, paths: Sequence[Path], spec: WorldSpec) -> None:
    image, mask = paths
    world = World(spec)
    with (
        files.raster(image, world, bands=3) as images,
        files.raster(mask, world, classes=CLASS_NAMES) as masks,
    ):
        for window in files.blocks(spec):
            drawing = world.draw(window)
            put(images, window, drawing.pixels)
            put(masks, window, drawing.class_ids)


SIMULATION = Layout(
    files=("images/{}.tif", "masks/{}.tif"),
    classes={"classes": list(CLASS_NAMES), "ignore_index": NODATA_CLASS},
    write=_write,
)
