"""Two dates meet a card and block inference."""

from dataclasses import replace

import numpy as np
import pytest
import rasterio
import torch
from affine import Affine
from making.collector import Collector

from lemevit_cli.errors import SceneError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import blocks_of
from lemevit_cli.inference.run import inference_over, masked_scores
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.settings import ReadingOptions, SceneOptions, Tiling
from lemevit_cli.simulation.world import World, WorldSpec
from lemevit_cli.tasks.change.pair_input import pair_input, register_dates

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)


def differs(pixels):
    """Return scores of three classes from the difference of the dates, and of their neighbours."""
    pixels = torch.as_tensor(np.asarray(pixels)).float()
    apart = torch.nn.functional.avg_pool2d((pixels[:, :3] - pixels[:, 3:]).abs(), 5, 1, 2)
    return (apart / 30).softmax(1)


@pytest.fixture
def change_predictor(predictor):
    return replace(predictor, runtime=differs)


@pytest.fixture
def pair_paths(write_scene, pixels):
    """Return a pair on two grids: the second covers the right part of the first, 0.7 its pixel."""
    fine = np.random.default_rng(4).integers(1, 256, (3, 80, 70), dtype=np.uint8)
    grid = NORTH_UP @ Affine.translation(20, -4) @ Affine.scale(0.7)
    return (
        write_scene(pixels, "before.tif", transform=NORTH_UP, nodata=0),
        write_scene(fine, "after.tif", transform=grid, nodata=0),
    )


def scores_of(pair, predictor, block_size=None, **reading):
    source = pair_input(pair, predictor.card, ReadingOptions(**reading), Silent())
    out = np.full((3, pair.height, pair.width), np.nan, np.float32)
    with inference_over(source, predictor, Tiling(block_size=block_size), Silent()) as inference:
        for block in blocks_of(source.area, block_size):
            for rows in inference.rows(block):
                out[:, *rows.window.slices] = masked_scores(rows)
    return out, inference.account


@pytest.mark.parametrize("gsd", ["native", "0.83"])
def test_scores_of_a_pair_are_the_same_for_any_block_size(pair_paths, change_predictor, gsd):
    with open_pair(*pair_paths) as pair:
        whole, _ = scores_of(pair, change_predictor, gsd=gsd)
        blocks, _ = scores_of(pair, change_predictor, 16, gsd=gsd)
        _, valid = pair.read(pair.window)
    np.testing.assert_array_equal(blocks, whole)
    np.testing.assert_array_equal(np.isfinite(whole[0]), valid)
    assert 0.5 < valid.mean() < 0.8


# One of each thread; floats are warped through a view of which two lead to the file.
@pytest.mark.parametrize(("dtype", "most"), [("uint8", 3), ("float32", 5)])
def test_a_run_of_many_blocks_holds_few_handles_on_either_date(
    pair_paths, change_predictor, write_scene, count_handles, dtype, most
):
    def counted(pixels):
        held.append([count_handles(path) for path in (before, after)])
        return differs(pixels)

    before, held = pair_paths[0], []
    with rasterio.open(pair_paths[1]) as file:
        pixels, grid = file.read().astype(dtype), file.transform
    after = write_scene(pixels, "again.tif", transform=grid, nodata=0)
    with open_pair(before, after) as pair:
        scores_of(pair, replace(change_predictor, runtime=counted), block_size=8)
    assert len(held) >= 20
    assert np.max(held) <= most and count_handles(after) == 0


def test_equal_dates_differ_nowhere(scene, change_predictor):
    with open_pair(scene, scene) as pair:
        scores, _ = scores_of(pair, change_predictor)
    np.testing.assert_allclose(scores[np.isfinite(scores)], 1 / 3, atol=1e-6)


def test_each_date_is_stretched_over_the_overlap(write_scene, predictor):
    random = np.random.default_rng(6)
    before = random.integers(1, 256, (3, 48, 64), dtype=np.uint8)
    after = random.integers(100, 900, (3, 48, 64)).astype(np.uint16)
    after[:, :, 32:] += 20_000  # beyond the first date: must not count
    moved = NORTH_UP @ Affine.translation(32, 0)
    paths = (
        write_scene(before, "a.tif", transform=NORTH_UP),
        write_scene(after, "b.tif", transform=moved),
    )
    collector = Collector()
    with open_pair(*paths) as pair:
        ready = pair_input(pair, predictor.card, ReadingOptions(), collector)
        seen, valid = ready.view.read(Window(col_off=32, row_off=0, width=32, height=48))
    none, stretch = ready.scene.stretches
    assert none is None and ready.stretch is None
    assert stretch.low == pytest.approx(np.percentile(after[:, :, :32], 2, axis=(1, 2)))
    assert any("b.tif: values" in note for note in collector.notes)
    assert valid.all() and seen.shape == (6, 48, 32)
    np.testing.assert_array_equal(seen[:3], before[:, :, 32:])
    np.testing.assert_allclose(seen[3:], stretch.apply(after[:, :, :32]))


def test_the_date_with_the_wrong_bands_is_named(write_scene, pixels, predictor):
    before = write_scene(pixels, "a.tif")
    after = write_scene(np.concatenate([pixels, pixels[:2]]), "b.tif")
    with open_pair(before, after) as pair, pytest.raises(SceneError, match=r"b.tif: has 5 bands"):
        pair_input(pair, predictor.card, ReadingOptions(), Silent())
    with open_pair(before, after, None, SceneOptions(bidx=(3, 2, 1))) as pair:
        assert pair_input(pair, predictor.card, ReadingOptions(), Silent()).scene.num_bands == 6


def test_a_shift_is_told_and_undone_when_asked(write_scene):
    world = World(WorldSpec(seed=2, width=300, height=300))
    frame = Window(col_off=0, row_off=0, width=300, height=300)
    before = write_scene(world.draw(frame).pixels, "a.tif", transform=NORTH_UP)
    after = write_scene(
        world.draw(frame.shift(cols=-6, rows=4)).pixels, "b.tif", transform=NORTH_UP
    )
    collector = Collector()
    with open_pair(before, after) as pair:
        same, shift = register_dates(pair, coregister=False, progress=collector)
        assert same is pair and (shift.dx_px, shift.dy_px) == pytest.approx((6, -4), abs=0.1)
        moved, _ = register_dates(pair, coregister=True, progress=collector)
        _, left = register_dates(moved, coregister=False, progress=collector)
    assert len(collector.warnings) == 1 and "--coregister moves it back" in collector.warnings[0]
    assert "b.tif lies +6.0" in collector.warnings[0] and left.length_px < 0.15
    assert "it is moved back" in collector.notes[0]
