from __future__ import annotations

import io
import json
import sys

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine

from lemevit_cli.errors import OutputError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.oriented_boxes import corners_of
from lemevit_cli.legend import ClassInfo
from lemevit_cli.raster.targets import check_target
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.detection import results as boxes
from lemevit_cli.tasks.detection.merge import RawBoxes, merge_boxes
from lemevit_cli.tasks.detection.results import WRITERS
from lemevit_cli.vector import layer

FIELDS = [
    "class", "class_id", "score", "length_m", "width_m", "area_m2", "bearing", "cx", "cy",
]  # fmt: skip
ENDINGS = ["shp", "gpkg", "fgb", "geojson"]
UTM33 = pyproj.CRS(32633).to_wkt()
GRIDS = {
    "north-up": (Affine(0.3, 0, 458_000, 0, -0.3, 5_548_000), 32633),
    "rotated": (Affine(0.3, 0.1, 458_000, 0.1, -0.3, 5_548_000), 32633),
    "south-up": (Affine(0.3, 0, 458_000, 0, 0.3, 5_548_000), 32633),
    "degrees": (Affine(4e-6, 0, 14.4, 0, -3e-6, 50.1), 4326),
    "feet": (Affine(1, 0, 6_000_000, 0, -1, 2_100_000), 2227),
}


def found_boxes(georeference=None, count=40, names=("ship", "storage tank", "Gewässer")):
    rng = np.random.default_rng(count)
    length, width = rng.uniform(10, 60, count), rng.uniform(2, 10, count)
    return boxes.BoxesOfScene(
        boxes=np.column_stack(
            [rng.uniform(0, 5000, (count, 2)), length, width, rng.uniform(-1.57, 1.57, count)]
        ),
        scores=rng.uniform(0.3, 1, count),
        class_ids=rng.integers(0, len(names), count),
        classes=tuple(ClassInfo(name, (10 * i, 20, 30)) for i, name in enumerate(names)),
        georeference=georeference or place("north-up"),
    )


def place(grid):
    transform, epsg = GRIDS[grid]
    return Georeference(transform=transform, crs_wkt=pyproj.CRS(epsg).to_wkt())


def written(path, found, **options):
    check_target(str(path), OutputOptions(**options), WRITERS)
    boxes.write_boxes(str(path), found, OutputOptions(**options))
    return pyogrio.read_dataframe(path)


def test_boxes_laid_out_in_parts_are_those_of_the_whole(tmp_path, monkeypatch):
    found = found_boxes(count=40)
    whole = written(tmp_path / "whole.gpkg", found)
    monkeypatch.setattr(layer, "_ROWS_AT_ONCE", 7)
    assert written(tmp_path / "parts.gpkg", found).equals(whole)


def corners_in(frame):
    """Return the first four corners of polygons, ``(N, 4, 2)``."""
    return np.array([polygon.exterior.coords[:4] for polygon in frame.geometry])


def in_pixels(corners, transform):
    return np.stack(~transform @ (corners[..., 0], corners[..., 1]), axis=-1)


def assert_same_corners(found, expected, atol):
    """Compare from the first corner on, one way round or the other."""
    other_way = expected[:, [0, 3, 2, 1]]
    apart = np.minimum(*(np.abs(found - c).max((1, 2)) for c in (expected, other_way)))
    assert apart.max() < atol


@pytest.mark.parametrize("ending", [*ENDINGS, "csv"])
@pytest.mark.parametrize("grid", GRIDS)
def test_boxes_come_back_through_merge_and_file(tmp_path, grid, ending):
    truth = found_boxes(place(grid))
    raw = RawBoxes(
        truth.boxes, truth.scores, truth.class_ids, np.zeros(40, bool), np.ones(40, bool)
    )
    kept = merge_boxes(raw, nms_iou=0.3)
    truth = boxes.BoxesOfScene(
        boxes=truth.boxes[kept],
        scores=truth.scores[kept],
        class_ids=truth.class_ids[kept],
        classes=truth.classes,
        georeference=truth.georeference,
    )
    frame = written(tmp_path / f"out.{ending}", truth)
    transform, epsg = GRIDS[grid]
    assert set(FIELDS) <= set(frame.columns)
    if ending == "csv":
        frame = frame.set_crs(epsg).astype(dict.fromkeys(FIELDS[1:], float))
    else:
        assert list(frame.columns) == [*FIELDS, "geometry"]
        assert frame.crs.to_epsg() == (4326 if ending == "geojson" else epsg)
    frame = frame.to_crs(epsg)
    if ending == "fgb":  # sorts by place
        order = np.argsort(frame.score)[::-1]
        frame = frame.iloc[order]
    assert_same_corners(in_pixels(corners_in(frame), transform), corners_of(truth.boxes), 0.01)
    assert frame["class"].tolist() == truth.names.tolist()
    assert frame.class_id.tolist() == truth.class_ids.tolist()
    np.testing.assert_allclose(frame.score, truth.scores, atol=1e-9)


