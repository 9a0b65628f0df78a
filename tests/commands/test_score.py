import json
import warnings
from pathlib import Path

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.features import rasterize
from typer.testing import CliRunner

from lemevit_cli.cli import app

NAMES = ("land", "building", "water")


@pytest.fixture
def rasters(write_scene):
    """Return a prediction that misses a strip of its truth, both with names, 64 x 48 pixels."""
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


@pytest.fixture
def texts(tmp_path):
    """Return boxes found and true, as DOTA texts: one of two ships is found, and something else."""
    found, truth = tmp_path / "found.txt", tmp_path / "truth.txt"
    ship, other = "10 10 50 10 50 20 10 20", "10 40 50 40 50 50 10 50"
    truth.write_text(f"imagesource:x\ngsd:0.5\n{ship} ship 0\n{other} ship 0\n{other} plane 1\n")
    found.write_text(f"{ship} ship 0.9\n90 90 99 90 99 99 90 99 ship 0.4\n")
    return found, truth


def test_json_holds_the_figures_of_boxes(texts):
    run = invoke(*texts, "--json")
    assert run.exit_code == 0, run.stderr
    figures = json.loads(run.stdout)
    assert figures["ap50"] == figures["ap75"] == figures["ap50_95"] == 0.5
    assert figures["ap50_voc07"] == pytest.approx(6 / 11)
    assert (figures["precision"], figures["recall"]) == (0.5, 0.5)
    assert figures["classes"]["ship"]["ap50"] == 0.5
    assert figures["classes"]["plane"]["ap50"] is None
    sure = json.loads(invoke(*texts, "--json", "--score", "0.5").stdout)
    assert (sure["precision"], sure["ap50"]) == (1.0, 0.5)


def test_a_table_of_boxes_is_for_people(texts):
    run = invoke(*texts, "--score", "0.5")
    assert run.exit_code == 0, run.stderr
    assert "counted from a score of 0.5" in run.stdout
    (row,) = [line.split() for line in run.stdout.splitlines() if line.startswith("ship")]
    assert row == ["ship", "0.500", "0.500", "0.500", "0.545", "1.000", "0.500", "2", "1"]


def test_boxes_and_options_of_rasters_are_one_line_and_exit_1(texts):
    run = invoke(*texts, "--tolerance", "1")
    assert run.exit_code == 1 and run.stderr.count("\n") == 1
    assert "--tolerance is for rasters" in run.stderr


def test_bad_labels_are_one_line_or_are_skipped_and_counted(texts):
    with Path(texts[1]).open("a") as file:
        file.write("\n10 20 40 20 40 30 10 ship 0\n")
    run = invoke(*texts)
    assert run.exit_code == 1 and run.stderr.count("\n") == 1
    assert "has 7 coordinates" in run.stderr
    run = invoke(*texts, "--skip-bad-labels")
    assert run.exit_code == 0 and "1 bad labels left out, the first: " in run.stderr


def test_polygons_are_told_by_area_and_one_by_one(tmp_path):
    outline = shapely.Polygon([(0, 0), (60, 0), (60, 20), (20, 20), (20, 60), (0, 60)])
    paths = [str(tmp_path / name) for name in ("p.gpkg", "t.gpkg")]
    for path in paths:
        table = geopandas.GeoDataFrame({"class": ["house"]}, geometry=[outline], crs="EPSG:32633")
        table.to_file(path)
    run = invoke(*paths)
    assert run.exit_code == 0 and "mean by area  1.000" in run.stdout
    assert "F1 at IoU 0.5" in run.stdout and "no boxes are made of them" in run.stderr
    assert json.loads(invoke(*paths, "--json").stdout)["objects_75"]["f1"] == 1.0


