from __future__ import annotations

import json
import warnings
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine
from rasterio.features import rasterize

from lemevit_cli.errors import OutputError
from lemevit_cli.geometry import ground
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.targets import check_target
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.segmentation.inference import WRITERS
from lemevit_cli.tasks.segmentation.results import open_polygons
from lemevit_cli.vector import layer, outlines

ALL = OutputOptions(min_area_m2=0)
ENDINGS = ["gpkg", "fgb", "geojson", "shp"]


def burned(frame, transform, shape):
    """Return class ids of polygons drawn on the grid again, 255 elsewhere."""
    pairs = list(zip(frame.geometry, frame.class_id, strict=True))
    return rasterize(pairs, out_shape=shape, fill=255, transform=transform, dtype="uint8")


@pytest.mark.parametrize("ending", ENDINGS)
def test_polygons_drawn_again_give_the_raster(make_spec, class_ids, tmp_path, write_result, ending):
    spec = make_spec()
    target = write_result(tmp_path / f"out.{ending}", spec, class_ids, ALL)
    frame = pyogrio.read_dataframe(target)
    assert list(frame.columns) == ["class", "class_id", "score", "area_m2", "geometry"]
    assert frame.crs.to_epsg() == (4326 if ending == "geojson" else 32633)
    drawn = burned(frame.to_crs(32633), spec.georeference.transform, class_ids.shape)
    np.testing.assert_array_equal(drawn, class_ids)
    assert set(frame["class"]) == {"land", "building", "Gewässer & Co"}
    assert frame.geometry.is_valid.all()
    assert pyogrio.list_layers(target)[0, 0] == "out"


@pytest.mark.parametrize(
    "transform",
    [Affine(2, 0, 5e5, 0, -2, 5e6), Affine(2, 0, 5e5, 0, 3, 5e6), Affine(-2, 0, 5e5, 1, -2, 5e6)],
    ids=["north-up", "south-up", "mirrored"],
)
def test_rings_turn_the_right_way_on_any_grid(
    make_spec, class_ids, tmp_path, write_result, transform
):
    georeference = Georeference(transform=transform, crs_wkt=make_spec().georeference.crs_wkt)
    spec = make_spec(georeference=georeference)
    target = write_result(tmp_path / "out.gpkg", spec, class_ids, ALL)
    frame = pyogrio.read_dataframe(target)
    assert frame.geometry.is_valid.all()
    assert shapely.is_ccw(shapely.get_exterior_ring(frame.geometry.values)).all()
    assert any(polygon.interiors for polygon in frame.geometry)
    assert not any(ring.is_ccw for polygon in frame.geometry for ring in polygon.interiors)
    np.testing.assert_array_equal(burned(frame, transform, class_ids.shape), class_ids)


def test_polygons_laid_out_in_parts_are_those_of_the_whole(
    make_spec, class_ids, tmp_path, write_result, monkeypatch
):
    whole = write_result(tmp_path / "whole.gpkg", make_spec(), class_ids)
    monkeypatch.setattr(outlines, "_CORNERS_AT_ONCE", 10)
    monkeypatch.setattr(ground, "_CORNERS_AT_ONCE", 10)
    parts = write_result(tmp_path / "parts.gpkg", make_spec(), class_ids)
    assert pyogrio.read_dataframe(parts).equals(pyogrio.read_dataframe(whole))


def test_regions_that_touch_at_a_corner_stay_apart(make_spec, tmp_path, write_result):
    ids = np.full((48, 64), 255, np.uint8)
    ids[0, 0] = ids[1, 1] = 1
    frame = pyogrio.read_dataframe(write_result(tmp_path / "out.gpkg", make_spec(), ids, ALL))
    assert len(frame) == 2


def test_areas_are_geodesic(make_spec, class_ids, tmp_path, write_result):
    # Web Mercator at 60 degrees north: a map unit is half a metre.
    georeference = Georeference(
        transform=Affine(10, 0, 1_500_000, 0, -10, 8_400_000),
        crs_wkt=pyproj.CRS(3857).to_wkt(),
    )
    target = write_result(tmp_path / "out.gpkg", make_spec(georeference=georeference), class_ids)
    frame = pyogrio.read_dataframe(target)
    geod = pyproj.Geod(ellps="WGS84")
    expected = [abs(geod.geometry_area_perimeter(g)[0]) for g in frame.to_crs(4326).geometry]
    np.testing.assert_allclose(frame.area_m2, expected, rtol=1e-4)
    assert frame.area_m2.sum() < 0.3 * frame.geometry.area.sum()


