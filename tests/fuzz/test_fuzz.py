"""Broken files of all kinds, a few hundred, the same on every machine: each is read or refused."""

import subprocess
import sys
from pathlib import Path

import pytest
from fuzz.run import use
from fuzz.seeds import make_seeds

pytestmark = pytest.mark.filterwarnings(
    "ignore::rasterio.errors.NotGeoreferencedWarning",
    # rasterio decodes what GDAL says of names that are not UTF-8; the program has a hook for it.
    "ignore::pytest.PytestUnraisableExceptionWarning",
)
INPUTS = 560
FOREIGN = ("checkpoint", "official")  # no whole file of the authors, for `lemevit import`


def test_what_is_whole_is_read(tmp_path):
    outcomes = {
        seed.name: use(tmp_path / seed.name, seed.use, seed.subject)[0]
        for seed in make_seeds(tmp_path)
    }
    assert {name for name, outcome in outcomes.items() if outcome != "processed"} == {*FOREIGN}


def test_what_is_broken_is_read_or_refused_in_a_line(tmp_path):
    # In a process of its own: what a library does to its memory over a broken file may show late.
    command = [sys.executable, "-m", "tests.fuzz", "--inputs", f"{INPUTS}", "--kept", f"{tmp_path}"]
    root = Path(__file__).parents[2]
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, f"{run.stdout}\n{run.stderr[-3000:]}"
    processed, refused = map(int, run.stdout.split("\nall ")[1].split()[:2])
    assert processed + refused == INPUTS
    assert processed > INPUTS // 10 and refused > INPUTS // 10