def test_change_is_told_as_pixels_and_as_polygons(write_scene):
    found, truth = np.zeros((2, 1, 48, 64), np.uint8)
    found[0, 5:15, 5:25], truth[0, 5:15, 5:20] = 1, 1
    truth[0, 30:40, 30:40] = 1
    paths = [write_scene(ids, name) for ids, name in ((found, "found.tif"), (truth, "truth.tif"))]
    with rasterio.open(paths[0], "r+") as file:
        file.update_tags(1, CLASS_0="unchanged", CLASS_1="changed")
    run = CliRunner().invoke(app, ["score", *paths, "--json"])
    figures = json.loads(run.stdout)
    assert figures["precision"] == 150 / 200 and figures["recall"] == 150 / 250
    assert figures["objects"]["precision"] == 1 and figures["objects"]["recall"] == 0.5
    raster = Path(paths[1]).read_bytes()
    piped = CliRunner().invoke(app, ["score", "-", paths[0], "--json"], input=raster)
    assert json.loads(piped.stdout)["precision"] == 150 / 250
    table = CliRunner().invoke(app, ["score", *paths])
    assert "polygons" in table.stdout and "0.750" in table.stdout


@pytest.fixture
def score_polygons(write_scene, write_polygons):
    """Return a function that scores ids against polygons: stderr and the figures."""

    def run(ids, polygons, layer_crs, name="truth.gpkg", **profile):
        raster = write_scene(ids[None], "ids.tif", **profile)
        with rasterio.open(raster, "r+") as target:
            target.update_tags(1, CLASS_0="background", CLASS_1="field")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'crs' was not provided")
            path = write_polygons(polygons, name, crs=layer_crs, kind=["field"] * len(polygons))
        run = invoke(raster, path, "--label-field", "kind", "--json")
        assert run.exit_code == 0, run.stderr
        return run.stderr, json.loads(run.stdout)

    return run


NORTH_UP = Affine(2, 0, 500_000, 0, -2, 5_538_000)
EIGHT = shapely.Polygon(
    [(500_010, 5_537_990), (500_090, 5_537_910), (500_090, 5_537_990), (500_010, 5_537_910)]
)


@pytest.mark.parametrize(("name", "crs"), [("eight.gpkg", "EPSG:32633"), ("eight.shp", None)])
def test_both_lobes_of_an_eight_are_true_with_and_without_crs(score_polygons, name, crs):
    ids = rasterize([EIGHT], out_shape=(50, 50), transform=NORTH_UP, dtype="uint8")
    said, figures = score_polygons(ids, [EIGHT], crs, name, transform=NORTH_UP)
    assert figures["accuracy"] == 1.0
    assert "1 of its features cross or touch themselves" in said
    assert ("has no CRS" in said) == (crs is None)


def test_a_polygon_on_another_continent_does_not_matter(score_polygons):
    field = shapely.box(500_020, 5_537_920, 500_060, 5_537_980)
    ids = rasterize([field], out_shape=(50, 50), transform=NORTH_UP, dtype="uint8")
    here = geopandas.GeoSeries([field], crs=32633).to_crs(4326)[0]
    far = shapely.box(-79, -1, -78, 0.5)
    said, figures = score_polygons(ids, [far, here], "EPSG:4326", transform=NORTH_UP)
    assert (figures["accuracy"], said) == (1.0, "")
    world = shapely.box(-180, -90, 180, 90)
    _, figures = score_polygons(ids, [world], "EPSG:4326", "world.gpkg", transform=NORTH_UP)
    assert sum(figures["confusion"][1]) == 50 * 50


def test_ground_control_points_place_the_truth(score_polygons):
    place = Affine(0.01, 0, 5, 0, -0.01, 48)
    points = [
        GroundControlPoint(row=r, col=c, x=5 + c / 100, y=48 - r / 100)
        for r in (0, 25, 50)
        for c in (0, 25, 50)
    ]
    field = shapely.box(5.1, 47.6, 5.3, 47.9)
    ids = rasterize([field], out_shape=(50, 50), transform=place, dtype="uint8")
    _, figures = score_polygons(
        ids, [field], "EPSG:4326", gcps=points, transform=None, crs="EPSG:4326"
    )
    assert figures["accuracy"] == 1.0
