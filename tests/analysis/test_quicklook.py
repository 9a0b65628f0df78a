import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from making.collector import Collector
from PIL import Image
from rasterio.control import GroundControlPoint

from lemevit_cli.analysis.quicklook import QuicklookOptions, quicklook
from lemevit_cli.errors import DataError, OutputError, SceneError
from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.legend import classes_from_names
from lemevit_cli.pictures.map_picture import TITLE_HEIGHT
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.detection.results import BoxesOfScene, write_boxes

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
RED, BLUE = (214, 69, 65), (66, 135, 245)  # building, water
VOID = (235, 235, 235)


@pytest.fixture
def gray(write_scene):
    """Return the path of a scene of one grey, 640 x 480 pixels, north-up."""
    return write_scene(np.full((3, 480, 640), 90, np.uint8), "gray.tif", transform=NORTH_UP)


@pytest.fixture
def write_result(write_scene):
    """Return a function that writes class ids with names, as predict does."""

    def write(ids, name="result.tif", transform=NORTH_UP, **profile):
        path = write_scene(ids[None], name, transform=transform, nodata=255, **profile)
        with rasterio.open(path, "r+") as raster:
            raster.update_tags(1, CLASS_0="land", CLASS_1="building", CLASS_2="water")
        return path

    return write


@pytest.fixture
def ids():
    """Return ids of a building in the middle and water at the right edge, and nothing else."""
    values = np.full((480, 640), 255, np.uint8)
    values[100:200, 200:400] = 1
    values[:, 620:] = 2
    return values


