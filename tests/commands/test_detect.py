import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import termios
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import shapely
import shapely.affinity
import torch
from affine import Affine
from making.layers import add_layer
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.inference.predictor import load_predictor
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card, load_weights, open_weights, save_weights
from lemevit_cli.settings import DetectionOptions, RuntimeOptions
from lemevit_cli.tasks import load_network
from lemevit_cli.tasks.detection.decoding import Decoding
from lemevit_cli.tasks.detection.network import network_for

FIELDS = [
    "class", "class_id", "score", "length_m", "width_m", "area_m2", "bearing", "cx", "cy",
]  # fmt: skip


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the path of weights of task ``det`` that were never trained: boxes of score 0.25."""
    torch.manual_seed(1)
    card = Card(
        task="det",
        backbone="test_resnet",
        head="oriented_rcnn",
        head_args={"channels": 16, "hidden": 32, "proposals": 50},
        classes=classes_from_names(["ship", "plane", "storage tank"]),
        window=64,
        overlap=24,
        gsd_m=(0.1, 2.0),
    )
    path = tmp_path_factory.mktemp("weights") / "detector.safetensors"
    save_weights(path, load_network("det").build_model(card).state_dict(), card)
    return str(path)


@pytest.fixture(scope="module")
def opinionated(weights, tmp_path_factory):
    """Return the path of weights whose scores lie between 0 and 1."""
    state, card = load_weights(weights)
    generator = torch.Generator().manual_seed(2)
    for key, spread in (("classify", 1.0), ("regress", 0.1)):
        tensor = state[f"roi_head.{key}.weight"]
        state[f"roi_head.{key}.weight"] = torch.randn(tensor.shape, generator=generator) * spread
    path = tmp_path_factory.mktemp("weights") / "opinionated.safetensors"
    save_weights(path, state, card)
    return str(path)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


@pytest.fixture
def large(write_scene):
    """Return the path of a scene of six windows, 110 x 90, with a nodata corner."""
    pixels = np.random.default_rng(0).integers(1, 256, (3, 90, 110), dtype=np.uint8)
    pixels[:, :40, :50] = 0
    return write_scene(pixels, nodata=0)


def invoke(*arguments):
    arguments = [*map(str, arguments), "--device", "cpu", "--score", "0.1"]
    return CliRunner().invoke(app, ["detect", *arguments])


def detected(*arguments):
    run = invoke(*arguments)
    assert run.exit_code == 0, run.stderr
    return pyogrio.read_dataframe(run.stdout.strip())


def test_boxes_are_a_shapefile_of_polygons_in_the_scenes_crs(large, weights):
    run = invoke(large, "-w", weights)
    assert run.exit_code == 0, run.stderr
    assert run.stdout == "scene_boxes.shp\n"
    assert {path.suffix for path in Path().iterdir()} == {".shp", ".shx", ".dbf", ".prj", ".cpg"}
    table = pyogrio.read_dataframe("scene_boxes.shp")
    assert list(table.columns) == [*FIELDS, "geometry"] and len(table) > 5
    assert table.crs.to_epsg() == 32633
    assert (shapely.get_num_coordinates(table.geometry) == 5).all()
    assert set(table["class"]) <= {"ship", "plane", "storage tank"}
    assert (np.diff(table.score) <= 0).all() and table.score.min() >= 0.1


def test_json_counts_and_measures_what_the_layer_holds(large, weights):
    record = json.loads(invoke(large, "-w", weights, "-o", "out.gpkg", "--json", "-q").stdout)
    table = pyogrio.read_dataframe(record["path"])
    assert record["objects"] == len(table)
    for name, figures in record["classes"].items():
        of_class = table[table["class"] == name]
        assert figures["objects"] == len(of_class)
        if len(of_class):
            assert figures["length_m"] == pytest.approx(of_class.length_m.median())
    assert record["windows"] == 6 and record["windows_skipped"] == 0
    assert {"read", "model", "merge", "write", "total"} <= set(record["seconds"])
    assert record["peak_memory_mb"] > 0


def test_blocks_and_batches_change_nothing(large, weights):
    whole = detected(large, "-w", weights, "-o", "whole.gpkg")
    for number, flags in enumerate((["--block-size", "40"], ["--batch-size", "5"])):
        other = detected(large, "-w", weights, "-o", f"{number}.gpkg", *flags)
        assert other["class"].tolist() == whole["class"].tolist()
        of_both = (table[["score", "cx", "cy", "length_m", "width_m"]] for table in (other, whole))
        np.testing.assert_allclose(*of_both, atol=1e-3)
        unlike = whole.geometry.union_all().symmetric_difference(other.geometry.union_all())
        assert unlike.area < 1e-3 * whole.area_m2.sum()


def test_no_centre_lies_on_nodata(large, weights):
    with_nodata = detected(large, "-w", weights)
    import rasterio

    with rasterio.open(large) as scene:
        assert len(with_nodata) > 5
        cols, rows = ~scene.transform @ tuple(with_nodata[["cx", "cy"]].to_numpy().T)
        assert (scene.read(1)[rows.astype(int), cols.astype(int)] > 0).all()


def test_classes_choose_the_boxes(large, weights):
    everything = detected(large, "-w", weights)
    ships = detected(large, "-w", weights, "-o", "ships.gpkg", "--classes", "ship")
    assert set(ships["class"]) == {"ship"}
    assert len(ships) >= (everything["class"] == "ship").sum() > 0
    empty = detected(large, "-w", weights, "-o", "none.shp", "--classes", "storage tank")
    assert list(empty.columns) == [*FIELDS, "geometry"]


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--classes", "ship,plane"],
        ["--tta"],
        ["--max-per-window", "5"],
        ["--tta", "--classes", "ship,plane", "--block-size", "40"],
        ["--gsd", "0.37"],
        ["--agnostic-nms"],
    ],
)
def test_a_higher_score_is_a_filter(large, opinionated, flags):
    def boxes_of(score):
        arguments = ["detect", large, "-w", opinionated, "-o", f"{score}.gpkg", *flags]
        run = CliRunner().invoke(app, [*arguments, "--score", score, "--device", "cpu", "-q"])
        assert run.exit_code == 0, run.stderr
        table = pyogrio.read_dataframe(f"{score}.gpkg")
        return {(row.score, row.class_id, row.geometry.wkb) for row in table.itertuples()}

    scores = ["0.01", "0.05", "0.2", "0.3", "0.45", "0.6", "0.9"]
    found = [boxes_of(score) for score in scores]
    assert len(found[0]) > 5 and len({len(boxes) for boxes in found}) > 2
    for (low, of_low), (high, of_high) in pairwise(zip(scores, found, strict=True)):
        assert of_high == {row for row in of_low if row[0] >= float(high)}, (low, high)


def test_without_a_score_the_weights_say_from_which_on_a_class_counts(large, opinionated, tmp_path):
    state, card = load_weights(opinionated)
    own = {"ship": 0.35, "plane": 0.1, "storage tank": 0.4}
    path = tmp_path / "own.safetensors"
    save_weights(path, state, replace(card, class_scores=tuple(own.values())))

    def boxes_of(name, *flags):
        arguments = ["detect", large, "-w", str(path), "-o", name, *flags]
        run = CliRunner().invoke(app, [*arguments, "--device", "cpu", "--json", "-q"])
        assert run.exit_code == 0, run.stderr
        table = pyogrio.read_dataframe(name)
        found = set(zip(table.score, table["class"], table.geometry.to_wkb(), strict=True))
        return json.loads(run.stdout)["scores"], found

    told, every = boxes_of("every.gpkg", "--score", "0.05")
    assert told == dict.fromkeys(own, 0.05)
    told, chosen = boxes_of("chosen.gpkg")
    assert told == own
    assert chosen == {row for row in every if row[0] >= own[row[1]]}
    assert {name for _, name, _ in chosen} == set(own) and len(chosen) < len(every)


def test_with_tta_the_best_of_what_the_eight_symmetries_show_is_kept(write_scene, weights):
    pixels = np.random.default_rng(0).integers(1, 256, (3, 64, 64), dtype=np.uint8)
    path = write_scene(pixels, transform=Affine(1, 0, 500_000, 0, -1, 5_400_000))
    found = detected(path, "-w", weights, "-o", "tta.gpkg", "--tta")

    network = network_for(DetectionOptions(score=0.1))
    plain = load_predictor(open_weights(weights), network, RuntimeOptions(device="cpu"))
    every = []
    for transposed, flips in product((False, True), ((), (1,), (2,), (1, 2))):
        seen = np.flip(pixels.transpose(0, 2, 1) if transposed else pixels, flips)
        for *box, score, class_id in plain.runtime(seen[None].copy())[0].tolist():
            if class_id >= 0:
                outline = turned_back(outline_of(*box), flips, transposed=transposed)
                every.append((score, int(class_id), outline))
    best = suppressed(every, iou=Decoding.nms_iou)
    best = [row for row in best if shapely.box(0, 0, 64, 64).covers(row[2].centroid)]

    assert len(every) > 2 * len(best) > 20
    assert found["class_id"].tolist() == [class_id for _, class_id, _ in best]
    np.testing.assert_allclose(found.score, [score for score, _, _ in best], atol=1e-5)
    in_pixels = shapely.transform(found.geometry, lambda xy: (xy - (5e5, 5.4e6)) * (1, -1))
    for outline, (_, _, expected) in zip(in_pixels, best, strict=True):
        assert outline.symmetric_difference(expected).area < 1e-3 * expected.area


def outline_of(cx, cy, w, h, angle_rad):
    axis_aligned = shapely.box(-w / 2, -h / 2, w / 2, h / 2)
    turned = shapely.affinity.rotate(axis_aligned, angle_rad, origin=(0, 0), use_radians=True)
    return shapely.affinity.translate(turned, cx, cy)


def turned_back(outline, flips, *, transposed):
    """Turn an outline back that was seen in a window of 64 with exchanged or reversed axes."""
    cols = (-1, 64) if 2 in flips else (1, 0)
    rows = (-1, 64) if 1 in flips else (1, 0)
    flipped = shapely.transform(outline, lambda xy: xy * (cols[0], rows[0]) + (cols[1], rows[1]))
    return shapely.transform(flipped, lambda xy: xy[:, ::-1]) if transposed else flipped


def suppressed(rows, *, iou):
    """Return ``(score, class id, outline)`` that no better one of their class overlaps."""
    kept = []
    for row in sorted(rows, key=lambda row: -row[0]):
        alike = [outline for _, class_id, outline in kept if class_id == row[1]]
        shared = [row[2].intersection(o).area / row[2].union(o).area for o in alike]
        if max(shared, default=0) <= iou:
            kept.append(row)
    return kept


def test_stdout_gets_one_feature_collection_in_degrees(large, weights):
    run = invoke(large, "-w", weights, "-o", "-", "--json", "-v")
    document = json.loads(run.stdout)
    assert document["type"] == "FeatureCollection" and "crs" not in document
    ring = document["features"][0]["geometry"]["coordinates"][0]
    assert len(ring) == 5 and all(14 < x < 15 and 50 < y < 51 for x, y in ring)
    assert '"objects": ' in run.stderr and "median length" in run.stderr
    nothing = invoke(large, "-w", weights, "-o", "-", "-q", "--bounds", *first_pixels(large))
    assert nothing.exit_code == 0
    assert json.loads(nothing.stdout)["features"] == []
    assert list(Path().iterdir()) == []


def first_pixels(path):
    """Return bounds around pixels of the nodata corner of a scene, in map units."""
    import rasterio

    with rasterio.open(path) as scene:
        x, y = zip(*(scene.transform @ p for p in ((1, 1), (4, 1), (4, 4), (1, 4))), strict=True)
    return [min(x), min(y), max(x), max(y)]


def test_several_scenes_go_to_a_folder_and_one_failure_stops_no_other(large, weights):
    run = invoke(large, "gone.tif", "-w", weights, "-o", "results/", "-q")  # which it makes
    assert run.exit_code == 1 and "failed: gone.tif" in run.stderr
    assert run.stdout == "results/scene_boxes.shp\n"
    assert invoke(large, "b.tif", "-w", weights, "-o", "one.shp").exit_code == 2


def test_a_folder_and_a_pattern_are_taken_as_their_rasters(large, weights):
    scene = Path(large)
    for name in ("b.tif", "a.TIF", "c.tif.aux.xml", "notes.txt", ".hidden.tif"):
        shutil.copy(scene, Path(name)) if name.lower().endswith("tif") else Path(name).touch()
    Path("d.tif").mkdir()
    run = invoke(".", "-w", weights, "-o", "of_folder/", "--json")
    assert run.exit_code == 0, run.stderr
    assert "lemevit: .: 2 rasters\n" in run.stderr
    taken = [record["scene"] for record in json.loads(run.stdout)["results"]]
    assert taken == ["a.TIF", "b.tif"]
    run = invoke("[ab].*", "b.tif", "-w", weights, "-o", "of_pattern/", "-q")
    assert run.exit_code == 1 and "a.TIF" not in run.stderr  # b.tif is named twice
    run = invoke("[ab].*", "-w", weights, "-o", "of_pattern/", "-q")
    assert run.stdout.split() == ["of_pattern/a_boxes.shp", "of_pattern/b_boxes.shp"]
    assert invoke("[ab].*", "-w", weights, "-o", "one.shp").exit_code == 2
    for nothing, said in (("x*.tif", "no raster"), ("d.tif", "no raster")):
        run = invoke(nothing, "-w", weights, "-o", "none/")
        assert run.exit_code == 1 and said in run.stderr and not Path("none").exists()
    Path("literal[1].tif").write_bytes(scene.read_bytes())
    assert invoke("literal[1].tif", "-w", weights, "-q").stdout == "literal[1]_boxes.shp\n"


def test_a_style_lies_beside_the_boxes(large, weights):
    detected(large, "-w", weights, "-o", "out.gpkg", "--style")
    assert "storage tank" in Path("out.qml").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{scene}", "-w", "{weights}", "--classes", "ship,lava"], "'lava'; there are ship, plane"),
        (["{scene}", "-w", "{weights}", "--score", "2"], "--score 2: use a number from 0 to 1"),
        (["{scene}", "-w", "{weights}", "--nms-iou", "-1"], "--nms-iou -1"),
        (["{scene}", "-w", "{seg}"], "weights for task seg, asked for det"),
        (["{scene}", "-w", "{weights}", "-o", "out.tif"], "'.tif'; take one of .geojson, .shp"),
        (["{scene}", "-w", "{weights}", "-o", "no/where.shp"], "folder no does not exist"),
        (["{scene}", "-w", "{weights}", "-o", "-", "--style"], "--style writes a file beside"),
        (["{scene}", "-w", "{weights}", "--overlap", "64"], "--overlap 64"),
        (["{scene}", "-w", "{weights}", "--co", "NO_SUCH=1"], "NO_SUCH"),
        (["{scene}", "-w", "{weights}", "-b", "1,2"], "2"),
        (["gone.tif", "-w", "{weights}"], "gone.tif"),
    ],
)
def test_a_mistake_is_one_line_and_exit_1(scene, weights, tiny_weights, arguments, said):
    arguments = [a.format(scene=scene, weights=weights, seg=tiny_weights) for a in arguments]
    run = CliRunner().invoke(app, ["detect", *arguments])
    assert run.exit_code == 1
    assert said in run.stderr and run.stderr.count("\n") == 1 and run.stdout == ""
    assert run.stderr.startswith("lemevit: ")
    assert list(Path().iterdir()) == []


def test_an_existing_result_needs_overwrite(scene, weights):
    Path("scene_boxes.shp").write_text("precious")
    run = invoke(scene, "-w", weights)
    assert run.exit_code == 1 and "--overwrite" in run.stderr
    assert Path("scene_boxes.shp").read_text() == "precious"
    assert invoke(scene, "-w", weights, "--overwrite").exit_code == 0
    Path("scene_boxes.shp").unlink()
    run = invoke(scene, "-w", weights)
    assert run.exit_code == 1 and "scene_boxes.shx exists" in run.stderr


def test_a_signal_in_the_middle_leaves_no_file(write_scene, weights):
    wide = np.random.default_rng(0).integers(0, 4096, (3, 2048, 2048), dtype=np.uint16)
    command = [sys.executable, "-m", "lemevit_cli", "detect", write_scene(wide), "-w", weights]
    command += ["-o", "out.shp", "--batch-size", "1"]
    screen, stderr = pty.openpty()  # on a terminal a bar says that windows are under way
    termios.tcsetwinsize(stderr, (24, 120))
    with subprocess.Popen(command, stderr=stderr) as running:
        os.close(stderr)
        shown = b""
        while b"windows" not in shown:
            shown += os.read(screen, 4096)
        running.send_signal(signal.SIGTERM)
        with suppress(OSError):  # the terminal is gone when the program is
            while more := os.read(screen, 4096):
                shown += more
    os.close(screen)
    assert running.returncode == 143, shown
    assert list(Path().iterdir()) == [] and b"Traceback" not in shown


def test_a_layer_joins_those_of_a_geopackage(large, weights):
    add_layer("project.gpkg", "roads", 3)
    refused = invoke(large, "-w", weights, "-o", "project.gpkg", "--overwrite")
    assert refused.exit_code == 1 and "other layers (roads)" in refused.stderr
    run = invoke(large, "-w", weights, "-o", "project.gpkg", "--layer", "found")
    assert run.exit_code == 0, run.stderr
    assert [name for name, _ in pyogrio.list_layers("project.gpkg")] == ["roads", "found"]
    again = invoke(large, "-w", weights, "-o", "project.gpkg", "--layer", "found")
    assert again.exit_code == 1 and "replace it with --overwrite" in again.stderr
    for output, layer in (("x.geojson", "found"), ("x.gpkg", "gpkg_found"), ("x.gpkg", "")):
        wrong = invoke(large, "-w", weights, "-o", output, "--layer", layer)
        assert wrong.exit_code == 1 and "--layer" in wrong.stderr
    assert sorted(path.name for path in Path().iterdir()) == ["project.gpkg"]
