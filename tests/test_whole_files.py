from __future__ import annotations

import sqlite3

import numpy as np
import pyogrio
import pytest
import rasterio
import rasterio.shutil
from shapely import box, to_wkb

from lemevit_cli.whole_files import check_whole

IDS = np.random.default_rng(0).integers(0, 9, (2, 300, 400), dtype=np.uint8)


def write_tiff(path, **profile):
    shape = {"width": 400, "height": 300, "count": 2, "dtype": "uint8"}
    with rasterio.open(path, "w", driver="GTiff", **shape, **profile) as raster:
        raster.write(IDS)
    with rasterio.open(path, "r+") as raster:
        raster.build_overviews([2])


def refusals(path, shares=range(0, 100, 4)):
    """Count how many cut copies of a file are refused, the last byte's loss among them."""
    content, cut = path.read_bytes(), path.with_name(f"cut{path.suffix}")
    refused = 0
    sizes = [len(content) * share // 100 for share in shares]
    for size in [*sizes, len(content) - 1]:
        cut.write_bytes(content[:size])
        try:
            check_whole(cut)
        except OSError as error:
            assert "bytes are there" in str(error)
            refused += 1
    return refused


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
@pytest.mark.parametrize(
    "profile",
    [
        {},
        {"TILED": "YES", "BLOCKXSIZE": 64, "BLOCKYSIZE": 64, "COMPRESS": "DEFLATE"},
        {"BIGTIFF": "YES", "COMPRESS": "LZW"},
        {"ENDIANNESS": "BIG", "INTERLEAVE": "BAND"},
        {"BIGTIFF": "YES", "ENDIANNESS": "BIG"},
    ],
)
def test_a_cut_tiff_is_refused_wherever_it_is_cut(tmp_path, profile):
    path = tmp_path / "whole.tif"
    write_tiff(path, **profile)
    check_whole(path, is_sparse=False)
    assert refusals(path) == 25  # an empty file says nothing


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_a_cut_cog_is_refused(tmp_path):
    write_tiff(tmp_path / "draft.tif")
    path = tmp_path / "whole.tif"
    rasterio.shutil.copy(tmp_path / "draft.tif", path, driver="COG")
    check_whole(path, is_sparse=False)
    assert refusals(path) == 25


@pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
def test_pixels_that_were_never_written_are_missing_unless_that_is_asked_for(tmp_path):
    path = tmp_path / "sparse.tif"
    shape = {"width": 64, "height": 64, "count": 1, "dtype": "uint8", "SPARSE_OK": "TRUE"}
    rasterio.open(path, "w", driver="GTiff", **shape).close()
    check_whole(path)
    with pytest.raises(OSError, match="pixels were not written"):
        check_whole(path, is_sparse=False)


@pytest.mark.parametrize(("driver", "suffix"), [("ESRI Shapefile", ".shp"), ("GPKG", ".gpkg")])
def test_a_cut_layer_is_refused(tmp_path, driver, suffix):
    squares = to_wkb([box(i, 0, i + 1, 1) for i in range(500)])
    names = np.array([f"n{i}" for i in range(500)], dtype=object)
    path = tmp_path / f"whole{suffix}"
    pyogrio.raw.write(path, squares, [names], ["name"], geometry_type="Polygon",
                      crs="EPSG:32633", driver=driver)  # fmt: skip
    for part in tmp_path.glob("whole.*"):
        if part.suffix not in (".prj", ".cpg"):
            check_whole(part)
            # A cut header tells of no size.
            assert refusals(part, shares=range(50, 100, 10)) >= 5, part  # a mark ends a .dbf


def test_weights_and_databases_are_measured_by_their_headers(tmp_path):
    path = tmp_path / "w.safetensors"
    header = b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}'
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(9))
    check_whole(path)
    assert refusals(path) == 26
    database = sqlite3.connect(tmp_path / "d.sqlite")
    database.execute("CREATE TABLE t (a)")
    database.commit()
    database.close()
    check_whole(tmp_path / "d.sqlite")
    assert refusals(tmp_path / "d.sqlite", shares=range(50, 100, 10)) == 6