def test_classes_and_smallest_area_choose_the_polygons(
    make_spec, class_ids, tmp_path, write_result
):
    everything = pyogrio.read_dataframe(
        write_result(tmp_path / "all.gpkg", make_spec(), class_ids, ALL)
    )
    options = OutputOptions(classes=("building",), min_area_m2=3.0)
    chosen = pyogrio.read_dataframe(
        write_result(tmp_path / "some.gpkg", make_spec(), class_ids, options)
    )
    kept = everything[(everything["class"] == "building") & (everything.area_m2 >= 3.0)]
    assert 0 < len(chosen) == len(kept) < (everything["class"] == "building").sum()
    assert sorted(chosen.area_m2) == sorted(kept.area_m2)


def test_an_unknown_class_is_refused_with_those_known(make_spec, class_ids, tmp_path, write_result):
    options = OutputOptions(classes=("bulding",))
    with pytest.raises(OutputError, match="'bulding'; there are land, building, Gewässer"):
        write_result(tmp_path / "out.gpkg", make_spec(), class_ids, options)


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_result_is_a_valid_layer(make_spec, tmp_path, write_result, ending):
    nothing = np.full((48, 64), 255, np.uint8)
    target = write_result(tmp_path / f"out.{ending}", make_spec(), nothing)
    info = pyogrio.read_info(target, force_feature_count=True)
    assert info["features"] == 0
    if ending == "geojson":  # which names fields and CRS in its features alone
        assert json.loads(target.read_text())["features"] == []
    else:
        assert list(info["fields"]) == ["class", "class_id", "score", "area_m2"]
        assert info["crs"] == "EPSG:32633"


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_scene_without_crs_gives_pixels(make_spec, class_ids, tmp_path, write_result, ending):
    spec = make_spec(georeference=Georeference(transform=None, crs_wkt=None))
    target = write_result(
        tmp_path / f"out.{ending}", spec, class_ids, OutputOptions(min_area_m2=2.0)
    )
    frame = pyogrio.read_dataframe(target)
    np.testing.assert_array_equal(frame.area_px, shapely.area(frame.geometry.values))
    assert frame.area_px.min() >= 2
    assert frame.total_bounds.tolist() == [0, 0, 64, 48]
    if ending != "geojson":
        assert frame.crs is None


def test_ground_control_points_place_the_polygons(make_spec, tmp_path, write_result):
    # The points lie on an affine grid, which GDAL's polynomial must find again.
    grid = Affine(0.001, 0, 14, 0, -0.001, 50)
    gcps = tuple(
        (float(row), float(col), *(grid @ (col, row)), 0.0, f"{row}-{col}", "")
        for row in (0, 24, 48)
        for col in (0, 32, 64)
    )
    wkt = pyproj.CRS(4326).to_wkt()
    georeference = Georeference(transform=None, crs_wkt=None, gcps=gcps, gcps_crs_wkt=wkt)
    ids = np.full((48, 64), 255, np.uint8)
    ids[10:20, 30:50] = 2
    spec = make_spec(georeference=georeference)
    frame = pyogrio.read_dataframe(write_result(tmp_path / "out.gpkg", spec, ids))
    assert frame.crs.to_epsg() == 4326
    np.testing.assert_allclose(frame.total_bounds, [14.03, 49.98, 14.05, 49.99], atol=1e-9)


@pytest.mark.parametrize("epsg", [4326, 3006, 2056])
def test_geojson_is_longitude_before_latitude(make_spec, tmp_path, write_result, epsg):
    place = {4326: (14.0, 50.0), 3006: (500_000, 6_500_000), 2056: (2_600_000, 1_200_000)}[epsg]
    size = 1e-4 if epsg == 4326 else 10
    georeference = Georeference(
        transform=Affine(size, 0, place[0], 0, -size, place[1]), crs_wkt=pyproj.CRS(epsg).to_wkt()
    )
    ids = np.zeros((48, 64), np.uint8)
    target = write_result(tmp_path / "out.geojson", make_spec(georeference=georeference), ids)
    document = json.loads(target.read_text())
    assert "crs" not in document
    (feature,) = document["features"]
    corner = pyproj.Transformer.from_crs(epsg, 4326, always_xy=True).transform(*place)
    ring = feature["geometry"]["coordinates"][0]
    assert min(np.abs(np.subtract(ring, corner)).max(axis=1)) < 1e-6


