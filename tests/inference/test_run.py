from dataclasses import replace

import numpy as np
import pytest
import rasterio

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.inference.run import best_classes, inference_over, pad_by_reflection
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.inference.scenes import infer_scenes
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import InferenceSettings, OutputOptions, ReadingOptions, Tiling
from lemevit_cli.tasks.segmentation.inference import Segmentation

SCORES = OutputOptions(output_type="scores")


def run(path, target, predictor, *, tiling=None, output=None, **reading):
    """Predict a scene to ``target``; what was written, and the report."""
    settings = InferenceSettings(
        tiling=tiling or Tiling(),
        output=output or OutputOptions(),
        reading=ReadingOptions(**reading),
    )
    task = Segmentation(predictor.card, settings, Silent())
    report = infer_scenes(task, [str(path)], [str(target)], lambda: predictor)
    with rasterio.open(target) as written:
        return written.read(), report.results[0]


class Recorder:
    """A runtime that answers a constant and keeps what it was given."""

    def __init__(self, scores=(0.2, 0.5, 0.3)):
        self.scores = np.float32(scores)
        self.batches = []

    def __call__(self, pixels):
        self.batches.append(pixels.copy())
        count, _, height, width = pixels.shape
        return np.tile(self.scores[:, None, None], (count, 1, height, width))


class CountedScene:
    """Reads like a scene, and keeps which windows it was asked for."""

    def __init__(self, scene):
        self.scene, self.reads = scene, []
        self.width, self.height, self.num_bands = scene.width, scene.height, scene.num_bands

    def read(self, window):
        self.reads.append((window.row_off, window.col_off, window.height, window.width))
        return self.scene.read(window)


@pytest.mark.parametrize("block_size", [None, 24])
@pytest.mark.parametrize("scale", [0.6, 0.17, 1.4])
def test_a_resampled_scene_is_read_for_the_model_alone(scene, predictor, scale, block_size):
    with open_scene(scene) as opened:
        counted = CountedScene(opened)
        view = SceneView(counted, scale=scale, fill=(0.0, 0.0, 0.0))
        source = SceneInput(opened, view, opened.window, None)
        tiling = Tiling(window=16, overlap=4)
        valid = np.zeros((opened.height, opened.width), bool)
        with inference_over(source, predictor, tiling, Silent()) as inference:
            blocks = list(blocks_of(opened.window, block_size))
            for block in blocks:
                for rows in inference.rows(block):
                    valid[rows.window.slices] = rows.valid
        by_run, counted.reads = counted.reads, []
        for block in blocks:
            for window in inference.grid.windows_over(inference.area_of(block)):
                view.read(window)
        np.testing.assert_array_equal(valid, opened.read(opened.window)[1])
    assert sorted(by_run) == sorted(counted.reads)


@pytest.mark.parametrize("gsd", ["native", "0.83", "0.31"])
def test_output_is_the_same_for_any_block_size(scene, predictor, tmp_path, gsd):
    whole, _ = run(scene, tmp_path / "whole.tif", predictor, output=SCORES, gsd=gsd)
    assert np.nanmin(whole) >= 0 and len(np.unique(whole[0])) > 1000
    for block_size in (64, 37, 16):
        blocks, _ = run(
            scene,
            tmp_path / f"{block_size}.tif",
            predictor,
            tiling=Tiling(block_size=block_size),
            output=SCORES,
            gsd=gsd,
        )
        np.testing.assert_array_equal(blocks, whole)


@pytest.fixture
def wide(pixels):
    """Return pixels of a scene that is wider than two tiles of its result: 1,216 x 48."""
    return np.tile(pixels, 19)


@pytest.mark.parametrize("output_type", ["classes", "scores"])
@pytest.mark.parametrize("gsd", ["native", "0.83", "0.31"])
def test_blocks_chosen_for_their_memory_change_no_pixel(
    write_scene, wide, predictor, tmp_path, gsd, output_type
):
    path = write_scene(wide, nodata=0)
    output = OutputOptions(output_type=output_type)
    whole, of_whole = run(path, tmp_path / "whole.tif", predictor, output=output, gsd=gsd)
    tiling = Tiling(block_bytes=1)  # no block is that small: a tile is the least
    blocks, of_blocks = run(
        path, tmp_path / "blocks.tif", predictor, tiling=tiling, output=output, gsd=gsd
    )
    assert of_blocks["windows"] > of_whole["windows"]  # those on an edge count twice
    np.testing.assert_array_equal(blocks, whole)


