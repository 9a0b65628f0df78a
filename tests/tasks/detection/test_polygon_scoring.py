"""Layers of polygons: parts are objects, corners come in any order, and no rectangle is laid
around what is no box."""

import geopandas
import numpy as np
import pytest
import shapely
from making.box_folders import rectangle
from making.collector import Collector

from lemevit_cli.analysis.scoring import score
from lemevit_cli.errors import DataError
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.training.options import LabelledScene

ORIGIN = np.array([500_000, 5_500_000])
L_SHAPE = shapely.Polygon([(0, 0), (60, 0), (60, 20), (20, 20), (20, 60), (0, 60)])  # 2000 of 3600


def layer(path, geometries, names, crs="EPSG:32633", **fields):
    moved = [shapely.transform(g, lambda xy: xy + ORIGIN) for g in geometries]
    table = geopandas.GeoDataFrame({"class": names} | fields, geometry=moved, crs=crs)
    table.to_file(path)
    return str(path)


def ships():
    return [shapely.Polygon(rectangle(20 * i, 15 * i, 12, 4, 17 * i)) for i in range(4)]


@pytest.fixture
def found(tmp_path):
    path = tmp_path / "found.gpkg"
    return layer(path, ships(), ["ship"] * 4, score=[0.9, 0.8, 0.7, 0.6])


@pytest.mark.parametrize(
    "together", [shapely.MultiPolygon, lambda parts: shapely.GeometryCollection(list(parts))]
)
def test_parts_of_one_feature_are_objects_of_their_own(tmp_path, found, together):
    truth = layer(tmp_path / "t.gpkg", [together(ships())], ["ship"])
    figures = score(found, truth)
    assert figures["classes"]["ship"]["truths"] == 4
    assert figures["ap50"] == figures["ap50_95"] == figures["recall"] == 1.0


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [0, 2, 1, 3], [0, 1, 3, 2], [3, 1, 2, 0]])
def test_corners_come_in_any_order(tmp_path, found, order):
    crossing = [shapely.Polygon(shapely.get_coordinates(ship)[order]) for ship in ships()]
    truth = layer(tmp_path / "t.gpkg", crossing, ["ship"] * 4)
    assert score(found, truth)["ap50_95"] == 1.0
    lines = [
        " ".join([*map(str, (shapely.get_coordinates(ship)[order]).reshape(-1)), "ship", "0"])
        for ship in ships()
    ]
    (tmp_path / "a.txt").write_text("\n".join(lines))
    straight = [
        " ".join(map(str, rectangle(20 * i, 15 * i, 12, 4, 17 * i).reshape(-1))) for i in range(4)
    ]
    (tmp_path / "b.txt").write_text("\n".join(f"{line} ship 0" for line in straight))
    assert score(str(tmp_path / "a.txt"), str(tmp_path / "b.txt"))["ap50_95"] == 1.0


def test_polygons_are_compared_by_area_and_one_by_one(tmp_path):
    square = shapely.box(100, 0, 120, 20)
    shifted = shapely.box(104, 0, 124, 20)  # 320 of 480 shared: IoU two thirds
    truth = layer(tmp_path / "t.gpkg", [L_SHAPE, square], ["house", "house"])
    prediction = layer(tmp_path / "p.gpkg", [L_SHAPE, shifted], ["house", "house"])
    collector = Collector()
    figures = score(prediction, truth, progress=collector)
    house = figures["classes"]["house"]
    assert house["iou"] == pytest.approx((2000 + 320) / (2000 + 480))
    assert house["objects_50"] == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "matched": 2}
    assert house["objects_75"] == {"f1": 0.5, "precision": 0.5, "recall": 0.5, "matched": 1}
    assert (house["truths"], house["found"]) == (2, 2)
    assert any("no boxes are made of them" in note for note in collector.notes)


