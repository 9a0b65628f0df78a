"""Boxes compared between files of any two kinds: the figures are those of the boxes themselves."""

import csv
from dataclasses import replace

import geopandas
import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from lemevit_cli.analysis.scoring import score
from lemevit_cli.errors import DataError, LemevitError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.oriented_boxes import corners_of, mapped_points
from lemevit_cli.legend import classes_from_names
from lemevit_cli.metrics.average_precision import Detections, Truth, average_precision
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.detection.files import read_boxes
from lemevit_cli.tasks.detection.results import BoxesOfScene, write_boxes
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.training.options import LabelledScene

pytestmark = pytest.mark.filterwarnings("ignore:'crs' was not provided")

NAMES = ("ship", "storage tank")
UTM = pyproj.CRS(32633).to_wkt()
NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)

ANY = LabelledScene(scene="", labels="")


class Collector:
    """Keeps notes and warnings."""

    def __init__(self):
        self.lines = []

    def start(self, label, *, total, unit): ...

    def advance(self, count=1, **figures): ...

    def finish(self): ...

    def warn(self, message):
        self.lines.append(message)

    note = warn


@pytest.fixture(scope="module")
def boxes():
    """Return true boxes of 500 x 400 pixels, some difficult, and detections near and elsewhere."""
    random = np.random.default_rng(0)
    true = np.column_stack(
        [
            random.uniform([20, 20], [480, 380], (30, 2)),
            random.uniform(15, 40, (30, 1)),
            random.uniform(6, 12, (30, 1)),
            random.uniform(-1.5, 1.5, 30),
        ]
    )
    near = np.repeat(true, 2, axis=0) + random.normal(0, 1, (60, 5)) * [2, 2, 1.5, 0.7, 0.05]
    classes = random.integers(0, 2, 30)
    return {
        "found": near,
        "scores": np.round(random.uniform(0.05, 1, 60), 6),
        "found_classes": np.repeat(classes, 2),
        "true": true,
        "true_classes": classes,
        "difficult": random.random(30) < 0.2,
    }


@pytest.fixture(scope="module")
def expected(boxes):
    return average_precision(
        Detections(
            boxes=boxes["found"],
            scores=boxes["scores"],
            class_ids=boxes["found_classes"],
            image_ids=np.zeros(60, int),
        ),
        Truth(
            boxes=boxes["true"],
            class_ids=boxes["true_classes"],
            image_ids=np.zeros(30, int),
            difficult=boxes["difficult"],
        ),
        NAMES,
    )


@pytest.fixture
def write_found(tmp_path, boxes):
    """Write the found boxes with our own writer, by the suffix."""

    def write(name, *, georeference=None, count=None):
        target = tmp_path / name
        found = BoxesOfScene(
            boxes=boxes["found"][:count],
            scores=boxes["scores"][:count],
            class_ids=boxes["found_classes"][:count],
            classes=classes_from_names(NAMES),
            georeference=georeference or Georeference(transform=None, crs_wkt=None),
        )
        write_boxes(str(target), found, OutputOptions())
        return str(target)

    return write


def true_table(boxes, transform=None, crs=None):
    corners = corners_of(boxes["true"])
    if transform is not None:
        corners = mapped_points(corners, transform)
    fields = {
        "class": [NAMES[i] for i in boxes["true_classes"]],
        "difficult": boxes["difficult"].astype(int),
    }
    return geopandas.GeoDataFrame(fields, geometry=shapely.polygons(corners), crs=crs)


def write_dota(path, boxes):
    lines = ["imagesource:GoogleEarth", "gsd:0.5"]
    for corners, class_id, difficult in zip(
        corners_of(boxes["true"]).reshape(-1, 8),
        boxes["true_classes"],
        boxes["difficult"],
        strict=True,
    ):
        numbers = " ".join(f"{value:.4f}" for value in corners)
        lines.append(f"{numbers} {NAMES[class_id].replace(' ', '-')} {int(difficult)}")
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def assert_same_figures(found, expected, tolerance=1e-6):
    for key in ("ap50", "ap75", "ap50_95", "ap50_voc07", "precision", "recall"):
        assert found[key] == pytest.approx(expected[key], abs=tolerance), key
    for name, record in expected["classes"].items():
        own = found["classes"].get(name) or found["classes"][name.replace(" ", "-")]
        assert own["ap50"] == pytest.approx(record["ap50"], abs=tolerance)
        assert (own["truths"], own["difficult"]) == (record["truths"], record["difficult"])


