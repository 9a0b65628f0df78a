from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import rasterio
from affine import Affine
from making.collector import Collector
from making.results import CLASSES
from rasterio.crs import CRS

from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import ClassInfo
from lemevit_cli.raster.targets import check_target, open_sink
from lemevit_cli.settings import OutputOptions


def test_classes_come_back_with_nodata_colours_names_and_tags(
    make_spec, class_ids, tmp_path, write_result
):
    tags = {"weights": "landcover 1", "software": "lemevit 0.1"}
    target = write_result(tmp_path / "out.tif", make_spec(tags=tags), class_ids)
    with rasterio.open(target) as result:
        np.testing.assert_array_equal(result.read(1), class_ids)
        assert result.dtypes == ("uint8",)
        assert result.nodata == 255
        assert result.compression.name == "deflate"
        colors = result.colormap(1)
        assert colors[1] == (214, 69, 65, 255)
        assert colors[255][3] == 0
        assert result.tags()["LEMEVIT_WEIGHTS"] == "landcover 1"
        assert result.tags()["TIFFTAG_SOFTWARE"] == "lemevit 0.1"
        assert result.tags(1)["CLASS_2"] == "Gewässer & Co"
    assert {path.name for path in tmp_path.iterdir()} == {"out.tif", "out.tif.aux.xml"}


@pytest.mark.parametrize("format_", ["GTiff", "COG"])
def test_category_names_lie_beside_the_raster(
    make_spec, class_ids, tmp_path, write_result, format_
):
    target = write_result(
        tmp_path / "out.tif", make_spec(), class_ids, OutputOptions(format=format_)
    )
    root = ET.parse(f"{target}.aux.xml").getroot()
    assert [name.text for name in root.iter("Category")] == ["land", "building", "Gewässer & Co"]


@pytest.mark.skipif(shutil.which("gdalinfo") is None, reason="gdalinfo is not installed")
def test_gdalinfo_tells_the_category_names(make_spec, class_ids, tmp_path, write_result):
    target = write_result(tmp_path / "out.tif", make_spec(), class_ids)
    told = subprocess.run(["gdalinfo", target], capture_output=True, text=True, check=True).stdout
    assert "2: Gewässer & Co" in told


def test_attributes_list_the_classes_and_nothing_else(make_spec, class_ids, tmp_path, write_result):
    classes = (*CLASSES[:2], ClassInfo('a "b" <c> & d', (1, 2, 3)))
    target = write_result(tmp_path / "out.tif", make_spec(classes=classes), class_ids)
    table = ET.parse(f"{target}.aux.xml").find("PAMRasterBand[@band='1']/GDALRasterAttributeTable")
    assert table.get("tableType") == "thematic"
    usages = [int(column.findtext("Usage")) for column in table.findall("FieldDefn")]
    assert usages == [5, 2, 6, 7, 8]  # GFU_MinMax, GFU_Name, GFU_Red, GFU_Green, GFU_Blue
    rows = [[cell.text for cell in row] for row in table.findall("Row")]
    assert [row[:2] for row in rows] == [[str(i), info.name] for i, info in enumerate(classes)]
    with rasterio.open(target) as file:
        colors = file.colormap(1)
        assert [tuple(map(int, row[2:])) for row in rows] == [colors[i][:3] for i in range(3)]


@pytest.mark.parametrize("format_", ["GTiff", "COG"])
def test_a_style_lists_what_the_pixels_are(make_spec, class_ids, tmp_path, write_result, format_):
    options = OutputOptions(style=True, classes=("building",), format=format_)
    write_result(tmp_path / "out.tif", make_spec(), class_ids, options)
    entries = ET.parse(tmp_path / "out.qml").findall(".//paletteEntry")
    with rasterio.open(tmp_path / "out.tif") as file:
        names = [file.tags(1)[f"CLASS_{i}"] for i in range(2)]
        assert [e.get("label") for e in entries] == names == ["other", "building"]
        found = set(np.unique(file.read(1))) - {file.nodata}
    assert {int(e.get("value")) for e in entries} == found


