"""Every class that the data name is counted; why one has nothing is found out, not guessed."""

import json

import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from rasterio.features import rasterize

from lemevit_cli.tasks.change.data import PAIRS
from lemevit_cli.tasks.classification.data import WINDOWS
from lemevit_cli.tasks.detection.data import BOXES
from lemevit_cli.training.options import DataOptions, LabelledScene
from lemevit_cli.training.pixel_data import PIXELS
from lemevit_cli.training.sources import open_sources

GRID = Affine(30, 0, 500_000, 0, -30, 5_538_000)
SIDE = 96
FOREST = [shapely.box(5, 5, 60, 60), shapely.box(70, 10, 90, 40)]
BETWEEN = [shapely.box(c + 0.55, c + 0.55, c + 0.9, c + 0.9) for c in range(62, 80, 3)]


@pytest.fixture
def open_scene_of(write_scene, write_polygons, on_map):
    """Return a function that opens a scene, its left sixteen columns nodata, with polygons."""

    def make(shapes, names, *, val_fraction=0.0, **how):
        pixels = np.random.default_rng(0).integers(60, 200, (3, SIDE, SIDE)).astype(np.uint8)
        pixels[:, :, :16] = 0
        scene = write_scene(pixels, transform=GRID, nodata=0)
        labels = write_polygons(on_map(shapes, GRID), kind=names)
        labelled = LabelledScene(scene=scene, labels=labels, label_field="kind", **how)
        data = DataOptions(scenes=(labelled,), val_fraction=val_fraction)
        return open_sources(data, crop=32, openers=PIXELS)

    return make


def expected_counts(shapes, ids, *, all_touched=False):
    drawn = rasterize(
        zip(shapes, ids, strict=True), out_shape=(SIDE, SIDE), all_touched=all_touched
    )
    return np.bincount(drawn[:, 16:].ravel(), minlength=3).tolist()


def test_a_class_too_small_for_the_grid_is_warned_of(open_scene_of):
    sources = open_scene_of(FOREST + BETWEEN, ["forest"] * 2 + ["house"] * 6)
    background, forest, house = expected_counts(FOREST + BETWEEN, [1] * 2 + [2] * 6)
    assert house == 0
    (line,) = [n for n in sources.notes if "by class" in n]
    assert f"background {background:,}, forest {forest:,} (2 polygons), house 0" in line
    assert line.endswith("house 0 (6 polygons)")
    (warning,) = sources.warnings
    assert warning.startswith("house (6 polygons): no pixels to train on, they are too small")
    assert "--all-touched" in warning
    assert any("house 6 of 6" in note for note in sources.notes)


def test_all_touched_serves_small_objects(open_scene_of):
    shapes = FOREST + BETWEEN
    sources = open_scene_of(shapes, ["forest"] * 2 + ["house"] * 6, all_touched=True)
    expected = expected_counts(shapes, [1] * 2 + [2] * 6, all_touched=True)
    assert sources.cells[0].counts.sum(axis=0).tolist() == expected
    assert expected[2] >= 6 and sources.warnings == ()
    assert not any("centre" in note for note in sources.notes)


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (shapely.box(3, 70, 9, 80), "where there is no data"),
        (shapely.box(20, 20, 30, 30), "under later polygons"),
    ],
)
def test_the_reason_is_that_of_the_place(open_scene_of, shape, reason):
    sources = open_scene_of([shape, *FOREST], ["house", "forest", "forest"])
    (warning,) = sources.warnings
    assert warning.startswith("house (1 polygon): no pixels to train on, ") and reason in warning


def test_a_class_beside_the_scene_is_told(open_scene_of):
    sources = open_scene_of([*FOREST, shapely.box(500, 5, 520, 20)], ["forest", "forest", "pond"])
    assert "pond" not in sources.classes and sources.warnings == ()
    assert any("none of pond touches" in note for note in sources.notes)


def test_polygons_over_all_of_it_leave_no_background(open_scene_of):
    sources = open_scene_of([shapely.box(-5, -5, 99, 99)], ["forest"])
    (warning,) = sources.warnings
    assert warning.startswith("background: no pixels to train on, polygons cover all")