@pytest.mark.parametrize("suffix", [".shp", ".gpkg", ".geojson", ".fgb"])
@pytest.mark.parametrize("true_crs", ["EPSG:32633", "EPSG:4326", "EPSG:3035"])
def test_layers_on_maps_give_the_figures_of_their_boxes(
    suffix, true_crs, write_found, boxes, expected, tmp_path
):
    found = write_found(f"p{suffix}", georeference=Georeference(transform=NORTH_UP, crs_wkt=UTM))
    truth = tmp_path / "t.gpkg"
    true_table(boxes, NORTH_UP, UTM).to_crs(true_crs).to_file(truth)
    assert_same_figures(score(found, str(truth)), expected)


def test_a_csv_on_a_map_is_taken_to_be_on_that_of_the_truth(write_found, boxes, expected, tmp_path):
    found = write_found("p.csv", georeference=Georeference(transform=NORTH_UP, crs_wkt=UTM))
    truth = tmp_path / "t.gpkg"
    true_table(boxes, NORTH_UP, UTM).to_file(truth)
    assert_same_figures(score(found, str(truth)), expected)


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".gpkg", ".geojson", ".shp"])
def test_files_in_pixels_give_the_same(suffix, write_found, boxes, expected, tmp_path):
    truth = write_dota(tmp_path / "t.txt", boxes)
    # A text has three decimals, six for scores.
    assert_same_figures(score(write_found(f"p{suffix}"), truth), expected, 2e-3)


def test_a_text_and_a_layer_name_classes_differently_and_are_matched(write_found, boxes, tmp_path):
    truth = tmp_path / "t.gpkg"
    true_table(boxes).to_file(truth)
    figures = score(write_found("p.txt"), str(truth))
    assert list(figures["classes"]) == ["ship", "storage-tank"]
    assert list(score(write_found("p.gpkg"), str(truth))["classes"]) == list(NAMES)


def test_a_table_of_corners_is_read(boxes, expected, write_found, tmp_path):
    path = tmp_path / "t.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["class", "x1", "y1", "x2", "y2", "x3", "y3", "x4", "y4", "difficult"])
        for corners, i, flag in zip(
            corners_of(boxes["true"]).reshape(-1, 8).tolist(),
            boxes["true_classes"],
            boxes["difficult"],
            strict=True,
        ):
            writer.writerow([NAMES[i], *corners, str(bool(flag)).lower()])
    assert_same_figures(score(write_found("p.gpkg"), str(path)), expected)


def test_geoparquet_needs_its_library_or_is_read(boxes, expected, write_found, tmp_path):
    path = tmp_path / "t.parquet"
    try:
        true_table(boxes).to_parquet(path)
    except ImportError:
        path.write_bytes(b"PAR1")
        with pytest.raises(DataError, match=r"t\.parquet: GeoParquet needs pyarrow"):
            score(write_found("p.gpkg"), str(path))
    else:
        assert_same_figures(score(write_found("p.gpkg"), str(path)), expected)


def test_folders_of_texts_are_matched_by_name(tmp_path):
    found, true = tmp_path / "found", tmp_path / "true"
    found.mkdir()
    true.mkdir()
    square, other = "0 0 10 0 10 10 0 10", "50 0 60 0 60 10 50 10"
    (true / "P1.txt").write_text(f"{square} ship 0\n")
    (true / "P2.txt").write_text(f"{other} ship 0\n{square} ship 1\n")
    (true / "P3.txt").write_text("")
    # The box of P1 is no answer to the one of P2; detect's own names end in _boxes.
    (found / "P1_boxes.txt").write_text(f"{square} ship 0.9\n{other} ship 0.8\n")
    (found / "P2_boxes.txt").write_text(f"{square} ship 0.7\n")
    (found / "P4_boxes.txt").write_text("")
    (true / "P4.txt").write_text("")
    (found / "P9_boxes.txt").write_text(f"{square} ship 0.7\n")
    collector = Collector()
    figures = score(str(found), str(true), progress=collector)
    assert figures["pictures"] == 4
    assert (figures["precision"], figures["recall"]) == (0.5, 0.5)
    assert figures["ap50"] == pytest.approx(0.5)
    assert any("P9" in line for line in collector.lines)
    assert any("no box, for P3" in line for line in collector.lines)
    assert not any("no scores" in line for line in collector.lines)


