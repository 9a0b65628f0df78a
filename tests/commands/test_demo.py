import json
from dataclasses import replace

import pyogrio
import rasterio
import torch
from typer.testing import CliRunner

from lemevit_cli.analysis.demo import find_changes, find_objects
from lemevit_cli.cli import app
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.progress import Silent
from lemevit_cli.settings import DetectionOptions, InferenceSettings, OutputOptions
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks import TASKS, load_network


def test_demo_predicts_scores_and_draws_a_simulated_town(tmp_path):
    folder = tmp_path / "demo"
    run = CliRunner().invoke(app, ["demo", str(folder), "--size", "256", "--json", "-q"])
    assert run.exit_code == 0, run.stderr
    record = json.loads(run.stdout)
    with rasterio.open(record["result"]) as result, rasterio.open(record["scene"]) as scene:
        assert result.shape == scene.shape == (256, 256)
        assert result.transform == scene.transform
        ids = result.read(1)
    with rasterio.open(record["truth"]) as truth:
        expected = truth.read(1)
    assert record["scores"]["accuracy"] == (ids == expected).mean()
    assert 0.3 < record["scores"]["accuracy"] <= 1  # weights that learned nothing reach less
    assert (folder / "landcover.png").read_bytes().startswith(b"\x89PNG")


def test_a_second_demo_in_the_same_folder_needs_overwrite(tmp_path):
    arguments = ["demo", str(tmp_path), "--size", "256", "-q"]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    again = CliRunner().invoke(app, arguments)
    assert again.exit_code == 1 and "--overwrite" in again.stderr
    assert CliRunner().invoke(app, [*arguments, "--overwrite"]).exit_code == 0


def test_demo_finds_objects_and_judges_those_that_a_town_has(tmp_path, monkeypatch):
    simulate_pair(tmp_path, size=512, seed=3)
    torch.manual_seed(1)
    card = Card(
        task="det",
        backbone="test_resnet",
        head="oriented_rcnn",
        head_args={"channels": 16, "hidden": 32, "proposals": 50},
        classes=classes_from_names(["ship", "harbour"]),
    )
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, load_network("det").build_model(card).state_dict(), card)
    monkeypatch.setitem(TASKS, "det", replace(TASKS["det"], starter=str(weights)))
    settings = InferenceSettings(output=OutputOptions(overwrite=True))
    objects = find_objects(tmp_path, settings, Silent())
    assert len(pyogrio.read_dataframe(objects["result"])) == objects["found"]
    assert objects["scores"]["classes"]["ship"]["truths"] == 2
    assert list(objects["scores"]["classes"]) == ["ship"]  # of harbours the town has none
    assert (tmp_path / "objects.png").read_bytes().startswith(b"\x89PNG")
    blind = replace(settings, detection=DetectionOptions(score=1.0))
    assert find_objects(tmp_path, blind, Silent())["scores"] is None


def test_demo_finds_changes(tmp_path, monkeypatch):
    simulate_pair(tmp_path, size=320, gsd_m=1.0, seed=3)
    torch.manual_seed(1)
    card = Card(
        task="change",
        backbone="test_resnet",
        head="difference",
        head_args={"channels": 16},
        classes=classes_from_names(["unchanged", "changed"]),
        window=128,
    )
    weights = tmp_path / "tiny.safetensors"
    save_weights(weights, load_network("change").build_model(card).state_dict(), card)
    monkeypatch.setitem(TASKS, "change", replace(TASKS["change"], starter=str(weights)))
    changes = find_changes(tmp_path, InferenceSettings(), Silent())
    assert len(pyogrio.read_dataframe(changes["result"])) == changes["found"]
    with rasterio.open(tmp_path / "change.tif") as file:
        assert changes["scores"]["objects"]["truths"] > 0 and (file.read(1) > 0).any()
    assert (tmp_path / "changes.png").read_bytes().startswith(b"\x89PNG")
