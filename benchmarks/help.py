"""Time of `lemevit --help` and `lemevit predict --help` beside an empty Typer program's.

    python benchmarks/help.py

Starts each program in turn, several times, and prints the ratio of the medians.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

EMPTY = """
import typer
app = typer.Typer()
@app.command()
def first(name: str) -> None:
    "One command."
@app.command()
def second(name: str) -> None:
    "Another command."
app()
"""


def seconds(command: list[str]) -> float:
    """Return the wall time of one run."""
    start = time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=21)
    repeats = parser.parse_args().repeats
    commands = {
        "empty --help": [sys.executable, "-c", EMPTY, "--help"],
        "lemevit --help": [sys.executable, "-m", "lemevit_cli", "--help"],
        "empty first --help": [sys.executable, "-c", EMPTY, "first", "--help"],
        "lemevit predict --help": [sys.executable, "-m", "lemevit_cli", "predict", "--help"],
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            times[name].append(seconds(command))
    median = {name: statistics.median(values) for name, values in times.items()}
    for name, value in median.items():
        print(f"{name:24} {value * 1000:7.0f} ms")
    print(f"ratio, program  {median['lemevit --help'] / median['empty --help']:.2f}")
    print(f"ratio, command  {median['lemevit predict --help'] / median['empty first --help']:.2f}")


if __name__ == "__main__":
    main()