def test_precision_and_recall_go_by_the_score(write_found, boxes, tmp_path):
    truth = tmp_path / "t.gpkg"
    true_table(boxes).to_file(truth)
    low, high = (
        score(write_found(f"{limit}.gpkg"), str(truth), ScoreOptions(min_score=limit))
        for limit in (0.0, 0.6)
    )
    assert high["ap50"] == low["ap50"]
    assert high["recall"] < low["recall"]
    kept = (boxes["scores"] >= 0.6).sum()
    assert sum(record["found"] for record in high["classes"].values()) == kept


def test_the_field_of_the_class_may_have_any_name(write_found, boxes, expected, tmp_path):
    truth = tmp_path / "t.gpkg"
    true_table(boxes).rename(columns={"class": "kind"}).to_file(truth)
    labels = LabelledScene(scene="", labels="", label_field="kind")
    figures = score(write_found("p.gpkg"), str(truth), ScoreOptions(labels=labels))
    assert_same_figures(figures, expected)
    with pytest.raises(DataError, match="no field 'class'; its fields are kind, difficult; "):
        score(write_found("q.gpkg"), str(truth))


def test_a_layer_without_classes_is_of_the_class_that_is_told(write_found, boxes, tmp_path):
    truth = tmp_path / "t.gpkg"
    ships = true_table(boxes)
    ships = ships[ships["class"] == "ship"].drop(columns="class")
    ships.to_file(truth)
    labels = LabelledScene(scene="", labels="", class_name="ship")
    collector = Collector()
    figures = score(write_found("p.gpkg"), str(truth), ScoreOptions(labels=labels), collector)
    assert figures["ap50"] == figures["classes"]["ship"]["ap50"] > 0.3
    assert figures["classes"]["storage tank"]["ap50"] is None
    assert any("has no storage tank" in line for line in collector.lines)


def test_polygons_of_more_corners_count_by_their_rectangles(write_found, boxes, expected, tmp_path):
    truth = tmp_path / "t.gpkg"
    table = true_table(boxes)
    table.geometry = shapely.segmentize(table.geometry.to_numpy(), 3.0)
    table.to_file(truth)
    collector = Collector()
    assert_same_figures(score(write_found("p.gpkg"), str(truth), progress=collector), expected)
    assert any("30 polygons without four corners" in line for line in collector.lines)


def test_boxes_without_scores_are_taken_as_they_come(boxes, tmp_path):
    truth = tmp_path / "t.gpkg"
    true_table(boxes).to_file(truth)
    collector = Collector()
    figures = score(str(truth), str(truth), progress=collector)
    assert figures["ap50"] == figures["ap75"] == figures["recall"] == 1.0
    assert any("has no scores" in line for line in collector.lines)


@pytest.mark.parametrize("suffix", [".shp", ".gpkg", ".geojson", ".fgb", ".csv"])
def test_nothing_found_is_no_mistake(suffix, write_found, boxes, tmp_path):
    truth = tmp_path / "t.gpkg"
    true_table(boxes, NORTH_UP, UTM).to_file(truth)
    place = Georeference(transform=NORTH_UP, crs_wkt=UTM)
    empty = write_found(f"p{suffix}", georeference=place, count=0)
    figures = score(empty, str(truth))
    assert figures["ap50"] == figures["recall"] == 0.0 and figures["precision"] is None
    with pytest.raises(DataError, match="holds no box"):
        score(str(truth), empty)


def test_an_empty_text_has_found_nothing(boxes, tmp_path):
    empty = tmp_path / "p.txt"
    empty.write_text("")
    figures = score(str(empty), write_dota(tmp_path / "t.txt", boxes))
    assert figures["ap50"] == figures["recall"] == 0.0 and figures["precision"] is None


def test_a_layer_without_crs_is_taken_to_be_in_the_others_where_they_meet(
    write_found, boxes, expected, tmp_path
):
    truth = tmp_path / "t.gpkg"
    true_table(boxes, NORTH_UP).to_file(truth)
    found = write_found("p.gpkg", georeference=Georeference(transform=NORTH_UP, crs_wkt=UTM))
    collector = Collector()
    assert_same_figures(score(found, str(truth), progress=collector), expected)
    assert any(
        "t.gpkg names no CRS and is taken to be in that of" in line for line in collector.lines
    )