def shown(tmp_path, result, **options):
    """Return the map of a quicklook without title and legend, and the record."""
    record = quicklook(str(result), str(tmp_path / "q.png"), QuicklookOptions(**options))
    picture = np.asarray(Image.open(record["path"]).convert("RGB"))
    bottom = TITLE_HEIGHT + record["height"] * (picture.shape[1] // record["width"])
    return picture[TITLE_HEIGHT:bottom], record


def test_a_result_lies_over_its_scene(tmp_path, gray, write_result, ids):
    picture, record = shown(tmp_path, write_result(ids), over=gray, alpha=0.25)
    assert picture.shape == (480, 640, 3)
    scene = picture[300, 300]
    expected = (0.75 * scene + 0.25 * np.array(RED)).round()
    np.testing.assert_array_equal(
        picture[110:190, 210:390], np.broadcast_to(expected, (80, 180, 3))
    )
    assert (picture[98, 200:400] == scene).all() and (picture[300, 300:600] == scene).all()
    assert record["classes"] == ["land", "building", "water"] and record["scale_bar"] == "50 m"


def test_a_result_alone_is_opaque(tmp_path, write_result, ids):
    picture, _ = shown(tmp_path, write_result(ids))
    assert (picture[110:190, 210:390] == RED).all() and (picture[250:400, 630] == BLUE).all()
    assert (picture[300, 300:600] == VOID).all()


@pytest.mark.parametrize(
    ("grid", "crs"),
    [
        (NORTH_UP @ Affine.translation(-100, -100) @ Affine.scale(0.37), 32633),
        (NORTH_UP @ Affine.translation(-500, 300) @ Affine.rotation(-35), 32633),
        (Affine(0.5, 0, 457_900, 0, 0.5, 5_547_700), 32633),
        (Affine(3e-6, 0, 14.4135, 0, -3e-6, 50.0845), 4326),
    ],
    ids=["finer", "rotated", "south-up", "degrees"],
)
def test_a_result_on_another_grid_lands_where_it_belongs(tmp_path, gray, write_scene, grid, crs):
    place = geopandas.GeoSeries([shapely.box(458_100, 5_547_900, 458_200, 5_547_950)], crs=32633)
    burnt = rasterio.features.rasterize(
        [(place.to_crs(crs).segmentize(1e-4 if crs == 4326 else 5)[0], 1)],
        (1400, 1500),
        fill=255,
        transform=grid,
        dtype="uint8",
    )
    assert (burnt == 1).sum() > 15_000
    result = write_scene(burnt[None], "r.tif", transform=grid, crs=f"EPSG:{crs}", nodata=255)
    picture, _ = shown(tmp_path, result, over=gray, alpha=1.0)
    colored = (picture != picture[300, 100]).any(axis=2)[60:440]
    # 458100 to 458200 are columns 200 to 400, 5547950 to 5547900 are rows 100 to 200.
    expected = np.zeros((480, 640), bool)
    expected[100:200, 200:400] = True
    assert (colored != expected[60:440])[:, :560].mean() < 0.005


def test_polygons_are_filled_and_outlined_by_class(tmp_path, gray):
    boxes = [
        shapely.box(458_100, 5_547_900, 458_200, 5_547_950),
        shapely.box(458_030, 5_547_850, 458_060, 5_547_870),
    ]
    table = geopandas.GeoDataFrame({"class": ["building", "water"]}, geometry=boxes, crs=32633)
    table.to_crs(4326).to_file(tmp_path / "r.gpkg", layer="cover")
    picture, record = shown(tmp_path, tmp_path / "r.gpkg", over=gray, alpha=0.5)
    scene = picture[300, 300].astype(float)
    np.testing.assert_array_equal(picture[150, 300], (0.5 * scene + 0.5 * np.array(RED)).round())
    np.testing.assert_array_equal(picture[280, 90], (0.5 * scene + 0.5 * np.array(BLUE)).round())
    assert (picture[95:105, 300] == RED).all(axis=1).sum() in (1, 2)
    assert record["classes"] == ["building", "water"]


def test_polygons_alone_are_drawn_north_up_with_square_pixels(tmp_path):
    square = geopandas.GeoSeries([shapely.box(458_100, 5_547_900, 458_200, 5_548_000)], crs=32633)
    table = geopandas.GeoDataFrame(geometry=square.to_crs(4326))
    table.to_file(tmp_path / "plots.geojson")
    picture, record = shown(tmp_path, tmp_path / "plots.geojson", size=500)
    assert record["classes"] == ["plots"]
    assert record["width"] == pytest.approx(record["height"], rel=0.03)
    filled = (picture != VOID).any(axis=2)
    assert 0.8 < filled.mean() < 0.95 and filled[250, 250] and not filled[1, 250]


def test_a_colour_table_of_others_colours_the_classes(tmp_path, write_scene):
    values = np.zeros((1, 480, 640), np.uint8)
    values[:, 200:300] = 7
    path = write_scene(values, transform=NORTH_UP)
    with rasterio.open(path, "r+") as raster:
        raster.write_colormap(1, {0: (10, 20, 30, 255), 7: (200, 100, 50, 255)})
    picture, record = shown(tmp_path, path)
    assert (picture[210:290, 100:500] == (200, 100, 50)).all()
    assert (picture[310:400, 100:500] == (10, 20, 30)).all()
    assert record["classes"] == ["class_0", "class_7"]


def test_scores_show_their_best_class(tmp_path, gray, scene, predictor):
    from lemevit_cli.inference.scenes import infer_scenes
    from lemevit_cli.progress import Silent
    from lemevit_cli.settings import InferenceSettings, OutputOptions
    from lemevit_cli.tasks.segmentation.inference import Segmentation

    pictures = []
    for kind in ("scores", "classes"):
        settings = InferenceSettings(output=OutputOptions(output_type=kind))
        target = str(tmp_path / f"{kind}.tif")
        task = Segmentation(predictor.card, settings, Silent())
        infer_scenes(task, [str(scene)], [target], lambda: predictor)
        picture, record = shown(tmp_path, target, overwrite=True)
        pictures.append(picture)
        assert record["classes"] == ["land", "building", "water"]
    np.testing.assert_array_equal(*pictures)


def test_a_scene_alone_is_a_picture_without_a_legend(tmp_path, scene, pixels):
    picture, record = shown(tmp_path, scene)
    assert record["classes"] == [] and (record["width"], record["height"]) == (64, 48)
    assert (picture[4:60, 4:60] == VOID).all()
    assert record["scale_bar"] == "5 m"


def test_without_a_georeference_there_is_no_bar(tmp_path):
    values = np.random.default_rng(0).integers(0, 256, (500, 700, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "plain.png")
    Image.fromarray(np.ones((500, 700), np.uint8)).save(tmp_path / "ids.png")
    picture, record = shown(tmp_path, tmp_path / "ids.png", over=str(tmp_path / "plain.png"))
    assert record["scale_bar"] is None and picture.shape == (500, 700, 3)
    assert record["classes"] == ["class_1"]


def test_bounds_and_size_choose_the_part_and_its_pixels(tmp_path, gray, write_result, ids):
    bounds = (458_100, 5_547_900, 458_300, 5_548_000)
    picture, record = shown(
        tmp_path, write_result(ids), over=gray, bounds=bounds, size=500, alpha=1.0
    )
    assert (record["width"], record["height"]) == (400, 200)
    # Enlarged twice.
    assert (picture[210:350, 10:390] == RED).all()
    assert (picture[210:350, 410:] != RED).any(axis=2).all()
    _, small = shown(tmp_path, write_result(ids), over=gray, size=64, overwrite=True)
    assert (small["width"], small["height"]) == (64, 48)


def test_a_large_scene_is_read_from_its_overviews(tmp_path, write_result, monkeypatch):
    values = np.kron(np.arange(3, dtype=np.uint8)[:, None], np.ones((700, 2100), np.uint8))
    path = write_result(values, tiled=True, blockxsize=256, blockysize=256)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2, 4, 8], rasterio.enums.Resampling.nearest)
        # What only the full resolution knows must not be seen.
        raster.write(np.full((1, 2100, 2100), 1, np.uint8))
    picture, record = shown(tmp_path, path, size=525)
    assert record["width"] == 525
    assert {tuple(c) for c in picture[250, 100:400].tolist()} == {RED}
    assert {tuple(c) for c in picture[450, 200:400].tolist()} == {BLUE}