def test_companions_are_not_overwritten_unasked(make_spec, class_ids, tmp_path, write_result):
    (tmp_path / "out.qml").write_text("a style of my own")
    with pytest.raises(OutputError, match=r"out\.qml exists"):
        check_target(str(tmp_path / "out.tif"), OutputOptions(style=True))
    progress = Collector()
    check_target(str(tmp_path / "out.tif"), OutputOptions(), progress=progress)
    assert "out.qml stays as it is" in progress.notes[0]
    write_result(tmp_path / "out.tif", make_spec(), class_ids)
    assert (tmp_path / "out.qml").read_text() == "a style of my own"
    options = OutputOptions(style=True, overwrite=True)
    check_target(str(tmp_path / "out.tif"), options)
    write_result(tmp_path / "out.tif", make_spec(), class_ids, options)
    assert len(ET.parse(tmp_path / "out.qml").findall(".//paletteEntry")) == 3
    (tmp_path / "lone.tif.aux.xml").write_text("<PAMDataset/>")  # else told after hours of work
    with pytest.raises(OutputError, match=r"lone\.tif\.aux\.xml exists"):
        check_target(str(tmp_path / "lone.tif"), OutputOptions())


def test_scores_are_one_named_band_a_class(make_spec, tmp_path, write_result):
    scores = np.random.default_rng(0).random((3, 48, 64), dtype=np.float32)
    scores[:, :5, :5] = np.nan
    options = OutputOptions(output_type="scores")
    target = write_result(tmp_path / "out.tif", make_spec(output_type="scores"), scores, options)
    with rasterio.open(target) as result:
        np.testing.assert_array_equal(result.read(), scores)
        assert result.descriptions == ("land", "building", "Gewässer & Co")
        assert np.isnan(result.nodata)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


def test_pixels_that_are_never_written_are_nodata(make_spec, tmp_path):
    with open_sink(str(tmp_path / "out.tif"), make_spec(), OutputOptions()) as sink:
        sink.write(Window(col_off=60, row_off=40, width=4, height=8), np.zeros((8, 4), np.uint8))
    with rasterio.open(tmp_path / "out.tif") as result:
        ids = result.read(1)
    assert (ids[40:, 60:] == 0).all()
    assert (ids == 255).sum() == 64 * 48 - 32


def test_the_order_of_windows_does_not_matter(make_spec, tmp_path):
    ids = np.random.default_rng(1).integers(0, 3, (700, 900)).astype(np.uint8)
    windows = [
        Window(col_off=col, row_off=row, width=min(130, 900 - col), height=min(90, 700 - row))
        for row in range(0, 700, 90)
        for col in range(0, 900, 130)
    ]
    shuffled = [windows[i] for i in np.random.default_rng(2).permutation(len(windows))]
    for name, order in (("ordered.tif", windows), ("shuffled.tif", shuffled)):
        spec = make_spec(width=900, height=700)
        with open_sink(str(tmp_path / name), spec, OutputOptions()) as sink:
            for window in order:
                sink.write(window, ids[window.slices])
    with (
        rasterio.open(tmp_path / "ordered.tif") as ordered,
        rasterio.open(tmp_path / "shuffled.tif") as shuffled_result,
    ):
        np.testing.assert_array_equal(ordered.read(1), ids)
        np.testing.assert_array_equal(shuffled_result.read(1), ids)
        assert ordered.block_shapes == [(512, 512)]
        assert ordered.overviews(1) == [2, 4]


