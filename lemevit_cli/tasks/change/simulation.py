"""Simulated towns as a data set of this task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lemevit_cli.simulation.files import SceneFiles, put
from lemevit_cli.simulation.pair import later
from lemevit_cli.simulation.scenes import Layout
from lemevit_cli.simulation.world import World, WorldSpec, change_ids

_CHANGED = 255  # value of a changed pixel in a change label, as in LEVIR-CD


def _write(files: SceneFiles, paths: Sequence[Path], spec: WorldSpec) -> None:
    before, after = World(spec), World(later(spec))
    with (
        files.raster(paths[0], before, bands=3) as first,
        files.raster(paths[1], before, bands=3) as second,
        files.raster(paths[2], before) as label,
    ):
        for window in files.blocks(spec):
            was, is_now = before.draw(window), after.draw(window)
            changed = change_ids(was.class_ids, is_now.class_ids) > 0
            put(first, window, was.pixels)
            put(second, window, is_now.pixels)
            put(label, window, changed.astype(np.uint8) * np.uint8(_CHANGED))


SIMULATION = Layout(
    files=("A/{}.tif", "B/{}.tif", "label/{}.tif"),
    classes={"classes": ["unchanged", "changed"], "changed_value": _CHANGED},
    write=_write,
)