def test_mistakes_are_one_line(tmp_path, gray, write_result, ids):
    far = write_result(ids, "far.tif", NORTH_UP @ Affine.translation(50_000, 0))
    with pytest.raises(SceneError, match=r"gray.tif and .*far.tif do not overlap.*458000 .*483000"):
        shown(tmp_path, far, over=gray)
    table = geopandas.GeoDataFrame(geometry=[shapely.box(0, 0, 1, 1)], crs=32633)
    table.to_file(tmp_path / "r.gpkg")
    with pytest.raises(SceneError, match="none touches"):
        shown(tmp_path, tmp_path / "r.gpkg", over=gray)
    with pytest.raises(SceneError, match="has 3 bands; class ids"):
        shown(tmp_path, gray, over=gray)
    with pytest.raises(SceneError, match="gone"):
        shown(tmp_path, tmp_path / "gone.tif")
    with pytest.raises(OutputError, match="is a PNG or JPEG"):
        quicklook(gray, str(tmp_path / "q.tif"))
    assert not list(tmp_path.glob("q.*"))


def write_boxes_of(tmp_path, name, georeference, boxes):
    found = BoxesOfScene(
        boxes=np.array(boxes, float),
        scores=np.linspace(0.9, 0.5, len(boxes)),
        class_ids=np.array([2, 0, 2])[: len(boxes)],
        classes=classes_from_names(["building", "plane", "water"]),
        georeference=georeference,
    )
    write_boxes(str(tmp_path / name), found, OutputOptions())
    return tmp_path / name