def test_windows_that_end_inside_tiles_cost_no_bytes(make_spec, tmp_path):
    ids = np.random.default_rng(1).integers(0, 3, (2048, 2048)).astype(np.uint8)
    sizes = {}
    for step in (512, 448):
        target = tmp_path / f"{step}.tif"
        with open_sink(str(target), make_spec(width=2048, height=2048), OutputOptions()) as sink:
            for row in range(0, 2048, step):
                height = min(step, 2048 - row)
                window = Window(col_off=0, row_off=row, width=2048, height=height)
                sink.write(window, ids[row : row + height])
        sizes[step] = target.stat().st_size
    assert sizes[448] == sizes[512]


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000),
        Affine(0.5, 0, 500_000, 0, 0.25, 5_000_000),  # south-up, unequal sides
        Affine.translation(500_000, 5e6) @ Affine.rotation(33) @ Affine.scale(2, -2),
    ],
    ids=["north-up", "south-up", "rotated"],
)
@pytest.mark.parametrize("area_or_point", ["Area", "Point"])
@pytest.mark.parametrize("format_", ["GTiff", "COG"])
def test_transform_and_crs_are_carried_over(
    make_spec, class_ids, tmp_path, write_result, transform, area_or_point, format_
):
    before = make_spec().georeference
    georeference = Georeference(
        transform=transform, crs_wkt=before.crs_wkt, area_or_point=area_or_point
    )
    spec = make_spec(georeference=georeference)
    target = write_result(tmp_path / "out.tif", spec, class_ids, OutputOptions(format=format_))
    with rasterio.open(target) as result:
        assert result.transform.almost_equals(transform, 1e-9)
        assert result.crs.to_epsg() == 32633
        assert result.tags()["AREA_OR_POINT"] == area_or_point


def test_a_transform_without_crs_is_carried_over(make_spec, class_ids, tmp_path, write_result):
    transform = Affine(0.5, 0, 1000, 0, -0.5, 2000)
    georeference = Georeference(transform=transform, crs_wkt=None)
    target = write_result(tmp_path / "out.tif", make_spec(georeference=georeference), class_ids)
    with rasterio.open(target) as result:
        assert result.transform == transform
        assert result.crs is None


@pytest.mark.parametrize("format_", ["GTiff", "COG"])
def test_a_scene_without_georeference_gives_one_without(
    make_spec, class_ids, tmp_path, write_result, format_
):
    georeference = Georeference(transform=None, crs_wkt=None)
    spec = make_spec(georeference=georeference)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        target = write_result(tmp_path / "out.tif", spec, class_ids, OutputOptions(format=format_))
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning), rasterio.open(target) as result:
        assert result.transform == Affine.identity()
        assert result.crs is None


def test_ground_control_points_are_carried_over(make_spec, class_ids, tmp_path, write_result):
    gcps = (
        (0.0, 0.0, 14.0, 50.0, 0.0, "1", ""),
        (0.0, 64.0, 14.1, 50.01, 0.0, "2", ""),
        (48.0, 0.0, 13.99, 49.9, 0.0, "3", ""),
        (48.0, 64.0, 14.09, 49.91, 0.0, "4", ""),
    )
    wkt = rasterio.crs.CRS.from_epsg(4326).to_wkt()
    georeference = Georeference(transform=None, crs_wkt=None, gcps=gcps, gcps_crs_wkt=wkt)
    target = write_result(tmp_path / "out.tif", make_spec(georeference=georeference), class_ids)
    with rasterio.open(target) as result:
        points, crs = result.gcps
    assert [(p.row, p.col, p.x, p.y) for p in points] == [gcp[:4] for gcp in gcps]
    assert crs.to_epsg() == 4326


def test_a_transform_beside_ground_control_points_of_another_crs_is_kept(
    make_spec, class_ids, tmp_path, write_result
):
    gcps = tuple(
        (r, c, 14 + c / 1000, 50 - r / 1000, 0.0, "", "") for r in (0, 48) for c in (0, 64)
    )
    plain = make_spec().georeference
    georeference = replace(plain, gcps=gcps, gcps_crs_wkt=CRS.from_epsg(4326).to_wkt())
    target = write_result(tmp_path / "out.tif", make_spec(georeference=georeference), class_ids)
    with rasterio.open(target) as result:
        assert result.transform == plain.transform
        assert result.crs == CRS.from_wkt(plain.crs_wkt) and result.gcps[0] == []


