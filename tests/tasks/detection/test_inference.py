import geopandas
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from affine import Affine
from making.collector import Collector

from lemevit_cli.geometry.oriented_boxes import box_of_polygon, canonical, corners_of, map_boxes
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import inference_over
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import (
    DetectionOptions,
    InferenceSettings,
    OutputOptions,
    ReadingOptions,
    Tiling,
)
from lemevit_cli.tasks.detection.decoding import (
    Decoding,
    SymmetricDetector,
    decode_candidates,
    decoding_of,
)
from lemevit_cli.tasks.detection.inference import Detection, detect_in_area

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
ROWS = 20  # of an answer


class Seer:
    """A detector that reads from a window where it lies, and answers the truth as it shows there.

    The scene's bands tell a pixel's x and y, so that windows may be turned, mirrored or resampled.
    A part of an object is answered as a smaller object, and with more confidence.
    """

    def __init__(self, boxes, scores=None, class_ids=None, surer=0.1):
        self.surer = surer
        self.boxes = np.asarray(boxes, float)
        self.scores = np.full(len(boxes), 0.8) if scores is None else scores
        self.class_ids = np.zeros(len(boxes)) if class_ids is None else class_ids
        self.seen = []

    def __call__(self, pixels):
        answers = np.zeros((len(pixels), ROWS, 7), np.float32)
        answers[:, :, 6] = -1
        for answer, window in zip(answers, pixels, strict=True):
            if (window[2] == 1).any():  # else it fills the batch
                rows = self.answer(window)[:ROWS]
                answer[: len(rows)] = rows
        return answers

    def answer(self, window):
        to_scene = place_of(window)
        self.seen.append(tuple(np.round(to_scene[:6], 3)))
        outline = shapely.box(0, 0, window.shape[2], window.shape[1])
        rows = []
        for box, score, class_id in zip(self.boxes, self.scores, self.class_ids, strict=True):
            here = map_boxes(box[None], ~to_scene)
            polygon = shapely.polygons(corners_of(here))[0]
            visible = shapely.intersection(polygon, outline)
            if visible.area > 0.999 * polygon.area:
                rows.append([*here[0], score, class_id])
            elif visible.area > 0.2 * polygon.area:
                part = box_of_polygon(shapely.get_coordinates(visible))
                rows.append([*part, score + self.surer, class_id])
        return np.array(rows).reshape(-1, 7)


def place_of(window):
    """Map pixels of a window to those of the scene, by what its pixels tell of x and y."""
    rows, cols = np.nonzero(window[2] == 1)
    inner = (rows > 1) & (rows < window.shape[1] - 2) & (cols > 1) & (cols < window.shape[2] - 2)
    rows, cols = rows[inner], cols[inner]
    design = np.column_stack([cols + 0.5, rows + 0.5, np.ones(len(rows))])
    values = window[:2, rows, cols].T.astype(float)
    (a, d), (b, e), (c, f) = np.linalg.lstsq(design, values, rcond=None)[0]
    return Affine(a, b, c, d, e, f)


@pytest.fixture
def write_ramp(write_scene):
    """Return a function that writes a scene whose pixels tell their places; ``hole`` is nodata."""

    def write(width, height, name="scene.tif", hole=None, **profile):
        y, x = np.mgrid[:height, :width] + 0.5
        pixels = np.stack([x, y, np.ones_like(x)]).astype(np.float32)
        if hole is not None:
            pixels[:, *hole.slices] = -1
        profile = {"transform": NORTH_UP, "nodata": -1} | profile
        return write_scene(pixels, name, **profile)

    return write


def predictor_of(runtime, **changes):
    card = Card(
        task="det",
        backbone="-",
        classes=classes_from_names(["ship", "plane"]),
        dtype="float32",
        mean=(0.0, 0.0, 0.0),
        window=64,
        overlap=24,
        **changes,
    )
    return Predictor("a seer", "0" * 16, card, runtime, "cpu")


def found_in(path, runtime, **options):
    return found_and_counted(path, runtime, **options)[0]


