"""Simulated scenes as files: sets that ``train`` reads, or a pair of dates with its truth."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Literal

import geopandas
import numpy as np
import rasterio
from affine import Affine
from numpy.typing import NDArray
from pyproj import CRS
from pyproj.exceptions import CRSError
from rasterio.windows import Window as RasterioWindow
from shapely import Polygon

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.simulation.world import (
    CHANGE_NAMES,
    CLASS_NAMES,
    OBJECT_NAMES,
    World,
    WorldObject,
    WorldSpec,
    change_ids,
)

Task = Literal["seg", "det", "change"]
_BLOCK = 1024
_DETECTED = tuple(name for name in OBJECT_NAMES if name != "building")  # DOTA knows no buildings
_CHANGED = 255  # value of a changed pixel in a change label, as in LEVIR-CD


def simulate_dataset(
    folder: str | Path,
    *,
    task: Task | None,
    size: int,
    scenes: int = 1,
    gsd_m: float = 0.3,
    crs: str = "EPSG:32633",
    seed: int = 0,
    val_fraction: float = 0.25,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Draw scenes with their truth into a folder.

    Args:
        folder: with a task, gets ``{train,val}`` in the layout that ``train --task`` reads, one
            town a scene; without, one pair of dates of one town with all truth there is.
        size: side of each square scene in pixels.
        seed: of the first scene; the others follow it.
        val_fraction: share of the scenes for ``val``; one at least where there are two.

    Returns:
        ``folder``, ``task``, ``scenes``, ``files`` (paths written) and ``seconds``.

    Raises:
        OutputError: a file is there already and ``overwrite`` is False; size, number of scenes,
            GSD or CRS cannot be drawn.
    """
    began = time.perf_counter()
    _check(size=size, scenes=scenes, gsd_m=gsd_m, crs=crs, seed=seed)
    root = Path(folder)
    specs = [
        WorldSpec(seed=seed + number, width=size, height=size, gsd_m=gsd_m, crs=crs)
        for number in range(scenes if task else 1)
    ]
    splits = _splits(len(specs), val_fraction)
    places = [(root / split, spec) for split, spec in zip(splits, specs, strict=True)]
    _refuse_existing(_targets(root, task, places), overwrite)
    progress = progress or Silent()
    files = _Files(root, tick=progress.advance)
    blocks = sum(1 for spec in specs for _ in _blocks(spec))
    progress.start("simulating", total=blocks, unit="blocks")
    try:
        if task is None:
            _write_pair(files, specs[0])
        else:
            _write_layout(files, task, places)
    finally:
        progress.finish()
    return {
        "folder": str(root),
        "task": task,
        "scenes": len(specs),
        "files": [str(path) for path in files.written],
        "seconds": round(time.perf_counter() - began, 2),
    }


def _check(*, size: int, scenes: int, gsd_m: float, crs: str, seed: int) -> None:
    if size < 1 or scenes < 1:
        raise OutputError(f"cannot draw {scenes} scenes of {size} pixels; both must be at least 1")
    if seed < 0:
        raise OutputError(f"cannot draw a town from seed {seed}; choose 0 or more")
    if not 0.02 <= gsd_m <= 20:
        raise OutputError(
            f"cannot draw a town at {gsd_m} m a pixel; choose 0.02 to 20 (0.3 is usual)"
        )
    try:
        known = CRS.from_user_input(crs)
    except CRSError as error:
        raise OutputError(f"unknown CRS {crs!r}; give a code such as EPSG:32633") from error
    if not (known.is_projected or known.is_geographic):
        raise OutputError(f"{crs} is no map: choose a projected or geographic CRS (EPSG:32633)")


def _refuse_existing(targets: list[Path], overwrite: bool) -> None:
    present = [path for path in targets if path.exists()]
    if present and not overwrite:
        raise OutputError(
            f"{present[0]} exists; choose another folder or allow it with --overwrite"
        )


def _targets(root: Path, task: Task | None, places: list[tuple[Path, WorldSpec]]) -> list[Path]:
    """List all rasters and texts that will be written."""
    if task is None:
        return [root / name for name in _PAIR_FILES]
    _, names = _LAYOUTS[task]
    files = [split / name.format(_name(spec)) for split, spec in places for name in names]
    return [root / "classes.json", *files]


def _write_layout(files: _Files, task: Task, places: list[tuple[Path, WorldSpec]]) -> None:
    write, _ = _LAYOUTS[task]
    for split, spec in places:
        write(files, split, _name(spec), spec)
    files.text(files.root / "classes.json", json.dumps(_class_list(task), indent=1))