def test_rational_polynomials_are_carried_over(make_spec, class_ids, tmp_path, write_result):
    coefficients = " ".join(["1"] + ["0"] * 19)
    scaled = ("HEIGHT", "LAT", "LINE", "LONG", "SAMP")
    rpcs = {f"{name}_{part}": "10" for name in scaled for part in ("OFF", "SCALE")}
    rpcs |= {"ERR_BIAS": "1", "ERR_RAND": "1"}
    rpcs |= {
        f"{name}_{part}_COEFF": coefficients for name in ("LINE", "SAMP") for part in ("NUM", "DEN")
    }
    georeference = Georeference(transform=None, crs_wkt=None, rpcs=rpcs)
    target = write_result(tmp_path / "out.tif", make_spec(georeference=georeference), class_ids)
    with rasterio.open(target) as result:
        assert result.rpcs.lat_off == 10
        assert result.rpcs.line_num_coeff == [1.0] + [0.0] * 19


def test_cog_has_its_layout_and_overviews(make_spec, tmp_path, write_result):
    ids = np.random.default_rng(1).integers(0, 3, (700, 900)).astype(np.uint8)
    spec = make_spec(width=900, height=700, tags={"weights": "w"})
    target = write_result(tmp_path / "out.tif", spec, ids, OutputOptions(format="cog"))
    with rasterio.open(target) as result:
        np.testing.assert_array_equal(result.read(1), ids)
        assert result.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert result.overviews(1) == [2, 4]
        assert result.colormap(1)[1] == (214, 69, 65, 255)
        assert result.tags(1)["CLASS_1"] == "building"
        assert result.tags()["LEMEVIT_WEIGHTS"] == "w"
    assert {path.name for path in tmp_path.iterdir()} == {"out.tif", "out.tif.aux.xml"}


@pytest.mark.parametrize("side", [1, 17])
def test_tiny_rasters_have_no_overviews(make_spec, tmp_path, write_result, side):
    spec = make_spec(width=side, height=side)
    target = write_result(tmp_path / "out.tif", spec, np.zeros((side, side), np.uint8))
    with rasterio.open(target) as result:
        assert result.overviews(1) == []
        assert (result.read(1) == 0).all()


def test_creation_options_reach_the_file(make_spec, class_ids, tmp_path, write_result):
    options = OutputOptions(creation_options={"COMPRESS": "LZW"})
    check_target(str(tmp_path / "out.tif"), options)
    target = write_result(tmp_path / "out.tif", make_spec(), class_ids, options)
    with rasterio.open(target) as result:
        assert result.compression.name == "lzw"


@pytest.mark.parametrize("format_", ["GTiff", "COG"])
@pytest.mark.parametrize("wrong", [{"SHOE_SIZE": "43"}, {"COMPRESS": "BEST"}])
def test_unknown_creation_options_are_refused_before_work(tmp_path, format_, wrong):
    options = OutputOptions(format=format_, creation_options=wrong)
    with pytest.raises(OutputError, match=r"--co, .*(SHOE_SIZE|COMPRESS)"):
        check_target(str(tmp_path / "out.tif"), options)


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("name", ["out.tif", "out.gpkg", "out.shp"])
def test_an_interrupted_write_leaves_nothing(
    make_spec, class_ids, tmp_path, write_result, exception, name
):
    def rows():
        yield from (0, 7, 14)
        raise exception

    with pytest.raises(exception):
        write_result(
            tmp_path / name, make_spec(), class_ids, OutputOptions(style=True), rows=rows()
        )
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_overwrite_keeps_the_old_result(
    make_spec, class_ids, tmp_path, write_result
):
    target = write_result(tmp_path / "out.tif", make_spec(), class_ids)
    before = target.read_bytes()
    with (
        pytest.raises(KeyboardInterrupt),
        open_sink(str(target), make_spec(), OutputOptions(overwrite=True)) as sink,
    ):
        sink.write(Window(col_off=0, row_off=0, width=64, height=48), class_ids * 0)
        raise KeyboardInterrupt
    assert target.read_bytes() == before


