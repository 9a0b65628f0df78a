import os
import resource
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import filelock
import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from making.collector import Collector
from making.interruption import Interrupting

from lemevit_cli.analysis.information import describe
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import large_block_height, large_block_size
from lemevit_cli.inference.journal import folder_of
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.progress import Silent
from lemevit_cli.settings import (
    InferenceSettings,
    OutputOptions,
    ReadingOptions,
    Recovery,
    Tiling,
)
from lemevit_cli.tasks.detection.inference import Detection
from lemevit_cli.tasks.segmentation.inference import Segmentation

BLOCKS = Tiling(block_size=16)  # 12 blocks of 64 x 48
AS_SCORES = OutputOptions(output_type="scores")


@pytest.fixture
def infer(scene, predictor, tmp_path):
    """Return a function that predicts the scene, in blocks, and gives the record."""

    def run(target="out.tif", *, progress=None, path=scene, task=Segmentation, **settings):
        chosen = InferenceSettings(**{"tiling": BLOCKS} | settings)
        task = task(predictor.card, chosen, progress or Silent())
        return infer_scenes(task, [path], [str(tmp_path / target)], lambda: predictor).results[0]

    return run


def pixels_of(path):
    with rasterio.open(path) as result:
        return result.read(), result.tags()


def assert_same(path, other):
    (found, tags), (true, true_tags) = pixels_of(path), pixels_of(other)
    np.testing.assert_array_equal(found, true)
    assert tags == true_tags


def interrupt(infer, windows, **settings):
    with pytest.raises(KeyboardInterrupt):
        infer(progress=Interrupting(windows), **settings)


@pytest.mark.parametrize("output", [OutputOptions(), AS_SCORES])
@pytest.mark.parametrize("windows", [0, 7, 20])
def test_the_same_command_goes_on_behind_the_finished_blocks(infer, tmp_path, output, windows):
    whole = infer("whole.tif", output=output)
    interrupt(infer, windows, output=output)
    assert not (tmp_path / "out.tif").exists()
    kept = len(list(folder_of(str(tmp_path / "out.tif")).glob("*.part")))
    assert (kept > 0) == (windows > 0)
    progress = Collector()
    record = infer(progress=progress, output=output)
    assert record["blocks_kept"] == kept and whole["blocks_kept"] == 0
    told = [note for note in progress.notes if f": {kept} of 12 blocks were done already" in note]
    assert len(told) == (kept > 0)
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")
    assert [record[key] for key in ("windows", "windows_skipped", "classes")] == [
        whole[key] for key in ("windows", "windows_skipped", "classes")
    ]
    assert not list(tmp_path.glob(".*"))


def test_boxes_of_a_continued_run_are_those_of_the_whole(
    infer, predictor, find_bright_boxes, tmp_path
):
    object.__setattr__(predictor, "runtime", lambda pixels: find_bright_boxes(pixels))
    infer("whole.gpkg", task=Detection)
    interrupt(lambda **given: infer("out.gpkg", task=Detection, **given), 3)
    assert infer("out.gpkg", task=Detection)["blocks_kept"] > 0
    found, true = (geopandas.read_file(tmp_path / f"{name}.gpkg") for name in ("out", "whole"))
    assert len(true) > 3 and found.equals(true)


def test_a_result_in_one_block_or_on_stdout_keeps_no_parts(infer, tmp_path):
    def seen(*_):
        return [path.name for path in tmp_path.glob(".*.parts")]

    class Looking(Silent):
        def advance(self, count=1, **figures):
            assert not seen()

    infer(progress=Looking(), tiling=Tiling())
    assert (tmp_path / "out.tif").exists()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"reading": ReadingOptions(gsd="0.7")}, "gsd was 'auto', is '0.7'"),
        ({"tiling": Tiling(block_size=32)}, "block_size was 16, is 32"),
        ({"output": AS_SCORES}, "output_type was 'classes', is 'scores'"),
        ({"tiling": Tiling()}, "block_size was 16, is None"),
    ],
)
def test_parts_of_another_run_are_refused_and_named_until_restart(infer, tmp_path, settings, told):
    interrupt(infer, 20)
    with pytest.raises(OutputError) as refusal:
        infer(**settings)
    assert told in str(refusal.value) and "begin anew with --restart" in str(refusal.value)
    record = infer(**settings, recovery=Recovery(restart=True))
    assert record["blocks_kept"] == 0
    infer("whole.tif", **settings)
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")
    assert not list(tmp_path.glob(".*"))