def found_and_counted(path, runtime, *, reading=None, card=None, **settings):
    """Return the objects, and the number of windows that were read for them."""
    settings = InferenceSettings(reading=ReadingOptions(**reading or {}), **settings)
    predictor = predictor_of(runtime, **card or {})
    with open_scene(path) as scene:
        source = scene_input(scene, predictor.card, settings.reading, Silent())
        with inference_over(source, predictor, settings.tiling, Silent()) as run:
            return detect_in_area(run, source.area, settings), run.account.windows


def assert_same(found, expected, atol=1e-2):
    """Compare boxes in any order."""
    assert len(found) == len(expected)
    places = shapely.STRtree(shapely.points(expected[:, :2]))
    nearest = places.query_nearest(shapely.points(found[:, :2]))[1]
    assert len(set(nearest)) == len(expected)
    turned = corners_of(expected[nearest])[:, [2, 3, 0, 1]]  # by half a turn: the same rectangle
    apart = [
        np.abs(corners_of(found) - c).max((1, 2)) for c in (corners_of(expected[nearest]), turned)
    ]
    assert np.minimum(*apart).max() < atol


@pytest.fixture
def truth():
    """Return boxes all over a scene of 200 x 150, none touching another."""
    rng = np.random.default_rng(4)
    x, y = np.meshgrid(np.arange(14, 190, 24.0), np.arange(14, 140, 24.0))
    count = x.size
    return canonical(
        np.column_stack(
            [
                x.ravel() + rng.uniform(-1, 1, count),
                y.ravel() + rng.uniform(-1, 1, count),
                rng.uniform(12, 18, count),
                rng.uniform(4, 7, count),
                rng.uniform(-1.5, 1.5, count),
            ]
        )
    )


@pytest.mark.parametrize("gsd", ["native", "0.37", "0.83"])
@pytest.mark.parametrize(("block_size", "batch_size"), [(None, 2), (64, 5), (37, 1)])
def test_every_object_is_found_once_for_any_blocks_and_batches(
    write_ramp, truth, gsd, block_size, batch_size
):
    seer = Seer(truth)
    tiling = Tiling(block_size=block_size, batch_size=batch_size)
    found, windows = found_and_counted(
        write_ramp(200, 150), seer, reading={"gsd": gsd}, tiling=tiling
    )
    # The model's grid has whole pixels: it is sheared by a hair.
    assert_same(found.boxes, truth, atol=1e-2 if gsd == "native" else 0.1)
    assert len(seer.seen) == len(set(seer.seen)) == windows


def test_blocks_share_no_window_and_leave_none_out():
    grid = WindowGrid(width=300, height=200, size=64, overlap=24)
    for area in (
        Window(col_off=0, row_off=0, width=300, height=200),
        Window(col_off=70, row_off=33, width=101, height=90),
    ):
        expected = list(grid.windows_over(area))
        for block_size in (16, 50, 1000):
            shared = [
                window
                for block in blocks_of(area, block_size)
                for window in grid.windows_from(block, area=area)
            ]
            assert len(shared) == len(expected) and set(shared) == set(expected)


def test_an_object_across_four_windows_is_one_box(write_ramp):
    # Windows begin at 0 and 40: the object lies over the four corners around (52, 52).
    box = np.array([[52.0, 52.0, 30.0, 20.0, 0.6]])
    found = found_in(write_ramp(104, 104), Seer(box), tiling=Tiling(overlap=44))
    np.testing.assert_allclose(found.boxes, box, atol=1e-3)


def test_touching_parallel_ships_stay_apart(write_ramp):
    ships = np.array([[60 + 5.0 * i, 60 + 1.0 * i, 40, 5, 1.37] for i in range(10)])
    found = found_in(write_ramp(200, 150), Seer(ships), tiling=Tiling(window=96, overlap=64))
    assert_same(found.boxes, ships, atol=1e-3)


def test_an_object_at_the_scenes_edge_is_not_cut(write_ramp):
    # It ends on the scene's edge; the neighbour sees a part of it with more confidence.
    box = np.array([[10.0, 75.0, 20.0, 8.0, 0.0]])
    found = found_in(write_ramp(200, 150), Seer(box))
    np.testing.assert_allclose(found.boxes, box, atol=1e-3)