@pytest.mark.parametrize("grid", GRIDS)
def test_rings_are_closed_valid_and_counter_clockwise(tmp_path, grid):
    frame = written(tmp_path / "out.gpkg", found_boxes(place(grid)))
    rings = shapely.get_exterior_ring(frame.geometry.values)
    assert frame.geometry.is_valid.all() and (shapely.get_num_coordinates(rings) == 5).all()
    assert shapely.is_ccw(rings).all()


@pytest.mark.parametrize("grid", ["north-up", "south-up", "degrees"])
def test_sizes_and_bearings_are_those_of_the_polygons_on_the_ground(tmp_path, grid):
    frame = written(tmp_path / "out.gpkg", found_boxes(place(grid)))
    geod = pyproj.Geod(ellps="WGS84")
    degrees = frame.to_crs(4326)
    assert len(frame) == 40
    for row, polygon, lonlat in zip(
        frame.itertuples(), frame.geometry, degrees.geometry, strict=True
    ):
        ends = np.array(polygon.exterior.coords)
        sides = [geod.geometry_length(shapely.LineString(lonlat.exterior.coords[i : i + 2]))
                 for i in (0, 1)]  # fmt: skip
        scale = 1.0 if grid == "degrees" else 0.9996  # of UTM near its middle
        longer = int(np.argmax(sides))
        assert row.length_m == pytest.approx(max(sides) * scale, rel=2e-3)
        assert row.area_m2 == pytest.approx(row.length_m * row.width_m)
        east, north = ends[longer + 1] - ends[longer]
        if grid == "degrees":
            azimuth, _, _ = geod.inv(*ends[longer], *ends[longer + 1])
        else:
            azimuth = np.degrees(np.arctan2(east, north))
        assert (row.bearing - azimuth + 90) % 180 - 90 == pytest.approx(0, abs=1e-3)
        assert 0 <= row.bearing < 180
        assert polygon.centroid.distance(shapely.Point(row.cx, row.cy)) < 1e-6


def test_a_geopackage_may_have_any_name(tmp_path):
    assert len(written(tmp_path / "gpkg_boxes.gpkg", found_boxes())) == 40


def test_geojson_says_where_centres_are_in_degrees(tmp_path):
    frame = written(tmp_path / "out.geojson", found_boxes(place("feet")))
    centroids = shapely.get_coordinates(shapely.centroid(frame.geometry.to_numpy()))
    np.testing.assert_allclose(frame[["cx", "cy"]], centroids, atol=1e-8)
    document = json.loads((tmp_path / "out.geojson").read_text())
    assert "crs" not in document


@pytest.mark.parametrize("ending", [*ENDINGS, "csv", "txt"])
def test_no_box_is_a_valid_empty_layer(tmp_path, ending):
    target = tmp_path / f"out.{ending}"
    boxes.write_boxes(str(target), found_boxes(count=0), OutputOptions())
    if ending == "txt":
        assert target.read_text() == ""
    elif ending == "csv":
        assert target.read_text().strip().split(",")[-9:] == FIELDS
    elif ending == "geojson":
        assert json.loads(target.read_text())["features"] == []
    else:
        info = pyogrio.read_info(target, force_feature_count=True)
        assert info["features"] == 0 and list(info["fields"]) == FIELDS
        assert info["crs"] == "EPSG:32633"
        assert info["geometry_type"] == "Polygon"


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("transform", [None, GRIDS["north-up"][0]], ids=["nowhere", "world-file"])
def test_without_a_crs_all_is_in_pixels(tmp_path, ending, transform):
    found = found_boxes(Georeference(transform=transform, crs_wkt=None))
    frame = written(tmp_path / f"out.{ending}", found)
    pixel_fields = [name.replace("_m2", "_px").replace("_m", "_px") for name in FIELDS]
    assert list(frame.columns) == [*pixel_fields, "geometry"]
    order = np.argsort(-found.scores), np.argsort(-frame.score)
    for name, column in (("cx", 0), ("cy", 1), ("length_px", 2), ("width_px", 3)):
        expected = found.boxes[order[0], column]
        np.testing.assert_allclose(frame[name].to_numpy()[order[1]], expected, atol=1e-6)
    # Up on screen is north: a box that is turned clockwise by a lies 90 degrees and a from there.
    expected = (np.degrees(found.boxes[order[0], 4]) + 90) % 180
    np.testing.assert_allclose(frame.bearing.to_numpy()[order[1]], expected, atol=1e-6)


def test_ground_control_points_place_the_boxes(tmp_path):
    grid = Affine(1e-5, 0, 14, 0, -1e-5, 50)
    gcps = tuple(
        (float(row), float(col), *(grid @ (col, row)), 0.0, f"{row}-{col}", "")
        for row in (0, 2500, 5000)
        for col in (0, 2500, 5000)
    )
    wkt = pyproj.CRS(4326).to_wkt()
    found = found_boxes(Georeference(transform=None, crs_wkt=None, gcps=gcps, gcps_crs_wkt=wkt))
    frame = written(tmp_path / "out.gpkg", found)
    assert frame.crs.to_epsg() == 4326 and "length_m" in frame.columns
    assert_same_corners(in_pixels(corners_in(frame), grid), corners_of(found.boxes), 0.01)
    straight = found_boxes(Georeference(transform=grid, crs_wkt=wkt))
    expected = written(tmp_path / "straight.gpkg", straight)
    np.testing.assert_allclose(frame.length_m, expected.length_m, rtol=1e-6)


