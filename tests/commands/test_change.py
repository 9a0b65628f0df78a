import json
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio
import torch
from affine import Affine
from making.layers import add_layer
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, save_weights
from lemevit_cli.tasks import load_network

FIELDS = ["id", "class", "score", "area_m2", "perim_m", "before", "after"]
NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the path of a weights file of task ``change`` that never was trained."""
    torch.manual_seed(3)
    card = Card(
        task="change",
        backbone="test_resnet",
        head="difference",
        head_args={"channels": 16},
        classes=classes_from_names(["unchanged", "changed"]),
        window=64,
        overlap=24,
    )
    path = tmp_path_factory.mktemp("weights") / "change.safetensors"
    save_weights(path, load_network("change").build_model(card).state_dict(), card)
    return str(path)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def dates(write_scene):
    """Return paths of two dates, 110 x 90 pixels, with something new in the second."""
    before = np.random.default_rng(0).integers(40, 120, (3, 90, 110), dtype=np.uint8)
    after = before.copy()
    after[:, 20:60, 30:80] += 120
    return [
        write_scene(pixels, name, transform=NORTH_UP)
        for pixels, name in ((before, "old.tif"), (after, "new.tif"))
    ]


def invoke(*arguments):
    return CliRunner().invoke(app, ["change", *map(str, arguments), "--device", "cpu"])


def middle_of(dates, weights):
    """Return a threshold that some of the scores of weights without a training are above."""
    run = invoke(*dates, "-w", weights, "-o", "scores.tif", "--output-type", "scores", "-q")
    assert run.exit_code == 0, run.stderr
    with rasterio.open("scores.tif") as file:
        scores = file.read(2)
    Path("scores.tif").unlink()
    assert scores.max() > scores.min()
    return float(np.quantile(scores, 0.8))


def test_changes_are_a_shapefile_named_after_the_second_date(dates, weights):
    threshold = middle_of(dates, weights)
    run = invoke(*dates, "-w", weights, "--threshold", threshold)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "new_changes.shp\n"
    assert {p.suffix for p in Path().glob("new_changes.*")} == {
        ".shp", ".shx", ".dbf", ".prj", ".cpg",
    }  # fmt: skip
    table = pyogrio.read_dataframe("new_changes.shp")
    assert list(table.columns) == [*FIELDS, "geometry"] and len(table)
    assert table.crs.to_epsg() == 32633 and table.geometry.is_valid.all()
    assert (table.score > threshold).all() and set(table.after) == {"new"}


def test_several_outputs_of_one_run_are_told_and_counted(dates, weights):
    threshold = middle_of(dates, weights)
    arguments = [*dates, "-w", weights, "--threshold", threshold, "--json", "-v"]
    run = invoke(*arguments, "-o", "c.gpkg", "-o", "m.tif", "--style", "--min-area", "3")
    record = json.loads(run.stdout)
    assert record["paths"] == ["c.gpkg", "m.tif"] and Path("c.qml").exists()
    table = pyogrio.read_dataframe("c.gpkg")
    assert record["polygons"] == len(table) and table.area_m2.min() >= 3
    with rasterio.open("m.tif") as file:
        changed = (file.read(1) == 1).sum()
    assert record["changed_area_m2"] == pytest.approx(changed * 0.25, rel=1e-3)
    assert record["windows"] == 6 and record["before"]["path"].endswith("old.tif")
    assert "hectares" in run.stderr


def test_the_same_scene_twice_leaves_an_empty_layer(dates, weights):
    run = invoke(dates[0], dates[0], "-w", weights, "-o", "c.shp", "--threshold", "0.9999")
    assert run.exit_code == 0, run.stderr
    assert list(pyogrio.read_info("c.shp")["fields"]) == FIELDS
    assert pyogrio.read_info("c.shp")["features"] == 0
    folder = Path("results")
    folder.mkdir()
    run = invoke(*dates, "-w", weights, "-o", "results/", "-q")
    assert run.stdout == "results/new_changes.shp\n"


def test_stdout_is_one_feature_collection_that_ogr_reads(dates, weights):
    for threshold in (middle_of(dates, weights), 1.0):
        run = invoke(*dates, "-w", weights, "-o", "-", "--threshold", threshold, "--json")
        assert run.exit_code == 0 and '"polygons": ' in run.stderr
        document = json.loads(run.stdout)
        assert document["type"] == "FeatureCollection"
        assert bool(document["features"]) == (threshold < 1)
        table = pyogrio.read_dataframe(run.stdout_bytes)
        assert len(table) == len(document["features"])
        if len(table):
            assert table.crs.to_epsg() == 4326
            assert table.total_bounds[0] == pytest.approx(14.4, abs=0.1)
    assert list(Path().iterdir()) == []


def refused(*arguments):
    run = invoke(*arguments)
    assert run.exit_code == 1 and run.stderr.startswith("lemevit: "), run.output
    assert run.stderr.count("\n") == 1 and run.stdout == ""
    assert list(Path().iterdir()) == []
    return run.stderr


def test_bad_input_is_one_line_each(dates, weights, write_scene, tmp_path):
    with rasterio.open(dates[1]) as file:
        pixels = file.read()
    options = ["-w", weights, "-q", "-o", "c.shp"]
    far = write_scene(pixels, "far.tif", transform=Affine.translation(9e4, 0) @ NORTH_UP)
    bare = write_scene(pixels, "bare.tif", transform=NORTH_UP, crs=None)
    four = write_scene(pixels[[0, 1, 2, 0]], "four.tif", transform=NORTH_UP, photometric="RGB",
                       ALPHA="NO")  # fmt: skip
    half = tmp_path / "half.tif"
    half.write_bytes(Path(dates[1]).read_bytes()[:15_000])
    assert "do not overlap" in refused(dates[0], far, *options)
    assert "gone.tif" in refused(dates[0], "gone.tif", *options)
    assert "4 bands" in refused(dates[0], four, *options)
    assert "half.tif" in refused(dates[0], half, *options)
    assert "bare.tif: has no CRS" in refused(dates[0], bare, *options)
    assert "--threshold 2" in refused(*dates, *options, "--threshold", "2")
    assert "is the scene itself" in refused(*dates, "-w", weights, "-o", dates[1])


def test_a_layer_joins_those_of_a_geopackage(dates, weights):
    add_layer("project.gpkg", "roads", 3)
    refused = invoke(*dates, "-w", weights, "-o", "project.gpkg", "--overwrite")
    assert refused.exit_code == 1 and "other layers (roads)" in refused.stderr
    run = invoke(*dates, "-w", weights, "-o", "project.gpkg", "--layer", "found")
    assert run.exit_code == 0, run.stderr
    assert [name for name, _ in pyogrio.list_layers("project.gpkg")] == ["roads", "found"]
    again = invoke(*dates, "-w", weights, "-o", "project.gpkg", "--layer", "found")
    assert again.exit_code == 1 and "replace it with --overwrite" in again.stderr
    for output, layer in (("x.geojson", "found"), ("x.gpkg", "gpkg_found"), ("x.gpkg", "")):
        wrong = invoke(*dates, "-w", weights, "-o", output, "--layer", layer)
        assert wrong.exit_code == 1 and "--layer" in wrong.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["project.gpkg"]
    run = invoke(
        *dates, "-w", weights, "-o", "project.gpkg", "-o", "x.tif", "--layer", "found",
        "--overwrite"
    )  # fmt: skip
    assert run.exit_code == 0, run.stderr
    assert [name for name, _ in pyogrio.list_layers("project.gpkg")] == ["roads", "found"]


def folders_of(write_scene, **names):
    """Write scenes of 64 x 48 pixels under ``{folder: names}``, and return the folders' paths."""
    rng = np.random.default_rng(5)
    for folder, listed in names.items():
        for name in listed:
            pixels = rng.integers(40, 220, (3, 48, 64), dtype=np.uint8)
            path = write_scene(pixels, f"{folder}.tif", transform=NORTH_UP)
            target = Path(folder) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            Path(path).rename(target)
    return [f"{folder}/" for folder in names]


