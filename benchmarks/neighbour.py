"""Time of `lemevit predict` as a whole process: alone, and beside one busy process.

    python benchmarks/neighbour.py --sides 256 2048

Each is run by turns, `--repeats` times, with threads that wait asleep (the default) and, beside the
busy process, with threads that spin (`OMP_WAIT_POLICY=active`). Prints medians of the wall time and
of the processor's seconds, and what the neighbour makes of the wall time.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

_COMMAND = [sys.executable, "-m", "lemevit_cli", "predict", "--task", "seg", "--overwrite"]
# Name to whether a neighbour is busy, and how threads wait; None leaves that to lemevit.
_CASES = {
    "alone": (False, None),
    "beside one": (True, None),
    "beside one, spinning": (True, "active"),
}


@contextmanager
def busy_process(is_wanted: bool) -> Iterator[None]:
    """Keep one processor busy during the block, if that is wanted."""
    if not is_wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            yield
        finally:
            neighbour.kill()


def run(scene: Path, waiting: str | None, further: list[str]) -> tuple[float, float]:
    """Return the wall time of one run and its seconds of the processor."""
    environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    if waiting is not None:
        environment["OMP_WAIT_POLICY"] = waiting
    command = [*_COMMAND, str(scene), "-o", str(scene.with_suffix(".out.tif")), *further]
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    return seconds, usage.ru_utime + usage.ru_stime


def write_scene(path: Path, side: int) -> None:
    """Write a square scene of coloured fields, half a metre a pixel."""
    fields = np.random.default_rng(1).integers(0, 256, (3, side // 16, side // 16), dtype=np.uint8)
    pixels = fields.repeat(16, axis=1).repeat(16, axis=2)
    transform = Affine.translation(458_000, 5_548_000) @ Affine.scale(0.5, -0.5)
    profile = {"driver": "GTiff", "dtype": "uint8", "crs": "EPSG:32633", "transform": transform}
    size = {"width": pixels.shape[2], "height": pixels.shape[1], "count": 3}
    with rasterio.open(path, "w", **profile, **size) as target:
        target.write(pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("further", nargs="*", help="options for predict, behind --")
    args = parser.parse_args()
    print(f"load of the machine before: {os.getloadavg()[0]:.1f}")
    with tempfile.TemporaryDirectory() as folder:
        for side in args.sides:
            scene = Path(folder) / f"{side}.tif"
            write_scene(scene, side)
            run(scene, None, args.further)  # once, so that files lie in memory
            times: dict[str, list[tuple[float, float]]] = {name: [] for name in _CASES}
            for _ in range(args.repeats):
                for name, (is_busy, waiting) in _CASES.items():
                    with busy_process(is_busy):
                        times[name].append(run(scene, waiting, args.further))
            wall = {name: statistics.median(w for w, _ in t) for name, t in times.items()}
            for name, runs in times.items():
                cpu = statistics.median(c for _, c in runs)
                ratio = wall[name] / wall["alone"]
                print(
                    f"{side:5} {name:22} {wall[name]:6.2f} s, processor {cpu:6.2f} s, {ratio:.2f}x"
                )


if __name__ == "__main__":
    main()
