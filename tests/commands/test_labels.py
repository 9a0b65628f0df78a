import json

import geopandas
import numpy as np
import pyproj
import pytest
import rasterio
import shapely
from affine import Affine
from making.box_folders import HEIGHT, WIDTH, coco, picture, read, rectangle, text
from PIL import Image
from typer.testing import CliRunner

from lemevit_cli.cli import app
from lemevit_cli.legend import classes_from_names

SHIP, PLANE = rectangle(40, 30, 20, 8, 30), rectangle(20, 20, 12, 6, 100)
TRANSFORM = Affine.translation(500_000, 5_600_000) @ Affine.scale(0.5, -0.5)


def invoke(*arguments):
    return CliRunner().invoke(app, ["labels", *map(str, arguments)])


def record_of(*arguments):
    run = invoke(*arguments, "--json")
    assert run.exit_code == 0, run.stderr
    return json.loads(run.stdout)


def dota_line(corners, name, difficult=0):
    return f"{' '.join(f'{v:.3f}' for v in corners.ravel())} {name} {difficult}"


@pytest.fixture
def dota(tmp_path):
    """Return a folder of DOTA's: two pictures to train on, one to validate on."""
    root = tmp_path / "dota"
    for split, name, lines in (
        ("train", "a", [dota_line(SHIP, "ship"), dota_line(PLANE, "air plane".replace(" ", "-"))]),
        ("train", "b", []),
        ("val", "c", [dota_line(SHIP, "ship"), dota_line(PLANE, "ship", 1)]),
    ):
        picture(root / split / "images" / f"{name}.png")
        text(root / split / "labelTxt" / f"{name}.txt", "gsd:0.25", *lines)
    return root


def place_on_map(path, crs="EPSG:32633"):
    """Write a grey scene on the map, pixels of 0.5 m."""
    path.parent.mkdir(parents=True, exist_ok=True)
    profile = {"width": WIDTH, "height": HEIGHT, "count": 3, "dtype": "uint8"}
    with rasterio.open(
        path, "w", driver="GTiff", crs=crs, transform=TRANSFORM, **profile
    ) as raster:
        raster.write(np.full((3, HEIGHT, WIDTH), 90, np.uint8))


def test_json_holds_formats_pictures_classes_counts_and_sizes(dota):
    record = record_of(dota)
    assert record["task"] == "det"
    (data,) = record["data"]
    assert data["format"] == "DOTA"
    assert data["splits"] == {
        "train": {"pictures": 2, "objects": 2},
        "val": {"pictures": 1, "objects": 1},
    }
    ship = record["classes"]["ship"]
    assert (ship["labels"], ship["train"], ship["val"], ship["difficult"]) == (2, 1, 1, 1)
    # The difficult one is not measured.
    assert ship["length_px"] == pytest.approx(20, abs=0.01)
    assert ship["width_px"] == pytest.approx(8, abs=0.01)
    assert ship["length_m"] == pytest.approx(20 * 0.25, abs=0.01)
    assert record["classes"]["air-plane"]["labels"] == 1
    assert (record["labels"], record["difficult"]) == (3, 1)
    assert record["pictures"] == {
        "count": 3, "smallest": [80, 60], "median": [80, 60], "largest": [80, 60]
    }  # fmt: skip


def test_a_table_is_for_people(dota):
    run = invoke(dota)
    assert run.exit_code == 0, run.stderr
    assert "DOTA: train 2 pictures, 2 objects; val 1 pictures, 1 objects" in run.stdout
    (row,) = [line.split() for line in run.stdout.splitlines() if line.startswith("ship")]
    assert row == ["ship", "2", "1", "1", "1", "20.0", "8.0", "5.0", "2.0"]
    assert "--task det" in run.stderr


@pytest.mark.parametrize(
    ("target", "options"),
    [("yolo", ["--format", "YOLO"]), ("coco", ["--format", "coco"]), ("again/", [])],
)
def test_boxes_stay_the_same_in_every_format(dota, tmp_path, target, options):
    run = invoke(dota, "-o", tmp_path / target, *options)
    assert run.exit_code == 0, run.stderr
    boxes, names, _ = read(dota)
    other_boxes, other_names, _ = read(tmp_path / target)
    np.testing.assert_allclose(other_boxes, boxes, atol=0.011)
    assert other_names == names and len(names) == 2
    first, second = record_of(dota), record_of(tmp_path / target)
    assert second["labels"] >= first["labels"] == 3
    assert list(second["data"][0]["splits"]) == ["train", "val"]


