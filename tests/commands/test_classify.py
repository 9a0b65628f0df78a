import csv
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.models.weights import read_card, starter_weights


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def invoke(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)))


@pytest.fixture
def weights(class_training):
    return class_training[1]["path"]


@pytest.fixture
def pictures(class_training):
    return [f"{class_training[0]}/val/{name}/0.png" for name in ("red", "blue")]


def predict(weights, *arguments):
    return invoke("predict", "--task", "cls", "-w", weights, "--device", "cpu", *arguments)


def test_a_picture_is_a_line(weights, pictures):
    run = predict(weights, pictures[0])
    assert run.exit_code == 0, run.stderr
    path, name, score = run.stdout.rstrip("\n").split("\t")
    assert (path, name) == (pictures[0], "red") and 0.3 < float(score) <= 1
    assert not list(Path.cwd().iterdir()) and run.stderr == ""


def test_several_pictures_are_lines_or_a_table(weights, pictures):
    run = predict(weights, *pictures)
    assert [line.split("\t")[1] for line in run.stdout.splitlines()] == ["red", "blue"]
    run = predict(weights, *pictures, "-o", "classes.csv")
    assert run.exit_code == 0 and run.stdout == "classes.csv\n"
    rows = list(csv.DictReader(Path("classes.csv").read_text().splitlines()))
    assert [(row["path"], row["class"]) for row in rows] == list(
        zip(pictures, ("red", "blue"), strict=True)
    )
    assert sum(float(rows[0][key]) for key in ("score", "score_2", "score_3")) == pytest.approx(
        1, abs=1e-3
    )
    run = predict(weights, *pictures, "-o", "classes.csv")
    assert run.exit_code == 1 and "classes.csv exists" in run.stderr
    (record,) = json.loads(predict(weights, *pictures, "-o", "b.csv", "--json").stdout)["results"]
    assert [p["class"] for p in record["pictures"]] == ["red", "blue"]


@pytest.mark.parametrize(
    "option",
    [["--classes", "red"], ["--bounds", "0,0,9,9"], ["--gsd", "0.5"], ["--output-type", "scores"],
     ["--min-area", "5"], ["--style"]],
)  # fmt: skip
def test_a_table_of_pictures_refuses_what_is_for_maps(weights, pictures, option):
    run = predict(weights, *pictures, "-o", "classes.csv", *option)
    assert run.exit_code == 1 and f"{option[0]} is for maps" in run.stderr
    assert not Path("classes.csv").exists()


def test_a_size_of_pixels_is_refused_of_pictures_without_a_map(weights, pictures):
    run = predict(weights, *pictures, "--gsd", "0.5")
    assert run.exit_code == 1 and "--gsd is for maps" in run.stderr and run.stdout == ""


def test_how_pictures_are_read_is_told_once(weights, pictures, tmp_path):
    deep = []
    for path in pictures:
        pixels = np.asarray(Image.open(path)).transpose(2, 0, 1).astype(np.uint16) * 200
        deep.append(str(tmp_path / f"{Path(path).parent.name}.tif"))
        profile = {"width": pixels.shape[2], "height": pixels.shape[1], "count": 3}
        profile |= {"dtype": "uint16", "transform": Affine.scale(2)}
        with rasterio.open(deep[-1], "w", driver="GTiff", **profile) as file:
            file.write(pixels)
    run = predict(weights, *deep, "-o", "classes.csv")
    assert run.exit_code == 0, run.stderr
    assert len([line for line in run.stderr.splitlines() if "not named" in line]) == 1


def test_what_fails_among_pictures_is_told_and_the_others_are_answered(weights, pictures):
    run = predict(weights, pictures[0], "nothing.png", "-o", "classes.csv")
    assert run.exit_code == 1 and "failed: nothing.png" in run.stderr
    assert len(Path("classes.csv").read_text().splitlines()) == 2


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_picture_becomes_a_map_where_one_is_named(weights, pictures):
    run = predict(weights, pictures[0], "-o", "map.tif")
    assert run.exit_code == 0 and run.stdout == "map.tif\n"
    with rasterio.open("map.tif") as file:
        assert (file.width, file.height) == (3, 3)  # cells of 16 pixels over 48 x 40


