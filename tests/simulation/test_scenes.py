"""``simulate_dataset`` writes what ``train`` reads, whole or not at all."""

import json
import resource
import subprocess
import sys

import geopandas
import numpy as np
import pytest
import rasterio

from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.window import Window
from lemevit_cli.progress import Silent
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.simulation.scenes import simulate_dataset
from lemevit_cli.simulation.world import World, WorldSpec
from lemevit_cli.tasks import load_simulation

SEG, DET, CHANGE = (load_simulation(task) for task in ("seg", "det", "change"))


class Counter(Silent):
    """Counts what it hears."""

    def start(self, label, *, total, unit):
        self.total, self.done = total, 0

    def advance(self, count=1, **figures):
        self.done += count


def read(path):
    with rasterio.open(path) as raster:
        return raster.read(), raster.profile


def test_segmentation_scenes_are_split_and_equal_the_world(tmp_path):
    counter = Counter()
    report = simulate_dataset(tmp_path, SEG, size=96, scenes=3, seed=5, progress=counter)
    names = {split: sorted(p.name for p in (tmp_path / split / "images").iterdir())
             for split in ("train", "val")}  # fmt: skip
    assert names == {"train": ["town_00005.tif", "town_00006.tif"], "val": ["town_00007.tif"]}
    pixels, profile = read(tmp_path / "val/images/town_00007.tif")
    mask, mask_profile = read(tmp_path / "val/masks/town_00007.tif")
    drawing = World(WorldSpec(seed=7, width=96, height=96)).draw(
        Window(col_off=0, row_off=0, width=96, height=96)
    )
    np.testing.assert_array_equal(pixels, drawing.pixels)
    np.testing.assert_array_equal(mask[0], drawing.class_ids)
    assert profile["crs"] == mask_profile["crs"] == rasterio.CRS.from_epsg(32633)
    assert profile["transform"] == mask_profile["transform"]
    assert mask_profile["nodata"] is None
    classes = json.loads((tmp_path / "classes.json").read_text())
    assert classes == {
        "classes": ["land", "building", "road", "vegetation", "water"], "ignore_index": 255,
    }  # fmt: skip
    assert (counter.done, counter.total) == (3, 3)
    assert len(report["files"]) == 7
    assert not list(tmp_path.rglob(".*"))


def test_detection_labels_are_quadrilaterals_of_dota(tmp_path):
    simulate_dataset(tmp_path, DET, size=700, scenes=1, seed=0)
    lines = (tmp_path / "train/labelTxt/town_00000.txt").read_text().splitlines()
    assert lines[:2] == ["imagesource:simulated", "gsd:0.3"]
    known = json.loads((tmp_path / "classes.json").read_text())["classes"]
    assert len(lines) > 20
    for line in lines[2:]:
        *corners, name, difficult = line.split()
        x1, y1, x2, y2, x3, y3, x4, y4 = map(float, corners)
        assert (x1 + x3, y1 + y3) == pytest.approx((x2 + x4, y2 + y4), abs=0.03)
        assert name in known
        assert difficult == "0"


def test_change_labels_mark_what_was_built_or_torn_down(tmp_path):
    simulate_dataset(tmp_path, CHANGE, size=400, scenes=2, seed=0)
    for split, name in (("train", "town_00000.tif"), ("val", "town_00001.tif")):
        label, _ = read(tmp_path / split / "label" / name)
        before, _ = read(tmp_path / split / "A" / name)
        after, _ = read(tmp_path / split / "B" / name)
        assert set(np.unique(label)) <= {0, 255}
        assert before.shape == after.shape == (3, 400, 400)
    assert label.max() == 255


def test_without_a_task_one_pair_comes_with_all_its_truth(tmp_path):
    simulate_pair(tmp_path / "pair", size=500, seed=0, crs="EPSG:3857")
    folder = tmp_path / "pair"
    before, profile = read(folder / "before_classes.tif")
    after, _ = read(folder / "after_classes.tif")
    change, _ = read(folder / "change.tif")
    np.testing.assert_array_equal(change == 1, (before != 1) & (after == 1))
    np.testing.assert_array_equal(change == 2, (before == 1) & (after != 1))
    truth = json.loads((folder / "truth.json").read_text())
    assert truth["seed"] == 0
    assert truth["simulated"] is True
    assert 0 not in truth["shift_px"]
    objects = geopandas.read_file(folder / "objects_before.gpkg")
    assert objects.crs == profile["crs"].to_wkt()
    rows, cols = rasterio.transform.rowcol(
        profile["transform"], objects.geometry.centroid.x, objects.geometry.centroid.y
    )
    assert min(rows) >= 0
    assert max(cols) < 500
    assert len(objects) == len(World(WorldSpec(seed=0, width=500, height=500)).objects())