@pytest.mark.parametrize("kind", ["dota", "yolo"])
def test_a_mask_beside_a_picture_goes_along(dota, tmp_path, kind):
    (dota / "train" / "images" / "a.png").unlink()
    scene = dota / "train" / "images" / "a.tif"
    place_on_map(scene)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=False), rasterio.open(scene, "r+") as raster:
        raster.write_mask(np.arange(WIDTH)[None].repeat(HEIGHT, axis=0) >= 9)
    assert scene.with_name("a.tif.msk").is_file()
    run = invoke(dota, "-o", f"{tmp_path / 'again'}/", "--format", kind)
    assert run.exit_code == 0, run.stderr
    (copy,) = (tmp_path / "again").rglob("a.tif")
    with rasterio.open(copy) as raster:
        mask = raster.dataset_mask()
    assert (mask[:, :9] == 0).all() and (mask[:, 9:] == 255).all()


def test_what_a_format_cannot_hold_is_told(dota, tmp_path):
    run = invoke(dota, "-o", tmp_path / "yolo", "--format", "yolo-obb")
    assert "YOLO: 1 objects lose their mark of being difficult" in run.stderr
    run = invoke(dota, "-o", tmp_path / "coco.json")
    assert run.exit_code == 0 and "lose" not in run.stderr
    assert record_of(tmp_path / "coco.json")["difficult"] == 1


@pytest.mark.parametrize(
    ("names", "line"),
    [(["0", "ship"], "no number, as '0' is"), (["air plane", "air-plane"], "would be one class")],
)
def test_classes_that_dota_cannot_hold_are_refused(tmp_path, names, line):
    picture(tmp_path / "yolo/train/images/a.png")
    text(tmp_path / "yolo/train/labels/a.txt", "0 0.5 0.5 0.2 0.2", "1 0.2 0.2 0.1 0.1")
    text(tmp_path / "yolo/data.yaml", f"names: {json.dumps(names)}", "train: train/images")
    run = invoke("--task", "det", tmp_path / "yolo", "-o", tmp_path / "dota")
    assert run.exit_code == 1 and line in run.stderr and run.stderr.count("\n") == 1
    assert not (tmp_path / "dota").exists()


def test_crowds_and_outlines_are_told_and_kept_where_they_can_be(tmp_path):
    triangle = [10, 10, 40, 10, 10, 40]
    root = coco(
        tmp_path / "coco",
        [
            {"segmentation": [triangle]},
            {"bbox": [50, 20, 20, 10], "iscrowd": 1},
            {"bbox": [5, 5, 0, 0]},
        ],
    )
    picture(root / "a.png")
    record = record_of(root)
    reasons = {f["reason"]: (f["count"], f["first"]) for f in record["ignored"]}
    assert record["labels"] == 1 and len(reasons) == 2
    for part, place in (("without area", "annotation 3"), ("of no class", "annotation 2")):
        ((count, first),) = [v for reason, v in reasons.items() if part in reason]
        assert count == 1 and place in first
    run = invoke(root, "-o", tmp_path / "texts")
    assert "DOTA: 1 areas to be ignored are left out" in run.stderr
    assert "DOTA: 1 outlines are written as the smallest rectangle around them" in run.stderr
    assert invoke(root, "-o", tmp_path / "again.json").exit_code == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert [a["iscrowd"] for a in again["annotations"]] == [0, 1]
    assert again["annotations"][0]["area"] == pytest.approx(30 * 30, abs=0.01)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["DOTA", "YOLO", "COCO"])