BOXES = [[300, 150, 120, 60, 0.0], [100, 300, 90, 40, 0.7], [500, 300, 60, 60, 0.0]]
UTM33 = Georeference(transform=NORTH_UP, crs_wkt=rasterio.CRS.from_epsg(32633).to_wkt())


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
@pytest.mark.parametrize("ending", ["gpkg", "geojson"])
def test_polygons_in_pixels_are_not_drawn_alone(tmp_path, ending):
    table = geopandas.GeoDataFrame({"area_px": [90.0]}, geometry=[shapely.box(30, 20, 40, 29)])
    table.to_file(tmp_path / f"p.{ending}")
    with pytest.raises(DataError, match="holds pixels of a scene; name it by --over"):
        quicklook(str(tmp_path / f"p.{ending}"), str(tmp_path / "alone.png"))


@pytest.mark.parametrize("ending", ["shp", "gpkg", "geojson", "csv", "txt"])
def test_boxes_are_outlined_in_the_colours_of_their_classes_and_counted(tmp_path, gray, ending):
    boxes = write_boxes_of(tmp_path, f"b.{ending}", UTM33, BOXES)
    picture, record = shown(tmp_path, boxes, over=gray)
    scene = picture[20, 20]
    assert (picture[150, 300] == scene).all() and (picture[300, 500] == scene).all()  # not filled
    for row, col in ((150, 240), (150, 359), (120, 300), (300, 470), (300, 529)):
        near = picture[row - 1 : row + 2, col - 1 : col + 2].reshape(-1, 3)
        assert (near == BLUE).all(axis=1).any(), (row, col)
    assert record["objects"] == {"building": 1, "water": 2}
    assert record["classes"] == ["building", "water"]


@pytest.mark.parametrize("ending", ["shp", "geojson", "txt"])
def test_boxes_in_pixels_lie_on_their_scene_and_nowhere_else(tmp_path, gray, ending):
    nowhere = Georeference(transform=None, crs_wkt=None)
    boxes = write_boxes_of(tmp_path, f"b.{ending}", nowhere, BOXES[:1])
    picture, _ = shown(tmp_path, boxes, over=gray)
    drawn = np.argwhere((picture == BLUE).all(axis=2))
    np.testing.assert_allclose(drawn.min(axis=0), (119, 239), atol=1)
    np.testing.assert_allclose(drawn.max(axis=0), (180, 360), atol=1)
    with pytest.raises(DataError, match="holds pixels of a scene; name it by --over"):
        quicklook(str(boxes), str(tmp_path / "alone.png"))


@pytest.mark.parametrize("ending", ["shp", "gpkg", "geojson", "csv", "txt"])
def test_no_boxes_over_a_scene_show_the_scene(tmp_path, gray, ending):
    empty = write_boxes_of(tmp_path, f"b.{ending}", UTM33, np.empty((0, 5)))
    picture, record = shown(tmp_path, empty, over=gray)
    assert (picture[60:430, :500] == picture[300, 300]).all()  # beside the arrow and the bar
    assert record["objects"] == {} and record["classes"] == []


def test_boxes_in_pixels_follow_a_photo_that_is_drawn_smaller(tmp_path):
    scene = str(tmp_path / "photo.png")
    Image.new("RGB", (640, 480), (90, 90, 90)).save(scene)
    nowhere = Georeference(transform=None, crs_wkt=None)
    boxes = write_boxes_of(tmp_path, "b.txt", nowhere, [[400, 300, 120, 60, 0.0]])
    picture, record = shown(tmp_path, boxes, over=scene, size=320)
    zoom = picture.shape[1] / record["width"]
    drawn = np.argwhere((picture != picture[5, 5]).any(axis=2))[:, ::-1] / zoom
    np.testing.assert_allclose(drawn.min(axis=0), (170, 135), atol=1.5)
    np.testing.assert_allclose(drawn.max(axis=0), (230, 165), atol=1.5)


