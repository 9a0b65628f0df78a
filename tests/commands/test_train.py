import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.models.weights import load_weights, read_card

QUICK = ["--backbone", "test_resnet", "--crop", "64", "--batch-size", "4", "--workers", "0"]


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Return a simulated data set of two small scenes."""
    folder = tmp_path_factory.mktemp("data") / "town"
    run = invoke("simulate", folder, "--task", "seg", "--size", 192, "--scenes", 2, "-q")
    assert run.exit_code == 0, run.stderr
    assert run.stdout == f"{folder}\n"
    return folder


def test_what_is_trained_can_be_scored_and_predicted_with(town, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = invoke("train", "--task", "seg", town, "-o", "w.safetensors", "--steps", 4, *QUICK)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "w.safetensors\n"
    assert "building" in run.stderr and "mean IoU" in run.stderr
    card = read_card("w.safetensors")
    assert card.class_names == ("land", "building", "road", "vegetation", "water")
    assert card.training["temperature"] > 0
    assert 0 <= card.metrics[0]["calibration_error"] <= 1

    run = invoke("eval", "w.safetensors", town, "--split", "val", "--json", "-q")
    assert run.exit_code == 0, run.stderr
    figures = json.loads(run.stdout)
    assert set(figures["classes"]) == set(card.class_names)
    assert set(figures["classes"]["road"]) == {"iou", "f1", "precision", "recall"}
    assert 0 <= figures["miou"] <= 1 and 0 <= figures["accuracy"] <= 1

    scene = next((town / "val" / "images").iterdir())
    run = invoke("predict", scene, "-w", "w.safetensors", "-o", "out.tif", "-q")
    assert run.exit_code == 0, run.stderr
    assert Path("out.tif").is_file()


def test_an_existing_target_needs_overwrite(town, tmp_path):
    target = tmp_path / "w.safetensors"
    target.write_text("precious")
    run = invoke("train", "--task", "seg", town, "-o", target, "--steps", 1, *QUICK)
    assert run.exit_code == 1 and "--overwrite" in run.stderr
    assert target.read_text() == "precious"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--decoder", "magic"], "no decoder 'magic'"),
        (["--backbone", "magic"], "no backbone 'magic'"),
        (["--backbone", "vit_tiny_patch16_224"], "vit_tiny_patch16_224"),
        (["--device", "cuda:77"], "cuda:77"),
        (["--device", "gpu"], "unknown device 'gpu'"),
        (["--batch-size", "1"], "--batch-size"),
        (["--source-weight", "1", "--source-weight", "2"], "2 weights for 1 data sets"),
    ],
)
def test_a_mistake_is_one_line_and_nothing_is_written(town, tmp_path, arguments, said):
    target = tmp_path / "w.safetensors"
    run = invoke("train", "--task", "seg", town, "-o", target, "--steps", 1, *QUICK, *arguments)
    assert run.exit_code == 1
    lines = [line for line in run.stderr.splitlines() if "pixels by class: " not in line]
    assert len(lines) == 1 and said in lines[0]
    assert not target.exists()


@pytest.mark.parametrize("task", ["seg", "det", "change"])
@pytest.mark.parametrize(
    "arguments", [["--val-fraction", 0.3], ["--background", "land"], ["--class", "ship"]]
)
def test_options_of_scenes_are_not_ignored_without_one(tmp_path, task, arguments):
    run = invoke("train", "--task", task, tmp_path, "-o", tmp_path / "w.safetensors", *arguments)
    assert run.exit_code == 2
    assert arguments[0] in run.stderr and "is for scenes with labels" in run.stderr


def test_a_part_is_not_held_back_where_a_scene_is_named_to_validate_on(tmp_path):
    target = tmp_path / "w.safetensors"
    scenes = ["--scene", "a.tif", "--labels", "a.gpkg", "--val-scene", "b.tif"]
    scenes += ["--val-labels", "b.gpkg", "--val-fraction", 0.3]
    run = invoke("train", "-o", target, *scenes)
    assert run.exit_code == 2 and "--val-scene names all that is" in run.stderr


def test_a_number_of_scenes_without_a_task_is_refused(tmp_path):
    run = invoke("simulate", tmp_path / "towns", "--scenes", 8)
    assert run.exit_code == 2 and "a single pair is drawn" in run.stderr
    assert not (tmp_path / "towns").exists()


def test_a_list_may_name_the_scenes_that_part_is_held_back_of(tmp_path):
    listing = tmp_path / "none.toml"
    run = invoke("train", listing, "-o", tmp_path / "w.safetensors", "--val-fraction", 0.3)
    assert run.exit_code == 1 and "none.toml" in run.stderr


def test_a_picture_without_its_mask_is_named(town, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(town, copy)
    (image,) = (copy / "train" / "images").iterdir()
    shutil.copy(image, image.with_name("lonely.tif"))
    run = invoke("train", "--task", "seg", copy, "-o", tmp_path / "w.safetensors", *QUICK)
    assert run.exit_code == 1 and "lonely" in run.stderr and run.stderr.count("\n") == 1


@pytest.mark.parametrize("time", ["1", "m", "0m", "-3h", "2d"])
def test_a_malformed_time_is_wrong_usage(town, tmp_path, time):
    run = invoke("train", town, "-o", tmp_path / "w.safetensors", "--time-budget", time)
    assert run.exit_code == 2


@pytest.mark.parametrize(
    "given",
    [
        ["--steps", "5", "--time-budget", "2h"],
        ["--epochs", "2", "--steps", "5"],
        ["--epochs", "2", "--time-budget", "2h"],
        ["--dry-run", "--show-samples", "samples.png"],
    ],
)
def test_what_would_not_be_heeded_is_refused(town, tmp_path, given):
    run = invoke("train", town, "-o", tmp_path / "w.safetensors", *given)
    assert run.exit_code == 2 and "one of them" in " ".join(run.stderr.replace("│", " ").split())
    assert not list(tmp_path.glob("w*"))


def test_two_processes_write_one_log_and_one_result(town, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    command += ["-m", "lemevit_cli", "train", str(town), "-o", "w.safetensors", "--steps", "2"]
    command += [*QUICK, "--device", "cpu", "-q"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "w.safetensors\n"
    lines = (tmp_path / "w_training" / "metrics.jsonl").read_text().splitlines()
    assert [("loss" in line, "validation" in line) for line in lines] == [
        (True, False),
        (False, True),
    ]


def test_merged_tokens_are_in_the_card_and_predict_builds_them_again(town, tmp_path):
    target, sizes = tmp_path / "merged.safetensors", ["--crop", 64, "--batch-size", 2]
    steps = ["--steps", 2, "--workers", 0, "--device", "cpu"]
    run = invoke("train", town, "-o", target, "--merge-tokens", 0.5, *sizes, *steps)
    assert run.exit_code == 0, run.stderr
    state, card = load_weights(target)
    assert card.backbone_args == {"merge_tokens": 0.5}
    assert [key for key in state if key.endswith("reduction.of_places")]
    scene = next((town / "val" / "images").iterdir())
    run = invoke("predict", scene, "-w", target, "-o", tmp_path / "map.tif", "--device", "cpu")
    assert run.exit_code == 0, run.stderr


@pytest.mark.parametrize(
    ("further", "message"),
    [
        (["--backbone", "resnet10t", "--merge-tokens", "0.5"], "the backbone is resnet10t"),
        (["--merge-tokens", "0.01"], "merge_tokens=0.01: a share from 0.04 to 0.96, or 0"),
    ],
)
def test_tokens_that_cannot_be_merged_are_one_line(town, tmp_path, further, message):
    run = invoke("train", town, "-o", tmp_path / "w.safetensors", "--workers", 0, *further, "-q")
    assert run.exit_code == 1
    assert message in run.stderr and len(run.stderr.splitlines()) == 1
