import io
import json
import signal
import subprocess
import sys
import time
from itertools import combinations, product
from pathlib import Path

import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.control
import rasterio.rpc
import shapely
from making.layers import add_layer
from pyproj import Geod
from typer.testing import CliRunner

from lemevit_cli.cli import app

RPCS = rasterio.rpc.RPC(
    **{f"{name}_{part}": 10.0 for name in ("height", "lat", "line", "long", "samp")
       for part in ("off", "scale")},
    **{f"{name}_{part}_coeff": [1.0] + [0.0] * 19 for name in ("line", "samp")
       for part in ("num", "den")},
    err_bias=1.0, err_rand=1.0,
)  # fmt: skip
NORTH_UP = rasterio.transform.from_origin(458_000, 5_548_000, 0.5, 0.5)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def invoke(*arguments):
    return CliRunner().invoke(app, ["predict", *map(str, arguments), "--device", "cpu"])


def program(*arguments, **how):
    command = [sys.executable, "-m", "lemevit_cli", "predict", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, check=False, **how)


def test_the_result_lies_on_the_scenes_grid_with_names_and_colours(scene, pixels, tiny_weights):
    run = invoke(scene, "-w", tiny_weights)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "scene_seg.tif\n"
    with rasterio.open("scene_seg.tif") as result, rasterio.open(scene) as source:
        assert (result.width, result.height, result.count) == (source.width, source.height, 1)
        assert result.transform == source.transform and result.crs == source.crs
        assert result.nodata == 255 and result.colormap(1)[1][:3] == (214, 69, 65)
        ids = result.read(1)
        assert result.tags()["LEMEVIT_WEIGHTS"].startswith("tiny.safetensors sha256:")
        assert result.tags()["LEMEVIT_ARITHMETIC"] == "float32"
    np.testing.assert_array_equal(ids == 255, (pixels == 0).all(0))
    assert ids[ids != 255].max() < 5
    assert "<Category>vegetation</Category>" in Path("scene_seg.tif.aux.xml").read_text()


def test_json_counts_pixels_and_metres_as_the_raster_does(scene, tiny_weights):
    report = json.loads(invoke(scene, "-w", tiny_weights, "--json").stdout)
    with rasterio.open(report["path"]) as result:
        ids, transform, crs = result.read(1), result.transform, result.crs
    corners = [transform @ c for c in ((0, 0), (64, 0), (64, 48), (0, 48))]
    (outline,) = geopandas.GeoSeries([shapely.Polygon(corners)], crs=crs).to_crs(4326)
    scene_m2 = abs(Geod(ellps="WGS84").geometry_area_perimeter(outline)[0])
    for i, (name, record) in enumerate(report["classes"].items()):
        count = int((ids == i).sum())
        assert record["pixels"] == count, name
        assert record["share"] == pytest.approx(count / (ids != 255).sum())
        assert record["area_m2"] == pytest.approx(count * scene_m2 / ids.size, rel=1e-4)
    assert report["windows"] == 1 and report["peak_memory_mb"] > 0
    assert {"read", "model", "blend", "write", "total"} <= set(report["seconds"])