def test_pictures_shown_otherwise_than_stored_keep_their_boxes(tmp_path, form, orientation):
    root = tmp_path / "dota"
    picture(root / "train" / "images" / "a.jpg", orientation=orientation)
    text(root / "train" / "labelTxt" / "a.txt", dota_line(rectangle(28, 25, 20, 8, 30), "ship"))
    assert invoke(root, "-o", tmp_path / "other", "--format", form).exit_code == 0
    np.testing.assert_allclose(read(tmp_path / "other")[0], read(root)[0], atol=0.011)


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb"])
def test_a_layer_holds_the_same_boxes_as_the_pictures(tmp_path, suffix):
    root = tmp_path / "dota"
    place_on_map(root / "train" / "images" / "a.tif")
    lines = [dota_line(SHIP, "ship"), dota_line(PLANE, "plane", 1)]
    text(root / "train" / "labelTxt" / "a.txt", *lines)
    target = tmp_path / f"boxes{suffix}"
    run = invoke(root, "-o", target)
    assert run.exit_code == 0, run.stderr
    layer = geopandas.read_file(target).to_crs("EPSG:32633").set_index("class")
    assert layer.loc["plane", "difficult"] == 1 and layer.loc["ship", "split"] == "train"
    for name, corners in (("ship", SHIP), ("plane", PLANE)):
        on_map = shapely.Polygon([TRANSFORM @ tuple(corner) for corner in corners])
        other = layer.loc[name, "geometry"]
        assert shapely.area(shapely.symmetric_difference(on_map, other)) < 0.02 * on_map.area
    scene = root / "train" / "images" / "a.tif"
    record = record_of("--scene", scene, "--labels", target, "--label-field", "class")
    assert record["task"] == "det"
    ship = record["classes"]["ship"]
    assert ship["length_px"] == pytest.approx(20, abs=0.02)
    assert ship["length_m"] == pytest.approx(10, abs=0.02)


def test_boxes_of_a_scene_become_texts(tmp_path):
    scene, layer = tmp_path / "scene.tif", tmp_path / "boxes.gpkg"
    place_on_map(scene)
    on_map = shapely.Polygon([TRANSFORM @ tuple(corner) for corner in SHIP])
    geopandas.GeoDataFrame({"kind": ["ship"]}, geometry=[on_map], crs="EPSG:32633").to_file(layer)
    of_scene = ["--scene", scene, "--labels", layer, "--label-field", "kind"]
    assert invoke(*of_scene, "-o", tmp_path / "scene.txt").exit_code == 0
    gsd, line = (tmp_path / "scene.txt").read_text().splitlines()
    assert gsd.startswith("gsd:0.5") and line.endswith(" ship 0")
    written = shapely.Polygon(np.reshape([float(v) for v in line.split()[:8]], (4, 2)))
    own = shapely.Polygon(SHIP)
    assert shapely.area(shapely.symmetric_difference(written, own)) < 0.01 * own.area


def test_a_bad_label_is_an_error_or_named_among_the_ignored(dota):
    text(dota / "train" / "labelTxt" / "b.txt", "1 2 3 four")
    run = invoke(dota)
    assert run.exit_code == 1 and "b.txt, line 1" in run.stderr
    record = record_of(dota, "--skip-bad-labels")
    ((count, first),) = [(f["count"], f["first"]) for f in record["ignored"]]
    assert count == 1 and "b.txt, line 1" in first


def test_targets_appear_whole_or_not_at_all(dota, tmp_path):
    target = tmp_path / "coco.json"
    target.write_text("mine")
    run = invoke(dota, "-o", target)
    assert run.exit_code == 1 and "--overwrite" in run.stderr and target.read_text() == "mine"
    assert invoke(dota, "-o", target, "--overwrite").exit_code == 0
    assert json.loads(target.read_text())["images"]
    folder = tmp_path / "yolo"
    assert invoke(dota, "-o", folder, "--format", "YOLO").exit_code == 0
    assert invoke(dota, "-o", folder).exit_code == 1
    assert invoke(dota, "-o", folder, "--overwrite").exit_code == 0
    assert (folder / "train" / "labelTxt").is_dir() and not (folder / "data.yaml").exists()
    # A folder with pictures of somebody is never removed.
    run = invoke(folder, "-o", dota, "--overwrite")
    assert run.exit_code == 1 and "texts and links alone" in run.stderr
    assert (dota / "train" / "images" / "a.png").is_file()
    assert not list(tmp_path.glob(".*part*"))


def test_a_layer_of_pictures_that_lie_on_no_map_is_refused(dota, tmp_path):
    run = invoke(dota, "-o", tmp_path / "boxes.gpkg")
    assert run.exit_code == 1 and "a layer is one map" in run.stderr
    assert not (tmp_path / "boxes.gpkg").exists()