def test_boxes_alone_are_drawn_in_the_colours_of_their_classes(tmp_path):
    boxes = write_boxes_of(tmp_path, "b.gpkg", UTM33, BOXES)
    picture, _ = shown(tmp_path, boxes)
    assert (picture == BLUE).all(axis=2).sum() > 300 and (picture == RED).all(axis=2).sum() > 300


def test_polygons_lie_over_a_scene_that_points_place(tmp_path, write_scene, write_polygons):
    points = [
        GroundControlPoint(row=r, col=c, x=5 + c / 1000, y=48 - r / 1000)
        for r in (0, 240, 480)
        for c in (0, 320, 640)
    ]
    pixels = np.full((3, 480, 640), 90, np.uint8)
    scene = write_scene(pixels, "points.tif", gcps=points, transform=None, crs="EPSG:4326")
    roof = write_polygons([shapely.box(5.2, 47.8, 5.4, 47.9)], crs="EPSG:4326", **{"class": ["a"]})
    picture, _ = shown(tmp_path, roof, over=scene, alpha=1.0, size=320)
    filled = (picture != picture[0, 0]).any(axis=2)
    assert filled[104:196, 204:396].all()
    filled[96:204, 196:404] = False  # what the line around it reaches
    assert not filled.any()


def test_what_was_mended_in_a_layer_is_told(tmp_path, gray, write_polygons):
    eight = shapely.Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])
    eight = shapely.affinity.translate(eight, 458_050, 5_547_900)
    said = Collector()
    path = write_polygons([eight], crs="EPSG:32633")
    quicklook(path, str(tmp_path / "q.png"), QuicklookOptions(over=gray, size=64), said)
    assert len(said.notes) == 1 and "1 of its features cross" in said.notes[0]


CREDIT = "Imagery: somebody, CC BY 4.0"


@pytest.fixture
def credited(write_scene):
    """Return the path of the gray scene whose file says whom it is owed to."""
    path = write_scene(np.full((3, 480, 640), 90, np.uint8), "owed.tif", transform=NORTH_UP)
    with rasterio.open(path, "r+") as scene:
        scene.update_tags(TIFFTAG_COPYRIGHT=CREDIT)
    return path


@pytest.mark.parametrize("way", ["alone", "over", "beside"])
def test_whom_a_scene_is_owed_to_stands_on_its_picture(
    tmp_path, gray, credited, write_result, ids, way
):
    def draw(scene):
        if way == "alone":
            return shown(tmp_path, scene, overwrite=True)[0]
        result = write_result(np.full_like(ids, 255))
        beside = (scene,) if way == "beside" else ()
        return shown(tmp_path, result, over=scene, beside=beside, overwrite=True)[0]

    rows, cols = np.nonzero((draw(gray) != draw(credited)).any(axis=2))
    right = 640 if way != "beside" else 2 * 640 + 8
    assert len(rows) > 300
    assert rows.min() > 440 and cols.max() > right - 15 and cols.min() > right - 250


def test_other_results_stand_beside_a_result(tmp_path, gray, write_result, ids):
    water = write_result(np.full_like(ids, 2), "water.tif")
    picture, record = shown(tmp_path, write_result(ids), over=gray, beside=(gray, water), alpha=1.0)
    assert picture.shape[1] == 3 * 640 + 2 * 8
    bare, truth, result = (picture[110:190, i * 648 + 210 : i * 648 + 390] for i in range(3))
    assert (bare == picture[300, 300]).all() and (truth == BLUE).all() and (result == RED).all()
    assert record["classes"] == ["land", "building", "water"]


def test_a_name_that_ends_in_jpg_makes_a_jpeg(tmp_path, gray):
    record = quicklook(gray, str(tmp_path / "q.jpg"))
    assert Image.open(record["path"]).format == "JPEG"
    with pytest.raises(OutputError, match="is a PNG or JPEG"):
        quicklook(gray, str(tmp_path / "q.tif"))