def test_pixels_and_a_map_are_not_compared(write_found, boxes, tmp_path):
    truth = write_dota(tmp_path / "t.txt", boxes)
    found = write_found("p.gpkg", georeference=Georeference(transform=NORTH_UP, crs_wkt=UTM))
    with pytest.raises(DataError) as error:
        score(found, truth)
    assert "t.txt holds pixels" in str(error.value) and "UTM zone 33N" in str(error.value)
    assert "\n" not in str(error.value)


def test_boxes_in_different_places_are_told(write_found, boxes, tmp_path):
    truth = tmp_path / "t.gpkg"
    true_table(boxes, Affine.translation(9000, 0) @ NORTH_UP, UTM).to_file(truth)
    found = write_found("p.gpkg", georeference=Georeference(transform=NORTH_UP, crs_wkt=UTM))
    collector = Collector()
    assert score(found, str(truth), progress=collector)["ap50"] == 0.0
    assert any("lie in different places" in line for line in collector.lines)


def test_any_field_of_a_text_that_is_wrong_is_told_with_its_line(write_found, tmp_path):
    truth = tmp_path / "t.txt"
    for line, message in (
        ("1 2 3 4 5 6 7 ship 0", "line 2: has 7 coordinates"),
        ("1 2 3 4 5 6 7 8 ship sure", "line 2: ends in 'sure'"),
    ):
        truth.write_text(f"0 0 9 0 9 9 0 9 ship 0\n{line}\n")
        with pytest.raises(DataError, match=message):
            score(write_found(f"{len(line)}.txt"), str(truth))


def test_a_score_that_is_none_is_told_with_its_feature(boxes, tmp_path):
    table = true_table(boxes)
    table["score"] = ["0.5"] * 29 + ["high"]
    table.to_file(tmp_path / "p.gpkg")
    with pytest.raises(DataError, match=r"p\.gpkg: score of feature 30 is 'high'"):
        read_boxes(str(tmp_path / "p.gpkg"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (ScoreOptions(tolerance_m=1.0), "--tolerance is for rasters"),
        (ScoreOptions(classes=("a",)), "--classes is for rasters"),
        (ScoreOptions(picture="x.png"), "--png is for rasters"),
        (ScoreOptions(labels=replace(ANY, background="ignore")), "--background is not heeded here"),
        (
            ScoreOptions(labels=replace(ANY, where="a = 1")),
            "t.txt: is read in whole, without --layer",
        ),
    ],
)
def test_what_is_for_rasters_is_refused(options, message, write_found, boxes, tmp_path):
    truth = write_dota(tmp_path / "t.txt", boxes)
    with pytest.raises(DataError, match=message):
        score(write_found("p.txt"), truth, options)


def test_features_that_are_no_polygons_are_told(boxes, tmp_path):
    table = true_table(boxes)
    table.loc[:4, "geometry"] = table.geometry[:5].centroid
    table.to_file(tmp_path / "t.gpkg")
    file = read_boxes(str(tmp_path / "t.gpkg"))
    assert len(file.corners) == len(table) - 5
    assert f"{tmp_path / 't.gpkg'}: 5 features without a polygon are left out" in file.notes


def test_other_mistakes_are_one_line(write_found, boxes, tmp_path):
    found, truth = write_found("p.txt"), write_dota(tmp_path / "t.txt", boxes)
    points, empty, cars = tmp_path / "points.gpkg", tmp_path / "empty.txt", tmp_path / "cars.txt"
    geopandas.GeoDataFrame({"class": ["a"]}, geometry=[shapely.Point(1, 2)]).to_file(points)
    empty.write_text("")
    cars.write_text("0 0 9 0 9 9 0 9 car 0\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.txt").write_text("0 0 9 0 9 9 0 9 car 0\n")
    other = tmp_path / "other"
    other.mkdir()
    (other / "b.txt").write_text("0 0 9 0 9 9 0 9 car 0\n")
    for one, two, message in (
        (found, str(points), "holds no polygons"),
        (found, str(empty), "holds no box"),
        (found, str(cars), "no class is in both"),
        (str(folder), truth, "no class is in both"),
        (str(folder), str(other), "no picture of one has the name"),
        (found, str(tmp_path / "gone.txt"), "no such file"),
    ):
        with pytest.raises(LemevitError, match=message) as error:
            score(one, two)
        assert "\n" not in str(error.value)
