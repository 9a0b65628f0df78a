"""Two dates of one simulated town as files, with all the truth there is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from affine import Affine
from shapely import Polygon

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.progress import Progress
from lemevit_cli.simulation.files import SceneFiles, put
from lemevit_cli.simulation.scenes import check_drawable, draw_scenes
from lemevit_cli.simulation.world import (
    CHANGE_NAMES,
    CLASS_NAMES,
    OBJECT_NAMES,
    World,
    WorldObject,
    WorldSpec,
    change_ids,
)

if TYPE_CHECKING:
    import geopandas

# Rasters by name: bands, and names of their class ids.
_RASTERS: dict[str, tuple[int, tuple[str, ...]]] = {
    "before.tif": (3, ()),
    "after.tif": (3, ()),
    "before_classes.tif": (1, CLASS_NAMES),
    "after_classes.tif": (1, CLASS_NAMES),
    "change.tif": (1, CHANGE_NAMES),
}
_LAYERS = ("objects_before.gpkg", "objects_after.gpkg")


def simulate_pair(
    folder: str | Path,
    *,
    size: int,
    gsd_m: float = 0.3,
    crs: str = "EPSG:32633",
    seed: int = 0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw both dates, their classes, the change, all objects, and tell what cannot be seen.

    Returns, raises:
        As :func:`lemevit_cli.simulation.scenes.simulate_dataset`.
    """
    check_drawable(size=size, scenes=1, gsd_m=gsd_m, crs=crs, seed=seed)
    root = Path(folder)
    spec = WorldSpec(seed=seed, width=size, height=size, gsd_m=gsd_m, crs=crs)
    plan = [(spec, [root / name for name in (*_RASTERS, *_LAYERS)])]
    truth = {root / "truth.json": json.dumps(_unseen_truth(spec), indent=1)}
    return draw_scenes(root, plan, _write_pair, texts=truth, overwrite=overwrite,
                       progress=progress)  # fmt: skip


def later(spec: WorldSpec) -> WorldSpec:
    """Return the same world at its second date."""
    return replace(spec, date="after")


def _write_pair(files: SceneFiles, paths: Sequence[Path], spec: WorldSpec) -> None:
    worlds = (World(spec), World(later(spec)))
    with ExitStack() as stack:
        rasters = [
            stack.enter_context(files.raster(path, worlds[0], bands=bands, classes=classes))
            for path, (bands, classes) in zip(paths, _RASTERS.values(), strict=False)
        ]
        for window in files.blocks(spec):
            was, is_now = (world.draw(window) for world in worlds)
            change = change_ids(was.class_ids, is_now.class_ids)
            values = (was.pixels, is_now.pixels, was.class_ids, is_now.class_ids, change)
            for raster, of_raster in zip(rasters, values, strict=True):
                put(raster, window, of_raster)
    for path, world in zip(paths[len(_RASTERS) :], worlds, strict=True):
        files.write_layer(path, _layer(world.objects(), worlds[0].georeference))


def _unseen_truth(spec: WorldSpec) -> dict[str, Any]:
    return {
        "simulated": True,
        "seed": spec.seed,
        "gsd_m": spec.gsd_m,
        "crs": spec.crs,
        "shift_px": World(later(spec)).shift_px,
        "classes": list(CLASS_NAMES),
        "changes": list(CHANGE_NAMES),
        "objects": list(OBJECT_NAMES),
    }


def _layer(objects: list[WorldObject], place: Georeference) -> geopandas.GeoDataFrame:
    """Make polygons of objects in map units, with their class and the box in pixels."""
    import geopandas

    transform = Affine.identity() if place.transform is None else place.transform
    return geopandas.GeoDataFrame(
        {
            "class": [box.class_name for box in objects],
            "angle_rad": [box.angle_rad for box in objects],
        },
        geometry=[Polygon([transform @ tuple(p) for p in box.corners()]) for box in objects],
        crs=place.crs_wkt,
    )
