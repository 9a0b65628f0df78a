import numpy as np
import pytest
import rasterio
from rasterio._env import get_gdal_config

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster import gdal
from lemevit_cli.raster.gdal import TILE_SIZE, TileRows, tile_width
from lemevit_cli.raster.targets import open_sink
from lemevit_cli.settings import OutputOptions

MB = 2**20


class Heard:
    """A dataset that keeps the rows it is handed."""

    def __init__(self, *, height, tile_height):
        self.height, self.block_shapes = height, [(tile_height, TILE_SIZE)]
        self.windows = []

    def write(self, bands, window):
        assert bands.shape[1:] == (window.height, window.width)
        self.windows.append((window.row_off, window.height, window.col_off, window.width))


def hand_over(dataset, places):
    rows = TileRows(dataset)
    for row_off, height, col_off, width in places:
        window = Window(col_off=col_off, row_off=row_off, width=width, height=height)
        rows.write(window, np.zeros((2, height, width), np.float32))
    rows.flush()
    return dataset.windows


def test_rows_of_a_block_reach_gdal_as_tall_as_its_tiles():
    blocks = [
        (row, min(64, 1100 - row), col, 512) for col in (0, 512) for row in range(0, 1100, 64)
    ]
    expected = [(row, rows, col, 512) for col in (0, 512) for row, rows in ((0, 512), (512, 512))]
    expected[2:2], expected[5:] = [(1024, 76, 0, 512)], [(1024, 76, 512, 512)]
    assert hand_over(Heard(height=1100, tile_height=512), blocks) == expected


def test_many_strips_are_written_at_once():
    rows = [(row, 64, 0, 300) for row in range(0, 640, 64)]
    written = hand_over(Heard(height=640, tile_height=7), rows)
    assert written == [(0, 518, 0, 300), (518, 122, 0, 300)]


def test_a_window_taller_than_a_tile_is_cut():
    written = hand_over(Heard(height=2000, tile_height=512), [(100, 1800, 8, 40)])
    tops = [(100, 412), (512, 512), (1024, 512), (1536, 364)]
    assert written == [(row, rows, 8, 40) for row, rows in tops]


def test_windows_that_do_not_follow_one_another_come_as_they_are():
    places = [(0, 10, 0, 40), (10, 10, 0, 41), (30, 10, 0, 41), (0, 10, 60, 4), (10, 5, 60, 4)]
    written = hand_over(Heard(height=512, tile_height=512), places)
    assert written == [*places[:3], (0, 15, 60, 4)]


@pytest.mark.parametrize("output_type", ["classes", "scores"])
def test_the_cache_of_a_wide_result_is_bounded(make_spec, tmp_path, output_type):
    spec = make_spec(width=100_000, height=600, output_type=output_type)
    with open_sink(str(tmp_path / "out.tif"), spec, OutputOptions()):
        assert get_gdal_config("GDAL_CACHEMAX") <= 256 * MB


def test_blocks_beside_each_other_cost_no_bytes_in_a_small_cache(make_spec, tmp_path, monkeypatch):
    """However small the cache is: every tile is compressed once, overviews too."""
    monkeypatch.setattr(gdal, "_SMALLEST_CACHE", MB)
    monkeypatch.setattr(gdal, "_LARGEST_CACHE", MB)
    scores = np.random.default_rng(1).random((3, 1100, 2048), dtype=np.float32)
    spec = make_spec(width=2048, height=1100, output_type="scores")
    sizes = {}
    for rows in (1100, 64):
        target = tmp_path / f"{rows}.tif"
        with open_sink(str(target), spec, OutputOptions(output_type="scores")) as sink:
            for col in range(0, 2048, 1024):
                for row in range(0, 1100, rows):
                    height = min(rows, 1100 - row)
                    window = Window(col_off=col, row_off=row, width=1024, height=height)
                    sink.write(window, scores[:, *window.slices])
        sizes[rows] = target.stat().st_size
        with rasterio.open(target) as result:
            np.testing.assert_array_equal(result.read(), scores)
    assert sizes[64] == sizes[1100]
    assert sizes[64] < 4 / 3 * scores.nbytes


@pytest.mark.parametrize(
    ("width", "height", "shape"),
    [(511, 2000, None), (2000, 100, (112, 512)), (2000, 1, (16, 512)), (512, 512, (512, 512))],
)
def test_a_raster_has_tiles_if_it_is_as_wide_as_one(make_spec, tmp_path, width, height, shape):
    spec = make_spec(width=width, height=height)
    ids = np.random.default_rng(0).integers(0, 3, (height, width)).astype(np.uint8)
    with open_sink(str(tmp_path / "out.tif"), spec, OutputOptions()) as sink:
        sink.write(Window(col_off=0, row_off=0, width=width, height=height), ids)
    with rasterio.open(tmp_path / "out.tif") as result:
        np.testing.assert_array_equal(result.read(1), ids)
        assert result.block_shapes[0][1] == tile_width(spec, OutputOptions())
        assert shape is None or result.block_shapes == [shape]


@pytest.mark.parametrize(
    ("chosen", "columns"),
    [
        ({"BLOCKXSIZE": "256", "BLOCKYSIZE": "256"}, 256),
        ({"TILED": "NO"}, 2000),
        ({"COMPRESS": "ZSTD"}, 512),
    ],
)
def test_the_users_tiles_are_known(make_spec, tmp_path, chosen, columns):
    spec, options = make_spec(width=2000, height=600), OutputOptions(creation_options=chosen)
    with open_sink(str(tmp_path / "out.tif"), spec, options):
        pass
    with rasterio.open(tmp_path / "out.tif") as result:
        assert result.block_shapes[0][1] == tile_width(spec, options) == columns
