"""Kill commands at random moments, run them again, and compare with undisturbed runs.

    python benchmarks/faults.py [--kills 200] [--size 1024] [--block-size 512] [--seed 0]

By turns `predict`, `detect` and `change` work on a simulated town in blocks, with the starter
weights. Each run is killed (SIGKILL) at a moment drawn from its own length, as often as a number
drawn says, and then repeated until it ends. One that was killed after its results were in place has
ended: the same command says that they exist, and `--overwrite` must remove what lies beside them.
Printed is, by command: kills; runs that went on behind blocks of a killed one; runs killed when
they had ended; and four faults: finished blocks that were done again, commands refused between two
of their results, results that are not those of the undisturbed run, and files left over. Exit
status 1 if there is a fault.

    python benchmarks/faults.py --operations [--commands quicklook,change] [--limits 5]

kills commands before each of their file operations instead, or fills the disk: see operations.py.
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
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import operations
import pyogrio
import rasterio

from lemevit_cli.simulation.pair import simulate_pair

_LEMEVIT = [sys.executable, "-m", "lemevit_cli"]
_SILENT: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_HEARD: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}


@dataclass
class Tally:
    """What came of the kills of one command; the last four are faults."""

    kills: int = 0
    continued: int = 0
    ended: int = 0
    repeated: int = 0
    refused: int = 0
    wrong: int = 0
    leftovers: int = 0

    @property
    def faults(self) -> int:
        return self.repeated + self.refused + self.wrong + self.leftovers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--operations", action="store_true")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--size", type=int, default=1024)
    parser.add_argument("--block-size", type=int, default=512)
    parser.add_argument("--seed", type=int, default=0)
    if "--operations" in sys.argv:
        operations.main([argument for argument in sys.argv[1:] if argument != "--operations"])
        return
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
                print(f"{name}: {tallies[name]}", file=sys.stderr)
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
        with subprocess.Popen([*_LEMEVIT, *command], cwd=place, **_SILENT) as process:
            try:
                process.wait(chance.uniform(0.3, 1.1) * seconds)
            except subprocess.TimeoutExpired:
                process.kill()
                tally.kills += 1
        if any((place / path.name).exists() for path in truth.iterdir()):
            break  # it has ended, or nearly so
    kept = len(list(place.glob(".*.parts/[0-9]*.part")))  # hidden ones are not whole
    finished = subprocess.run([*_LEMEVIT, *command], cwd=place, **_HEARD)
    if finished.returncode and b"exists; replace it" in finished.stderr:
        if all((place / path.name).exists() for path in truth.iterdir()):
            tally.ended += 1
            tally.wrong += not is_same(place, truth)
            kept = 0  # blocks of a result that is in place are not wanted any more
        else:
            tally.refused += 1
        finished = subprocess.run([*_LEMEVIT, *command, "--overwrite"], cwd=place, **_HEARD)
    if finished.returncode:
        sys.exit(f"{' '.join(command)}: {finished.stderr.decode()}")
    found = json.loads(finished.stdout)["blocks_kept"]
    tally.continued += found > 0
    tally.repeated += max(0, kept - found)
    tally.leftovers += len({p.name for p in place.iterdir()} - {p.name for p in truth.iterdir()})
    tally.wrong += not is_same(place, truth)
    shutil.rmtree(place)


def is_same(place: Path, truth: Path) -> bool:
    """Tell whether a folder holds the results of another: pixels and tags, features, or bytes."""
    return all(is_same_file(place / path.name, path) for path in truth.iterdir())


def is_same_file(found: Path, true: Path) -> bool:
    if not found.exists():
        return False
    if true.suffix == ".gpkg":
        return features_of(found) == features_of(true)
    if true.suffix != ".tif":
        return found.read_bytes() == true.read_bytes()
    with rasterio.open(found) as a, rasterio.open(true) as b:
        return np.array_equal(a.read(), b.read()) and a.tags() == b.tags()


def features_of(path: Path) -> list[Any]:
    _, _, polygons, columns = pyogrio.raw.read(path)
    return [polygons.tolist(), *(column.tolist() for column in columns)]


def tell(tallies: dict[str, Tally]) -> None:
    """Print the tallies; end with 1 if one is not clean."""
    names = [field.name for field in fields(Tally)]
    print(f"| command | {' | '.join(names)} |\n|---{'|---:' * len(names)}|")
    for name, tally in tallies.items():
        print(f"| {name} | {' | '.join(str(value) for value in astuple(tally))} |")
    if any(tally.faults for tally in tallies.values()):
        sys.exit(1)


if __name__ == "__main__":
    main()
