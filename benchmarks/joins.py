"""What the end of a large scene costs: boxes merged, boxes and polygons written.

    python benchmarks/joins.py [--boxes 1000000] [--polygons 1000000] [--formats shp gpkg geojson]

The boxes stand on a lattice, turned any way, of ten classes; one in twenty is seen a second time,
as a box that the edge of a window cuts. The polygons are those of a raster of ten columns and rows
a polygon, with an ellipse in each; they are written as `predict` (five classes) and as `change`
(one, drawn with fewer corners, with the mean of their scores) write them. No model is loaded. Each
step has a process of its own; printed are the objects that it wrote, its seconds, those that it
computed (other work on the machine does not count), and the peak memory of the whole process,
libraries and input included.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyogrio
from affine import Affine
from numpy.typing import NDArray

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.oriented_boxes import canonical
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.legend import NODATA_CLASS, ClassInfo, classes_from_names
from lemevit_cli.raster.spec import FULL_SCORE, RasterSpec
from lemevit_cli.settings import OutputOptions

BOX_CLASSES, POLYGON_CLASSES = 10, 5
SPACING = 24.0  # pixels between boxes: about as many a window of 512 as at a harbour
SEEN_TWICE = 0.05
CELL = 10  # pixels, columns and rows, that a polygon has for itself
GSD_M = 0.3


def georeference() -> Georeference:
    import pyproj

    transform = Affine(GSD_M, 0, 500_000, 0, -GSD_M, 5_600_000)
    return Georeference(transform=transform, crs_wkt=pyproj.CRS(32633).to_wkt())


# --- Boxes ---------------------------------------------------------------------------------------


def save_boxes(path: Path, count: int) -> None:
    """Keep what windows saw of ``count`` objects, as the fields of ``RawBoxes``."""
    random = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(count)))
    places = np.stack(np.divmod(np.arange(count), side), axis=1) * SPACING
    sizes = random.uniform((8, 3), (18, 8), (count, 2))
    angles = random.uniform(-1.5, 1.5, count)
    whole = np.column_stack([places + random.uniform(10, 14, (count, 2)), sizes, angles])
    again = random.choice(count, int(SEEN_TWICE * count), replace=False)
    parts = whole[again] * (1, 1, 0.6, 1, 1)
    ids = random.integers(0, BOX_CLASSES, count)
    np.savez(
        path,
        boxes=canonical(np.concatenate([whole, parts])),
        scores=random.uniform(0.3, 1, count + len(again)),
        class_ids=np.concatenate([ids, ids[again]]),
        cut=np.arange(count + len(again)) >= count,
        on_valid=np.ones(count + len(again), bool),
    )


def merge(path: Path) -> int:
    """Merge the boxes of all windows, and keep them beside."""
    from lemevit_cli.tasks.detection.merge import RawBoxes, merge_boxes

    with np.load(path) as stored:
        raw = RawBoxes(**stored)
    kept = merge_boxes(raw, nms_iou=0.3)
    fields = {"boxes": raw.boxes, "scores": raw.scores, "class_ids": raw.class_ids}
    np.savez(path.with_name("merged.npz"), **{name: of[kept] for name, of in fields.items()})
    return len(kept)


def write_boxes(path: Path, target: Path) -> int:
    """Write merged boxes, and measure them once more, as `detect` does for its summary."""
    from lemevit_cli.tasks.detection import results

    classes = classes_from_names([f"class {i}" for i in range(BOX_CLASSES)])
    with np.load(path.with_name("merged.npz")) as stored:
        boxes = results.BoxesOfScene(**stored, classes=classes, georeference=georeference())
    results.write_boxes(str(target), boxes, OutputOptions())
    return len(results.sizes_of(boxes).length_m)


# --- Polygons ------------------------------------------------------------------------------------


def rows_of_ellipses(count: int) -> Iterator[tuple[Window, NDArray[np.uint8]]]:
    """Yield rows of cells, an ellipse of the ids 1 to 5 in each, nothing around it."""
    random = np.random.default_rng(0)
    side = int(np.ceil(np.sqrt(count)))
    rows, cols = np.indices((CELL, CELL)) - (CELL - 1) / 2
    for row in range(side):
        angles = random.uniform(0, np.pi, (side, 1, 1))
        across = rows * np.sin(angles) + cols * np.cos(angles)
        along = rows * np.cos(angles) - cols * np.sin(angles)
        radii = random.uniform(1.5, 4.4, (2, side, 1, 1))
        inside = (across / radii[0]) ** 2 + (along / radii[1]) ** 2 <= 1
        ids = inside * random.integers(1, POLYGON_CLASSES + 1, (side, 1, 1))
        pixels = ids.transpose(1, 0, 2).reshape(CELL, side * CELL).astype(np.uint8)
        yield Window(col_off=0, row_off=row * CELL, width=side * CELL, height=CELL), pixels


def polygon_spec(count: int, classes: tuple[ClassInfo, ...]) -> RasterSpec:
    side = int(np.ceil(np.sqrt(count))) * CELL
    return RasterSpec(width=side, height=side, georeference=georeference(), classes=classes)


def write_classes(count: int, target: Path) -> int:
    """Write a polygon a region, as `predict` does of a finished scene."""
    from lemevit_cli.tasks.change.results import WRITERS  # those of `predict` load torch
    from lemevit_cli.tasks.segmentation import results

    names = [f"class {i}" for i in range(POLYGON_CLASSES)]
    spec = polygon_spec(count, classes_from_names(names))
    options = OutputOptions(min_area_m2=0.0)
    random = np.random.default_rng(1)
    with results.open_polygons(str(target), spec, options, WRITERS) as sink:
        for window, ids in rows_of_ellipses(count):
            scores = random.integers(0, FULL_SCORE, ids.shape, np.uint16)
            sink.write(window, np.where(ids > 0, ids - np.uint8(1), np.uint8(NODATA_CLASS)), scores)
    return int(pyogrio.read_info(target, force_feature_count=True)["features"])


def write_changes(count: int, target: Path) -> int:
    """Write a polygon a change, as `change` does of a finished pair."""
    from lemevit_cli.tasks.change import results
    from lemevit_cli.vector.region_layers import open_layers

    raster = polygon_spec(count, classes_from_names(["unchanged", "changed"]))
    options = OutputOptions(min_area_m2=0.0)
    spec = results.change_spec(raster, options, before="2023", after="2026", sides=None)
    random = np.random.default_rng(1)
    with open_layers([str(target)], spec, options, results.WRITERS) as sink:
        for window, ids in rows_of_ellipses(count):
            scores = random.integers(0, FULL_SCORE, ids.shape, np.uint16)
            sink.write(window, (ids > 0).astype(np.uint8), scores)
    return sink.polygons


# --- Steps, each in a process of its own ---------------------------------------------------------

STEPS: dict[str, Callable[[argparse.Namespace], int]] = {
    "merge": lambda args: merge(args.raw),
    "boxes": lambda args: write_boxes(args.raw, args.target),
    "predict": lambda args: write_classes(args.polygons, args.target),
    "change": lambda args: write_changes(args.polygons, args.target),
}


def run(args: argparse.Namespace) -> None:
    """Print objects, seconds, computed ones, and MB of a step in this process."""
    start = time.perf_counter()
    objects = STEPS[args.run](args)
    print(objects, time.perf_counter() - start, time.process_time(), peak_memory_mb())


def measure(step: str, raw: Path, target: Path, polygons: int) -> None:
    """Run a step in a fresh process, and print a row of the table."""
    command = [sys.executable, __file__, "--run", step, "--raw", str(raw)]
    command += ["--target", str(target), "--polygons", str(polygons)]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    objects, *figures, megabytes = out.split()
    name = step if step == "merge" else f"{step}{target.suffix}"
    seconds = " | ".join(f"{float(figure):.1f}" for figure in figures)
    print(f"| {name} | {int(objects):,} | {seconds} | {float(megabytes):.0f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, default=1_000_000)
    parser.add_argument("--polygons", type=int, default=1_000_000)
    parser.add_argument("--formats", nargs="+", default=["shp", "gpkg", "geojson"])
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS))
    parser.add_argument("--run", choices=STEPS, help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--target", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args)
        return
    print(
        "| step | objects | seconds | computed | peak MB |\n|---|---:|---:|---:|---:|", flush=True
    )
    with tempfile.TemporaryDirectory(prefix="joins-") as name:
        raw = Path(name) / "raw.npz"
        save_boxes(raw, args.boxes)
        for step in args.steps:
            for suffix in args.formats if step != "merge" else ["npz"]:
                folder = Path(tempfile.mkdtemp(dir=name))
                measure(step, raw, folder / f"{step}.{suffix}", args.polygons)


if __name__ == "__main__":
    main()