def test_a_class_of_a_rasters_legend_without_a_pixel_is_warned_of(write_scene):
    pixels = np.random.default_rng(0).integers(60, 200, (3, SIDE, SIDE)).astype(np.uint8)
    ids = np.zeros((1, SIDE, SIDE), np.uint8)
    ids[:, 30:50, 30:50] = 2
    scene, labels = (
        write_scene(array, name, transform=GRID)
        for array, name in ((pixels, "s.tif"), (ids, "l.tif"))
    )
    with rasterio.open(labels, "r+") as raster:
        raster.update_tags(1, CLASS_0="land", CLASS_1="road", CLASS_2="water")
    data = DataOptions(scenes=(LabelledScene(scene=scene, labels=labels),), val_fraction=0.0)
    sources = open_sources(data, crop=32, openers=PIXELS)
    (warning,) = sources.warnings
    assert warning.startswith("road: no pixels to train on, ") and "l.tif names it" in warning
    assert any(f"land {SIDE**2 - 400:,}, water 400, road 0" in note for note in sources.notes)


def write_folder(write_scene, folder, masks, *, pairs=False):
    dates, kind = (("A", "B"), "label") if pairs else (("images",), "masks")
    for split, mask in masks.items():
        for place in (*dates, kind):
            (folder / split / place).mkdir(parents=True)
        for date in dates:
            pixels = np.random.default_rng(1).integers(1, 250, (3, *mask.shape)).astype(np.uint8)
            write_scene(pixels, folder / split / date / "a.tif")
        write_scene(mask[None], folder / split / kind / "a.tif")
    return str(folder)


def masks_of(train, val, side=64):
    masks = {split: np.zeros((side, side), np.uint8) for split in ("train", "val")}
    masks["train"][:8, :8], masks["val"][:8, :8] = train, val
    return masks


def test_a_class_of_classes_json_without_a_pixel_is_warned_of(write_scene, tmp_path):
    folder = write_folder(write_scene, tmp_path / "town", masks_of(1, 2))
    names = {"classes": ["land", "road", "water", "rail"], "ignore_index": None}
    (tmp_path / "town" / "classes.json").write_text(json.dumps(names))
    sources = open_sources(DataOptions(paths=(folder,)), crop=32, openers=PIXELS)
    assert any(f"land {64**2 - 64:,}, road 64, water 0, rail 0" in n for n in sources.notes)
    water, rail = sources.warnings
    assert water.startswith("water: ") and "only in what is held back" in water
    assert rail.startswith("rail: no pixels to train on, none is there")


def test_training_pairs_without_a_changed_pixel_are_warned_of(write_scene, tmp_path):
    folder = write_folder(write_scene, tmp_path / "pairs", masks_of(0, 1), pairs=True)
    (warning,) = open_sources(DataOptions(paths=(folder,)), crop=32, openers=PAIRS).warnings
    assert warning.startswith("changed: no pixels to train on, only in what is held back")


def test_a_named_class_without_an_object_is_warned_of(write_scene, tmp_path):
    for split in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / "boats" / kind / split).mkdir(parents=True)
        pixels = np.random.default_rng(1).integers(1, 250, (3, 64, 64)).astype(np.uint8)
        write_scene(pixels, tmp_path / "boats" / "images" / split / "a.tif")
        corners = "0.1 0.1 0.5 0.1 0.5 0.3 0.1 0.3"
        (tmp_path / "boats" / "labels" / split / "a.txt").write_text(f"0 {corners}\n")
    (tmp_path / "boats" / "data.yaml").write_text("names: [ship, plane]\n")
    data = DataOptions(paths=(str(tmp_path / "boats"),))
    sources = open_sources(data, crop=32, openers=BOXES)
    assert any("objects by class: ship 1, plane 0" in note for note in sources.notes)
    (warning,) = sources.warnings
    assert warning.startswith("plane: no objects to train on")


def test_pictures_are_counted_by_class(write_scene, tmp_path):
    for split, name, number in [("train", "farm", 3), ("train", "port", 1), ("val", "farm", 1)]:
        (tmp_path / "places" / split / name).mkdir(parents=True)
        for i in range(number):
            pixels = np.random.default_rng(i).integers(1, 250, (3, 40, 40)).astype(np.uint8)
            write_scene(pixels, tmp_path / "places" / split / name / f"{i}.tif")
    data = DataOptions(paths=(str(tmp_path / "places"),))
    sources = open_sources(data, crop=32, openers=WINDOWS)
    assert any("pictures by class: farm 3, port 1" in note for note in sources.notes)