def test_one_picture_gives_one_map_in_whatever_way_it_is_stored(write_scene, tiny_weights):
    grey = np.random.default_rng(0).integers(0, 256, (1, 64, 64), dtype=np.uint8)
    grey[0, 0, :2] = 0, 255
    colours = {i: (i, 255 - i, i // 2, 255) for i in range(256)}
    rgb = np.array([colours[i][:3] for i in grey.flat], np.uint8).T.reshape(3, 64, 64)
    ways = {
        "bytes": write_scene(rgb, "a.tif"),
        "words": write_scene(rgb.astype(np.uint16), "b.tif"),
        "floats": write_scene(rgb.astype(np.float32), "c.tif"),
        "indexes": write_scene(grey, "d.tif"),
    }
    with rasterio.open(ways["indexes"], "r+") as indexes:
        indexes.write_colormap(1, colours)
    maps = {}
    for name, path in ways.items():
        run = invoke(path, "-w", tiny_weights, "-o", f"{name}_seg.tif", "--output-type", "scores")
        assert run.exit_code == 0, run.stderr
        with rasterio.open(f"{name}_seg.tif") as result:
            maps[name] = result.read()
    for name in ("words", "floats", "indexes"):
        np.testing.assert_allclose(maps[name], maps["bytes"], atol=1e-6)


def test_scores_are_one_named_band_a_class_and_sum_to_one(scene, tiny_weights):
    run = invoke(scene, "-w", tiny_weights, "--output-type", "scores", "-o", "scores.tif")
    assert run.exit_code == 0, run.stderr
    with rasterio.open("scores.tif") as result:
        assert result.descriptions == ("land", "building", "road", "vegetation", "water")
        scores = result.read(masked=True)
    np.testing.assert_allclose(scores.sum(0).compressed(), 1.0, atol=1e-5)
    assert scores.mask[:, :9, :13].all()


def test_tta_is_the_mean_over_the_eight_symmetries_and_told_in_the_result(
    write_scene, tiny_weights
):
    pixels = np.random.default_rng(0).integers(1, 256, (3, 64, 64), dtype=np.uint8)

    def scores_of(seen, *flags):
        path, flags = write_scene(np.ascontiguousarray(seen)), ("--overwrite", *flags)
        run = invoke(path, "-w", tiny_weights, "--output-type", "scores", "-o", "out.tif", *flags)
        assert run.exit_code == 0, run.stderr
        with rasterio.open("out.tif") as result:
            return result.read(), result.tags()["LEMEVIT_SYMMETRIES"]

    answers = []
    for axes, flips in product(((0, 1, 2), (0, 2, 1)), ((), (1,), (2,), (1, 2))):
        scores, symmetries = scores_of(np.flip(pixels.transpose(axes), flips))
        answers.append(np.flip(scores, flips).transpose(axes))
        assert symmetries == "1"
    assert min(np.abs(a - b).max() for a, b in combinations(answers, 2)) > 1e-4
    mean, symmetries = scores_of(pixels, "--tta")
    np.testing.assert_allclose(mean, np.mean(answers, axis=0), atol=1e-6)
    assert symmetries == "8"


@pytest.mark.parametrize("suffix", ["shp", "gpkg", "fgb", "geojson"])
def test_polygons_cover_what_the_raster_shows(scene, tiny_weights, suffix):
    invoke(scene, "-w", tiny_weights)
    run = invoke(scene, "-w", tiny_weights, "-o", f"out.{suffix}", "--min-area", 0)
    assert run.exit_code == 0, run.stderr
    table = pyogrio.read_dataframe(f"out.{suffix}")
    assert list(table.columns) == ["class", "class_id", "score", "area_m2", "geometry"]
    assert table.geometry.is_valid.all()
    with rasterio.open("scene_seg.tif") as result:
        ids, transform, crs = result.read(1), result.transform, result.crs
    burnt = rasterio.features.rasterize(
        zip(table.to_crs(crs).geometry, table["class_id"], strict=True),
        ids.shape,
        fill=255,
        transform=transform,
        dtype="uint8",
    )
    np.testing.assert_array_equal(burnt, ids)


def test_only_some_classes_and_large_polygons_are_kept(scene, tiny_weights):
    invoke(scene, "-w", tiny_weights, "-o", "all.gpkg", "--min-area", 0)
    table = pyogrio.read_dataframe("all.gpkg")
    name = table["class"].value_counts().index[0]
    run = invoke(scene, "-w", tiny_weights, "-o", "some.gpkg", "--classes", name, "--min-area", 1)
    assert run.exit_code == 0, run.stderr
    some = pyogrio.read_dataframe("some.gpkg")
    expected = table[(table["class"] == name) & (table["area_m2"] >= 1)]
    assert sorted(some["area_m2"]) == pytest.approx(sorted(expected["area_m2"]))


def test_scores_of_polygons_are_means_of_the_best_scores(scene, tiny_weights):
    invoke(scene, "-w", tiny_weights, "-o", "out.gpkg", "--min-area", 0)
    invoke(scene, "-w", tiny_weights, "-o", "scores.tif", "--output-type", "scores")
    table = pyogrio.read_dataframe("out.gpkg")
    with rasterio.open("scores.tif") as file:
        best, transform = file.read().max(axis=0), file.transform
    labels = rasterio.features.rasterize(
        zip(table.geometry, range(1, len(table) + 1), strict=True),
        best.shape,
        transform=transform,
        dtype="int32",
    )
    means = [best[labels == i].mean() for i in range(1, len(table) + 1)]
    np.testing.assert_allclose(table["score"], means, atol=1e-4)


def test_specks_are_told_and_styles_come_along(scene, tiny_weights):
    every = invoke(scene, "-w", tiny_weights, "-o", "all.gpkg", "--min-area", 0, "--json")
    run = invoke(scene, "-w", tiny_weights, "-o", "out.gpkg", "--style", "--json")
    few = json.loads(run.stdout)
    assert few["polygons"] == pyogrio.read_info("out.gpkg")["features"]
    assert few["polygons"] + few["polygons_left_out"] == json.loads(every.stdout)["polygons"]
    assert few["polygons_left_out"] > 0 and "--min-area 0 keeps all" in run.stderr
    assert {"out.gpkg", "out.qml", "all.gpkg"} <= {path.name for path in Path().iterdir()}
    refused = invoke(scene, "-w", tiny_weights, "-o", "out.tif", "--style")
    assert refused.exit_code == 1 and "out.qml exists" in refused.stderr
    thin = invoke(scene, "-w", tiny_weights, "-o", "s.shp", "--simplify", 1, "--fill-holes", 9)
    assert thin.exit_code == 0 and pyogrio.read_dataframe("s.shp").geometry.is_valid.all()


def test_a_pipe_carries_the_scene_in_and_the_raster_out(scene, tiny_weights):
    invoke(scene, "-w", tiny_weights)
    run = program("-", "-w", tiny_weights, "-o", "-", "--json", input=Path(scene).read_bytes())
    assert run.returncode == 0, run.stderr
    with rasterio.open(io.BytesIO(run.stdout)) as piped, rasterio.open("scene_seg.tif") as written:
        np.testing.assert_array_equal(piped.read(), written.read())
        assert piped.transform == written.transform and piped.nodata == 255
    assert json.loads(run.stderr)["path"] == "-"


def test_polygons_on_stdout_are_one_feature_collection_in_wgs84(scene, tiny_weights):
    run = program(scene, "-w", tiny_weights, "-o", "-", "--format", "GeoJSON", "-q")
    collection = json.loads(run.stdout)
    assert collection["type"] == "FeatureCollection" and collection["features"]
    lon, lat = np.array(collection["features"][0]["geometry"]["coordinates"][0]).T
    assert 14 < lon.min() < 15 and 50 < lat.min() < 51
    assert run.stderr == b""


def test_a_cog_is_one(scene, tiny_weights):
    assert invoke(scene, "-w", tiny_weights, "--format", "COG", "-o", "cog.tif").exit_code == 0
    with rasterio.open("cog.tif") as result:
        assert result.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"


def test_several_scenes_go_to_a_folder_and_a_bad_one_is_named(write_scene, pixels, tiny_weights):
    first, second = write_scene(pixels, "a.tif"), write_scene(pixels[:2], "b.tif")
    third = write_scene(pixels, "c.tif")
    Path("out").mkdir()
    run = invoke(first, second, third, "-w", tiny_weights, "-o", "out/")
    assert run.exit_code == 1
    assert run.stdout.split() == ["out/a_seg.tif", "out/c_seg.tif"]
    (failure,) = (line for line in run.stderr.splitlines() if f"failed: {second}: " in line)
    assert "2 bands" in failure
    assert sorted(p.name for p in Path("out").glob("*.tif")) == ["a_seg.tif", "c_seg.tif"]


def test_quiet_and_json_lose_no_failure(write_scene, pixels, tiny_weights):
    good = write_scene(pixels, "a.tif")
    run = invoke(good, "gone.tif", "-w", tiny_weights, "-q", "--json")
    assert run.exit_code == 1
    record = json.loads(run.stdout)
    assert [result["path"] for result in record["results"]] == ["a_seg.tif"]
    assert "gone.tif" in record["failures"]["gone.tif"]
    assert run.stderr.count("\n") == 1 and run.stderr.startswith("lemevit: failed: gone.tif: ")


@pytest.mark.parametrize(
    ("error", "said", "traceback"),
    [(MemoryError, "out of memory", False), (ZeroDivisionError, "ZeroDivisionError:", True)],
)
def test_a_scene_without_enough_memory_or_with_a_bug_ends_no_batch(
    write_scene, pixels, tiny_weights, monkeypatch, error, said, traceback
):
    zeros = np.zeros

    def zeros_unless_narrow(shape, *how, **named):
        if np.ndim(shape) and len(shape) == 3 and shape[-1] == 50:
            raise error
        return zeros(shape, *how, **named)

    monkeypatch.setattr(np, "zeros", zeros_unless_narrow)
    first, last = write_scene(pixels, "a.tif"), write_scene(pixels, "c.tif")
    narrow = write_scene(pixels[:, :, :50], "b.tif")
    run = invoke(first, narrow, last, "-w", tiny_weights, "-q", "--json")
    assert run.exit_code == 1
    record = json.loads(run.stdout)
    assert [result["path"] for result in record["results"]] == ["a_seg.tif", "c_seg.tif"]
    assert record["failures"][narrow].startswith(said)
    assert run.stderr.splitlines()[-1].startswith(f"lemevit: failed: {narrow}: {said}")
    assert run.stderr.startswith("Traceback") == traceback
    again = invoke(first, narrow, last, "-w", tiny_weights, "-q", "--overwrite", "--debug")
    assert again.exit_code == 1 and again.stderr.startswith("Traceback")


def test_several_scenes_need_a_folder(scene, tiny_weights):
    run = invoke(scene, scene, "-w", tiny_weights, "-o", "one.tif")
    assert run.exit_code == 2 and "need a folder" in run.stderr


def test_a_grey_scene_is_refused_with_advice_and_taken_by_it(write_scene, pixels, tiny_weights):
    grey = write_scene(pixels[:1])
    run = invoke(grey, "-w", tiny_weights)
    assert run.exit_code == 1 and "-b 1,1,1" in run.stderr and run.stderr.count("\n") == 1
    assert invoke(grey, "-w", tiny_weights, "-b", "1,1,1").exit_code == 0


def test_outside_the_mask_there_is_nodata(write_scene, pixels, tiny_weights):
    path = write_scene(pixels, transform=NORTH_UP)
    inside = shapely.box(458_005, 5_547_985, 458_020, 5_547_995)
    table = geopandas.GeoDataFrame(geometry=[inside], crs=32633).to_crs(4326)
    table.to_file("mask.geojson")
    run = invoke(path, "-w", tiny_weights, "--mask", "mask.geojson")
    assert run.exit_code == 0, run.stderr
    with rasterio.open("scene_seg.tif") as result:
        ids = result.read(1)
    expected = np.zeros((48, 64), dtype=bool)
    expected[10:30, 10:40] = True
    np.testing.assert_array_equal(ids != 255, expected)


@pytest.mark.parametrize("corner", [(0, 0), (12, 7)])
def test_a_part_has_the_points_and_the_rpcs_of_the_whole_moved(
    write_scene, pixels, tiny_weights, corner
):
    points = [
        rasterio.control.GroundControlPoint(row=r, col=c, x=15 + c / 1e5, y=50 - r / 1e5)
        for r, c in ((0, 0), (0, 64), (48, 0), (48, 64))
    ]
    path = write_scene(pixels, transform=None, gcps=points, crs="EPSG:4326", rpcs=RPCS)
    invoke(path, "-w", tiny_weights, "-o", "whole.tif")
    col, row = corner
    part = invoke(path, "-w", tiny_weights, "-o", "part.tif", "--bounds", col, row, 40, 30)
    assert part.exit_code == 0, part.stderr
    with rasterio.open("whole.tif") as whole, rasterio.open("part.tif") as result:
        assert whole.rpcs == RPCS
        moved_by = (RPCS.line_off - result.rpcs.line_off, RPCS.samp_off - result.rpcs.samp_off)
        assert moved_by == (row, col) and result.rpcs.lat_off == RPCS.lat_off
        assert result.shape == (30 - row, 40 - col)
        moved = [(p.row + row, p.col + col, p.x, p.y) for p in result.gcps[0]]
        assert moved == [(p.row, p.col, p.x, p.y) for p in whole.gcps[0]]
        assert len(moved) == 4


def test_another_dtype_is_stretched_and_told(write_scene, pixels, tiny_weights):
    wide = write_scene(pixels.astype(np.uint16) * 11, nodata=0)
    run = invoke(wide, "-w", tiny_weights)
    assert run.exit_code == 0 and "percentiles" in run.stderr
    with rasterio.open("scene_seg.tif") as result:
        assert "percentiles" in result.tags()["LEMEVIT_STRETCH"]


def test_coarse_pixels_are_read_finer_and_told(write_scene, pixels, tiny_weights):
    coarse = write_scene(pixels, transform=rasterio.transform.from_origin(458_000, 5_548_000, 5, 5))
    run = invoke(coarse, "-w", tiny_weights, "--json")
    assert "pixels of 5 m are read at 2 m" in run.stderr
    report = json.loads(run.stdout)
    assert (report["width"], report["height"]) == (64, 48) and report["windows"] > 1


def test_pixels_in_degrees_are_read_as_squares_on_the_ground(write_scene, pixels, tiny_weights):
    side = 1e-5  # at 60 degrees north: 1.1 m along a column, 0.56 m along a row
    degrees = rasterio.transform.from_origin(15, 60, side, side)
    run = invoke(write_scene(pixels, crs="EPSG:4326", transform=degrees), "-w", tiny_weights)
    assert run.exit_code == 0 and "pixels of 0.558 x 1.11 m are read at 0.788 m" in run.stderr
    with rasterio.open("scene_seg.tif") as result:
        assert result.shape == (48, 64) and result.transform == degrees
        assert result.tags()["LEMEVIT_MODEL_GRID"] == "45 x 68"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{scene}", "-w", "none.safetensors"], "no such weights file; starter weights: "),
        (["gone.tif", "-w", "{weights}"], "gone.tif"),
        (["{scene}", "-w", "{weights}", "-o", "no/where.tif"], "folder no does not exist"),
        (["{scene}", "-w", "{weights}", "-o", "out.xyz"], "'.xyz'"),
        (["{scene}", "-w", "{weights}", "--gsd", "big"], "--gsd big"),
        (["{scene}", "-w", "{weights}", "--gsd", "1e400"], "--gsd 1e400"),
        (["{scene}", "-w", "{weights}", "--mask", "gone.gpkg"], "gone.gpkg"),
        (["{scene}", "-w", "{weights}", "-b", "1,2,7"], "7"),
        (["{scene}", "-w", "{weights}", "--stretch", "odd"], "odd"),
        (["{scene}", "-w", "{weights}", "--classes", "lava"], "lava"),
        (["{scene}", "-w", "{weights}", "--overlap", "64"], "--overlap 64"),
        (["{scene}", "-w", "{weights}", "--overlap", "63"], "share 48 pixels at most"),
        (["{scene}", "-w", "{weights}", "--window", "1000000000"], "at most 4,096"),
        (["{scene}", "-w", "{weights}", "--gsd", "0.1"], "would be 320 x 240 pixels"),
        (["{scene}", "-w", "{weights}", "--bounds", "1", "1", "2", "2"], "outside"),
        (["{scene}", "-w", "{weights}", "--bounds", "1", "1", "nan", "2"], "WEST < EAST"),
        (["{scene}", "-w", "{weights}", "--bounds", "1", "1", "1e300", "2"], "outside"),
        (["{scene}", "-w", "{weights}", "--device", "cuda:77"], "cuda:77"),
        (["{scene}", "-w", "{weights}", "--co", "NO_SUCH=1"], "NO_SUCH"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(scene, tiny_weights, arguments, said):
    arguments = [a.format(scene=scene, weights=tiny_weights) for a in arguments]
    run = CliRunner().invoke(app, ["predict", *arguments])
    assert run.exit_code == 1
    assert said in run.stderr and run.stderr.count("\n") == 1 and run.stdout == ""
    assert run.stderr.startswith("lemevit: ")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("option", ["--threads", "--workers"])
def test_a_million_threads_or_processes_are_wrong_usage(scene, tiny_weights, option):
    run = invoke(scene, "-w", tiny_weights, option, "1000000")
    assert run.exit_code == 2 and f"{option}" in run.stderr and "at most" in run.stderr


def test_a_dry_run_counts_what_a_run_does_and_writes_nothing(scene, tiny_weights):
    command = [scene, "-w", tiny_weights, "-o", "out.tif", "--gsd", "0.25", "--block-size", "32"]
    plan = json.loads(invoke(*command, "--dry-run", "--json").stdout)
    assert list(Path().iterdir()) == []
    assert (plan["model_width"], plan["model_height"], plan["window"]) == (128, 96, 64)
    line = invoke(*command, "--dry-run").stdout
    assert line.count("\n") == 1 and "128 x 96" in line and "6 windows" not in line
    done = json.loads(invoke(*command, "--json").stdout)
    assert (plan["windows"], plan["path"]) == (done["windows"], "out.tif")
    assert plan["memory_mb"] > 100


def test_a_scene_is_never_its_own_target(scene, tiny_weights):
    run = invoke(scene, "-w", tiny_weights, "-o", scene, "--overwrite")
    assert run.exit_code == 1 and "is an input itself" in run.stderr


def test_two_scenes_never_share_a_target(write_scene, pixels, tiny_weights, tmp_path):
    (tmp_path / "other").mkdir()
    first, second = write_scene(pixels), write_scene(pixels, "other/scene.tif")
    run = invoke(first, second, "-w", tiny_weights, "--overwrite")
    assert run.exit_code == 1 and "both be written to scene_seg.tif" in run.stderr
    assert list(Path().iterdir()) == []


def test_an_existing_target_needs_overwrite(scene, tiny_weights):
    Path("out.tif").write_text("precious")
    run = invoke(scene, "-w", tiny_weights, "-o", "out.tif")
    assert run.exit_code == 1 and "--overwrite" in run.stderr
    assert Path("out.tif").read_text() == "precious"
    assert invoke(scene, "-w", tiny_weights, "-o", "out.tif", "--overwrite").exit_code == 0


def test_debug_shows_the_traceback(scene):
    run = program(scene, "-w", "none.safetensors", "--debug")
    assert run.returncode == 1 and b"Traceback" in run.stderr


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_in_the_middle_leaves_no_file(write_scene, tiny_weights, number, status):
    large = np.random.default_rng(0).integers(0, 256, (3, 2048, 2048), dtype=np.uint8)
    command = [sys.executable, "-m", "lemevit_cli", "predict", write_scene(large)]
    command += ["-w", tiny_weights, "-o", "out.tif", "--batch-size", "1", "--overlap", "48"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 60
        while not list(Path().glob(".out.tif*")) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert list(Path().glob(".out.tif*")), "the run never began to write"
        running.send_signal(number)
        _, stderr = running.communicate(timeout=60)
    assert running.returncode == status, stderr
    assert list(Path().iterdir()) == []
    assert b"Traceback" not in stderr


def test_a_reader_that_goes_away_ends_the_program_quietly(write_scene, tiny_weights):
    scene = write_scene(np.zeros((3, 600, 600), dtype=np.uint8))
    ours = f"{sys.executable} -m lemevit_cli predict {scene} -w {tiny_weights}"
    scores = "-o - --output-type scores --co COMPRESS=NONE -q"  # more than a pipe holds
    command = f"{ours} {scores} | head -c 10 >/dev/null; exit ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (141, "")


def test_a_full_disk_under_the_report_is_one_line(scene, tiny_weights):
    ours = f"{sys.executable} -m lemevit_cli predict {scene} -w {tiny_weights}"
    command = f"{ours} --json -q >/dev/full"
    run = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert "No space left" in run.stderr and run.stderr.count("\n") == 1


def test_a_layer_joins_those_of_a_geopackage(scene, tiny_weights):
    add_layer("project.gpkg", "roads", 3)
    refused = invoke(scene, "-w", tiny_weights, "-o", "project.gpkg", "--overwrite")
    assert refused.exit_code == 1 and "other layers (roads)" in refused.stderr
    run = invoke(scene, "-w", tiny_weights, "-o", "project.gpkg", "--layer", "found")
    assert run.exit_code == 0, run.stderr
    assert [name for name, _ in pyogrio.list_layers("project.gpkg")] == ["roads", "found"]
    again = invoke(scene, "-w", tiny_weights, "-o", "project.gpkg", "--layer", "found")
    assert again.exit_code == 1 and "replace it with --overwrite" in again.stderr
    for output, layer in (("x.geojson", "found"), ("x.gpkg", "gpkg_found"), ("x.gpkg", "")):
        wrong = invoke(scene, "-w", tiny_weights, "-o", output, "--layer", layer)
        assert wrong.exit_code == 1 and "--layer" in wrong.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["project.gpkg"]


def test_bounds_are_four_numbers_with_commas_or_without(scene, tiny_weights):
    with rasterio.open(scene) as file:
        corners = [file.transform @ place for place in ((16, 8), (48, 40))]
    (west, north), (east, south) = corners
    (west, east), (south, north) = sorted((west, east)), sorted((south, north))
    bounds = [str(value) for value in (west, south, east, north)]
    written = []
    for number, words in enumerate((["--bounds", *bounds], ["--bounds", ",".join(bounds)],
                                    [f"--bounds={','.join(bounds)}"])):  # fmt: skip
        run = invoke(scene, "-w", tiny_weights, "-o", f"{number}.tif", *words)
        assert run.exit_code == 0, run.stderr
        with rasterio.open(f"{number}.tif") as result:
            written.append((result.transform, result.read().tobytes()))
    assert written[0] == written[1] == written[2]


def test_some_classes_in_a_raster_are_a_mask(scene, tiny_weights):
    for name, flags in (("all", []), ("mask", ["--classes", "road,building"])):
        run = invoke(scene, "-w", tiny_weights, "-o", f"{name}.tif", *flags)
        assert run.exit_code == 0, run.stderr
    with rasterio.open("all.tif") as whole, rasterio.open("mask.tif") as mask:
        ids, values, tags = whole.read(1), mask.read(1), mask.tags(1)
        assert mask.colormap(1)[1] == whole.colormap(1)[1] and mask.nodata == 255
    # Of the weights: land, building, road, ...: in their order, whatever the option's.
    expected = np.select([ids == 255, ids == 1, ids == 2], [255, 1, 2], 0)
    np.testing.assert_array_equal(values, expected)
    assert len(np.unique(values)) > 2
    names = Path("mask.tif.aux.xml").read_text()
    assert names.count("<Category>") == 3 and "<Category>other</Category>" in names
    assert "vegetation" not in str(tags)