def test_blocks_chosen_for_their_memory_change_no_pixel_of_a_part(
    write_scene, wide, predictor, tmp_path
):
    north_up = rasterio.transform.from_origin(458_000, 5_548_000, 0.5, 0.5)
    path = write_scene(wide, transform=north_up)
    whole, _ = run(path, tmp_path / "whole.tif", predictor)
    bounds = (458_005, 5_547_980, 458_605, 5_547_996)  # columns 10 to 1210, rows 8 to 40
    tiling = Tiling(block_bytes=1)
    part, _ = run(path, tmp_path / "part.tif", predictor, tiling=tiling, bounds=bounds)
    np.testing.assert_array_equal(part, whole[:, 8:40, 10:1210])


def test_a_part_has_the_pixels_of_the_whole(write_scene, pixels, predictor, tmp_path):
    north_up = rasterio.transform.from_origin(458_000, 5_548_000, 0.5, 0.5)
    path = write_scene(pixels, transform=north_up)
    whole, _ = run(path, tmp_path / "whole.tif", predictor)
    bounds = (458_005, 5_547_980, 458_025.2, 5_547_996)  # columns 10 to 50, rows 8 to 40
    part, _ = run(path, tmp_path / "part.tif", predictor, bounds=bounds)
    np.testing.assert_array_equal(part, whole[:, 8:40, 10:50])
    with rasterio.open(tmp_path / "part.tif") as written:
        assert written.transform == north_up @ rasterio.Affine.translation(10, 8)


@pytest.mark.parametrize("width", [1, 7, 31, 32, 33, 70])
@pytest.mark.parametrize("height", [1, 32, 53])
@pytest.mark.parametrize("gsd", ["native", "1.3", "0.2"])
def test_a_constant_model_gives_its_constant_in_every_pixel(
    write_scene, predictor, tmp_path, width, height, gsd
):
    path = write_scene(np.full((3, height, width), 7, dtype=np.uint8))
    constant = replace(predictor, runtime=Recorder())
    scores, report = run(path, tmp_path / "out.tif", constant, output=SCORES, gsd=gsd)
    assert scores.shape == (3, height, width)
    for band, expected in zip(scores, (0.2, 0.5, 0.3), strict=True):
        np.testing.assert_allclose(band, expected, atol=1e-6)
    assert report["classes"]["building"]["share"] == 1.0


def test_windows_without_a_valid_pixel_never_reach_the_model(write_scene, predictor, tmp_path):
    values = np.zeros((3, 32, 96), dtype=np.uint8)
    values[:, :, 70:] = 9
    recorder = Recorder()
    ids, report = run(
        write_scene(values, nodata=0),
        tmp_path / "out.tif",
        replace(predictor, runtime=recorder),
        tiling=Tiling(window=32, overlap=0, batch_size=1),
    )
    assert (report["windows"], report["windows_skipped"]) == (3, 2)
    assert len(recorder.batches) == 1
    np.testing.assert_array_equal(ids[0], np.where(values[0] == 0, 255, 1))


def test_nodata_pixels_reach_the_model_as_the_mean(write_scene, predictor, tmp_path):
    values = np.full((3, 32, 32), -9999, dtype=np.int16)
    values[:, 5:9, 5:9] = 40
    recorder = Recorder()
    card = replace(predictor.card, dtype="int16", mean=(11.0, 12.0, 13.0))
    settings = replace(predictor, runtime=recorder, card=card)
    run(write_scene(values, nodata=-9999), tmp_path / "out.tif", settings)
    (batch,) = recorder.batches
    assert [set(np.unique(band)) for band in batch[0]] == [{11, 40}, {12, 40}, {13, 40}]


def test_a_run_of_many_blocks_holds_few_handles_on_its_scene(
    scene, predictor, tmp_path, count_handles
):
    class Counter(Recorder):
        def __call__(self, pixels):
            held.append(count_handles(scene))
            return super().__call__(pixels)

    held = []
    tiling = Tiling(window=16, overlap=8, block_size=8, batch_size=1)
    run(scene, tmp_path / "out.tif", replace(predictor, runtime=Counter()), tiling=tiling)
    assert len(held) > 100  # windows of 48 blocks
    # One of each thread: two that read windows, and the one that works.
    assert max(held) <= 3 and count_handles(scene) == 0