def test_masks_are_counted_by_pixels(tmp_path):
    ids = np.zeros((48, 64), np.uint8)
    ids[:10, :20], ids[40:] = 1, 255
    for split in ("train", "val"):
        picture(tmp_path / "data" / split / "images" / "a.png", (64, 48))
        (tmp_path / "data" / split / "masks").mkdir()
        Image.fromarray(ids).save(tmp_path / "data" / split / "masks" / "a.png")
    (tmp_path / "data" / "classes.json").write_text(
        '{"classes": ["land", "road"], "ignore_index": 255}'
    )
    record = record_of(tmp_path / "data")
    assert record["task"] == "seg" and record["unit"] == "pixels"
    road, land = record["classes"]["road"], record["classes"]["land"]
    assert (road["train"], road["val"]) == (200, 200)
    assert land["labels"] == 2 * (40 * 64 - 200)
    assert record["ignored"][0]["count"] == 2 * 8 * 64
    run = invoke(tmp_path / "data", "-o", tmp_path / "x.json")
    assert run.exit_code == 1 and "labels of boxes" in run.stderr


def test_pictures_of_classes_are_counted(tmp_path):
    for name, count in (("forest", 5), ("harbour", 2)):
        for i in range(count):
            picture(tmp_path / "data" / name / f"{i}.png")
    record = record_of(tmp_path / "data")
    assert (record["task"], record["unit"]) == ("cls", "pictures")
    assert record["classes"]["forest"]["labels"] == 5
    assert record["classes"]["harbour"]["labels"] == 2
    assert record["pictures"]["count"] == 7


def test_a_sheet_shows_the_boxes_that_were_read(dota, tmp_path):
    text(dota / "classes.json", json.dumps({"classes": ["ship", "air-plane"]}))
    color = classes_from_names(["ship"])[0].color

    def count_pixels(*options):
        run = invoke(dota, "--task", "det", "--png", tmp_path / "sheet.png", *options)
        assert run.exit_code == 0, run.stderr
        with Image.open(tmp_path / "sheet.png") as sheet:
            return (np.asarray(sheet.convert("RGB")) == color).all(axis=-1).sum()

    with_boxes = count_pixels()
    run = invoke(dota, "--png", tmp_path / "sheet.png")
    assert run.exit_code == 1 and "--overwrite" in run.stderr
    for place in dota.glob("*/labelTxt/*.txt"):
        text(place)
    of_the_legend = count_pixels("--overwrite")
    assert with_boxes > of_the_legend > 0


def test_lists_join_folders_and_name_their_classes(dota, tmp_path):
    listing = tmp_path / "sources.toml"
    listing.write_text(
        '[[source]]\nfolder = "dota"\nrename = { air-plane = "plane" }\n'
        '[[source]]\nfolder = "dota"\ndrop = ["ship"]\n'
    )
    record = record_of(listing)
    assert [data["format"] for data in record["data"]] == ["DOTA", "DOTA"]
    labels = {name: figures["labels"] for name, figures in record["classes"].items()}
    assert labels == {"plane": 1, "ship": 2, "air-plane": 1}
    assert [f["count"] for f in record["ignored"] if "of no class" in f["reason"]] == [3]


def test_polygons_of_a_scene_are_counted_by_pixels(tmp_path):
    place_on_map(tmp_path / "scene.tif")
    field = shapely.Polygon([TRANSFORM @ xy for xy in [(10, 10), (40, 10), (40, 30), (10, 30)]])
    wedge = shapely.Polygon([TRANSFORM @ xy for xy in [(50, 10), (70, 10), (50, 50)]])
    layer = geopandas.GeoDataFrame(
        {"kind": ["field", "wedge"]}, geometry=[field, wedge], crs="EPSG:32633"
    )
    layer.to_file(tmp_path / "fields.gpkg")
    of_scene = ["--scene", tmp_path / "scene.tif", "--labels", tmp_path / "fields.gpkg"]
    record = record_of(*of_scene, "--label-field", "kind")
    assert record["task"] == "seg"
    assert record["classes"]["field"]["labels"] == 30 * 20
    assert record["labels"] == WIDTH * HEIGHT
    counts = {name: figures["polygons"] for name, figures in record["classes"].items()}
    assert counts == {"background": None, "field": 1, "wedge": 1}
    [lonlat] = layer.geometry[:1].to_crs(4326)
    area, _ = pyproj.Geod(ellps="WGS84").geometry_area_perimeter(lonlat)
    assert record["classes"]["field"]["area_m2"] == pytest.approx(abs(area), rel=1e-4)