def _splits(scenes: int, val_fraction: float) -> list[str]:
    """Choose ``train`` or ``val`` for each scene; validation scenes come last."""
    held = round(scenes * val_fraction)
    held = min(max(held, 1), scenes - 1) if scenes > 1 and val_fraction > 0 else 0
    return ["train"] * (scenes - held) + ["val"] * held


def _name(spec: WorldSpec) -> str:
    return f"town_{spec.seed:05d}"


def _class_list(task: Task) -> dict[str, Any]:
    if task == "seg":
        return {"classes": list(CLASS_NAMES), "ignore_index": NODATA_CLASS}
    if task == "det":
        return {"classes": list(_DETECTED)}
    return {"classes": ["unchanged", "changed"], "changed_value": _CHANGED}


class _Files:
    """Writes files whole or not at all, and remembers them."""

    def __init__(self, root: Path, *, tick: Callable[[], None]) -> None:
        self.root, self.tick = root, tick
        self.written: list[Path] = []
        root.mkdir(parents=True, exist_ok=True)

    def text(self, target: Path, content: str) -> None:
        with self._beside(target) as path:
            path.write_text(content + "\n", encoding="utf-8")

    def layer(self, target: Path, frame: geopandas.GeoDataFrame) -> None:
        with self._beside(target) as path:
            frame.to_file(path, driver="GPKG", engine="pyogrio", layer=target.stem)

    @contextmanager
    def raster(
        self,
        target: Path,
        spec: WorldSpec,
        georeference: Georeference,
        *,
        bands: int = 1,
        classes: Sequence[str] = (),
    ) -> Iterator[rasterio.io.DatasetWriter]:
        """Open a GeoTIFF of bytes, tiled and deflated, that takes its name when closed.

        ``classes`` names its ids, in the band's tags as predict does.
        """
        profile: dict[str, Any] = {
            "driver": "GTiff", "width": spec.width, "height": spec.height, "count": bands,
            "dtype": "uint8", "crs": georeference.crs_wkt, "transform": georeference.transform,
            "tiled": True, "blockxsize": 256, "blockysize": 256, "compress": "deflate",
            "zlevel": 4, "predictor": 2 if bands == 3 else 1, "bigtiff": "if_safer",
        }  # fmt: skip
        if bands == 3:
            profile |= {"photometric": "rgb", "interleave": "pixel"}
        with self._beside(target) as path, rasterio.open(path, "w", **profile) as raster:
            raster.update_tags(SOFTWARE="lemevit simulate", SEED=str(spec.seed))
            raster.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(classes)})
            yield raster

    @contextmanager
    def _beside(self, target: Path) -> Iterator[Path]:
        target.parent.mkdir(parents=True, exist_ok=True)
        with written_whole(target) as path:
            yield path
        self.written.append(target)


def _write_seg(files: _Files, split: Path, name: str, spec: WorldSpec) -> None:
    world = World(spec)
    place = world.georeference
    with (
        files.raster(split / "images" / f"{name}.tif", spec, place, bands=3) as images,
        files.raster(split / "masks" / f"{name}.tif", spec, place, classes=CLASS_NAMES) as masks,
    ):
        for window in _blocks(spec):
            drawing = world.draw(window)
            _put(images, window, drawing.pixels)
            _put(masks, window, drawing.class_ids)
            files.tick()


def _write_det(files: _Files, split: Path, name: str, spec: WorldSpec) -> None:
    world = World(spec)
    with files.raster(split / "images" / f"{name}.tif", spec, world.georeference, bands=3) as out:
        for window in _blocks(spec):
            _put(out, window, world.draw(window).pixels)
            files.tick()
    lines = ["imagesource:simulated", f"gsd:{spec.gsd_m}"]
    for box in world.objects():
        if box.class_name not in _DETECTED:
            continue
        corners = " ".join(f"{value:.2f}" for value in _corners(box).reshape(-1))
        lines.append(f"{corners} {box.class_name} 0")
    files.text(split / "labelTxt" / f"{name}.txt", "\n".join(lines))


def _write_change(files: _Files, split: Path, name: str, spec: WorldSpec) -> None:
    before, after = World(spec), World(_later(spec))
    place = before.georeference
    with (
        files.raster(split / "A" / f"{name}.tif", spec, place, bands=3) as first,
        files.raster(split / "B" / f"{name}.tif", spec, place, bands=3) as second,
        files.raster(split / "label" / f"{name}.tif", spec, place) as label,
    ):
        for window in _blocks(spec):
            was, is_now = before.draw(window), after.draw(window)
            changed = change_ids(was.class_ids, is_now.class_ids) > 0
            _put(first, window, was.pixels)
            _put(second, window, is_now.pixels)
            _put(label, window, changed.astype(np.uint8) * np.uint8(_CHANGED))
            files.tick()


