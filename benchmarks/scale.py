"""How the cost of `predict` grows with the scene, up to 10^9 pixels and beyond.

    python benchmarks/scale.py [2048 8192 16384 31623] [--block-sizes 512 1024 2048 4096]
    python benchmarks/scale.py 2048 4096 --weights landcover --block-sizes

The model is one convolution, as in benchmarks/plumbing.py, so that seconds are those of everything
else, unless weights are named. A scene of any side is a VRT that repeats one GeoTIFF of 4096 x
4096; from a quarter of a gigapixel on, blocks are kept as parts and joined. Each side has a process
of its own. Printed are: blocks, windows, seconds by phase (`finish`: parts packed and read again,
overviews), in all and computed (other work on the machine does not count), milliseconds computed a
megapixel, megabytes of parts at the end, and the peak memory of the whole process, and above that
with libraries loaded. Then 4096 x 4096 in blocks of several sizes, and what a block costs by least
squares: the windows on its edges, which are seen twice, and its part.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
import rasterio
from plumbing import OneConvolution, write_scene

from lemevit_cli.inference.journal import folder_of
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.runtimes.torch import TorchRuntime
from lemevit_cli.inference.scenes import infer_scenes, prepare_weights
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.scores import PixelScores
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, RuntimeOptions, Tiling
from lemevit_cli.tasks.segmentation.inference import Segmentation
from lemevit_cli.tasks.segmentation.network import NETWORK

TILE = 4096  # pixels, side of what is repeated
BANDS = 3
PHASES = ("read", "model", "blend", "write", "finish")


class Watch(Silent):
    """A listener that counts and weighs the parts of a target at the end of the work."""

    def __init__(self, target: Path) -> None:
        self.parts, self.parts_mb, self._folder = 0, 0.0, folder_of(str(target))

    def finish(self) -> None:
        parts = list(self._folder.glob("*.part"))
        self.parts, self.parts_mb = len(parts), sum(part.stat().st_size for part in parts) / 1e6


def write_vrt(path: Path, tile: Path, side: int) -> None:
    """Write a scene of ``side`` columns and rows that repeats a tile."""
    with rasterio.open(tile) as source:
        crs, transform = escape(source.crs.to_wkt()), source.transform.to_gdal()
    bands = []
    for band in range(1, BANDS + 1):
        sources = [
            f'<SimpleSource><SourceFilename relativeToVRT="1">{tile.name}</SourceFilename>'
            f"<SourceBand>{band}</SourceBand>"
            f'<SourceProperties RasterXSize="{TILE}" RasterYSize="{TILE}" DataType="Byte" '
            f'BlockXSize="512" BlockYSize="512"/>'
            f'<SrcRect xOff="0" yOff="0" xSize="{TILE}" ySize="{TILE}"/>'
            f'<DstRect xOff="{col}" yOff="{row}" xSize="{TILE}" ySize="{TILE}"/></SimpleSource>'
            for row in range(0, side, TILE)
            for col in range(0, side, TILE)
        ]
        bands.append(f'<VRTRasterBand dataType="Byte" band="{band}">{"".join(sources)}')
    path.write_text(
        f'<VRTDataset rasterXSize="{side}" rasterYSize="{side}"><SRS>{crs}</SRS>'
        f"<GeoTransform>{', '.join(map(repr, transform))}</GeoTransform>"
        + "".join(f"{band}</VRTRasterBand>" for band in bands)
        + "</VRTDataset>"
    )


def one_convolution() -> tuple[Card, Callable[[], Predictor]]:
    card = Card(task="seg", backbone="-", classes=classes_from_names([f"c{i}" for i in range(6)]))
    runtime = TorchRuntime(PixelScores(OneConvolution()), lambda scores: scores, RuntimeOptions())
    return card, lambda: Predictor("one convolution", "0", card, runtime, "cpu")


def run(scene: Path, block_size: int | None, weights: str | None) -> dict[str, Any]:
    """Run all that `lemevit predict` does after loading its weights; return what it cost."""
    settings = InferenceSettings(tiling=Tiling(block_size=block_size))
    card, load = (
        prepare_weights(NETWORK, weights, settings, Silent()) if weights else one_convolution()
    )
    predictor = load()
    target = scene.with_name("result.tif")
    watch = Watch(target)
    before, start, computed = peak_memory_mb(), time.perf_counter(), time.process_time()
    task = Segmentation(card, settings, watch)
    record = infer_scenes(task, [str(scene)], [str(target)], lambda: predictor).results[0]
    return {
        "pixels": record["width"] * record["height"],
        "blocks": max(1, watch.parts),  # of a single one no part is kept
        "windows": record["windows"],
        **{phase: record["seconds"][phase] for phase in PHASES},
        "total": time.perf_counter() - start,
        "computed": time.process_time() - computed,
        "parts_mb": watch.parts_mb,
        "peak_mb": peak_memory_mb(),
        "above_mb": peak_memory_mb() - before,
    }


def measure(
    tile: Path, side: int, weights: str | None, block_size: int | None = None
) -> dict[str, Any]:
    """Run in a fresh process, print a row, and return the figures."""
    folder = Path(tempfile.mkdtemp(dir=tile.parent))
    (folder / tile.name).symlink_to(tile)
    write_vrt(folder / "scene.vrt", tile, side)
    command = [sys.executable, __file__, "--run", str(folder / "scene.vrt")]
    command += ["--block-size", str(block_size)] if block_size else []
    command += ["--weights", weights] if weights else []
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(out)
    shutil.rmtree(folder)
    row = [f"{side:,}", f"{block_size or ''}", f"{found['blocks']}", f"{found['windows']:,}"]
    row += [f"{found[name]:.1f}" for name in (*PHASES, "total", "computed")]
    row += [f"{1e9 * found['computed'] / found['pixels']:.0f}", f"{found['parts_mb']:.1f}"]
    row += [f"{found[name]:.0f}" for name in ("peak_mb", "above_mb")]
    print(f"| {' | '.join(row)} |", flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sides", type=int, nargs="*", default=[2048, 8192, 16384, 31623])
    parser.add_argument("--block-sizes", type=int, nargs="*", default=[512, 1024, 2048, 4096])
    parser.add_argument("--weights", help="a network that answers every pixel")
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--block-size", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.run:
        print(json.dumps(run(args.run, args.block_size, args.weights)))
        return
    names = ["side", "block size", "blocks", "windows", *PHASES, "total", "computed"]
    names += ["ms a Mpx", "parts MB", "peak MB", "above"]
    print(f"| {' | '.join(names)} |\n|{'---:|' * len(names)}", flush=True)
    with tempfile.TemporaryDirectory(prefix="scale-") as name:
        tile = Path(name) / "tile.tif"
        write_scene(tile, TILE)
        for side in args.sides:
            measure(tile, side, args.weights)
        in_blocks = [measure(tile, TILE, args.weights, size) for size in args.block_sizes]
    if len(in_blocks) > 1:
        blocks, seconds = zip(*((f["blocks"], f["computed"]) for f in in_blocks), strict=True)
        print(f"a block costs {1000 * np.polyfit(blocks, seconds, 1)[0]:.1f} ms")


if __name__ == "__main__":
    main()