def test_other_weights_and_another_scene_of_that_name_are_another_run(
    infer, predictor, pixels, write_scene
):
    interrupt(infer, 20)
    object.__setattr__(predictor, "digest", "f" * 16)
    with pytest.raises(OutputError, match=r"weights was 0{16}, is f{16}"):
        infer()
    object.__setattr__(predictor, "digest", "0" * 16)
    path = write_scene(255 - pixels, nodata=0)
    with pytest.raises(OutputError, match=r"scene 1 was .* bytes.*; pixels was "):
        infer(path=path)


def test_a_mask_of_other_polygons_is_another_run(infer, scene, tmp_path):
    with rasterio.open(scene) as file:
        crs, transform = file.crs, file.transform
    mask = str(tmp_path / "mask.geojson")

    def draw(width):
        outline = shapely.Polygon(
            [transform @ p for p in ((0, 0), (width, 0), (width, 48), (0, 48))]
        )
        geopandas.GeoSeries([outline], crs=crs).to_crs(4326).to_file(mask)

    reading = ReadingOptions(mask=mask)
    draw(60)
    interrupt(infer, 20, reading=reading)
    draw(40)
    with pytest.raises(OutputError, match="what --mask holds was"):
        infer(reading=reading)


def test_a_spoiled_part_is_done_again(infer, tmp_path):
    infer("whole.tif")
    interrupt(infer, 20)
    first, second, *_ = sorted(folder_of(str(tmp_path / "out.tif")).glob("*.part"))
    first.write_bytes(first.read_bytes()[:-40])
    spoiled = bytearray(second.read_bytes())
    with zipfile.ZipFile(second) as archive:
        entry = archive.getinfo("000000/ids.npy")
    spoiled[entry.header_offset + 60] ^= 255
    second.write_bytes(spoiled)
    infer()
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")


def test_two_runs_on_one_result_do_not_meet(infer, tmp_path):
    with (
        filelock.FileLock(tmp_path / ".out.tif.lock"),
        pytest.raises(OutputError, match=r"out\.tif: another run is writing it"),
    ):
        infer(tiling=Tiling())
    infer(tiling=Tiling())
    assert not list(tmp_path.glob(".*"))


def test_what_a_dead_run_has_left_goes_and_that_of_a_live_one_stays(infer, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for pid in (dead.pid, os.getpid()):
        (tmp_path / f".out.tif.{pid}.abc.part").mkdir()
        (tmp_path / f".other.tif.{pid}.abc.part").mkdir()
    infer()
    assert sorted(path.name for path in tmp_path.glob(".*")) == sorted(
        [f".out.tif.{os.getpid()}.abc.part"]
        + [f".other.tif.{pid}.abc.part" for pid in (dead.pid, os.getpid())]
    )


def test_a_full_disk_is_one_line_and_the_finished_blocks_stay(infer, tmp_path):
    infer("whole.tif", output=AS_SCORES)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    # Of the last columns and rows blocks are smaller, and fit.
    tiling = Tiling(block_size=48)
    infer("whole.tif", output=OutputOptions(output_type="scores", overwrite=True), tiling=tiling)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"0 of 2 blocks are, and the same command continues"):
            infer(output=AS_SCORES, tiling=tiling)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    infer(output=AS_SCORES, tiling=tiling)
    assert_same(tmp_path / "out.tif", tmp_path / "whole.tif")