def test_every_batch_has_one_shape(scene, predictor, tmp_path):
    recorder = Recorder()
    run(
        scene,
        tmp_path / "out.tif",
        replace(predictor, runtime=recorder),
        tiling=Tiling(batch_size=4),
    )
    assert {batch.shape for batch in recorder.batches} == {(4, 3, 32, 32)}


def test_a_scene_smaller_than_a_window_is_mirrored_and_cropped_back(
    write_scene, predictor, tmp_path
):
    values = np.arange(3 * 5 * 4, dtype=np.uint8).reshape(3, 5, 4)
    recorder = Recorder()
    ids, _ = run(write_scene(values), tmp_path / "out.tif", replace(predictor, runtime=recorder))
    assert ids.shape == (1, 5, 4)
    (batch,) = recorder.batches
    np.testing.assert_array_equal(batch[0, 0, 0, :10], values[0, 0, [0, 1, 2, 3, 2, 1, 0, 1, 2, 3]])


def test_an_edge_stays_where_it_is_when_the_model_sees_other_pixels(
    write_scene, predictor, tmp_path
):
    class Threshold:
        def __call__(self, pixels):
            bright = pixels[:, 0].astype(np.float32) / 255
            return np.stack([1 - bright, bright, np.zeros_like(bright)], axis=1)

    values = np.zeros((3, 60, 60), dtype=np.uint8)
    values[:, 20:, 33:] = 255
    for gsd in ("1.0", "0.25"):
        ids, _ = run(
            write_scene(values),
            tmp_path / f"{gsd}.tif",
            replace(predictor, runtime=Threshold()),
            gsd=gsd,
        )
        wrong = ids[0] != (values[0] > 0)
        rows, cols = np.nonzero(wrong)
        # The model sees half the pixels: the edge may move by one, never beyond.
        assert wrong.sum() <= 80
        assert all(abs(r - 19.5) < 2 or abs(c - 32.5) < 2 for r, c in zip(rows, cols, strict=True))


def test_an_interruption_leaves_nothing(scene, predictor, tmp_path):
    class Interrupted:
        def __call__(self, pixels):
            raise KeyboardInterrupt

    before = sorted(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        run(scene, tmp_path / "out.tif", replace(predictor, runtime=Interrupted()))
    assert sorted(tmp_path.iterdir()) == before


def test_blocks_cover_an_area_once_and_lie_on_the_scenes_own_multiples():
    area = Window(col_off=5, row_off=9, width=50, height=30)
    covered = np.zeros((60, 60), dtype=int)
    for block in blocks_of(area, 16):
        covered[block.slices] += 1
        assert block.col_off == 5 or block.col_off % 16 == 0
    assert (covered[area.slices] == 1).all() and covered.sum() == 50 * 30


def test_best_classes_is_argmax_also_among_equals():
    scores = np.random.default_rng(0).integers(0, 4, (6, 40, 50)).astype(np.float32)
    np.testing.assert_array_equal(best_classes(scores), scores.argmax(0))


def test_padding_mirrors_even_a_single_pixel():
    padded = pad_by_reflection(np.array([[[7]]]), 4)
    np.testing.assert_array_equal(padded, np.full((1, 4, 4), 7))


class Ahead:
    """Computes as another runtime does, and keeps when it was begun with and when waited for."""

    in_flight = 1

    def __init__(self, runtime):
        self.runtime, self.begun, self.log = runtime, 0, []

    def begin(self, pixels):
        number, self.begun = self.begun, self.begun + 1
        self.log.append(("begin", number))

        def wait():
            self.log.append(("wait", number))
            return self.runtime(pixels)

        return wait


def test_a_batch_is_begun_with_before_the_answers_to_the_one_before_are_taken(
    scene, predictor, tmp_path
):
    tiling = Tiling(batch_size=2)
    expected, _ = run(scene, tmp_path / "one.tif", predictor, tiling=tiling, output=SCORES)
    ahead = Ahead(predictor.runtime)
    beside = replace(predictor, runtime=ahead)
    found, _ = run(scene, tmp_path / "ahead.tif", beside, tiling=tiling, output=SCORES)
    np.testing.assert_array_equal(found, expected)
    last = ahead.begun - 1
    assert last >= 2
    order = [("begin", 0)]
    for number in range(last):
        order += [("begin", number + 1), ("wait", number)]
    assert ahead.log == [*order, ("wait", last)]