def test_geojson_is_cut_at_the_antimeridian(make_spec, tmp_path, write_result):
    # Zone 1 begins at 180 degrees; the scene lies 3 km before and behind it.
    to_degrees = pyproj.Transformer.from_crs(32601, 4326, always_xy=True)
    easting, _ = to_degrees.transform(-179.99, 65, direction="INVERSE")
    georeference = Georeference(
        transform=Affine(100, 0, easting - 3000, 0, -100, 7_210_000),
        crs_wkt=pyproj.CRS(32601).to_wkt(),
    )
    ids = np.zeros((48, 64), np.uint8)
    target = write_result(tmp_path / "out.geojson", make_spec(georeference=georeference), ids)
    (geometry,) = (shapely.geometry.shape(f["geometry"]) for f in read_features(target))
    assert geometry.geom_type == "MultiPolygon"
    for part in geometry.geoms:
        assert part.bounds[2] - part.bounds[0] < 1


def read_features(path):
    return json.loads(path.read_text())["features"]


def test_a_shapefile_comes_and_goes_as_a_whole(make_spec, class_ids, tmp_path, write_result):
    write_result(tmp_path / "out.shp", make_spec(), class_ids)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"out.shp", "out.shx", "out.dbf", "out.prj", "out.cpg"}
    assert (tmp_path / "out.cpg").read_text() == "UTF-8"
    (tmp_path / "out.qix").touch()
    write_result(tmp_path / "out.shp", make_spec(), class_ids, OutputOptions(overwrite=True))
    assert {path.name for path in tmp_path.iterdir()} == names


def test_parts_of_a_shapefile_are_not_overwritten_unasked(
    make_spec, class_ids, tmp_path, write_result
):
    (tmp_path / "out.dbf").write_text("a table of my own")
    with pytest.raises(OutputError, match=r"out\.dbf exists"):
        write_result(tmp_path / "out.shp", make_spec(), class_ids)
    assert (tmp_path / "out.dbf").read_text() == "a table of my own"
    assert [path.name for path in tmp_path.iterdir()] == ["out.dbf"]


def test_a_shapefile_above_2_gb_is_refused(
    make_spec, class_ids, tmp_path, write_result, monkeypatch
):
    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", 5000)
    with pytest.raises(OutputError, match=r"a shapefile ends at 2 GB; write \.gpkg or \.fgb"):
        write_result(tmp_path / "out.shp", make_spec(), class_ids)


def test_the_size_of_a_shapefile_is_known_to_the_byte(
    make_spec, class_ids, tmp_path, write_result, monkeypatch
):
    write_result(tmp_path / "out.shp", make_spec(), class_ids)
    size = (tmp_path / "out.shp").stat().st_size
    again = OutputOptions(overwrite=True)
    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", size)
    write_result(tmp_path / "out.shp", make_spec(), class_ids, again)
    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", size - 1)
    with pytest.raises(OutputError, match="2 GB"):
        write_result(tmp_path / "out.shp", make_spec(), class_ids, again)


@pytest.mark.parametrize("format_", ["FlatGeobuf", "GPKG", "GeoJSON"])
def test_format_wins_over_the_suffix(make_spec, class_ids, tmp_path, write_result, format_):
    write_result(tmp_path / "out.tif", make_spec(), class_ids, OutputOptions(format=format_))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # pyogrio wonders at the suffix
        assert pyogrio.read_info(tmp_path / "out.tif")["driver"] == format_
    assert [path.name for path in tmp_path.iterdir()] == ["out.tif"]


@pytest.mark.parametrize("ending", ENDINGS)
def test_unknown_layer_options_are_refused_before_work(tmp_path, ending):
    options = OutputOptions(creation_options={"SHOE_SIZE": "43"})
    with pytest.raises(OutputError, match="SHOE_SIZE"):
        check_target(str(tmp_path / f"out.{ending}"), options, WRITERS)


def test_known_layer_options_reach_the_file(make_spec, class_ids, tmp_path, write_result):
    options = OutputOptions(creation_options={"COORDINATE_PRECISION": "3"})
    check_target(str(tmp_path / "out.geojson"), options, WRITERS)
    target = write_result(tmp_path / "out.geojson", make_spec(), class_ids, options)
    polygons = [shapely.geometry.shape(feature["geometry"]) for feature in read_features(target)]
    xy = shapely.get_coordinates(polygons)
    np.testing.assert_array_equal(xy, np.round(xy, 3))


