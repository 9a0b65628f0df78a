import json
import shlex
from dataclasses import replace
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from typer.testing import CliRunner

from lemevit_cli.analysis.demo import CREDITS, POLYGONS, SCENE, demo_folder
from lemevit_cli.cli import app
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.tasks import TASKS, load_network

COVERS = ("land", "building", "road", "vegetation", "water")


def save_untrained(folder, task, classes, **fields):
    torch.manual_seed(1)
    names = classes_from_names(classes)
    card = Card(task=task, backbone="test_resnet", classes=names, **fields)
    path = folder / f"{task}.safetensors"
    save_weights(path, load_network(task).build_model(card).state_dict(), card)
    return str(path)


@pytest.fixture(scope="module")
def small_networks(tmp_path_factory):
    """Put networks that were never trained in the place of those for boxes and change."""
    folder = tmp_path_factory.mktemp("weights")
    head = {"channels": 16, "hidden": 32, "proposals": 50}
    starters = {
        "det": save_untrained(
            folder, "det", ["plane", "vehicle"], head="oriented_rcnn", head_args=head
        ),
        "change": save_untrained(
            folder,
            "change",
            ["unchanged", "changed"],
            head="difference",
            head_args={"channels": 16},
            window=128,
        ),
    }
    with pytest.MonkeyPatch.context() as patch:
        for task, path in starters.items():
            patch.setitem(TASKS, task, replace(TASKS[task], starter=path))
        yield


@pytest.fixture(scope="module")
def record(small_networks, tmp_path_factory):
    """Return the record of a demo, with the starter weights of land cover."""
    folder = tmp_path_factory.mktemp("a place") / "demo"
    run = CliRunner().invoke(app, ["demo", str(folder), "--size", "256", "--json", "-q"])
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)


def test_the_real_scene_is_a_small_cog_that_names_its_authors():
    path = demo_folder() / SCENE
    assert path.stat().st_size < 500_000
    with rasterio.open(path) as scene:
        assert (scene.count, scene.height, scene.width) == (3, 1024, 1024)
        structure = scene.tags(ns="IMAGE_STRUCTURE")
        assert structure["LAYOUT"] == "COG" and "JPEG" in structure["COMPRESSION"]
        credit = scene.tags()["TIFFTAG_COPYRIGHT"]
        assert scene.read().std() > 30
    credits = (demo_folder() / CREDITS).read_text()
    for text in (credit, credits):
        assert "OpenAerialMap" in text and "CC BY 4.0" in text


def test_twenty_polygons_lie_in_the_real_scene_and_are_few_labels():
    table = geopandas.read_file(demo_folder() / POLYGONS)
    assert len(table) == 20 and set(table["class"]) == set(COVERS) - {"water"}
    with rasterio.open(demo_folder() / SCENE) as scene:
        box = shapely.box(*scene.bounds)
        shapes = table.to_crs(scene.crs).geometry
    assert shapes.within(box).all() and shapes.is_valid.all()
    assert 0.01 < shapes.area.sum() / box.area < 0.05
    assert shapes.union_all().area == pytest.approx(shapes.area.sum())


def test_the_real_scene_is_mapped_and_its_classes_are_counted(record):
    real = record["real"]
    with rasterio.open(real["result"]) as result, rasterio.open(real["scene"]) as scene:
        assert result.shape == scene.shape and result.transform == scene.transform
        counts = np.bincount(result.read(1).ravel(), minlength=5) / result.read(1).size
    shares = {name: figures["share"] for name, figures in real["classes"].items()}
    assert list(shares) == ["land", "building", "road", "vegetation"]
    assert {**shares, "water": real["mistaken"].get("water", 0)} == pytest.approx(
        dict(zip(COVERS, counts.tolist(), strict=True))
    )
    # About a third of it is roofs, nearly half is green.
    assert 0.15 < shares["building"] < 0.5 and 0.25 < shares["vegetation"] < 0.6
    assert record["picture"] == real["picture"]
    assert Path(real["picture"]).read_bytes().startswith(b"\xff\xd8")


