"""One scene by one process, by two workers, and by two of which one is killed.

    python benchmarks/cluster.py [--size 8192] [--block-size 2048] [--workers 2]

`lemevit predict` with the starter weights on a simulated town, a thread a process. Printed are
seconds of each way from the first block on (start and weights aside: `seconds.total` of `--json`),
and whether its bytes are those of the first. Exit status 1 if they are not.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from distributed import Client, LocalCluster

from lemevit_cli.inference.journal import folder_of
from lemevit_cli.simulation.pair import simulate_pair


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
        alone = predict(folder / "alone.tif", common)
        options = {"n_workers": args.workers, "threads_per_worker": 1, "dashboard_address": ":0"}
        with LocalCluster(**options) as cluster:
            common += ["--scheduler", cluster.scheduler_address]
            together = predict(folder / "together.tif", common)
            killing = threading.Thread(
                target=kill_one, args=(cluster, folder_of(str(folder / "torn.tif")))
            )
            killing.start()
            torn = predict(folder / "torn.tif", common)
            killing.join()
        same = [
            (folder / f"{name}.tif").read_bytes() == (folder / "alone.tif").read_bytes()
            for name in ("together", "torn")
        ]
    print("| way | seconds | times faster | same bytes |\n|---|---|---|---|")
    print(f"| one process, one thread | {alone:.1f} | 1.00 | |")
    print(f"| {args.workers} workers | {together:.1f} | {alone / together:.2f} | {same[0]} |")
    print(f"| one of them killed | {torn:.1f} | {alone / torn:.2f} | {same[1]} |")
    sys.exit(not all(same))


def predict(target: Path, arguments: list[str]) -> float:
    """Run the command in a process of its own; return the seconds of its work."""
    command = [sys.executable, "-m", "lemevit_cli", "predict", *arguments, "-o", str(target)]
    ended = subprocess.run(
        [*command, "--threads", "1", "--json", "-q"], check=True, stdout=subprocess.PIPE
    )
    record: dict[str, Any] = json.loads(ended.stdout)
    return float(record["seconds"]["total"])


def kill_one(cluster: LocalCluster, folder: Path) -> None:
    """Kill a worker as soon as two blocks are done."""
    while len(list(folder.glob("*.part"))) < 2:
        time.sleep(0.05)
    with Client(cluster) as client:
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)


if __name__ == "__main__":
    main()
