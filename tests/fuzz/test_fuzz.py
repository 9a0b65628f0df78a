"""Broken files of all kinds, a few hundred, the same on every machine: each is read or refused."""

import pytest
from fuzz.run import BAD, fuzz, use
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
    tally = fuzz(tmp_path / "kept", inputs=INPUTS)
    assert tally.count(*BAD) == 0, tally.table()
    assert tally.count("processed") > INPUTS // 10 and tally.count("refused") > INPUTS // 10
