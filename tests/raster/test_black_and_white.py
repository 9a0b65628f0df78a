"""255 means one thing in every command: class 1 where only 0 lies beside it, else no class."""

import json

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.features import rasterize
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.errors import DataError, SceneError
from lemevit_cli.raster.class_raster import NO_WHITE, ClassRaster, find_ids, white_of
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.scenes import open_labelled_scene
from lemevit_cli.training.options import LabelledScene

GRID = Affine(0.5, 0, 500_000, 0, -0.5, 5_500_100)
HOUSES = [
    shapely.box(500010 + 25 * i, 5500010 + 25 * j, 500026 + 25 * i, 5500022 + 25 * j)
    for i in range(3)
    for j in range(3)
]
SHIFT = Affine.translation(0.3, 0.3)  # no corner on an edge of a pixel
CLASSES = ("--classes", "background,building")


def burn(houses):
    shapes = [(house, 1) for house in houses]
    return rasterize(shapes, out_shape=(200, 200), transform=GRID, dtype="uint8")


TRUTH, HALF = burn(HOUSES), burn(HOUSES[:4])
IOU = float((TRUTH & HALF).sum() / (TRUTH | HALF).sum())


@pytest.fixture
def write_mask(write_scene):
    def write(values, name, **profile):
        return write_scene(values[None], name, transform=GRID, **profile)

    return write


@pytest.fixture
def houses(tmp_path):
    table = geopandas.GeoDataFrame({"class": ["building"] * 9}, geometry=HOUSES, crs=32633)
    table.to_file(tmp_path / "houses.gpkg")
    return str(tmp_path / "houses.gpkg")


def score(*arguments):
    run = CliRunner().invoke(app, ["score", *map(str, arguments), "--json"])
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)


@pytest.mark.parametrize(
    ("values", "profile", "expected"),
    [
        (TRUTH * 255, {}, 255),
        (np.full_like(TRUTH, 255), {}, 255),
        ((TRUTH * 255).astype("uint16"), {}, 255),
        ((TRUTH * 255).astype("float32"), {}, 255),
        (TRUTH * 255, {"nodata": 0}, 255),
        (TRUTH * 255, {"nodata": 255}, NO_WHITE),
        (TRUTH, {}, NO_WHITE),
        (TRUTH * 0, {}, NO_WHITE),
        (np.where(TRUTH == 1, 255, 3).astype("uint8"), {}, NO_WHITE),
    ],
)
def test_255_is_a_class_only_beside_0_alone(write_mask, values, profile, expected):
    with open_scene(write_mask(values, "m.tif", **profile)) as raster:
        assert white_of(raster) == expected


def test_a_value_in_the_last_corner_decides(write_scene):
    values = np.zeros((1, 2100, 2100), np.uint8)
    values[0, 0, 0] = 255
    values[0, -1, -1] = 1
    with open_scene(write_scene(values, "m.tif")) as raster:
        assert white_of(raster) == NO_WHITE


def test_named_ids_leave_255_without_a_class(write_mask):
    path = write_mask(TRUTH * 255, "m.tif")
    with rasterio.open(path, "r+") as raster:
        raster.update_tags(1, CLASS_0="background", CLASS_1="building")
    with open_scene(path) as raster:
        assert white_of(raster) == NO_WHITE


@pytest.mark.parametrize(("found", "iou"), [(HALF * 255, IOU), (TRUTH * 0, 0.0), (HALF, IOU)])
def test_score_of_classes_sees_both_classes(write_mask, found, iou):
    figures = score(write_mask(found, "f.tif"), write_mask(TRUTH * 255, "t.tif"), *CLASSES)
    assert figures["classes"]["building"]["iou"] == pytest.approx(iou)
    assert figures["pixels"] == 200 * 200


def test_score_against_polygons_and_another_grid_sees_both_classes(write_mask, houses, write_scene):
    right = write_mask(TRUTH * 255, "right.tif")
    figures = score(right, houses, "--class", "building", *CLASSES)
    assert figures["classes"]["building"]["iou"] == pytest.approx(1.0, abs=0.01)
    fine = np.kron(TRUTH * 255, np.ones((2, 2), np.uint8))
    truth = write_scene(fine[None], "fine.tif", transform=GRID @ Affine.scale(0.5))
    figures = score(write_mask(HALF, "half.tif"), truth, *CLASSES)
    assert figures["classes"]["building"]["iou"] == pytest.approx(IOU)


def test_score_of_change_leaves_out_255_beside_other_values(write_mask, tmp_path):
    truth = TRUTH.copy()
    truth[:40] = 255
    changed = [{"id": i, "class": "changed", "score": 1.0} for i in range(9)]
    table = geopandas.GeoDataFrame(changed, geometry=HOUSES, crs=32633)
    table[["before", "after"]] = "x"
    table.to_file(tmp_path / "found.gpkg")
    figures = score(tmp_path / "found.gpkg", write_mask(truth, "t.tif"))
    assert figures["iou"] == 1.0 and figures["pixels"] == (truth != 255).sum()
    figures = score(tmp_path / "found.gpkg", write_mask(HALF * 255, "h.tif"))
    assert figures["iou"] == pytest.approx(IOU) and figures["pixels"] == 200 * 200


def test_training_reads_what_score_reads(write_mask, write_scene):
    pixels = np.random.default_rng(0).integers(1, 250, (3, 200, 200)).astype(np.uint8)
    scene = write_scene(pixels, "s.tif", transform=GRID)
    labelled = LabelledScene(scene=scene, labels=write_mask(TRUTH * 255, "t.tif"), split="train")
    parts = open_labelled_scene(labelled, Division(crop=64))
    assert parts.training.classes == ("class_0", "class_1")
    counts = parts.training.count_classes().counts.sum(axis=0)
    assert counts.tolist() == np.bincount(TRUTH.ravel()).tolist()
    assert any("255 is taken for class 1" in note for note in parts.notes)