_LAYOUTS: dict[str, tuple[Callable[[_Files, Path, str, WorldSpec], None], tuple[str, ...]]] = {
    "seg": (_write_seg, ("images/{}.tif", "masks/{}.tif")),
    "det": (_write_det, ("images/{}.tif", "labelTxt/{}.txt")),
    "change": (_write_change, ("A/{}.tif", "B/{}.tif", "label/{}.tif")),
}
_PAIR_FILES = (
    "before.tif", "after.tif", "before_classes.tif", "after_classes.tif", "change.tif",
    "objects_before.gpkg", "objects_after.gpkg", "truth.json",
)  # fmt: skip


def _write_pair(files: _Files, spec: WorldSpec) -> None:
    """Write both dates, their classes, the change, all objects, and what cannot be seen."""
    worlds = (World(spec), World(_later(spec)))
    place = worlds[0].georeference
    root = files.root
    with ExitStack() as stack:
        rasters = {
            name: stack.enter_context(
                files.raster(root / name, spec, place, bands=bands, classes=classes)
            )
            for name, bands, classes in zip(
                _PAIR_FILES[:5],
                (3, 3, 1, 1, 1),
                ((), (), CLASS_NAMES, CLASS_NAMES, CHANGE_NAMES),
                strict=True,
            )
        }
        for window in _blocks(spec):
            was, is_now = (world.draw(window) for world in worlds)
            for name, values in zip(
                _PAIR_FILES[:5],
                (was.pixels, is_now.pixels, was.class_ids, is_now.class_ids,
                 change_ids(was.class_ids, is_now.class_ids)),
                strict=True,
            ):  # fmt: skip
                _put(rasters[name], window, values)
            files.tick()
    for name, world in zip(_PAIR_FILES[5:7], worlds, strict=True):
        files.layer(root / name, _layer(world.objects(), place))
    truth = {
        "simulated": True,
        "seed": spec.seed,
        "gsd_m": spec.gsd_m,
        "crs": spec.crs,
        "shift_px": worlds[1].shift_px,
        "classes": list(CLASS_NAMES),
        "changes": list(CHANGE_NAMES),
        "objects": list(OBJECT_NAMES),
    }
    files.text(root / "truth.json", json.dumps(truth, indent=1))


def _later(spec: WorldSpec) -> WorldSpec:
    return WorldSpec(
        seed=spec.seed, width=spec.width, height=spec.height, gsd_m=spec.gsd_m, crs=spec.crs,
        date="after",
    )  # fmt: skip


def _layer(objects: list[WorldObject], place: Georeference) -> geopandas.GeoDataFrame:
    """Make polygons of objects in map units, with their class and the box in pixels."""
    transform = Affine.identity() if place.transform is None else place.transform
    return geopandas.GeoDataFrame(
        {
            "class": [box.class_name for box in objects],
            "angle_rad": [box.angle_rad for box in objects],
        },
        geometry=[Polygon([transform @ tuple(p) for p in _corners(box)]) for box in objects],
        crs=place.crs_wkt,
    )


def _corners(box: WorldObject) -> NDArray[np.float64]:
    """Return the four corners ``(4, 2)`` of a box in scene pixels, clockwise on the screen."""
    c, s = np.cos(box.angle_rad), np.sin(box.angle_rad)
    along = np.array([c, s]) * box.w / 2
    across = np.array([-s, c]) * box.h / 2
    centre = np.array([box.cx, box.cy])
    return np.stack(
        [centre - along - across, centre + along - across, centre + along + across,
         centre - along + across]
    )  # fmt: skip


def _blocks(spec: WorldSpec) -> Iterator[Window]:
    for row_off in range(0, spec.height, _BLOCK):
        for col_off in range(0, spec.width, _BLOCK):
            yield Window(
                col_off=col_off, row_off=row_off,
                width=min(_BLOCK, spec.width - col_off), height=min(_BLOCK, spec.height - row_off),
            )  # fmt: skip


def _put(raster: rasterio.io.DatasetWriter, window: Window, values: NDArray[np.uint8]) -> None:
    values = values[None] if values.ndim == 2 else values
    place = RasterioWindow(window.col_off, window.row_off, window.width, window.height)
    raster.write(values, window=place)
