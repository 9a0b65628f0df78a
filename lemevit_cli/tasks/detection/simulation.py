"""Simulated towns as a data set of this task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lemevit_cli.simulation.files import SceneFiles, put
from lemevit_cli.simulation.scenes import Layout
from lemevit_cli.simulation.world import OBJECT_NAMES, World, WorldSpec

_CLASSES = tuple(name for name in OBJECT_NAMES if name != "building")  # DOTA knows no buildings


def _write(files: SceneFiles, paths: Sequence[Path], spec: WorldSpec) -> None:
    image, labels = paths
    world = World(spec)
    with files.raster(image, world, bands=3) as out:
        for window in files.blocks(spec):
            put(out, window, world.draw(window).pixels)
    lines = ["imagesource:simulated", f"gsd:{spec.gsd_m}"]
    for box in world.objects():
        if box.class_name in _CLASSES:
            corners = " ".join(f"{value:.2f}" for value in box.corners().reshape(-1))
            lines.append(f"{corners} {box.class_name} 0")
    files.write_text(labels, "\n".join(lines))


SIMULATION = Layout(
    files=("images/{}.tif", "labelTxt/{}.txt"),
    classes={"classes": list(_CLASSES)},
    write=_write,
)