def test_a_rectangle_around_a_polygon_is_no_polygon(tmp_path):
    truth = layer(tmp_path / "t.gpkg", [L_SHAPE], ["house"])
    box = layer(tmp_path / "p.gpkg", [shapely.box(0, 0, 60, 60)], ["house"])
    figures = score(box, truth)
    assert figures["area_iou"] == pytest.approx(2000 / 3600)
    assert figures["objects_50"]["matched"] == 1 and figures["objects_75"]["matched"] == 0


def test_parts_and_crossing_rings_are_polygons_of_their_own(tmp_path):
    bowtie = shapely.Polygon([(0, 0), (20, 20), (20, 0), (0, 20), (-5, 10)])
    valid = shapely.get_parts(shapely.make_valid(bowtie))
    pair = shapely.MultiPolygon([L_SHAPE, shapely.box(200, 0, 220, 20)])
    truth = layer(tmp_path / "t.gpkg", [pair, bowtie], ["house", "lake"])
    prediction = layer(
        tmp_path / "p.gpkg", [*pair.geoms, *valid], ["house"] * 2 + ["lake"] * len(valid)
    )
    figures = score(prediction, truth)
    assert figures["area_iou"] == pytest.approx(1.0)
    assert figures["objects_75"]["f1"] == 1.0
    assert figures["classes"]["house"]["truths"] == 2


@pytest.mark.parametrize("crs", ["EPSG:4326", "EPSG:3857", "EPSG:3035"])
def test_areas_do_not_depend_on_the_map_of_the_truth(tmp_path, crs):
    shapes = [L_SHAPE, shapely.box(100, 0, 120, 20)]
    truth = layer(tmp_path / "t.gpkg", shapes, ["house", "shed"])
    prediction = layer(tmp_path / "p.gpkg", [shapely.box(0, 0, 60, 20), shapes[1]], ["house"] * 2)
    other = str(tmp_path / "o.gpkg")
    geopandas.read_file(truth).to_crs(crs).to_file(other)
    expected, figures = score(prediction, truth), score(prediction, other)
    assert figures["area_iou"] == pytest.approx(expected["area_iou"], abs=1e-3)
    swapped = score(other, prediction)  # degrees are brought to a map of equal areas
    house = expected["classes"]["house"]
    assert swapped["classes"]["house"]["iou"] == pytest.approx(house["iou"], abs=1e-3)


def test_what_is_in_one_layer_alone_is_told(tmp_path):
    truth = layer(tmp_path / "t.gpkg", [L_SHAPE, L_SHAPE], ["house", None])
    prediction = layer(tmp_path / "p.gpkg", [L_SHAPE, L_SHAPE], ["house", "lake"])
    collector = Collector()
    assert list(score(prediction, truth, progress=collector)["classes"]) == ["house"]
    assert any("1 polygons without a class are left out" in note for note in collector.notes)
    assert any(
        "has no lake; polygons of that are not judged" in line for line in collector.warnings
    )
    lakes = layer(tmp_path / "l.gpkg", [L_SHAPE], ["lake"])
    with pytest.raises(DataError, match="no class is in both"):
        score(lakes, layer(tmp_path / "h.gpkg", [L_SHAPE], ["house"]))
    with pytest.raises(DataError, match="one has a CRS and the other has none"):
        score(lakes, layer(tmp_path / "n.gpkg", [L_SHAPE], ["lake"], crs=None))


def test_the_field_and_the_filter_are_those_of_the_options(tmp_path):
    truth = str(tmp_path / "t.gpkg")
    layer(truth, [L_SHAPE, shapely.box(100, 0, 120, 20)], ["x", "y"], kind=["house", "house"])
    prediction = layer(tmp_path / "p.gpkg", [L_SHAPE], ["house"])
    labels = LabelledScene(scene="", labels="", label_field="kind", where="class = 'x'")
    assert score(prediction, truth, ScoreOptions(labels=labels))["area_iou"] == 1.0
