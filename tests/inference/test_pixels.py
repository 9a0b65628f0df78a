from dataclasses import replace

import numpy as np
import pytest

from lemevit_cli.inference.pixels import plan_of_rows, raster_spec
from lemevit_cli.inference.run import inference_over
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.progress import Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import InferenceSettings, OutputOptions, ReadingOptions, Tiling


@pytest.fixture
def wide(pixels):
    """Return pixels of a scene that is wider than two tiles of its result: 1,216 x 48."""
    return np.tile(pixels, 19)


@pytest.mark.parametrize("gsd", ["native", "0.31"])
def test_chosen_blocks_fill_the_budget_and_whole_tiles(write_scene, wide, predictor, gsd):
    def blocks_of_scene(tile_width, **tiling):
        tiling = Tiling(**tiling)
        tiles = {"BLOCKXSIZE": f"{tile_width}"} if tile_width < 1100 else {"TILED": "NO"}
        settings = InferenceSettings(tiling=tiling, output=OutputOptions(creation_options=tiles))
        with open_scene(path) as scene:
            source = scene_input(scene, predictor.card, ReadingOptions(gsd=gsd), Silent())
            source = replace(source, area=part_of(source.area))
            with inference_over(source, predictor, tiling, Silent()) as run:
                spec = raster_spec(run, settings)
                return plan_of_rows(run, settings, spec, pixel_bytes=12).blocks

    path = write_scene(wide)
    # 32 rows of the mosaic: three scores and a mark; 40 of the file: three scores.
    column_bytes = 32 * 13 * (1 if gsd == "native" else 0.5 / 0.31) + 40 * 12
    for columns in (70, 500, 1000):
        blocks = blocks_of_scene(16, block_bytes=int(columns * column_bytes) + 1)
        assert {block.width for block in blocks[:-1]} == {columns // 16 * 16}
        assert {(block.row_off, block.height) for block in blocks} == {(3, 40)}
        assert all((block.col_off - 5) % 16 == 0 for block in blocks)
    assert len(blocks_of_scene(16)) == 1  # by itself, a block as wide as the scene
    assert [block.width for block in blocks_of_scene(512, block_bytes=1)] == [512, 512, 76]
    assert [block.width for block in blocks_of_scene(1100, block_bytes=1)] == [512, 512, 76]
    assert blocks_of_scene(16, block_size=4096, block_bytes=1)[0].width == 16
    assert {block.width for block in blocks_of_scene(16, block_size=33)} == {48, 1100 % 48}


def part_of(area):
    """Return a part of the wide scene that begins on no tile of it: 1,100 x 40."""
    return replace(area, col_off=5, row_off=3, width=1100, height=40)
