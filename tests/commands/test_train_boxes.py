"""``train --task det`` and ``eval`` as a user runs them."""

import json

import geopandas
import numpy as np
import pytest
import rasterio
from affine import Affine
from PIL import Image
from shapely import box
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.models.weights import read_card

QUICK = ["--backbone", "test_resnet", "--crop", "64", "--batch-size", "2", "--workers", "0",
         "--device", "cpu"]  # fmt: skip


def invoke(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def write_set(root, labels):
    """Write one training and one validation picture of 90 x 70 pixels with lines of labels."""
    for split in ("train", "val"):
        for kind in ("images", "labelTxt"):
            (root / split / kind).mkdir(parents=True)
        Image.fromarray(np.full((70, 90, 3), 80, np.uint8)).save(root / split / "images" / "a.png")
        (root / split / "labelTxt" / "a.txt").write_text(labels)
    return root


@pytest.fixture
def boats(tmp_path):
    return write_set(tmp_path / "boats", "10 20 40 20 40 30 10 30 ship 0\n")


def test_boxes_become_weights_and_figures(boats, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = invoke("train", "--task", "det", boats, "-o", "w.safetensors", "--steps", 1, *QUICK)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "w.safetensors\n"
    assert "boats: DOTA layout, 1 + 1 pictures, 1 class" in run.stderr
    assert "AP50:95" in run.stderr and "all boxes" in run.stderr
    assert read_card("w.safetensors").task == "det"
    assert Image.open("w_training/report.png").width > 400
    run = invoke("eval", "w.safetensors", boats, "--json", "-q")
    assert run.exit_code == 0, run.stderr
    figures = json.loads(run.stdout)
    assert {"ap50", "ap75", "ap50_95", "ap50_voc07", "length_error"} <= set(figures)
    assert {"ap50", "precision", "recall"} <= set(figures["classes"]["ship"])
    run = invoke("predict", boats / "val/images/a.png", "-w", "w.safetensors")
    assert run.exit_code == 1 and "weights for task det, asked for seg" in run.stderr


def test_bad_labels_are_skipped_where_the_task_can(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    lines = "10 20 40 20 40 30 10 30 ship 0\n10 20 40 20 40 30 10 ship 0\n"
    boats = write_set(tmp_path / "boats", lines)
    shown = ("train", "--task", "det", boats, "--show-samples", "s.png", *QUICK)
    run = invoke(*shown)
    assert run.exit_code == 1 and "a.txt, line 2: has 7 coordinates" in run.stderr
    run = invoke(*shown, "--skip-bad-labels")
    assert run.exit_code == 0 and "2 bad labels left out, the first: " in run.stderr
    run = invoke("train", boats, "--show-samples", "s.png", "--skip-bad-labels")
    assert run.exit_code == 2 and "is for --task det" in run.stderr


def test_a_scene_and_its_layer_are_shown_and_learned_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
    pixels = np.random.default_rng(0).integers(0, 255, (3, 96, 128), dtype=np.uint8)
    profile = {"driver": "GTiff", "count": 3, "width": 128, "height": 96, "dtype": "uint8",
               "crs": "EPSG:32633", "transform": place}  # fmt: skip
    with rasterio.open("scene.tif", "w", **profile) as file:
        file.write(pixels)
    ships = [box(458_005 + 10 * i, 5_547_960, 458_012 + 10 * i, 5_547_963) for i in range(5)]
    geopandas.GeoDataFrame(geometry=ships, crs="EPSG:32633").to_file("ships.gpkg")
    labelled = ["--scene", "scene.tif", "--labels", "ships.gpkg", "--class", "ship"]
    run = invoke("train", "--task", "det", *labelled, "--show-samples", "s.png", *QUICK)
    assert run.exit_code == 0, run.stderr
    assert Image.open("s.png").width > 400
    run = invoke("train", "--task", "det", *labelled, "-o", "w.safetensors", "--steps", 1, *QUICK)
    assert run.exit_code == 0, run.stderr
    assert "a scene with a layer of 5 objects" in run.stderr
    assert "nothing is held back" in run.stderr
    card = read_card("w.safetensors")
    assert card.class_names == ("ship",) and card.gsd_m == pytest.approx((0.5, 0.5), rel=1e-2)


@pytest.mark.parametrize(
    ("labels", "arguments", "said"),
    [
        ("10 20 40 20 40 30 10 ship 0\n", [], "a.txt, line 1: has 7 coordinates"),
        ("\n100 20 140 20 140 30 100 30 ship 0\n", [], "a.txt, line 2: a box from 100,20"),
        ("10 20 40 20 40 30 10 30 ship 0\n", ["--decoder", "unet"], "no decoder 'unet'"),
        ("10 20 40 20 40 30 10 30 ship 0\n", ["--loss", "dice"], "--loss dice: is for"),
        ("10 20 40 20 40 30 10 30 ship 1\n", [], "no object is left to find"),
        ("", [], "its labels hold no object of a class"),
    ],
)
def test_a_mistake_is_one_line_before_any_step(tmp_path, labels, arguments, said):
    data = write_set(tmp_path / "boats", labels)
    target = tmp_path / "w.safetensors"
    run = invoke("train", "--task", "det", data, "-o", target, "--steps", 1, *QUICK, *arguments)
    assert run.exit_code == 1, run.stderr
    assert said in run.stderr and run.stderr.count("\n") == 1
    assert not target.exists()


def test_simulated_towns_are_a_data_set(tmp_path):
    invoke("simulate", tmp_path / "town", "--task", "det", "--size", 192, "--scenes", 2, "-q")
    picture = tmp_path / "s.png"
    run = invoke("train", "--task", "det", tmp_path / "town", "--show-samples", picture, *QUICK)
    assert run.exit_code == 0, run.stderr
    assert "town: DOTA layout, 1 + 1 pictures" in run.stderr
