import json
import xml.etree.ElementTree as ET

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
import torch
from affine import Affine
from making.collector import Collector
from rasterio.features import rasterize
from rasterio.warp import Resampling, reproject, transform_bounds

from lemevit_cli.errors import LemevitError, OutputError, SceneError
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.settings import (
    ChangeOptions,
    InferenceSettings,
    OutputOptions,
    ReadingOptions,
    SceneOptions,
    Tiling,
)
from lemevit_cli.tasks.change.inference import Change, check_outputs

WIDTH, HEIGHT = 200, 150
UPRIGHT = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
CARD = Card(
    task="change",
    backbone="-",
    classes=classes_from_names(["unchanged", "changed"]),
    window=64,
    overlap=24,
)


class Difference:
    """A detector of change that looks at the pixels themselves, and a little around them."""

    def __call__(self, pixels):
        before, after = torch.from_numpy(pixels).float().chunk(2, dim=1)
        apart = (before - after).abs().mean(1, keepdim=True)
        apart = torch.nn.functional.avg_pool2d(apart, 3, 1, 1, count_include_pad=False)
        score = torch.sigmoid((apart - 40) / 4)
        return torch.cat([1 - score, score], dim=1).numpy()


@pytest.fixture
def dates():
    """Return a smooth textured ground, and the same with new things on it."""
    rng = np.random.default_rng(2)
    before = np.zeros((3, HEIGHT, WIDTH))
    for side, strength in ((2, 15), (5, 25), (25, 30)):
        coarse = rng.normal(0, strength, (3, HEIGHT // side + 2, WIDTH // side + 2))
        fine = torch.nn.functional.interpolate(
            torch.from_numpy(coarse)[None], size=(HEIGHT, WIDTH), mode="bicubic"
        )
        before += fine[0].numpy()
    before = np.clip(110 + before, 1, 175)
    after = before.copy()
    for row, col, height, width in ((20, 30, 30, 40), (90, 55, 25, 25), (70, 120, 45, 50)):
        after[:, row : row + height, col : col + width] += 75
    after[:, 85:100, 135:150] -= 75  # a courtyard
    return before.round().astype(np.uint8), after.round().astype(np.uint8)


@pytest.fixture
def pair(write_scene, dates):
    before, after = dates
    return (
        write_scene(before, "before.tif", transform=UPRIGHT),
        write_scene(after, "after.tif", transform=UPRIGHT),
    )


def run(before, after, *targets, progress=None, **settings):
    settings = {"reading": ReadingOptions(stretch="none"), **settings}
    named = tuple(str(target) for target in targets)
    predictor = Predictor("a difference", "0" * 16, CARD, Difference(), "cpu")
    settings = InferenceSettings(**settings)
    task = Change(CARD, settings, progress or Silent(), str(before), str(after), named)
    return infer_scenes(task, [str(before)], named[:1], lambda: predictor).results[0]


def mask_of(path):
    with rasterio.open(path) as file:
        return file.read(1)


def burned(table, path):
    """Return the polygons drawn again on the grid of a raster."""
    with rasterio.open(path) as file:
        shapes = [(polygon, 1) for polygon in table.to_crs(file.crs).geometry]
        return rasterize(shapes, out_shape=file.shape, transform=file.transform, dtype="uint8")


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def test_polygons_and_mask_of_one_run_hold_the_same_pixels(pair, tmp_path):
    targets = [tmp_path / name for name in ("c.shp", "c.gpkg", "c.fgb", "c.geojson", "m.tif")]
    record = run(*pair, *targets, output=OutputOptions(simplify_m=0))
    mask = mask_of(targets[-1])
    assert set(np.unique(mask)) == {0, 1} and 0.1 < (mask == 1).mean() < 0.3
    for target in targets[:4]:
        table = pyogrio.read_dataframe(target).sort_values("id")
        assert table.geometry.is_valid.all() and table["id"].tolist() == [1, 2, 3]
        np.testing.assert_array_equal(burned(table, targets[-1]), mask == 1)
        assert any(polygon.interiors for polygon in table.geometry)
    assert record["paths"] == [str(target) for target in targets]
    assert record["polygons"] == 3
    assert record["changed_area_m2"] == pytest.approx((mask == 1).sum() * 0.25, rel=1e-3)
    assert record["shift"]["windows"] > 0 and not record["shift"]["undone"]
    assert {"register", "read", "model", "blend", "write", "total"} <= set(record["seconds"])


def test_the_mask_names_its_classes_and_scores_are_a_band_each(pair, tmp_path):
    run(*pair, tmp_path / "m.tif")
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.nodata == 255 and file.tags(1) == {
            "CLASS_0": "unchanged",
            "CLASS_1": "changed",
        }
        assert file.tags()["LEMEVIT_BEFORE"] == "before"
    run(*pair, tmp_path / "s.tif", tmp_path / "c.shp", output=OutputOptions(output_type="scores"))
    with rasterio.open(tmp_path / "s.tif") as file:
        assert file.descriptions == ("unchanged", "changed")
        scores = file.read(2)
    np.testing.assert_array_equal(scores > 0.5, mask_of(tmp_path / "m.tif") == 1)


def test_fields_are_measured_on_the_ground(pair, tmp_path):
    run(*pair, tmp_path / "c.shp", tmp_path / "s.tif", output=OutputOptions(output_type="scores"))
    table = pyogrio.read_dataframe(tmp_path / "c.shp")
    expected = ["id", "class", "score", "area_m2", "perim_m", "before", "after", "geometry"]
    assert list(table.columns) == expected
    assert table.crs.to_epsg() == 32633
    np.testing.assert_allclose(table.area_m2, table.geometry.area, rtol=1e-3)
    np.testing.assert_allclose(table.perim_m, table.geometry.length, rtol=1e-3)
    assert set(table["class"]) == {"changed"}
    assert set(table.before) == {"before"} and set(table.after) == {"after"}
    run(*pair, tmp_path / "whole.shp", output=OutputOptions(simplify_m=0))
    with rasterio.open(tmp_path / "s.tif") as file:
        scores = file.read(2)
    for polygon, score in pyogrio.read_dataframe(tmp_path / "whole.shp")[
        ["geometry", "score"]
    ].itertuples(index=False):
        inside = rasterize([polygon], out_shape=scores.shape, transform=UPRIGHT) == 1
        assert score == pytest.approx(scores[inside].mean(), abs=1e-5)


@pytest.mark.parametrize(("gsd", "block_size"), [("native", 53), ("0.6", 80)])
def test_blocks_change_nothing(pair, tmp_path, gsd, block_size):
    reading = ReadingOptions(stretch="none", gsd=gsd)
    run(*pair, tmp_path / "whole.tif", tmp_path / "whole.gpkg", reading=reading)
    targets = tmp_path / "blocks.tif", tmp_path / "blocks.gpkg"
    run(*pair, *targets, reading=reading, tiling=Tiling(block_size=block_size))
    np.testing.assert_array_equal(mask_of(targets[0]), mask_of(tmp_path / "whole.tif"))
    tables = [pyogrio.read_dataframe(p) for p in (targets[1], tmp_path / "whole.gpkg")]
    assert tables[0].equals(tables[1])


def test_blocks_chosen_for_their_memory_change_nothing(write_scene, dates, tmp_path):
    before, after = (np.tile(date, 3) for date in dates)  # wider than a tile of the mask
    pair = write_scene(before, "b.tif"), write_scene(after, "a.tif")
    targets = {}
    for name, tiling in (("whole", Tiling()), ("blocks", Tiling(block_bytes=1))):
        targets[name] = tmp_path / f"{name}.tif", tmp_path / f"{name}.gpkg"
        targets[name] += (run(*pair, *targets[name], tiling=tiling)["windows"],)
    assert targets["blocks"][2] > targets["whole"][2]
    np.testing.assert_array_equal(mask_of(targets["blocks"][0]), mask_of(targets["whole"][0]))
    tables = [pyogrio.read_dataframe(targets[name][1]) for name in targets]
    assert tables[0].equals(tables[1])


def test_swapped_dates_give_the_same_mask(pair, tmp_path):
    run(*pair, tmp_path / "a.tif")
    run(*reversed(pair), tmp_path / "b.tif")
    np.testing.assert_array_equal(mask_of(tmp_path / "a.tif"), mask_of(tmp_path / "b.tif"))


@pytest.mark.parametrize("ending", ["shp", "gpkg", "fgb", "geojson"])
def test_the_same_scene_twice_is_an_empty_layer(pair, tmp_path, ending):
    record = run(pair[0], pair[0], tmp_path / f"c.{ending}")
    info = pyogrio.read_info(tmp_path / f"c.{ending}", force_feature_count=True)
    assert record["polygons"] == info["features"] == 0
    assert record["changed_area_m2"] == 0 and record["changed_share"] == 0
    if ending != "geojson":
        assert "perim_m" in info["fields"] and info["crs"] == "EPSG:32633"


def test_a_date_on_another_grid_gives_the_polygons_of_one_grid(pair, tmp_path):
    """Other CRS, 0.7 of the pixel size, another extent."""
    before, after = pair
    with rasterio.open(after) as file:
        pixels, profile = file.read(), file.profile
        west, south, east, north = transform_bounds(file.crs, 3857, *file.bounds)
    step = 0.35 * (east - west) / (WIDTH * 0.5)
    transform = Affine(step, 0, west + 6.1, 0, -step, north + 4.3)
    width, height = int((east - west) / step) + 20, int((north - south) / step) - 9
    moved = np.zeros((3, height, width), np.uint8)
    reproject(
        pixels,
        moved,
        src_transform=profile["transform"],
        src_crs=profile["crs"],
        dst_transform=transform,
        dst_crs="EPSG:3857",
        resampling=Resampling.cubic,
        src_nodata=None,
        dst_nodata=0,
    )
    other = tmp_path / "other.tif"
    profile.update(crs="EPSG:3857", transform=transform, width=width, height=height, nodata=0)
    with rasterio.open(other, "w", **profile) as file:
        file.write(moved)
    run(before, after, tmp_path / "one.tif")
    record = run(before, other, tmp_path / "two.tif", tmp_path / "two.shp")
    one, two = mask_of(tmp_path / "one.tif"), mask_of(tmp_path / "two.tif")
    both = two != 255
    assert 0.7 < both.mean() < 1
    table = pyogrio.read_dataframe(tmp_path / "two.shp")
    assert iou((one == 1) & both, burned(table, before) == 1) > 0.9
    assert abs(record["shift"]["dx_px"]) < 0.3 and abs(record["shift"]["dy_px"]) < 0.3


def test_a_shift_is_told_warned_of_and_undone(pair, write_scene, dates, tmp_path):
    moved = write_scene(dates[1], "moved.tif", transform=UPRIGHT @ Affine.translation(3, -2))
    collector = Collector()
    record = run(pair[0], moved, tmp_path / "m.tif", progress=collector)
    assert record["shift"]["dx_px"] == pytest.approx(3, abs=0.25)
    assert record["shift"]["dy_px"] == pytest.approx(-2, abs=0.25)
    assert any("--coregister" in warning for warning in collector.warnings)
    collector = Collector()
    run(*pair, tmp_path / "still.tif")
    options = ChangeOptions(coregister=True)
    undone = run(pair[0], moved, tmp_path / "u.tif", change=options, progress=collector)
    assert undone["shift"]["undone"] and not collector.warnings
    still, back = mask_of(tmp_path / "still.tif"), mask_of(tmp_path / "u.tif")
    assert iou(still == 1, back == 1) > 0.95


def test_threshold_and_smallest_area_choose(pair, tmp_path):
    shares = [
        run(*pair, tmp_path / f"{t}.tif", change=ChangeOptions(threshold=t))["changed_share"]
        for t in (0.0, 0.5, 1.0)
    ]
    assert 1 >= shares[0] > shares[1] > shares[2] == 0
    run(*pair, tmp_path / "all.gpkg")
    areas = pyogrio.read_dataframe(tmp_path / "all.gpkg").area_m2
    least = float(areas.median())
    run(*pair, tmp_path / "some.gpkg", output=OutputOptions(min_area_m2=least))
    kept = pyogrio.read_dataframe(tmp_path / "some.gpkg")
    assert sorted(kept.area_m2) == sorted(areas[areas >= least]) and len(kept) < len(areas)
    assert kept["id"].tolist() == [1, 2]


def test_a_part_within_bounds_is_that_of_the_whole(pair, tmp_path):
    run(*pair, tmp_path / "whole.tif")
    corners = [UPRIGHT @ c for c in ((20, 110), (110, 10))]
    bounds = tuple(v for corner in corners for v in corner)
    reading = ReadingOptions(stretch="none", bounds=bounds)
    run(*pair, tmp_path / "part.tif", tmp_path / "part.gpkg", reading=reading)
    part = mask_of(tmp_path / "part.tif")
    np.testing.assert_array_equal(part, mask_of(tmp_path / "whole.tif")[10:110, 20:110])
    table = pyogrio.read_dataframe(tmp_path / "part.gpkg")
    assert iou(burned(table, tmp_path / "part.tif") == 1, part == 1) > 0.95


def test_pixels_that_are_nodata_in_either_date_are_nodata(write_scene, dates, tmp_path):
    before, after = (date.copy() for date in dates)
    before[:, :40, :50], after[:, 100:, 150:] = 0, 0
    paths = [
        write_scene(date, name, transform=UPRIGHT, nodata=0)
        for date, name in ((before, "b.tif"), (after, "a.tif"))
    ]
    run(*paths, tmp_path / "m.tif", tmp_path / "c.gpkg", output=OutputOptions(simplify_m=0))
    mask = mask_of(tmp_path / "m.tif")
    is_nodata = np.zeros(mask.shape, bool)
    is_nodata[:40, :50] = is_nodata[100:, 150:] = True
    np.testing.assert_array_equal(mask == 255, is_nodata)
    table = pyogrio.read_dataframe(tmp_path / "c.gpkg")
    np.testing.assert_array_equal(burned(table, tmp_path / "m.tif"), mask == 1)


def test_each_date_may_have_a_nodata_value_of_its_own(write_scene, dates, tmp_path):
    before, after = (date.copy() for date in dates)
    before[:, :40, :50], after[:, 100:, 150:] = 0, 255
    before[:, 60, 60], after[:, 61, 61] = 255, 0  # colours of these dates
    paths = [
        write_scene(date, name, transform=UPRIGHT)
        for date, name in ((before, "b.tif"), (after, "a.tif"))
    ]
    progress = Collector()
    run(*paths, tmp_path / "m.tif", progress=progress)
    assert not (mask_of(tmp_path / "m.tif") == 255).any()
    for option in ("--nodata-before 0", "--nodata-after 255"):
        assert sum(option in line for line in progress.warnings) == 1
    progress = Collector()
    nodata = ChangeOptions(nodata_before=0, nodata_after=255)
    run(*paths, tmp_path / "own.tif", change=nodata, progress=progress)
    is_nodata = np.zeros(before.shape[1:], bool)
    is_nodata[:40, :50] = is_nodata[100:, 150:] = True
    np.testing.assert_array_equal(mask_of(tmp_path / "own.tif") == 255, is_nodata)
    assert not any("--nodata" in line for line in progress.warnings)


def test_dates_are_those_of_the_files(write_scene, dates, tmp_path):
    paths = [
        write_scene(date, name, transform=UPRIGHT)
        for date, name in zip(dates, ("b.tif", "a.tif"), strict=True)
    ]
    with rasterio.open(paths[0], "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2016:08:09 10:11:12")
    with rasterio.open(paths[1], "r+") as file:
        file.update_tags(TIFFTAG_DATETIME="2024:01:01 00:00:00")
        file.update_tags(ns="IMAGERY", ACQUISITIONDATETIME="2021-07-30 10:11:12")
    record = run(*paths, tmp_path / "c.shp")
    table = pyogrio.read_dataframe(tmp_path / "c.shp")
    assert set(table.before) == {"2016-08-09"} and set(table.after) == {"2021-07-30"}
    assert record["after"]["date"] == "2021-07-30"


def test_scenes_without_a_crs_give_pixels(write_scene, dates, tmp_path):
    paths = [
        write_scene(date, name, transform=UPRIGHT, crs=None)
        for date, name in zip(dates, ("b.tif", "a.tif"), strict=True)
    ]
    collector = Collector()
    record = run(*paths, tmp_path / "c.gpkg", progress=collector)
    table = pyogrio.read_dataframe(tmp_path / "c.gpkg")
    assert {"area_px", "perim_px"} <= set(table.columns) and table.crs is None
    assert record["changed_area_m2"] is None
    assert any("pixel by pixel" in warning for warning in collector.warnings)
    stated = SceneOptions(src_crs="EPSG:32633")
    run(*paths, tmp_path / "d.gpkg", scene=stated)
    assert pyogrio.read_dataframe(tmp_path / "d.gpkg").crs.to_epsg() == 32633


def test_a_stated_crs_is_for_the_date_that_lacks_one(pair, write_scene, dates, tmp_path):
    bare = write_scene(dates[1], "bare.tif", transform=UPRIGHT, crs=None)
    with pytest.raises(SceneError, match=r"bare\.tif: has no CRS"):
        run(pair[0], bare, tmp_path / "c.gpkg")
    run(pair[0], bare, tmp_path / "c.gpkg", scene=SceneOptions(src_crs="EPSG:32633"))
    assert len(pyogrio.read_dataframe(tmp_path / "c.gpkg")) == 3


def test_bands_of_the_second_date_may_be_others(pair, write_scene, dates, tmp_path):
    four = np.concatenate([dates[1][::-1], dates[1][:1]])
    path = write_scene(four, "four.tif", transform=UPRIGHT, photometric="minisblack")
    with pytest.raises(SceneError, match=r"four\.tif.*4 bands.*--bands-after 1,2,3"):
        run(pair[0], path, tmp_path / "m.tif")
    run(*pair, tmp_path / "same.tif")
    run(pair[0], path, tmp_path / "m.tif", change=ChangeOptions(bidx_after=(3, 2, 1)))
    np.testing.assert_array_equal(mask_of(tmp_path / "m.tif"), mask_of(tmp_path / "same.tif"))


def test_what_cannot_be_compared_is_told_and_leaves_nothing(pair, write_scene, dates, tmp_path):
    far = write_scene(dates[1], "far.tif", transform=Affine.translation(9e4, 0) @ UPRIGHT)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(SceneError, match="do not overlap"):
        run(pair[0], far, out / "c.shp")
    with pytest.raises(SceneError, match=r"gone\.tif"):
        run(pair[0], tmp_path / "gone.tif", out / "c.shp")
    half = tmp_path / "half.tif"
    half.write_bytes((tmp_path / "after.tif").read_bytes()[: WIDTH * HEIGHT * 3 // 2])
    with pytest.raises(SceneError, match=r"half\.tif: cannot (be )?read") as error:
        run(pair[0], half, out / "c.shp", out / "m.tif")
    assert "\n" not in str(error.value)
    assert list(out.iterdir()) == []


def test_a_mask_and_bounds_are_checked_before_the_shift_is_measured(pair, tmp_path):
    class Collector(Silent):
        def note(self, message):
            raise AssertionError(f"{message}: too early")

        warn = note

    for reading, said in (
        (ReadingOptions(mask=str(tmp_path / "gone.gpkg")), r"gone\.gpkg"),
        (ReadingOptions(bounds=(0.0, 0.0, 1.0, 1.0)), "bounds"),
    ):
        with pytest.raises(SceneError, match=said):
            run(*pair, tmp_path / "m.tif", reading=reading, progress=Collector())


def test_outputs_that_do_not_go_together_are_refused(tmp_path):
    def check(*targets, **options):
        settings = InferenceSettings(output=OutputOptions(**options))
        named = [str(tmp_path / t) for t in targets]
        check_outputs(("a.tif", "b.tif"), named, settings, Silent())

    def refused(*targets, **options):
        with pytest.raises(OutputError) as error:
            check(*targets, **options)
        return str(error.value)

    assert "once" in refused("c.shp", "./c.shp")
    assert "suffixes" in refused("c.shp", "m.tif", format="GPKG")
    assert "several formats" in refused("c.gpkg", "m.tif", creation_options={"COMPRESS": "LZW"})
    assert "hold no scores" in refused("c.shp", output_type="scores")
    assert "--style" in refused("m.tif", style=True, output_type="scores")
    assert "--fill-holes" in refused("m.tif", fill_holes_m2=2.0)
    assert "--simplify" in refused("m.tif", simplify_m=0.0)
    assert "no format goes by" in refused("c.docx")
    assert "--min-area" in refused("m.tif", min_area_m2=2.0)
    check(
        "c.shp",
        "m.tif",
        simplify_m=1.0,
        fill_holes_m2=3.0,
        min_area_m2=2.0,
        style=True,
        output_type="scores",
    )


def test_a_failure_while_polygons_are_written_leaves_no_mask(pair, tmp_path, monkeypatch):
    from lemevit_cli.vector import layer

    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", 10)
    with pytest.raises(LemevitError, match="2 GB"):
        run(*pair, tmp_path / "m.tif", tmp_path / "c.shp")
    assert not (tmp_path / "m.tif").exists() and not (tmp_path / "c.shp").exists()


def test_style_colours_what_has_changed(pair, tmp_path):
    targets = [tmp_path / name for name in ("c.shp", "c.gpkg", "d.fgb", "m.tif")]
    run(*pair, *targets, output=OutputOptions(style=True))
    for style in ("c.qml", "d.qml"):
        assert 'value="changed"' in (tmp_path / style).read_text()
    assert "rasterrenderer" in (tmp_path / "m.qml").read_text()


def test_a_layer_and_a_mask_of_one_name_share_one_style(pair, tmp_path):
    targets = [tmp_path / name for name in ("c.tif", "c.gpkg")]
    run(*pair, *targets, output=OutputOptions(style=True))
    style = ET.fromstring((tmp_path / "c.qml").read_bytes())
    entries = style.findall("pipe/rasterrenderer/colorPalette/paletteEntry")
    assert [(e.get("value"), e.get("label")) for e in entries] == [
        ("0", "unchanged"),
        ("1", "changed"),
    ]
    categories = style.findall("renderer-v2/categories/category")
    assert [c.get("value") for c in categories] == ["changed"]


def test_specks_are_left_out_and_told(pair, tmp_path):
    run(*pair, tmp_path / "all.gpkg", output=OutputOptions(min_area_m2=0))
    progress = Collector()
    record = run(*pair, tmp_path / "large.gpkg", progress=progress)
    everything = pyogrio.read_dataframe(tmp_path / "all.gpkg")
    assert record["polygons"] + record["polygons_left_out"] == len(everything)
    assert bool(record["polygons_left_out"]) == any("left out" in note for note in progress.notes)


def test_stdout_gets_one_collection_in_degrees(pair, tmp_path, capfdbinary):
    run(*pair, "-", tmp_path / "m.tif")
    document = json.loads(capfdbinary.readouterr().out)
    assert document["type"] == "FeatureCollection" and len(document["features"]) == 3
    shape = shapely.geometry.shape(document["features"][0]["geometry"])
    west, south, _, _ = shape.bounds
    assert 14 < west < 15 and 50 < south < 51
    run(pair[0], pair[0], "-")
    assert json.loads(capfdbinary.readouterr().out)["features"] == []
