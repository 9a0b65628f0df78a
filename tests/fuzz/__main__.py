"""``python -m tests.fuzz --seconds 3600``: from the root of the repository, as long as wanted."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from .run import BAD, fuzz, repeat


def main() -> int:
    """Run, print the table, and return 1 if any input failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="for so long; default: 60, or --inputs")
    parser.add_argument("--inputs", type=int, help="so many, the same on every machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kept", type=Path, default=Path("fuzz-failures"), help="for failures")
    parser.add_argument("--repeat", type=Path, metavar="FOLDER", help="use a kept failure again")
    given = parser.parse_args()
    if given.repeat:
        repeat(given.repeat)
        return 0
    seconds = given.seconds or (None if given.inputs else 60.0)
    tally = fuzz(given.kept, seed=given.seed, inputs=given.inputs, seconds=seconds)
    print(tally.table())
    return 1 if tally.count(*BAD) else 0


if __name__ == "__main__":
    sys.exit(main())