def test_dota_text_holds_pixels_class_and_score(tmp_path):
    found = found_boxes()
    boxes.write_boxes(str(tmp_path / "out.txt"), found, OutputOptions())
    lines = [line.split(" ") for line in (tmp_path / "out.txt").read_text().splitlines()]
    corners = np.array([line[:8] for line in lines], float).reshape(-1, 4, 2)
    np.testing.assert_allclose(corners, corners_of(found.boxes), atol=6e-4)
    assert [line[8] for line in lines] == [name.replace(" ", "-") for name in found.names]
    np.testing.assert_allclose([float(line[9]) for line in lines], found.scores, atol=1e-6)


def test_geoparquet_needs_a_library_and_says_which(tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(OutputError, match=r"pip install pyarrow, or write \.gpkg"):
            check_target(str(tmp_path / "out.parquet"), OutputOptions(), WRITERS)
        return
    import geopandas

    found = found_boxes()
    boxes.write_boxes(str(tmp_path / "out.parquet"), found, OutputOptions())
    frame = geopandas.read_parquet(tmp_path / "out.parquet")
    assert frame.crs.to_epsg() == 32633 and list(frame.columns) == [*FIELDS, "geometry"]


class Stdout:
    def __init__(self):
        self.buffer = io.BytesIO()


@pytest.mark.parametrize("count", [0, 5])
def test_stdout_takes_one_feature_collection(monkeypatch, count):
    monkeypatch.setattr(sys, "stdout", Stdout())
    check_target("-", OutputOptions(), WRITERS)
    boxes.write_boxes("-", found_boxes(count=count), OutputOptions())
    document = json.loads(sys.stdout.buffer.getvalue())
    assert document["type"] == "FeatureCollection" and len(document["features"]) == count


def test_a_style_comes_beside_the_layer_and_is_not_overwritten_unasked(tmp_path):
    written(tmp_path / "out.shp", found_boxes(), style=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {f"out.{part}" for part in ("shp", "shx", "dbf", "prj", "cpg", "qml")}
    assert (tmp_path / "out.cpg").read_text() == "UTF-8"
    with pytest.raises(OutputError, match=r"out\.qml exists"):
        check_target(str(tmp_path / "out.gpkg"), OutputOptions(style=True), WRITERS)


@pytest.mark.parametrize(
    ("target", "options", "said"),
    [
        ("-", {"style": True}, "--style writes a file beside"),
        ("out.txt", {"style": True}, "QGIS opens no DOTA text"),
        ("out.txt", {"creation_options": {"A": "1"}}, "DOTA has no creation options"),
        ("out.tif", {}, r"'\.tif'; take one of \.geojson, \.shp, \.gpkg"),
        ("out.gpkg", {"creation_options": {"SHOE_SIZE": "43"}}, "SHOE_SIZE"),
        ("out.gpkg", {"format": "COG"}, "--format COG is not known; take one of GeoJSON, ESRI"),
        ("out.gpkg", {"format": "ESRI Shapefile"}, "several files around NAME.shp"),
    ],
)
def test_what_cannot_be_written_is_refused_before_work(tmp_path, target, options, said):
    target = target if target == "-" else str(tmp_path / target)
    with pytest.raises(OutputError, match=said):
        check_target(target, OutputOptions(**options), WRITERS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("names", [("ship",), ("ü" * 60, "ship")])
def test_the_size_of_a_shapefile_of_boxes_is_known_to_the_byte(tmp_path, monkeypatch, names):
    found = found_boxes(names=names)
    written(tmp_path / "out.shp", found)
    size = max((tmp_path / f"out.{part}").stat().st_size for part in ("shp", "dbf"))
    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", size)
    written(tmp_path / "out.shp", found, overwrite=True)
    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", size - 1)
    with pytest.raises(OutputError, match=r"a shapefile ends at 2 GB; write \.gpkg or \.fgb"):
        written(tmp_path / "out.shp", found, overwrite=True)


def test_a_name_that_a_shapefile_cannot_hold_is_refused(tmp_path):
    with pytest.raises(OutputError, match="at most 254 bytes, one has 260"):
        written(tmp_path / "out.shp", found_boxes(names=("ü" * 130,)))
    frame = written(tmp_path / "out.shp", found_boxes(names=("ü" * 127,)))
    assert set(frame["class"]) == {"ü" * 127}


def test_an_error_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(layer, "SHAPEFILE_LIMIT", 10)
    with pytest.raises(OutputError):
        boxes.write_boxes(str(tmp_path / "out.shp"), found_boxes(), OutputOptions())
    assert list(tmp_path.iterdir()) == []