def test_scores_are_means_over_the_pixels_of_each_polygon(make_spec, class_ids, tmp_path):
    whole = np.random.default_rng(1).integers(0, 65536, class_ids.shape, np.uint16)
    spec = make_spec()
    options = replace(ALL, simplify_m=1.0)
    for name, chosen in (("plain.gpkg", ALL), ("thin.gpkg", options)):
        with open_polygons(str(tmp_path / name), spec, chosen, WRITERS) as sink:
            sink.write(Window(col_off=0, row_off=0, width=64, height=48), class_ids, whole)
    plain = pyogrio.read_dataframe(tmp_path / "plain.gpkg")
    places = zip(plain.geometry, range(1, len(plain) + 1), strict=True)
    grid = spec.georeference.transform
    labels = rasterize(places, out_shape=class_ids.shape, transform=grid, dtype="int32")
    sums = np.bincount(labels.ravel(), weights=whole.ravel() / 65535)[1:]
    np.testing.assert_allclose(plain.score, sums / np.bincount(labels.ravel())[1:], rtol=1e-9)
    thin = pyogrio.read_dataframe(tmp_path / "thin.gpkg")
    np.testing.assert_array_equal(thin.score, plain.score)  # of the pixels, however it is drawn
    assert (
        shapely.get_num_coordinates(thin.geometry).sum()
        < shapely.get_num_coordinates(plain.geometry).sum()
    )


@pytest.mark.parametrize("simplify", [0.5, 1.0, 3.0])
def test_simplified_neighbours_leave_no_gap_and_no_overlap(
    make_spec, class_ids, tmp_path, write_result, simplify
):
    class_ids[:10, :12] = 0  # no nodata: all is covered
    options = OutputOptions(min_area_m2=0, simplify_m=simplify)
    frame = pyogrio.read_dataframe(
        write_result(tmp_path / "out.gpkg", make_spec(), class_ids, options)
    )
    assert frame.geometry.is_valid.all()
    union = shapely.union_all(frame.geometry.values, grid_size=1e-4)
    assert shapely.get_num_interior_rings(union) == 0
    assert frame.geometry.area.sum() == pytest.approx(union.area, rel=1e-5)
    assert union.area == pytest.approx(class_ids.size * 0.25, rel=0.03)  # corners of the scene


def test_small_holes_are_filled_with_what_lies_in_them(make_spec, tmp_path, write_result):
    ids = np.full((48, 64), 255, np.uint8)
    ids[2:40, 2:60] = 0
    ids[5:8, 5:8] = 1  # 2.25 m2
    ids[6, 6] = 2
    ids[5, 20:22] = 255  # 0.5 m2
    ids[20:30, 20:30] = 1  # 25 m2
    ids[24:26, 24:26] = 2
    options = OutputOptions(min_area_m2=0, fill_holes_m2=3.0)
    frame = pyogrio.read_dataframe(write_result(tmp_path / "out.gpkg", make_spec(), ids, options))
    found = frame.sort_values("area_m2")[["class_id", "area_m2"]].to_numpy()
    # The hole of 1 m2 in the class 1 is filled, too, and the large one stays.
    np.testing.assert_allclose(found, [[1, 25], [0, 38 * 58 / 4 - 25]], rtol=2e-3)


def test_specks_are_left_out_unless_all_are_asked_for(make_spec, tmp_path):
    ids = np.full((48, 64), 255, np.uint8)
    ids[2, 2:9], ids[4, 2:10], ids[10:20, 10:20] = 0, 1, 2  # 7, 8 and 100 pixels
    for options, classes, told in (
        (OutputOptions(), {1, 2}, "1 polygon of less than 8 pixels left out; --min-area 0 keeps"),
        (ALL, {0, 1, 2}, None),
        (OutputOptions(min_area_m2=3.0), {2}, "2 polygons smaller than --min-area left out"),
    ):
        target = tmp_path / f"{len(classes)}.gpkg"
        with open_polygons(str(target), make_spec(), options, WRITERS) as sink:
            window = Window(col_off=0, row_off=0, width=64, height=48)
            sink.write(window, ids, np.ones(ids.shape, np.uint16))
        assert set(pyogrio.read_dataframe(target).class_id) == classes
        assert (sink.polygons, sink.left_out) == (len(classes), 3 - len(classes))
        assert (sink.describe_left_out() or "").startswith(told or "")
        assert bool(sink.describe_left_out()) == bool(told)


def test_a_style_beside_polygons_serves_a_raster_of_the_name_too(
    make_spec, class_ids, tmp_path, write_result
):
    options = OutputOptions(style=True, classes=("building", "Gewässer & Co"))
    write_result(tmp_path / "out.gpkg", make_spec(), class_ids, options)
    style = ET.parse(tmp_path / "out.qml")
    values = [c.get("value") for c in style.findall(".//category")]
    assert values == ["building", "Gewässer & Co"]
    assert set(pyogrio.read_dataframe(tmp_path / "out.gpkg")["class"]) == set(values)
    assert [e.get("label") for e in style.findall(".//paletteEntry")] == ["land", *values]