def test_stale_companions_of_an_older_result_go(make_spec, tmp_path, write_result):
    (tmp_path / "out.tif").touch()
    (tmp_path / "out.tif.ovr").touch()
    (tmp_path / "out.tif.aux.xml").write_text("<PAMDataset>old</PAMDataset>")
    scores = np.zeros((3, 48, 64), np.float32)
    options = OutputOptions(output_type="scores", overwrite=True)
    write_result(tmp_path / "out.tif", make_spec(output_type="scores"), scores, options)
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


@pytest.mark.parametrize(
    ("col_off", "shape", "reason"),
    [
        (0, (10, 5), r"takes values of shape \(5, 10\), got \(10, 5\)"),
        (60, (5, 10), "ends beyond the raster of 64 x 48"),
        (-1, (5, 10), "begins before the raster"),
    ],
)
def test_wrong_shapes_and_windows_are_the_callers_mistake(
    make_spec, tmp_path, col_off, shape, reason
):
    window = Window(col_off=col_off, row_off=0, width=10, height=5)
    with (
        pytest.raises(ValueError, match=reason),
        open_sink(str(tmp_path / "out.tif"), make_spec(), OutputOptions()) as sink,
    ):
        sink.write(window, np.zeros(shape, np.uint8))


@pytest.mark.parametrize("repeats", [1, 20])  # that has overviews, too
def test_gdals_cache_is_given_back(make_spec, class_ids, tmp_path, write_result, repeats):
    from rasterio._env import get_gdal_config

    names = "GDAL_CACHEMAX", "GDAL_OVR_CHUNK_MAX_SIZE"
    before = [get_gdal_config(name) for name in names]
    ids = np.tile(class_ids, repeats)
    write_result(tmp_path / "out.tif", make_spec(width=ids.shape[1]), ids)
    assert [get_gdal_config(name) for name in names] == before


FULL_DISK = """
import resource, sys
import numpy as np
from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import classes_from_names
from lemevit_cli.settings import OutputOptions
from lemevit_cli.raster.spec import RasterSpec
from lemevit_cli.raster.targets import open_sink
from lemevit_cli.tasks.segmentation.inference import WRITERS
from lemevit_cli.tasks.segmentation.results import open_polygons

target, output_type, limit = sys.argv[1], sys.argv[2], int(sys.argv[3])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
spec = RasterSpec(
    width=150, height=150, georeference=Georeference(transform=None, crs_wkt=None),
    classes=classes_from_names(["a", "b"]), output_type=output_type,
)
rng = np.random.default_rng(0)
values = rng.integers(0, 2, (150, 150)).astype("u1")
if output_type == "scores":
    values = rng.random((2, 150, 150), dtype="f4")
window = Window(col_off=0, row_off=0, width=150, height=150)
is_raster = target.endswith(".tif")
options = OutputOptions(output_type=output_type, min_area_m2=None if is_raster else 0)
try:
    with (open_sink if is_raster else open_polygons)(target, spec, options, WRITERS) as sink:
        sink.write(window, values, *([] if is_raster else [np.ones((150, 150), "u2")]))
except OutputError as error:
    print(error)
"""


@pytest.mark.skipif(os.name != "posix", reason="file sizes are limited by POSIX alone")
@pytest.mark.parametrize(
    ("name", "output_type", "limit"),
    [
        ("out.tif", "classes", 1500),
        ("out.tif", "scores", 50_000),
        ("out.gpkg", "classes", 200_000),
        ("out.geojson", "classes", 100_000),
    ],
)
def test_a_disk_that_fills_up_is_told_in_one_line(tmp_path, name, output_type, limit):
    command = [sys.executable, "-c", FULL_DISK, str(tmp_path / name), output_type, str(limit)]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert told.startswith(f"{tmp_path / name} cannot be written (is the disk full?): ")
    assert told.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