def test_only_vehicles_are_looked_for_in_it(record):
    vehicles = record["real"]["vehicles"]
    table = pyogrio.read_dataframe(vehicles["result"])
    assert len(table) == vehicles["found"] and set(table["class"]) <= {"vehicle"}
    assert (table["score"] >= vehicles["score"]).all()


def test_the_drawn_town_is_scored_against_its_truth(record):
    cover, changes = record["town"]["landcover"], record["town"]["changes"]
    with rasterio.open(cover["result"]) as result, rasterio.open(cover["truth"]) as truth:
        ids, expected = result.read(1), truth.read(1)
    assert cover["scores"]["accuracy"] == pytest.approx((ids == expected).mean())
    assert 0.3 < cover["scores"]["accuracy"] <= 1  # weights that learned nothing reach less
    assert len(pyogrio.read_dataframe(changes["result"])) == changes["found"]
    assert changes["scores"]["objects"]["truths"] >= 0
    for picture in (cover["picture"], changes["picture"]):
        assert Path(picture).read_bytes().startswith(b"\xff\xd8")


@pytest.fixture(scope="module")
def told(small_networks, tiny_weights, tmp_path_factory):
    """Return a demo's folder and what it printed, with networks that were never trained."""
    folder = tmp_path_factory.mktemp("another place") / "demo"
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TASKS, "seg", replace(TASKS["seg"], starter=tiny_weights))
        yield folder, CliRunner().invoke(app, ["demo", str(folder), "--size", "256"])


def test_what_is_said_of_it_is_so(told):
    folder, run = told
    assert run.exit_code == 0 and run.stdout == f"{folder}/landcover.jpg\n", run.stderr
    with rasterio.open(folder / "landcover.tif") as result:
        shares = np.bincount(result.read(1).ravel(), minlength=5) / result.read(1).size
    lines = run.stderr.splitlines()
    for name, share in zip(COVERS[:4], shares, strict=False):
        assert any(line.split() == [name, f"{share:.1%}"] for line in lines)
    mistaken = f"{shares[4]:.1%} is taken for water: there is none"
    assert (mistaken in lines) == (shares[4] > 0)
    with rasterio.open(demo_folder() / SCENE) as scene:
        assert scene.tags()["TIFFTAG_COPYRIGHT"] in lines
    again = CliRunner().invoke(app, ["demo", str(folder), "--size", "256"])
    assert again.exit_code == 1 and "--overwrite" in again.stderr


def test_the_commands_at_its_end_do_what_it_did(told):
    folder, run = told
    commands = [line.strip() for line in run.stderr.splitlines() if line.startswith("  lemevit ")]
    rasters = ("landcover.tif", "town/landcover.tif", "town/changes.tif", "town/before.tif")

    def contents():
        files = {str(p.relative_to(folder)) for p in folder.rglob("*")}
        pixels = [rasterio.open(folder / name).read().tobytes() for name in rasters]
        layers = ("vehicles.gpkg", "town/changes.gpkg")
        boxes = [len(pyogrio.read_dataframe(folder / name)) for name in layers]
        return files, pixels, boxes, [p.read_bytes() for p in sorted(folder.rglob("*.jpg"))]

    before = contents()
    for name in rasters:
        (folder / name).unlink()
    for command in commands[:-1]:
        program, *arguments = shlex.split(command)
        ran = CliRunner().invoke(app, arguments)
        assert program == "lemevit" and ran.exit_code == 0, f"{command}\n{ran.stderr}"
    assert contents() == before
    # The last one learns for minutes: that it would is seen from its samples.
    sheet, (_, *arguments) = folder.parent / "samples.png", shlex.split(commands[-1])
    output = arguments.index("-o")
    arguments[output : output + 2] = ["--show-samples", str(sheet)]
    ran = CliRunner().invoke(app, arguments)
    assert ran.exit_code == 0 and sheet.exists(), ran.stderr
