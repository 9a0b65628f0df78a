"""Kill commands at random moments, run them again, and compare with undisturbed runs.

    python benchmarks/faults.py [--kills 200] [--size 1024] [--block-size 512] [--seed 0]

By turns `predict`, `detect` and `change` work on a simulated town in blocks, with the starter
weights. Each run is killed (SIGKILL) at a moment drawn from its own length, as often as a number
drawn says, and then repeated until it ends. Printed is, by command: kills, runs that went on behind
blocks of a killed one, results that are not those of the undisturbed run, and files left over.
Exit status 1 if there are any of the last two.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import rasterio

from lemevit_cli.simulation.pair import simulate_pair

_LEMEVIT = [sys.executable, "-m", "lemevit_cli"]


@dataclass
class Tally:
    """What came of the kills of one command."""

    kills: int = 0
    continued: int = 0
    wrong: int = 0
    leftovers: int = 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    chance = random.Random(args.seed)
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        simulate_pair(folder / "pair", size=args.size)
        before, after = (str(folder / "pair" / f"{date}.tif") for date in ("before", "after"))
        commands = {
            "predict": ["predict", before, "-o", "predict.tif"],
            "detect": ["detect", before, "-o", "detect.gpkg"],
            "change": ["change", before, after, "-o", "change.tif", "-o", "change.gpkg"],
        }
        common = ["--block-size", str(args.block_size), "--threads", "1", "--json", "-q"]
        whole = {name: undisturbed(folder, [*of, *common]) for name, of in commands.items()}
        tallies = {name: Tally() for name in commands}
        while sum(tally.kills for tally in tallies.values()) < args.kills:
            for name, of in commands.items():
                disturb(folder / "disturbed", [*of, *common], whole[name], tallies[name], chance)
    tell(tallies)


def undisturbed(folder: Path, command: list[str]) -> tuple[float, Path]:
    """Run a command to its end; return its seconds and the folder of its results."""
    place = folder / command[0]
    place.mkdir()
    start = time.perf_counter()
    subprocess.run([*_LEMEVIT, *command], cwd=place, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start, place


def disturb(
    place: Path, command: list[str], whole: tuple[float, Path], tally: Tally, chance: random.Random
) -> None:
    """Kill a command one to three times, then let it end; add to the tally what came of it."""
    seconds, truth = whole
    place.mkdir()
    for _ in range(chance.randint(1, 3)):
        process = subprocess.Popen([*_LEMEVIT, *command], cwd=place, stdout=subprocess.DEVNULL)
        try:
            process.wait(chance.uniform(0.3, 1.1) * seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            tally.kills += 1
        process.wait()
        if all((place / path.name).exists() for path in truth.iterdir()):
            break  # it had ended, or was killed while it took leave
    else:
        ended = subprocess.run([*_LEMEVIT, *command], cwd=place, capture_output=True)
        if ended.returncode:
            sys.exit(f"{' '.join(command)}: {ended.stderr.decode()}")
        tally.leftovers += len(
            {p.name for p in place.iterdir()} - {p.name for p in truth.iterdir()}
        )
        tally.continued += json.loads(ended.stdout)["blocks_kept"] > 0
    tally.wrong += not all(is_same(place / path.name, path) for path in truth.iterdir())
    shutil.rmtree(place)


def is_same(found: Path, true: Path) -> bool:
    """Tell whether two results hold the same pixels or features."""
    if not found.exists():
        return False
    if true.suffix == ".gpkg":
        return bool(features_of(found).equals(features_of(true)))
    if true.suffix != ".tif":
        return True
    with rasterio.open(found) as a, rasterio.open(true) as b:
        return np.array_equal(a.read(), b.read()) and a.tags() == b.tags()


def features_of(path: Path) -> Any:
    layer = geopandas.read_file(path)
    return layer.assign(geometry=layer.geometry.to_wkb())


def tell(tallies: dict[str, Tally]) -> None:
    """Print the tallies; end with 1 if one is not clean."""
    print("| command | kills | continued | not the same | files left over |\n|---|---|---|---|---|")
    for name, t in tallies.items():
        print(f"| {name} | {t.kills} | {t.continued} | {t.wrong} | {t.leftovers} |")
    if any(t.wrong or t.leftovers for t in tallies.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
