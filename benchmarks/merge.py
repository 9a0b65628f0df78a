"""Boxes of a scene merged a second, and the memory that takes.

    python benchmarks/merge.py

The boxes are those of a simulated scene: ships lie side by side at quays and singly at sea, windows
of 512 with overlap 128 see them, each with errors of its own, up to three times an object, and cut
where a window ends. `merge_boxes` is timed beside a plain suppression that compares all pairs by
Shapely, where that is feasible. Each run has a process of its own, in turn; times are medians,
memory is the peak above the process with its boxes in memory. On a machine with other work,
`--clock cpu` counts only the time that we computed.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from lemevit_cli.geometry.oriented_boxes import axis_aligned_bounds, canonical, corners_of
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.tasks.detection.merge import RawBoxes, merge_boxes

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WINDOW, OVERLAP, NMS_IOU = 512, 128, 0.1
SHIPS_AT_A_QUAY, PART_AT_SEA = 25, 0.3
OBJECTS_PER_PIXEL = 1.2e-4  # about 30 in a window


def raw_boxes(count: int) -> RawBoxes:
    """Return boxes as the windows of a scene see them, cut to ``count``."""
    random = np.random.default_rng(0)
    objects = ships(random, count)
    side = int(np.sqrt(len(objects) / OBJECTS_PER_PIXEL))
    objects[:, :2] *= side
    grid = WindowGrid(width=side, height=side, size=WINDOW, overlap=OVERLAP)
    index = shapely.STRtree(shapely.box(*axis_aligned_bounds(objects).T))
    parts, cut = [], []
    for window in grid.windows_over(Window(col_off=0, row_off=0, width=side, height=side)):
        frame = shapely.box(window.col_off, window.row_off, window.right, window.bottom)
        for seen in index.query(frame).tolist():
            outline = shapely.Polygon(corners_of(objects[seen])[0])
            part = outline.intersection(frame)
            if part.area < 0.25 * outline.area:
                continue
            box = objects[seen] + random.normal(0, 1, 5) * [1.5, 1.5, 2.0, 1.0, 0.03]
            # Of a cut object a detector sees the part, in the direction of the whole.
            box[:2] += np.subtract(part.centroid.coords[0], objects[seen, :2])
            box[2] *= part.area / outline.area
            parts.append(box)
            cut.append(part.area < 0.99 * outline.area)
        if len(parts) > count:
            break
    boxes = canonical(np.array(parts[:count]))
    scores, ids = random.random(count), np.zeros(count, np.int64)
    return RawBoxes(boxes, scores, ids, np.array(cut[:count], bool), np.ones(count, bool))


def ships(random: np.random.Generator, count: int) -> NDArray[np.float64]:
    """Return boxes of ships, places in [0, 1]: rows of parallel ones that touch, and others."""
    side = np.sqrt(count / OBJECTS_PER_PIXEL)
    at_sea = int(PART_AT_SEA * count)
    quays = (count - at_sea) // SHIPS_AT_A_QUAY
    angle = np.repeat(random.uniform(-1.5, 1.5, quays), SHIPS_AT_A_QUAY)
    width = np.repeat(random.uniform(8, 14, quays), SHIPS_AT_A_QUAY)
    along = np.tile(np.arange(SHIPS_AT_A_QUAY), quays) * width
    quay = np.repeat(random.uniform(0, side, (quays, 2)), SHIPS_AT_A_QUAY, axis=0)
    berths = quay + along[:, None] * np.column_stack([-np.sin(angle), np.cos(angle)])
    places = np.concatenate([berths, random.uniform(0, side, (at_sea, 2))]) / side
    return np.column_stack(
        [
            np.mod(places, 1),
            random.uniform(30, 60, len(places)),
            np.concatenate([width, random.uniform(8, 14, at_sea)]),
            np.concatenate([angle, random.uniform(-1.5, 1.5, at_sea)]),
        ]
    )


def merge(raw: RawBoxes) -> int:
    return len(merge_boxes(raw, nms_iou=NMS_IOU))


def suppress_plainly(raw: RawBoxes) -> int:
    """Suppress by all pairs in Shapely, a row of them at once; cut boxes are as good as any."""
    order = np.argsort(-raw.scores, kind="stable")
    polygons = shapely.polygons(corners_of(raw.boxes[order]))
    areas = shapely.area(polygons)
    stands = np.ones(len(polygons), dtype=bool)
    for i, polygon in enumerate(polygons):
        shared = shapely.area(shapely.intersection(polygon, polygons[i + 1 :]))
        falls = shared > NMS_IOU * (areas[i] + areas[i + 1 :] - shared)
        if stands[i]:
            stands[i + 1 :] &= ~falls
    return int(stands.sum())


RUNS: dict[str, Callable[[RawBoxes], int]] = {"ours": merge, "plain": suppress_plainly}


def run(name: str, path: Path, clock: Callable[[], float]) -> None:
    """Print seconds, MB and boxes kept of a run in this process."""
    with np.load(path) as stored:
        raw = RawBoxes(**stored)
    before, start = peak_memory_mb(), clock()
    kept = RUNS[name](raw)
    print(clock() - start, peak_memory_mb() - before, kept)


def measure(name: str, path: Path, clock: str) -> tuple[float, float, int]:
    """Return seconds, MB and boxes kept of a run in a fresh process."""
    command = [sys.executable, __file__, "--run", name, "--raw", str(path), "--clock", clock]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    seconds, megabytes, kept = out.split()
    return float(seconds), float(megabytes), int(kept)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--boxes", type=int, nargs="+", default=[10_000, 100_000])
    parser.add_argument("--plain", type=int, default=3_000, help="boxes compared pair by pair")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--clock", choices=CLOCKS, default="wall")
    parser.add_argument("--run", choices=RUNS, help=argparse.SUPPRESS)
    parser.add_argument("--raw", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        run(args.run, args.raw, CLOCKS[args.clock])
        return
    jobs = [("ours", count) for count in args.boxes] + [("ours", args.plain), ("plain", args.plain)]
    found: dict[tuple[str, int], list[tuple[float, float, int]]] = {job: [] for job in jobs}
    with tempfile.TemporaryDirectory() as folder:
        paths = {count: Path(folder) / f"{count}.npz" for _, count in jobs}
        for count, path in paths.items():
            np.savez(path, **vars(raw_boxes(count)))
        for _ in range(args.repeats):
            for name, count in jobs:
                found[name, count].append(measure(name, paths[count], args.clock))
    seconds = {job: statistics.median(run[0] for run in runs) for job, runs in found.items()}
    for (name, count), runs in found.items():
        took = seconds[name, count]
        print(
            f"{name}: {count:,} boxes to {runs[0][2]:,} in {took:.3f} s, {count / took:,.0f} a "
            f"second, {max(run[1] for run in runs):.0f} MB"
        )
    ratio = seconds["plain", args.plain] / seconds["ours", args.plain]
    print(f"all pairs of {args.plain:,} boxes by Shapely take {ratio:.0f} times as long")


if __name__ == "__main__":
    main()