def test_centres_on_nodata_and_outside_of_bounds_or_mask_are_dropped(
    write_ramp, truth, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    hole = Window(col_off=40, row_off=30, width=50, height=41)
    holed = found_in(write_ramp(200, 150, hole=hole), Seer(truth))
    x, y = truth[:, 0], truth[:, 1]
    in_hole = (x >= 40) & (x < 90) & (y >= 30) & (y < 71)
    assert 0 < in_hole.sum() < len(truth)
    assert_same(holed.boxes, truth[~in_hole])

    corners = [NORTH_UP @ c for c in ((40, 71), (90, 30))]
    bounds = tuple(v for corner in corners for v in corner)
    whole = write_ramp(200, 150)
    part = found_in(whole, Seer(truth), reading={"bounds": bounds})
    assert_same(part.boxes, truth[in_hole])

    inside = shapely.box(*bounds)
    geopandas.GeoDataFrame(geometry=[inside], crs=32633).to_file("mask.gpkg")
    masked = found_in(whole, Seer(truth), reading={"mask": "mask.gpkg"})
    assert_same(masked.boxes, truth[in_hole])


class Fixed:
    """A detector that answers the same boxes in every window."""

    def __init__(self, rows):
        self.rows = np.float32(rows)

    def __call__(self, pixels):
        return np.tile(self.rows, (len(pixels), 1, 1))


def test_what_lies_in_the_mirrored_filling_of_a_small_scene_is_dropped(write_ramp):
    inside, beyond = [20, 10, 12, 6, 0, 0.9, 1], [52, 10, 12, 6, 0, 0.9, 1]
    below, empty = [20, 40, 12, 6, 0, 0.9, 1], [0, 0, 0, 0, 0, 0, -1]
    found = found_in(write_ramp(44, 30), Fixed([inside, beyond, below, empty]))
    np.testing.assert_array_equal(found.boxes, [[20, 10, 12, 6, 0]])
    assert found.class_ids.tolist() == [1]


def test_scores_and_classes_choose_the_boxes(write_ramp, truth):
    rng = np.random.default_rng(0)
    scores, class_ids = rng.uniform(0.05, 0.85, len(truth)), rng.integers(0, 2, len(truth))
    path, seer = write_ramp(200, 150), Seer(truth, scores, class_ids, surer=0)
    detection = DetectionOptions(score=0.4)
    found = found_in(path, seer, detection=detection, output=OutputOptions(classes=("plane",)))
    chosen = (scores >= 0.4) & (class_ids == 1)
    assert_same(found.boxes, truth[chosen])
    assert (found.class_ids == 1).all() and (np.diff(found.scores) <= 0).all()
    np.testing.assert_allclose(found.scores, np.sort(scores[chosen])[::-1], atol=1e-6)


def test_without_a_score_each_class_counts_from_that_of_the_weights(write_ramp, truth):
    rng = np.random.default_rng(0)
    scores, class_ids = rng.uniform(0.05, 0.85, len(truth)), rng.integers(0, 2, len(truth))
    path, seer = write_ramp(200, 150), Seer(truth, scores, class_ids, surer=0)
    found = found_in(path, seer, detection=DetectionOptions(scores=(0.7, 0.15)))
    chosen = scores >= np.array([0.7, 0.15])[class_ids]
    assert 0 < chosen[class_ids == 0].sum() < chosen.sum()
    assert (chosen & (scores < 0.3)).any()
    assert_same(found.boxes, truth[chosen])
    asked = found_in(path, seer, detection=DetectionOptions(score=0.4, scores=(0.7, 0.15)))
    assert_same(asked.boxes, truth[scores >= 0.4])


def test_no_box_gives_way_to_one_of_another_class_that_does_not_count(write_ramp):
    twins = [[60.0, 40.0, 24.0, 10.0, 0.0, score, i] for i, score in enumerate((0.6, 0.5))]
    options = DetectionOptions(scores=(0.7, 0.4), agnostic_nms=True)
    found = found_in(write_ramp(64, 64), Fixed(twins), detection=options)
    assert found.class_ids.tolist() == [1]


def test_pixels_that_are_no_squares_give_boxes_in_pixels_of_the_scene(write_ramp):
    # At 60 degrees north a pixel is half as wide as it is high: the model sees squares of 0.8 m.
    boxes = np.array([[60.0, 40.0, 24.0, 6.0, 0.0], [120.0, 90.0, 20.0, 9.0, -np.pi / 2]])
    degrees = Affine(1e-5, 0, 15, 0, -1e-5, 60)
    path = write_ramp(200, 150, crs="EPSG:4326", transform=degrees)
    found = found_in(path, Seer(boxes), card={"gsd_m": (0.1, 0.5)})
    assert_same(found.boxes, boxes)


def test_symmetries_change_nothing_for_one_who_sees_all(write_ramp, truth):
    symmetric = SymmetricDetector(Seer(truth), Decoding(max_per_window=ROWS))
    found = found_in(write_ramp(200, 150), symmetric)
    assert_same(found.boxes, truth)


def test_symmetries_keep_the_best_of_what_each_of_them_sees():
    class LeftEye:
        """Sees the one bright pixel, surer the farther left it is, as a box that lies along x."""

        def __call__(self, pixels):
            _, row, col = np.argwhere(pixels[0])[0]
            first = [col + 0.5, row + 0.5, 9.0, 8.0, 0.0, 1 - col / 10, 0]
            return np.float32([[first, [0, 0, 0, 0, 0, 0, -1]]])

    pixels = np.zeros((1, 1, 10, 10), np.float32)
    pixels[0, 0, 2, 6] = 1
    answer = SymmetricDetector(LeftEye(), Decoding(max_per_window=3))(pixels)
    assert answer.shape == (1, 4, 7) and answer.dtype == np.float32
    # Nearest to the left edge when a quarter turn brings the top there: the box lies along y then.
    np.testing.assert_allclose(answer[0, 0], [6.5, 2.5, 9, 8, -np.pi / 2, 0.8, 0], atol=1e-6)
    assert answer[0, 1:, 6].tolist() == [-1, -1, -1]


def a_row_of_boxes(count, score=0.9):
    """Return candidates of one class, side by side in a window, each a little less sure."""
    return [[4 + 6 * i, 30, 5, 4, 0, score - 0.01 * i] for i in range(count)]


@pytest.mark.parametrize(
    ("symmetric", "expected"),
    [
        (False, {(10, 0.3): 0, (9, 0.3): 1, (2, 0.3): 9, (9, 0.85): 0, (2, 0.885): 0, (2, 0.0): 9}),
        # The turned windows add boxes of their own.
        (True, {(100, 0.3): 0, (2, 0.3): 9, (100, 0.0): 0}),
    ],
)
def test_windows_with_more_boxes_than_are_taken_of_one_are_counted(
    write_ramp, tmp_path, symmetric, expected
):
    class Crowd:
        """Sees ten boxes in the window at the scene's corner, and three in any other."""

        def __init__(self, options):
            self.decoding = decoding_of(options)

        def __call__(self, pixels):
            is_corner = pixels[:, 0].min(axis=(1, 2)) + pixels[:, 1].min(axis=(1, 2)) == 1
            return np.concatenate(
                [decode_candidates(np.array([a_row_of_boxes(10 if here else 3)]), self.decoding)
                 for here in is_corner]
            )  # fmt: skip

    path = write_ramp(104, 104)  # nine windows
    for most, score in expected:
        options = DetectionOptions(score=score, max_per_window=most)
        crowd = Crowd(options)
        runtime = SymmetricDetector(crowd, crowd.decoding) if symmetric else crowd
        predictor = predictor_of(runtime)
        settings = InferenceSettings(detection=options, tiling=Tiling(overlap=44))
        remarks = Collector()
        task = Detection(predictor.card, settings, remarks)
        target = str(tmp_path / f"{most}_{score}.gpkg")
        record = infer_scenes(task, [str(path)], [target], lambda p=predictor: p).results[0]
        assert record["windows_capped"] == expected[most, score]
        lines = [line for line in remarks.warnings if "left out" in line]
        assert len(lines) == (record["windows_capped"] > 0)
        for line in lines:
            assert f"in {record['windows_capped']} window" in line and "--max-per-window" in line


def written(path, target, truth, **settings):
    """Detect with a seer and read the layer that was written, and the report."""
    predictor = predictor_of(Seer(truth))
    settings = InferenceSettings(**settings)
    task = Detection(predictor.card, settings, Silent())
    report = infer_scenes(task, [str(path)], [str(target)], lambda: predictor)
    return pyogrio.read_dataframe(target), report.results[0]


def test_a_scene_turned_by_its_transform_has_the_same_boxes_on_the_ground(
    write_ramp, truth, tmp_path
):
    north_up, _ = written(write_ramp(200, 150), tmp_path / "a.gpkg", truth)
    turn = Affine.translation(100, 75) @ Affine.rotation(33) @ Affine.translation(-150, -140)
    path = write_ramp(300, 280, "turned.tif", transform=NORTH_UP @ turn)
    turned, _ = written(path, tmp_path / "b.gpkg", map_boxes(truth, ~turn))
    assert len(turned) == len(north_up) == len(truth)
    places = shapely.STRtree(shapely.points(north_up[["cx", "cy"]].to_numpy()))
    nearest = places.query_nearest(shapely.points(turned[["cx", "cy"]].to_numpy()))[1]
    north_up = north_up.iloc[nearest].reset_index(drop=True)
    for name in ("cx", "cy", "length_m", "width_m", "area_m2"):
        np.testing.assert_allclose(turned[name], north_up[name], atol=5e-3, err_msg=name)
    turned_by = (turned.bearing - north_up.bearing + 90) % 180 - 90
    np.testing.assert_allclose(turned_by, 0, atol=0.05)
    ground = turned.geometry.symmetric_difference(north_up.geometry).area
    assert (ground < 0.01 * north_up.area_m2).all()


def test_the_report_counts_and_measures_by_class(write_ramp, truth, tmp_path):
    table, report = written(write_ramp(200, 150), tmp_path / "out.shp", truth)
    assert report["path"].endswith("out.shp") and report["scene"].endswith("scene.tif")
    assert report["objects"] == len(truth) and report["windows"] > 1
    ship = report["classes"]["ship"]
    assert ship["objects"] == len(truth)
    assert ship["length_m"] == pytest.approx(table.length_m.median())
    assert ship["length_m"] == pytest.approx(np.median(truth[:, 2]) * 0.5, rel=1e-3)
    assert report["classes"]["plane"] == {"objects": 0, "length_m": None, "width_m": None}
    assert {"read", "model", "merge", "write", "total"} <= set(report["seconds"])


def test_nothing_is_found_in_an_empty_scene(write_ramp, tmp_path):
    hole = Window(col_off=0, row_off=0, width=200, height=150)
    table, report = written(write_ramp(200, 150, hole=hole), tmp_path / "out.shp", [[0] * 5])
    assert len(table) == 0 and "length_m" in table.columns
    assert report["objects"] == 0 and report["windows"] == report["windows_skipped"]


def test_boxes_are_those_of_the_scene_that_is_read_by_another_name(write_ramp, truth, tmp_path):
    table, _ = written(write_ramp(200, 150), tmp_path / "out.geojson", truth)
    with rasterio.open(tmp_path / "scene.tif") as scene:
        back = table.to_crs(scene.crs)
    corners = [np.array(p.exterior.coords)[:4] for p in back.geometry]
    boxes = mapped_back(np.array(corners))
    assert_same(boxes, truth)


def mapped_back(corners):
    columns, rows = ~NORTH_UP @ (corners[..., 0], corners[..., 1])
    return np.array([box_of_polygon(p) for p in np.stack([columns, rows], axis=-1)])


def test_one_place_has_one_class_if_asked_for(write_ramp):
    ship, bridge = [30, 20, 20, 6, 0, 0.9, 0], [31, 20, 20, 6, 0, 0.7, 1]  # IoU 19 / 21
    crossing = [30, 20, 20, 6, -np.pi / 2, 0.6, 1]  # 36 / 204: another object
    seer = Fixed([bridge, ship, crossing])
    path = write_ramp(64, 64)
    for agnostic, scores in ((False, [0.9, 0.7, 0.6]), (True, [0.9, 0.6])):
        found = found_in(path, seer, detection=DetectionOptions(agnostic_nms=agnostic))
        np.testing.assert_allclose(found.scores, scores)