def test_names_that_training_gives_ids_are_those_of_score(write_mask):
    """Weights of a raster of ids 10 and 20 write ids 0 and 1 called class_10 and class_20."""
    found = write_mask(HALF, "found.tif", nodata=255)
    with rasterio.open(found, "r+") as raster:
        raster.update_tags(1, CLASS_0="class_10", CLASS_1="class_20")
    figures = score(found, write_mask(np.where(TRUTH == 1, 20, 10).astype(np.uint8), "t.tif"))
    assert list(figures["classes"]) == ["class_10", "class_20"]
    assert figures["classes"]["class_20"]["iou"] == pytest.approx(IOU)


def test_quicklook_draws_white_as_a_class(write_mask, write_scene, tmp_path):
    pixels = np.random.default_rng(0).integers(1, 250, (3, 200, 200)).astype(np.uint8)
    scene = write_scene(pixels, "s.tif", transform=GRID)
    pictures = []
    for name, values in (("bw", TRUTH * 255), ("ids", TRUTH)):
        target = tmp_path / f"{name}.png"
        mask = write_mask(values, "mask.tif")
        run = CliRunner().invoke(app, ["quicklook", mask, "--over", scene, "-o", str(target)])
        assert run.exit_code == 0, run.stderr
        pictures.append(np.asarray(Image.open(target).convert("RGB")))
    np.testing.assert_array_equal(*pictures)


def test_all_touched_counts_what_polygons_touch(write_mask, houses):
    shapes = [(house, 1) for house in HOUSES]
    wide = rasterize(shapes, (200, 200), transform=GRID @ SHIFT, all_touched=True, dtype="uint8")
    thin = rasterize(shapes, (200, 200), transform=GRID @ SHIFT, dtype="uint8")
    assert wide.sum() > thin.sum()
    found = write_mask(wide, "wide.tif")
    with rasterio.open(found, "r+") as raster:
        raster.transform = GRID @ SHIFT
    how = (found, houses, "--class", "building", *CLASSES)
    assert score(*how, "--all-touched")["classes"]["building"]["iou"] == 1.0
    assert score(*how)["classes"]["building"]["iou"] == pytest.approx(thin.sum() / wide.sum())
    run = CliRunner().invoke(app, ["score", found, found, *CLASSES, "--all-touched"])
    assert run.exit_code == 1 and "polygons against a raster" in run.stderr


def as_jpeg(path, values):
    """Write a mask as JPEG of a poor quality, and return its path."""
    Image.fromarray(values).save(path, quality=40)
    return str(path)


ROOFS = np.zeros((48, 64), np.uint8)
ROOFS[11:31, 13:37] = 1


def test_a_mask_in_jpeg_is_read_by_its_middle_in_every_command(tmp_path, write_mask):
    lossy = as_jpeg(tmp_path / "lossy.jpg", ROOFS * 255)
    assert set(np.unique(np.array(Image.open(lossy))).tolist()) - {0, 255}
    truth = write_mask(ROOFS, "truth.tif")
    figures = score(lossy, truth, *CLASSES)
    assert figures["classes"]["building"]["iou"] == 1
    assert score(truth, lossy, *CLASSES)["classes"]["building"]["iou"] == 1
    with open_scene(lossy) as scene:
        assert white_of(scene) == 128
        assert find_ids(scene) == ((0, 1), 128)
        assert (ClassRaster(scene, 128).read(scene.window) == ROOFS).all()
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            (tmp_path / "data" / split / kind).mkdir(parents=True)
        as_jpeg(tmp_path / "data" / split / "images" / "a.jpg", ROOFS * 90)
        as_jpeg(tmp_path / "data" / split / "masks" / "a.jpg", ROOFS * 255)
    source = open_folder(tmp_path / "data", "train")
    assert (source.read_ids(source.sites[0], source.sites[0].core) == ROOFS).all()
    (tmp_path / "data" / "classes.json").write_text('{"classes": ["a", "b", "c"]}')
    with pytest.raises(DataError, match="blurs class ids"):
        open_folder(tmp_path / "data", "train")


def test_class_ids_in_jpeg_and_blurred_masks_in_png_are_one_line(tmp_path, write_mask):
    three = ROOFS * 2
    three[40:, :30] = 1
    grey = ROOFS * 255
    grey[33:, :] = 120
    for values in (three, grey):
        with (
            open_scene(as_jpeg(tmp_path / "x.jpg", values)) as scene,
            pytest.raises(SceneError, match="blurs class ids"),
        ):
            white_of(scene)
    blurred = np.array(Image.open(as_jpeg(tmp_path / "y.jpg", ROOFS * 255)))
    with (
        open_scene(write_mask(blurred, "x.tif")) as scene,
        pytest.raises(SceneError, match=r"holds 0, 255 and \d+ values between"),
    ):
        white_of(scene)


def test_ids_without_names_are_read_once(write_mask, monkeypatch):
    path = write_mask(TRUTH * 3, "m.tif")
    read = []
    with open_scene(path) as scene:
        whole = type(scene).read
        monkeypatch.setattr(
            type(scene), "read", lambda self, window: read.append(window) or whole(self, window)
        )
        assert find_ids(scene) == ((0, 3), NO_WHITE)
    assert len(read) == 1