def test_a_scene_becomes_a_map_of_its_windows(weights, scene):
    run = predict(weights, scene, "-v", "--tta")
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "scene_cls.tif\n" and "windows" in run.stderr
    with rasterio.open("scene_cls.tif") as result, rasterio.open(scene) as source:
        assert result.transform.almost_equals(source.transform * source.transform.scale(16))
        assert result.crs == source.crs and (result.width, result.height) == (4, 3)
        assert set(np.unique(result.read(1))) <= {0, 1, 2}
        assert result.tags()["LEMEVIT_TASK"] == "cls"
    assert "<Category>green</Category>" in Path("scene_cls.tif.aux.xml").read_text()


def test_without_weights_the_starter_names_kinds_of_places():
    with resources.as_file(resources.files("lemevit_cli") / "demo_scene" / "kampala.tif") as scene:
        run = invoke("predict", "--task", "cls", scene, "-o", "town.tif", "-q")
    assert run.exit_code == 0, run.stderr
    names = read_card(starter_weights()["scenes"]).class_names
    with rasterio.open("town.tif") as result:
        assert {names[i] for i in np.unique(result.read(1))} == {"DenseResidential"}


def test_several_results_of_other_tasks_still_need_a_folder(weights, scene):
    run = invoke("predict", scene, scene, "-o", "all.csv")
    assert run.exit_code == 2 and "2 scenes need a folder" in run.stderr


def test_eval_prints_a_row_a_class_and_what_it_is_taken_for(weights, class_training):
    run = invoke("eval", weights, class_training[0], "--device", "cpu")
    assert run.exit_code == 0, run.stderr
    lines = {line.split()[0]: line.split() for line in run.stdout.splitlines()[1:]}
    assert {"class", "red", "green", "blue", "mean", "top-1", "top-5"} == set(lines)
    assert float(lines["top-1"][1]) > 0.9 and lines["top-1"][2] == "18"
    figures = json.loads(invoke("eval", weights, class_training[0], "--json").stdout)
    assert np.array(figures["confusion"]).shape == (3, 3)


def test_info_describes_weights(weights):
    run = invoke("info", weights)
    assert run.exit_code == 0 and "cls" in run.stdout and "top1" in run.stdout


def test_train_takes_a_tree_and_a_fraction(tmp_path, write_pictures):
    tree = write_pictures(tmp_path / "tree")
    run = invoke(
        "train", "--task", "cls", tree, "-o", "w.safetensors", "--val-fraction", "0.5",
        "--backbone", "test_resnet", "--crop", "32", "--steps", "2", "--workers", "0",
        "--show-samples", "sheet.png", "--device", "cpu",
    )  # fmt: skip
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "w.safetensors\n" and Path("sheet.png").is_file()
    report = json.loads(invoke("eval", "w.safetensors", tree, "--json").stdout)
    assert report["pictures"] == 9


def test_a_dry_run_prints_the_recipe(class_training):
    arguments = ("train", "--task", "cls", class_training[0], "--dry-run", "--recipe", "paper")
    run = invoke(*arguments, "--backbone", "test_resnet", "--lr", "0.125")
    assert run.exit_code == 0, run.stderr
    lines = dict(line.split(maxsplit=1) for line in run.stdout.splitlines())
    assert lines["recipe.lr"].strip() == "0.125" and lines["recipe.optimizer"].strip() == "adamw"
    assert lines["recipe.timm.cutmix"].strip() == "1.0" and lines["steps"].strip() == "675"
    plan = json.loads(invoke(*arguments, "--backbone", "test_resnet", "--json").stdout)
    assert plan["recipe"]["ema_decay"] == 0.996
    plan = json.loads(invoke(*arguments, "--merge-tokens", "0.5", "--json").stdout)
    assert plan["card"]["backbone_args"] == {"drop_path_rate": 0.15, "merge_tokens": 0.5}
    assert not list(Path.cwd().iterdir())


def test_a_dry_run_is_for_every_task(tmp_path, write_data):
    data = write_data(tmp_path / "squares")
    run = invoke("train", data, "--dry-run", "--backbone", "resnet10t", "--json")
    assert run.exit_code == 0, run.stderr
    plan = json.loads(run.stdout)
    assert plan["task"] == "seg" and plan["steps"] == 2000 and plan["recipe"]["optimizer"] == "muon"


def test_towns_are_not_simulated_for_windows():
    run = invoke("simulate", "towns", "--task", "cls")
    assert run.exit_code == 2