@pytest.fixture
def torn(write_scene, tmp_path):
    """Return paths of a scene, whole and without its lower rows."""
    values = np.random.default_rng(0).integers(1, 256, (3, 96, 64), dtype=np.uint8)
    tiles = {"tiled": True, "blockxsize": 16, "blockysize": 16, "compress": "none"}
    whole = write_scene(values, "whole_scene.tif", **tiles)
    torn = tmp_path / "torn.tif"
    torn.write_bytes(Path(whole).read_bytes()[: -64 * 16 * 3 - 1])
    return whole, str(torn)


def test_unreadable_windows_end_the_run_or_are_nodata_and_named(infer, torn, tmp_path):
    whole, path = torn
    with pytest.raises(SceneError, match="cannot read"):
        infer(path=path)
    assert list(tmp_path.glob(".out.tif.parts/*.part"))
    progress = Collector()
    settings = {"recovery": Recovery(on_error="nodata", restart=True), "progress": progress}
    record = infer(path=path, **settings)
    (warning,) = progress.warnings
    assert "windows could not be read and count as nodata" in warning
    assert len(record["unreadable"]) == int(warning.split(": ")[1].split()[0])
    infer("whole.tif", path=whole)
    (found, _), (true, _) = pixels_of(tmp_path / "out.tif"), pixels_of(tmp_path / "whole.tif")
    unread = np.zeros((96, 64), dtype=bool)
    for col, row, width, height in record["unreadable"]:
        assert row + height > 64  # the tear is in the last tile above row 80
        unread[row : row + height, col : col + width] = True
    assert (found[0][~unread] == true[0][~unread]).all()
    assert (found[0][80:] == 255).all() and not (true[0] == 255).any()


def test_what_could_not_be_read_is_told_after_a_restart_too(infer, torn):
    settings = {"path": torn[1], "recovery": Recovery(on_error="nodata")}
    whole = infer("whole.tif", **settings)
    interrupt(infer, whole["windows"] - 1, **settings)
    record = infer(**settings)
    assert record["blocks_kept"] > 0 and record["unreadable"] == whole["unreadable"] != []


def test_blocks_of_large_scenes_are_a_minute_of_work_and_of_others_the_scene():
    def area(width, height):
        return Window(col_off=0, row_off=0, width=width, height=height)

    assert large_block_size(area(16_383, 16_384)) is None
    assert large_block_size(area(16_384, 16_384)) == 8192
    assert large_block_height(area(16_383, 16_384), 16_383, step=512) == 16_384
    assert large_block_height(area(16_384, 16_384), 16_384, step=512) == 4096
    assert large_block_height(area(30_001, 16_384), 30_001, step=512) == 2560
    assert large_block_height(area(1000, 10**6), 30_001, step=512) == 67_584


def test_a_killed_process_costs_the_block_in_work_alone(tmp_path, tiny_weights, write_scene):
    values = np.random.default_rng(0).integers(1, 256, (3, 512, 96), dtype=np.uint8)
    command = [sys.executable, "-m", "lemevit_cli", "predict", write_scene(values)]
    command += ["-w", str(tiny_weights), "--block-size", "32", "--device", "cpu", "--json", "-o"]
    whole, target = str(tmp_path / "whole.tif"), str(tmp_path / "out.tif")
    subprocess.run([*command, whole], check=True, capture_output=True)
    process = subprocess.Popen([*command, target], stdout=subprocess.DEVNULL)
    while process.poll() is None and len(list(folder_of(target).glob("0*.part"))) < 3:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    ended = subprocess.run([*command, target], check=True, capture_output=True, text=True)
    assert process.returncode == 0 or "blocks were done already" in ended.stderr
    assert_same(target, whole)
    assert not list(tmp_path.glob(".*"))


def test_info_names_the_parts_of_a_run_that_nobody_continues(infer, scene, tmp_path):
    target = str(tmp_path / "out.tif")
    interrupt(infer, 20)
    found = describe(target, size=224)["unfinished"]
    assert found["blocks_done"] == len(list(folder_of(target).glob("*.part"))) > 0
    assert found["run"]["block_size"] == "16" and scene in found["run"]["scene 1"]
    infer()
    assert "unfinished" not in describe(target, size=224)
