import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from lemevit_cli.cli import app


def info(*arguments):
    return CliRunner().invoke(app, ["info", *arguments])


def test_a_model_shows_the_papers_figures():
    record = json.loads(info("lemevit_tiny", "--json").stdout)
    # Table 3 of the paper; the digits beyond it were measured on the authors' class.
    assert record["classifier"]["parameters"] == 8_635_816
    assert round(record["classifier"]["macs_as_reported"] / 1e9, 4) == 1.7789
    assert round(record["classifier"]["macs"] / 1e9, 4) == 1.9461
    assert "8,635,816" in info("lemevit_tiny").stdout


def test_a_scene_is_described(scene):
    record = json.loads(info(scene, "--json").stdout)
    assert (record["width"], record["height"], record["bands"]) == (64, 48, 3)
    assert record["crs"] == "EPSG:32633" and record["gsd_m"] == pytest.approx(0.5, rel=1e-3)


def test_weights_show_their_card(tiny_weights):
    run = info(tiny_weights)
    assert run.exit_code == 0
    assert "test_resnet" in run.stdout and "vegetation" in run.stdout


def test_nothing_describes_the_installation():
    record = json.loads(info("--json").stdout)
    assert record["lemevit"] and "cpu" in record["devices"]
    assert "landcover" in record["starter_weights"]


def test_an_unknown_name_is_one_line():
    run = info("lemevit_huge")
    assert run.exit_code == 1 and run.stderr.count("\n") == 1
    assert "no scene, no weights and no timm model" in run.stderr


WITHOUT = """
import sys
from lemevit_cli.cli import app
try:
    app(["info", sys.argv[1]])
except SystemExit as end:
    assert not end.code
heavy = ("torch", "timm", "scipy", "geopandas", "pandas", "openvino", "matplotlib")
print([name for name in heavy if name in sys.modules])
"""


def test_a_scene_is_described_without_torch(scene):
    run = subprocess.run(
        [sys.executable, "-c", WITHOUT, scene], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[-1] == "[]" and "EPSG:32633" in run.stdout


def test_of_many_bands_the_first_are_described_and_all_counted(write_scene):
    many = write_scene(np.ones((40, 8, 9), np.uint8))
    record = json.loads(info(many, "--json").stdout)
    assert record["bands"] == 40 and record["bidx"] == list(range(1, 17))
    assert "24 more are left out" in record["warnings"][0]


@pytest.mark.parametrize("columns", [60, 80])
def test_a_record_fits_the_terminal_and_loses_nothing(scene, columns, monkeypatch):
    wide = " ".join(info(scene).stdout.split())
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = info(scene).stdout.splitlines()
    assert max(map(len, lines)) <= columns
    assert "".join("".join(lines).split()) == wide.replace(" ", "")