def test_an_existing_file_is_kept_unless_told_otherwise(tmp_path):
    simulate_dataset(tmp_path, SEG, size=32, scenes=1, seed=1)
    old = (tmp_path / "train/images/town_00001.tif").read_bytes()
    with pytest.raises(OutputError, match=r"classes\.json exists.*--overwrite"):
        simulate_dataset(tmp_path, SEG, size=64, scenes=1, seed=1)
    assert (tmp_path / "train/images/town_00001.tif").read_bytes() == old
    simulate_dataset(tmp_path, SEG, size=64, scenes=1, seed=1, overwrite=True)
    assert read(tmp_path / "train/images/town_00001.tif")[1]["width"] == 64


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"size": 0}, "0 pixels"),
        ({"scenes": 0}, "0 scenes"),
        ({"gsd_m": 0}, "0 m a pixel"),
        ({"seed": -1}, "seed -1"),
        ({"crs": "EPSG:0"}, "EPSG:0"),
        ({"crs": "EPSG:4978"}, "no map"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_line(tmp_path, wrong, message):
    with pytest.raises(OutputError, match=message) as refusal:
        simulate_dataset(tmp_path, SEG, **{"size": 32, "scenes": 1} | wrong)
    assert "\n" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_a_failure_in_the_middle_leaves_no_raster_behind(tmp_path):
    class Stop(Silent):
        def advance(self, count=1, **figures):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(tmp_path, SEG, size=32, scenes=1, progress=Stop())
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_class_rasters_name_their_ids(tmp_path):
    simulate_pair(tmp_path / "pair", size=64)
    simulate_dataset(tmp_path / "seg", SEG, size=64)
    for path in (tmp_path / "pair" / "before_classes.tif", *tmp_path.glob("seg/*/masks/*.tif")):
        with rasterio.open(path) as raster:
            assert raster.tags(1)["CLASS_1"] == "building" and raster.tags(1)["CLASS_4"] == "water"
    with rasterio.open(tmp_path / "pair" / "change.tif") as raster:
        assert raster.tags(1)["CLASS_2"] == "torn down"
    with rasterio.open(tmp_path / "pair" / "before.tif") as raster:
        assert raster.tags(1) == {}


def files_in(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_another_seed_leaves_nothing_of_the_first(tmp_path):
    simulate_dataset(tmp_path / "a", SEG, size=32, scenes=3, seed=7)
    (tmp_path / "a" / "train" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="--overwrite"):
        simulate_dataset(tmp_path / "a", SEG, size=32, scenes=2, seed=1)
    simulate_dataset(tmp_path / "a", SEG, size=32, scenes=2, seed=1, overwrite=True)
    simulate_dataset(tmp_path / "b", SEG, size=32, scenes=2, seed=1)
    (tmp_path / "b" / "train" / "notes.txt").write_text("mine")
    assert files_in(tmp_path / "a") == files_in(tmp_path / "b")


def test_an_older_set_stays_until_the_new_one_is_drawn(tmp_path):
    class Stop(Silent):
        def start(self, label, *, total, unit):
            self.left = total - 1

        def advance(self, count=1, **figures):
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt

    simulate_dataset(tmp_path, SEG, size=32, scenes=2, seed=7)
    old = files_in(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        simulate_dataset(tmp_path, SEG, size=32, scenes=2, seed=1, overwrite=True, progress=Stop())
    assert files_in(tmp_path) == old


@pytest.mark.parametrize("limit", [500, 2_000, 20_000, 60_000])
def test_a_full_disk_is_told_and_leaves_no_file(tmp_path, limit):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"cannot be written") as told:
            simulate_pair(tmp_path / "pair", size=200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(told.value)
    assert not files_in(tmp_path)


def test_towns_to_train_from_need_no_geopandas(tmp_path):
    script = (
        "import sys; sys.modules['geopandas'] = None\n"
        "from lemevit_cli.cli import app\n"
        f"app(['simulate', {str(tmp_path / 'towns')!r}, '--task', 'seg', '--size', '64', '-q'])"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)
    assert len(list((tmp_path / "towns").rglob("*.tif"))) == 8
