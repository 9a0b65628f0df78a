import json

import numpy as np
import pytest
import rasterio
from PIL import Image
from typer.testing import CliRunner

from lemevit_cli.cli import app

NAMES = ("land", "building", "water")


@pytest.fixture
def rasters(write_scene):
    """A prediction that misses a strip of its truth, both with names, 64 x 48 pixels."""
    truth = np.zeros((1, 48, 64), np.uint8)
    truth[:, 10:30, 10:40] = 1
    found = truth.copy()
    found[:, 25:30] = 0
    paths = write_scene(found, "p.tif", nodata=255), write_scene(truth, "t.tif", nodata=255)
    for path in paths:
        with rasterio.open(path, "r+") as raster:
            raster.update_tags(1, **{f"CLASS_{i}": name for i, name in enumerate(NAMES)})
    return paths


def invoke(*arguments):
    return CliRunner().invoke(app, ["score", *map(str, arguments)])


def test_json_holds_all_figures(rasters):
    run = invoke(*rasters, "--json")
    assert run.exit_code == 0, run.stderr
    figures = json.loads(run.stdout)
    building = figures["classes"]["building"]
    assert building["iou"] == pytest.approx(450 / 600) and building["precision"] == 1.0
    assert building["recall"] == pytest.approx(450 / 600)
    assert figures["accuracy"] == pytest.approx(1 - 150 / (48 * 64))
    assert 0 < building["boundary_f1"] < 1
    assert figures["classes"]["water"]["iou"] is None
    assert figures["confusion"] == [[48 * 64 - 600, 0, 0], [150, 450, 0], [0, 0, 0]]
    assert figures["pixels"] == 48 * 64
    assert {"miou", "f1", "boundary_f1", "tolerance_m"} <= set(figures)


def test_a_table_is_for_people(rasters):
    run = invoke(*rasters, "--tolerance", "10")
    assert run.exit_code == 0, run.stderr
    assert "boundaries within 10 m" in run.stdout
    (row,) = [line.split() for line in run.stdout.splitlines() if line.startswith("building")]
    assert row == ["building", "0.750", "0.857", "1.000", "0.750", "1.000"]


def test_the_picture_is_drawn_and_never_replaced_unasked(rasters, tmp_path):
    target = tmp_path / "score.png"
    assert invoke(*rasters, "--png", target).exit_code == 0
    picture = np.asarray(Image.open(target).convert("RGB")).reshape(-1, 3)
    colors = {tuple(c) for c in np.unique(picture, axis=0).tolist()}
    assert {(222, 203, 164), (214, 69, 65), (178, 24, 43)} <= colors
    again = invoke(*rasters, "--png", target)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    assert invoke(*rasters, "--png", target, "--overwrite").exit_code == 0


def test_a_mistake_is_one_line_and_exit_1(rasters, tmp_path):
    run = invoke(rasters[0], tmp_path / "gone.gpkg")
    assert run.exit_code == 1 and run.stdout == ""
    assert run.stderr.count("\n") == 1 and "gone.gpkg: no such file" in run.stderr