def test_scenes_of_two_folders_are_paired_by_name_and_the_rest_is_told(write_scene, weights):
    early = ["north.tif", "south.tif", "gone.tif"]
    places = folders_of(write_scene, early=early, late=["south.tif", "north.tif"])
    run = invoke(*places, "-w", weights, "-o", "results/", "--json", "--threshold", "0")
    assert run.exit_code == 0, run.stderr
    assert "early/ and late/: 2 pairs of the same names" in run.stderr
    assert "warning: early/: 1 scene has no partner: gone.tif" in run.stderr
    record = json.loads(run.stdout)
    assert record["failures"] == {}
    for each, name in zip(record["results"], ("north", "south"), strict=True):
        assert each["before"]["path"] == f"early/{name}.tif"
        assert each["after"]["path"] == f"late/{name}.tif"
        assert each["paths"] == [f"results/{name}_changes.shp"]
        alone = invoke(f"early/{name}.tif", f"late/{name}.tif", "-w", weights, "-o", "alone.gpkg",
                       "--threshold", "0", "--overwrite", "--json", "-q")  # fmt: skip
        assert json.loads(alone.stdout)["changed_share"] == each["changed_share"]
        assert len(pyogrio.read_dataframe(each["paths"][0])) == each["polygons"]


def test_one_pair_that_fails_leaves_the_others_their_turn(write_scene, weights):
    places = folders_of(write_scene, early=["a.tif", "b.tif"], late=["a.tif", "b.tif"])
    Path("late/a.tif").write_bytes(b"no raster")
    run = invoke(*places, "-w", weights, "-o", "results/", "--format", "GPKG", "-q")
    assert run.exit_code == 1
    assert run.stdout == "results/b_changes.gpkg\n"
    assert "failed: early/a.tif" in run.stderr and "late/a.tif" in run.stderr


def test_names_with_dates_are_paired_without_them(write_scene, weights):
    folders_of(write_scene, t=["x_2019-05-12_pre.tif", "y_pre.tif", "x_20210601_post.tif"])
    run = invoke("t/*_pre.tif", "t/*_post.tif", "-w", weights, "-o", "results/")
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "results/x_20210601_post_changes.shp\n"
    assert "1 pairs of names that are the same without dates" in run.stderr
    assert "no partner: y_pre.tif" in run.stderr


@pytest.mark.parametrize(
    ("before", "after", "further", "message"),
    [
        ("early/", "late/a.tif", (), "early/ is several scenes and late/a.tif is one; name two"),
        ("early/", "other/", (), "none of their 2 and 1 scenes have the same name"),
        ("early/", "early/", (), "are the same scenes"),
        ("early/", "empty/", (), "empty/: no raster is there"),
        ("early/", "late/", ("-o", "x.shp"), "2 scenes need a folder, such as results/"),
        ("early/", "late/", ("-o", "-"), "2 scenes need a folder, such as results/"),
    ],
)
def test_folders_that_do_not_fit_are_one_line(
    before, after, further, message, write_scene, weights
):
    folders_of(write_scene, early=["a.tif", "b.tif"], late=["a.tif", "b.tif"], other=["c.tif"])
    Path("empty").mkdir()
    run = invoke(before, after, "-w", weights, *further)
    assert run.exit_code in (1, 2) and message in run.stderr
    assert len([line for line in run.stderr.splitlines() if not line.endswith("rasters")]) <= 2
