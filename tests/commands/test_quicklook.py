import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from lemevit_cli.cli import app


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def invoke(*arguments):
    return CliRunner().invoke(app, ["quicklook", *map(str, arguments)])


def test_a_prediction_over_its_scene(scene, tiny_weights):
    predicted = CliRunner().invoke(app, ["predict", scene, "-w", tiny_weights, "--device", "cpu"])
    assert predicted.exit_code == 0, predicted.stderr
    run = invoke("scene_seg.tif", "--over", scene, "-o", "out.png", "--alpha", "1", "--json")
    assert run.exit_code == 0, run.stderr
    record = json.loads(run.stdout)
    assert record["path"] == "out.png" and record["scale_bar"] == "5 m"
    assert record["classes"] == ["land", "building", "road", "vegetation", "water"]
    assert Image.open("out.png").format == "PNG"


def test_the_path_is_printed_and_named_after_the_result(scene):
    run = invoke(scene)
    assert run.exit_code == 0 and run.stdout == "scene_quicklook.png\n"
    again = invoke(scene)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    assert invoke(scene, "--overwrite").exit_code == 0


def test_a_mistake_is_one_line_and_leaves_nothing(scene, write_scene):
    ids = write_scene(np.zeros((1, 8, 8), np.uint8), "far.tif", crs="EPSG:32634")
    for arguments in ((ids, "--over", scene), ("gone.tif",), (scene, "-o", "no/where.png")):
        run = invoke(*arguments)
        assert run.exit_code == 1 and run.stdout == ""
        assert run.stderr.count("\n") == 1 and run.stderr.startswith("lemevit: ")
    assert list(Path().iterdir()) == []


def test_a_picture_does_not_replace_what_it_is_drawn_from(scene, write_scene):
    ids = write_scene(np.zeros((1, 48, 64), np.uint8), "ids.tif")
    Path("s.png").hardlink_to(ids)
    before = Path(ids).read_bytes()
    run = invoke(scene, "--over", ids, "-o", "s.png", "--overwrite")
    assert run.exit_code == 1
    assert run.stderr.count("\n") == 1 and "an input itself; name another file by -o" in run.stderr
    assert Path(ids).read_bytes() == before