def test_splits_for_scoring_alone_are_counted_too(tmp_path):
    ids = np.zeros((48, 64), np.uint8)
    ids[:10, :20] = 1
    for split in ("train", "val", "test", "broken"):
        picture(tmp_path / "data" / split / "images" / "a.png", (64, 48))
        (tmp_path / "data" / split / "masks").mkdir()
        Image.fromarray(ids).save(tmp_path / "data" / split / "masks" / "a.png")
    (tmp_path / "data" / "broken" / "masks" / "a.png").rename(tmp_path / "elsewhere.png")
    (tmp_path / "data" / "notes").mkdir()
    run = invoke(tmp_path / "data")
    assert run.exit_code == 0, run.stderr
    assert "train 1 pictures; val 1 pictures; test 1 pictures" in run.stdout
    assert "the split broken cannot be scored on" in run.stdout
    record = record_of(tmp_path / "data")
    road = record["classes"]["class_1"]
    assert (road["train"], road["test"], road["others"], road["labels"]) == (200, 200, 200, 600)
    assert road["area_m2"] is None and road["polygons"] is None
    for split in ("train", "val", "test"):
        for name in ("field", "wood"):
            picture(tmp_path / "classes" / split / name / "a.png")
    table = tmp_path / "table.csv"
    table.write_text(
        "path;class;split\n" + "".join(f"classes/{s}/{c}/a.png;{c};{t}\n"
        for c in ("field", "wood") for s, t in (("train", "train"), ("val", "holdout")))
    )  # fmt: skip
    for place, split in ((tmp_path / "classes", "test"), (table, "holdout")):
        record = record_of(place, "--task", "cls")
        assert record["classes"]["field"][split] == 1
        assert record["data"][0]["splits"][split] == {"pictures": 2}


def test_pairs_are_recognised(tmp_path):
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    mask[:10, :10] = 255
    for split in ("train", "val"):
        for date in ("A", "B"):
            picture(tmp_path / "data" / split / date / "a.png")
        (tmp_path / "data" / split / "label").mkdir()
        Image.fromarray(mask).save(tmp_path / "data" / split / "label" / "a.png")
    record = record_of(tmp_path / "data")
    assert record["task"] == "change" and record["data"][0]["format"] == "pairs with masks"
    assert sorted(f["labels"] for f in record["classes"].values()) == [200, 2 * (80 * 60 - 100)]


def test_unknown_data_and_formats_are_one_line(dota, tmp_path):
    (tmp_path / "empty").mkdir()
    run = invoke(tmp_path / "empty")
    assert run.exit_code == 1 and "no layout of labels that is known" in run.stderr
    run = invoke(tmp_path / "missing")
    assert run.exit_code == 1 and "missing: no such file or folder" in run.stderr
    run = invoke(dota, "-o", tmp_path / "x", "--format", "TFRecord")
    assert run.exit_code == 1 and "take one of DOTA, YOLO, COCO, GeoJSON" in run.stderr
    run = invoke(dota, "-o", "-")
    assert run.exit_code == 1 and "stdout takes --json" in run.stderr
    run = invoke(dota, "-o", tmp_path / "one.txt")
    assert run.exit_code == 1 and "there are 3; name a folder" in run.stderr


def test_options_that_nothing_heeds_are_refused(dota, tmp_path):
    run = invoke(dota, "--label-field", "kind")
    assert run.exit_code == 2 and "is for scenes with labels" in run.stderr
    run = invoke(dota, "--format", "YOLO")
    assert run.exit_code == 2 and "is of what -o writes" in run.stderr
    picture(tmp_path / "data" / "forest" / "a.png")
    run = invoke(tmp_path / "data", "--skip-bad-labels")
    assert run.exit_code == 1 and "--skip-bad-labels is of boxes" in run.stderr


def test_pictures_on_two_maps_make_one_layer_in_degrees(tmp_path):
    root = tmp_path / "dota"
    for name, crs in (("a", "EPSG:32633"), ("b", "EPSG:32632")):
        place_on_map(root / "train" / "images" / f"{name}.tif", crs)
        text(root / "train" / "labelTxt" / f"{name}.txt", dota_line(SHIP, "ship"))
    run = invoke(root, "-o", tmp_path / "boxes.gpkg")
    assert run.exit_code == 0 and "GPKG: 2 CRSs of pictures become longitudes" in run.stderr
    layer = geopandas.read_file(tmp_path / "boxes.gpkg").set_index("picture")
    assert layer.crs.is_geographic
    on_map = shapely.Polygon([TRANSFORM @ tuple(corner) for corner in SHIP])
    for name, crs in (("a.tif", "EPSG:32633"), ("b.tif", "EPSG:32632")):
        own = layer.loc[[name]].to_crs(crs).geometry.iloc[0]
        assert shapely.area(shapely.symmetric_difference(own, on_map)) < 0.01 * on_map.area
