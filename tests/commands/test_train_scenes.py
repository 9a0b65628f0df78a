import json

import geopandas
import pytest
import rasterio
from PIL import Image
from rasterio.features import shapes
from shapely.geometry import shape
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.models.weights import read_card

QUICK = ["--backbone", "test_resnet", "--crop", "64", "--batch-size", "4", "--workers", "0"]
BUILDINGS = ["--where", "class = 'building'", "--class", "building"]


def invoke(*arguments):
    run = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert run.exit_code == 0, run.stderr
    return run


@pytest.fixture(scope="module")
def town(tmp_path_factory):
    """Return two dates of a small simulated town, with the outlines of its objects."""
    folder = tmp_path_factory.mktemp("pair") / "town"
    invoke("simulate", folder, "--size", 384, "-q")
    return folder


def test_polygons_become_weights_a_map_its_score_and_a_picture(town, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scene, objects = town / "before.tif", town / "objects_before.gpkg"
    labelled = ["--scene", scene, "--labels", objects, *BUILDINGS]
    run = invoke("train", *labelled, "--show-samples", "samples.png", *QUICK)
    assert run.stdout == "samples.png\n"
    assert Image.open("samples.png").width > 400

    run = invoke("train", *labelled, "-o", "w.safetensors", "--steps", 3, *QUICK)
    assert run.stdout == "w.safetensors\n"
    assert set(read_card("w.safetensors").class_names) == {"background", "building"}
    assert Image.open("w_training/report.png").width > 400

    invoke("predict", scene, "-w", "w.safetensors", "-o", "out.tif", "-q")
    run = invoke("score", "out.tif", objects, *BUILDINGS, "--json", "-q")
    assert set(json.loads(run.stdout)["classes"]) == {"background", "building"}
    invoke("quicklook", "out.tif", "--over", scene, "-o", "map.png")
    assert Image.open("map.png").width > 100


def test_a_few_polygons_take_their_own_recipe(town, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with rasterio.open(town / "before_classes.tif") as truth:
        found = [
            (int(value), shape(outline).buffer(-1.5))
            for outline, value in shapes(truth.read(1), transform=truth.transform)
        ]
        names = {1: "house", 3: "green"}  # of building and vegetation: new names, old weights
        kept = [
            (names[value], outline.centroid.buffer(2.0).intersection(outline))
            for value, outline in found
            if value in names and outline.area > 30
        ]
        crs = truth.crs
    few = [*[k for k in kept if k[0] == "house"][:4], *[k for k in kept if k[0] == "green"][:4]]
    table = {"kind": [name for name, _ in few]}
    geopandas.GeoDataFrame(table, geometry=[g for _, g in few], crs=crs).to_file("few.gpkg")

    recipe = ["--init", "landcover", "--crop", "64", "--steps", 2, "--workers", 0]
    labelled = ["--scene", town / "before.tif", "--labels", "few.gpkg", "--label-field", "kind"]
    run = invoke("train", *labelled, "--background", "ignore", *recipe, "-o", "few.safetensors")
    assert "the recipe for few labels" in run.stderr
    assert "nothing is held back" in run.stderr
    card = read_card("few.safetensors")
    assert (card.head, card.class_names) == ("upernet_pixels", ("green", "house"))

    invoke("predict", town / "before.tif", "-w", "few.safetensors", "-o", "few.tif", "-q")
    with rasterio.open("few.tif") as result, rasterio.open(town / "before_classes.tif") as truth:
        answers, ids = result.read(1), truth.read(1)
    right = [(answers[ids == 1] == 1).mean(), (answers[ids == 3] == 0).mean()]
    assert min(right) > 0.6  # of the buildings and of the green, most of which had no polygon
