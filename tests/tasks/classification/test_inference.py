import geopandas
import numpy as np
import pytest
import rasterio
import shapely
import torch
from affine import Affine

from lemevit_cli.errors import OutputError
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.runtime import SymmetricRuntime
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Silent
from lemevit_cli.settings import InferenceSettings, OutputOptions, ReadingOptions, Tiling
from lemevit_cli.tasks.classification.inference import Pictures, Windows

CLASSES = ("red", "green", "blue")
SIZE, STRIDE = 32, 12
ROTATED = Affine.translation(458_000, 5_548_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)


def answer_colours(pixels):
    """Scores of the mean of every band over the whole window: what it answers depends on all."""
    exponents = np.exp(pixels.mean(axis=(2, 3), dtype=np.float64) / 4 - 64)
    return (exponents / exponents.sum(1, keepdims=True)).astype(np.float32)[:, :, None, None]


def answer_left(pixels):
    return answer_colours(np.ascontiguousarray(pixels[..., : pixels.shape[3] // 2]))


def card(**changes):
    settings = {"task": "cls", "backbone": "-", "classes": classes_from_names(CLASSES)}
    return Card(**settings | {"window": SIZE, "overlap": SIZE - STRIDE} | changes)


def classify(scene, target, *, runtime=answer_colours, task=Windows, of=None, **settings):
    own = of or card()
    room = task(own, InferenceSettings(**settings), Silent())
    predictor = Predictor("colours", "0" * 16, own, runtime, "cpu")
    return infer_scenes(room, [scene], [str(target)], lambda: predictor).results[0]


@pytest.fixture
def colours():
    """Pixels of three bands, 140 x 100, whose strongest band changes every 30 pixels or so."""
    random = np.random.default_rng(4)
    pixels = random.integers(1, 60, (3, 100, 140))
    which = np.repeat(np.repeat(random.integers(0, 3, (4, 5)), 28, axis=0), 30, axis=1)
    for band in range(3):
        pixels[band] += 150 * (which[:100, :140] == band)
    pixels[:, :40, 90:] = 0
    return pixels.astype(np.uint8)


@pytest.fixture
def colour_scene(write_scene, colours):
    return write_scene(colours, nodata=0, transform=ROTATED)


def read(path):
    with rasterio.open(path) as file:
        return file.read()


def test_a_pixel_is_the_core_of_its_window_where_the_map_says(tmp_path, colour_scene, colours):
    record = classify(colour_scene, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as result, rasterio.open(colour_scene) as scene:
        ids, to_map, to_scene = result.read(1), result.transform, ~scene.transform
        assert result.crs == scene.crs and result.nodata == 255
        assert (result.width, result.height) == (12, 9)  # whole cells over 140 x 100
        assert result.colormap(1)[1][:3] == classes_from_names(CLASSES)[1].color
    assert (record["width"], record["height"]) == (12, 9)
    seen = colours.astype(float)
    void = (colours == 0).all(axis=0)
    seen[:, void] = np.trunc(card().mean)[:, None]
    for row, col in np.ndindex(ids.shape):
        # Independently: the cell's centre goes over the map to the scene; its window is around it.
        x, y = to_scene @ (to_map @ (col + 0.5, row + 0.5))
        left = int(np.clip(round(x - SIZE / 2), 0, 140 - SIZE))
        top = int(np.clip(round(y - SIZE / 2), 0, 100 - SIZE))
        x0, y0 = round(x - STRIDE / 2), round(y - STRIDE / 2)
        if void[y0 : y0 + STRIDE, x0 : x0 + STRIDE].all():
            assert ids[row, col] == 255
        else:
            window = seen[:, top : top + SIZE, left : left + SIZE]
            assert ids[row, col] == window.mean(axis=(1, 2)).argmax(), (row, col)
    assert set(np.unique(ids)) == {0, 1, 2, 255}


@pytest.mark.parametrize("block_size", [1, 3, 5])
def test_blocks_change_nothing(tmp_path, colour_scene, block_size):
    scores = OutputOptions(output_type="scores")
    classify(colour_scene, tmp_path / "whole.tif", output=scores)
    tiling = Tiling(block_size=block_size, batch_size=3)
    record = classify(colour_scene, tmp_path / "blocks.tif", output=scores, tiling=tiling)
    whole, blocks = read(tmp_path / "whole.tif"), read(tmp_path / "blocks.tif")
    np.testing.assert_array_equal(whole, blocks)
    assert whole.shape == (3, 9, 12)
    known = ~np.isnan(whole[0])
    np.testing.assert_allclose(whole[:, known].sum(axis=0), 1.0, rtol=1e-5)
    assert record["windows"] <= 9 * 12 and record["windows_skipped"] > 0


def test_a_part_has_the_pixels_of_the_whole(tmp_path, write_scene, colours):
    transform = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
    scene = write_scene(colours, transform=transform)
    classify(scene, tmp_path / "whole.tif")
    bounds = (458_010, 5_547_965, 458_030, 5_547_990)
    classify(scene, tmp_path / "part.tif", reading=ReadingOptions(bounds=bounds))
    with (
        rasterio.open(tmp_path / "whole.tif") as whole,
        rasterio.open(tmp_path / "part.tif") as part,
    ):
        window = rasterio.windows.from_bounds(*part.bounds, whole.transform)
        np.testing.assert_array_equal(whole.read(window=window.round()), part.read())
        left, bottom, right, top = part.bounds
    assert left <= bounds[0] and bottom <= bounds[1] and right >= bounds[2] and top >= bounds[3]


@pytest.mark.parametrize("bounds", [None, (3.0, 21.0, 80.0, 90.0)])
def test_areas_are_of_the_ground_that_was_asked_for(tmp_path, write_scene, colours, bounds):
    colours = np.maximum(colours, 1)
    scene = write_scene(colours, transform=Affine(1, 0, 500_000, 0, -1, 5_500_100))
    reading = ReadingOptions()
    if bounds:
        west, south, east, north = bounds
        place = (500_000 + west, 5_500_000 + south, 500_000 + east, 5_500_000 + north)
        reading = ReadingOptions(bounds=place)
    record = classify(scene, tmp_path / "map.tif", reading=reading)
    square = 77.0 * 69.0 if bounds else 140.0 * 100.0
    found = sum(figures["area_m2"] for figures in record["classes"].values())
    assert found == pytest.approx(square, rel=2e-3)


def test_a_mask_leaves_cells_outside_it_without_a_class(tmp_path, write_scene, colours):
    transform = Affine(1, 0, 0, 0, -1, 100)
    scene = write_scene(colours, transform=transform)
    outline = geopandas.GeoSeries([shapely.box(0, 64, 48, 100)], crs="EPSG:32633")
    outline.to_file(tmp_path / "mask.gpkg")
    classify(scene, tmp_path / "map.tif", reading=ReadingOptions(mask=str(tmp_path / "mask.gpkg")))
    inside = read(tmp_path / "map.tif")[0] != 255
    assert inside[:3, :4].all() and inside.sum() == 12


def test_windows_are_of_the_models_pixels(tmp_path, write_scene, colours):
    scene = write_scene(colours, transform=Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000))
    classify(scene, tmp_path / "map.tif", of=card(gsd_m=(1.0, 1.0)))
    with rasterio.open(tmp_path / "map.tif") as result:
        assert result.res == pytest.approx((12.0, 12.0), rel=2e-3)  # a metre by a stride of 12
        assert (result.width, result.height) == (6, 5)


def test_tta_is_the_mean_over_the_symmetries(tmp_path, write_scene, colours):
    scene = write_scene(colours[:, :SIZE, :SIZE])
    scores = OutputOptions(output_type="scores")
    runtime = SymmetricRuntime(answer_left)
    classify(scene, tmp_path / "s.tif", output=scores, runtime=runtime, tiling=Tiling(overlap=0))
    window = colours[:, :SIZE, :SIZE]
    turned = [np.rot90(side, n, (1, 2)) for side in (window, window[..., ::-1]) for n in range(4)]
    expected = np.mean([answer_left(t[None].copy())[0, :, 0, 0] for t in turned], axis=0)
    np.testing.assert_allclose(read(tmp_path / "s.tif")[:, 0, 0], expected, rtol=1e-5)


@pytest.mark.parametrize("suffix", [".gpkg", ".shp", ".geojson"])
def test_polygons_have_the_class_and_score_of_their_window(tmp_path, colour_scene, suffix):
    classify(colour_scene, tmp_path / "s.tif", output=OutputOptions(output_type="scores"))
    target = tmp_path / f"windows{suffix}"
    kept = OutputOptions(classes=("red", "blue"))
    classify(colour_scene, target, output=kept)
    table = geopandas.read_file(target).to_crs(32633)
    with rasterio.open(tmp_path / "s.tif") as file:
        scores, to_map = file.read(), file.transform
    assert {"red", "blue"} == set(table["class"])
    best = np.nan_to_num(scores, nan=-1).argmax(axis=0)[~np.isnan(scores[0])]
    assert len(table) == (best != 1).sum()
    for outline, name, class_id, score in zip(
        table.geometry, table["class"], table["class_id"], table["score"], strict=True
    ):
        x, y = ~to_map @ outline.centroid.coords[0]
        of_cell = scores[:, int(y), int(x)]
        assert CLASSES[class_id] == name and class_id == of_cell.argmax()
        assert score == pytest.approx(of_cell.max(), rel=1e-5)
        assert outline.area == pytest.approx((STRIDE * 0.5) ** 2, rel=3e-3)  # WGS84 in between


def test_polygons_refuse_what_they_cannot_hold(tmp_path, colour_scene):
    with pytest.raises(OutputError, match="write the scores of all classes to a"):
        classify(colour_scene, tmp_path / "a.gpkg", output=OutputOptions(output_type="scores"))
    with pytest.raises(OutputError, match="--min-area: polygons of windows are squares"):
        classify(colour_scene, tmp_path / "a.gpkg", output=OutputOptions(min_area_m2=5.0))


def test_a_scene_smaller_than_a_window_is_seen_once(tmp_path, write_scene, colours):
    record = classify(write_scene(colours[:, :20, :25]), tmp_path / "map.tif")
    ids = read(tmp_path / "map.tif")[0]
    assert ids.shape == (2, 3) and len(np.unique(ids)) == 1 and record["windows"] == 1


def test_ground_control_points_stay_over_their_pixels(tmp_path, write_scene, colours):
    points = [
        rasterio.control.GroundControlPoint(row, col, 458_000 + col, 5_548_000 - row)
        for row, col in ((0, 0), (0, 140), (100, 0), (100, 140))
    ]
    scene = write_scene(colours)
    with rasterio.open(scene, "r+") as file:
        file.gcps = (points, rasterio.CRS.from_epsg(32633))
    classify(scene, tmp_path / "map.tif")
    with rasterio.open(tmp_path / "map.tif") as file:
        found, crs = file.gcps
    assert crs.to_epsg() == 32633
    assert [(p.row * STRIDE, p.col * STRIDE) for p in found] == [(p.row, p.col) for p in points]


def test_a_picture_is_seen_as_one_window_of_its_middle(write_scene, colours):
    record = classify(write_scene(colours[:, 40:, :]), "a.png", task=Pictures)  # 140 x 60
    middle = colours[:, 40:, 40:100].mean(axis=(1, 2))
    assert record["class"] == CLASSES[int(middle.argmax())]
    assert list(record["scores"].values()) == sorted(record["scores"].values(), reverse=True)
    expected = torch.softmax(torch.from_numpy(middle) / 4, dim=0).max()
    assert record["score"] == pytest.approx(float(expected), abs=0.05)
    assert record["line"] == f"a.png\t{record['class']}\t{record['score']:.4f}"
