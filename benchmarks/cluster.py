"""One scene by one process, by workers, and by workers of which one is killed.

    python benchmarks/cluster.py [--size 8192] [--block-size 2048] [--workers 2]

`lemevit predict` with the starter weights on a simulated town, a thread a process, the same blocks
every time. Printed are the seconds of each way, start of the workers included (`seconds.total` of
`--json`), how many times faster it is than one worker, and whether its bytes are those of the
single process; then what the sending of a block costs. Exit status 1 if bytes differ.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from distributed import LocalCluster

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Piece, Plan
from lemevit_cli.inference.journal import folder_of
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.scene_input import open_input
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.settings import ClusterOptions, InferenceSettings, RuntimeOptions
from lemevit_cli.simulation.pair import simulate_pair

CARD = Card(task="seg", backbone="-", classes=classes_from_names(["any"]), window=64, overlap=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--block-size", type=int, default=2048)
    parser.add_argument("--workers", type=int, default=2)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cluster-") as name:
        folder = Path(name)
        simulate_pair(folder / "pair", size=args.size)
        common = [str(folder / "pair" / "before.tif"), "--block-size", str(args.block_size)]
        many = ["--workers", str(args.workers)]
        seconds = {
            "alone": predict(folder / "alone.tif", common),
            "one": predict(folder / "one.tif", [*common, "--workers", "1"]),
            "many": predict(folder / "many.tif", [*common, *many]),
            "torn": predict(folder / "torn.tif", [*common, *many], meanwhile=kill_one),
        }
        alone = (folder / "alone.tif").read_bytes()
        same = {name: (folder / f"{name}.tif").read_bytes() == alone for name in seconds}
        sending_s = seconds_of_sending(folder, str(folder / "pair" / "before.tif"))
    words = {
        "alone": "one process, no worker",
        "one": "1 worker",
        "many": f"{args.workers} workers",
        "torn": f"{args.workers} workers, one killed",
    }
    print("| way | seconds | times faster | same bytes |\n|---|---|---|---|")
    for name, text in words.items():
        ratio = seconds["one"] / seconds[name]
        print(f"| {text} | {seconds[name]:.1f} | {ratio:.2f} | {same[name]} |")
    print(f"\nsending a block without work to one of 2 workers, and joining it: {sending_s:.4f} s")
    sys.exit(not all(same.values()))


def predict(
    target: Path,
    arguments: list[str],
    meanwhile: Callable[[psutil.Process, Path], None] | None = None,
) -> float:
    """Run the command in a process of its own; return the seconds of its work."""
    command = [sys.executable, "-m", "lemevit_cli", "predict", *arguments, "-o", str(target)]
    with subprocess.Popen(
        [*command, "--threads", "1", "--json", "-q"], stdout=subprocess.PIPE
    ) as process:
        if meanwhile is not None:
            meanwhile(psutil.Process(process.pid), folder_of(str(target)))
        said, _ = process.communicate()
    if process.returncode:
        sys.exit(f"{' '.join(command)} ended with {process.returncode}")
    record: dict[str, Any] = json.loads(said)
    return float(record["seconds"]["total"])


def kill_one(process: psutil.Process, folder: Path) -> None:
    """Kill a worker as soon as two blocks are done."""
    while len(list(folder.glob("[0-9]*.part"))) < 2:
        if process.status() == psutil.STATUS_ZOMBIE:
            sys.exit("the command has ended before a worker could be killed; take smaller blocks")
        time.sleep(0.02)
    process.children()[0].kill()


@dataclass(frozen=True)
class Idle:
    """Answers nothing, 500 times."""

    settings: InferenceSettings
    progress: Silent

    def check_target(self, target: str) -> None: ...

    def outputs(self, target: str) -> tuple[str, ...]:
        return (target,)

    def open(self, scene: str) -> Any:
        return open_input(scene, CARD, self.settings, self.progress)

    def plan(self, run: Any) -> Plan:
        blocks = [Window(col_off=0, row_off=0, width=64, height=64) for _ in range(500)]
        return Plan(tuple(blocks), len(blocks))

    def infer(self, run: Any, block: Window) -> Any:
        yield Piece(block, {"nothing": np.zeros(1, dtype=np.uint8)})

    def assemble(self, run: Any, parts: Any, target: str) -> dict[str, Any]:
        start = time.perf_counter()
        count = sum(len(list(part)) for part in parts)
        return {"seconds": (time.perf_counter() - start) / count}


def load(*, threads: int = 1, **decided: Any) -> Predictor:
    return Predictor("none", "0" * 16, CARD, lambda pixels: pixels, "cpu", threads=threads)


def seconds_of_sending(folder: Path, scene: str) -> float:
    """Measure with workers in threads of this process."""
    with LocalCluster(
        n_workers=2,
        threads_per_worker=1,
        processes=False,
        protocol="tcp://",
        dashboard_address="127.0.0.1:0",
    ) as cluster:
        settings = InferenceSettings(
            cluster=ClusterOptions(scheduler=cluster.scheduler_address),
            runtime=RuntimeOptions(device="cpu", threads=1),
        )
        task: Any = Idle(settings, Silent())
        report = infer_scenes(task, [scene], [str(folder / "idle")], load)
        return float(report.results[0]["seconds"])


if __name__ == "__main__":
    main()
