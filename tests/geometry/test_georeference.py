"""Georeferences of parts of a raster against rasterio's window transforms."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.rpc import RPC
from rasterio.transform import RPCTransformer
from rasterio.windows import Window as RasterioWindow
from rasterio.windows import transform as window_transform

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window

PART = Window(col_off=12, row_off=7, width=20, height=10)
CORNER = Window(col_off=0, row_off=0, width=20, height=10)
WHOLE = Window(col_off=0, row_off=0, width=64, height=48)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(2, 0, 500_000, 0, -2, 5_400_000),
        Affine(10, 0, 5, 0, 10, 7),
        Affine(17.3, 5.0, 100.0, 10.0, -8.66, 200.0),
    ],
)
def test_cropping_moves_the_transform_as_rasterio_does(transform):
    cropped = Georeference(transform=transform, crs_wkt=None).crop(PART, of=WHOLE)
    expected = window_transform(RasterioWindow(12, 7, 20, 10), transform)
    assert cropped.transform.almost_equals(expected, precision=1e-9)


def test_cropping_keeps_points_over_their_pixels():
    georeference = Georeference(
        transform=None, crs_wkt=None, gcps=((10.5, 20.25, 7.0, 49.0, 3.0, "a", ""),)
    )
    assert georeference.crop(PART, of=WHOLE).gcps == ((3.5, 8.25, 7.0, 49.0, 3.0, "a", ""),)


def test_cropping_to_the_whole_changes_nothing():
    georeference = Georeference(transform=None, crs_wkt="x", rpcs={"LINE_OFF": "1"})
    assert georeference.crop(WHOLE, of=WHOLE) is georeference


@pytest.mark.parametrize("part", [PART, CORNER], ids=["amid", "corner"])
def test_cropping_drops_broken_rpcs_and_keeps_what_is_absent_absent(part):
    georeference = Georeference(transform=None, crs_wkt=None, rpcs={"LINE_OFF": "1"})
    cropped = georeference.crop(part, of=WHOLE)
    assert cropped.rpcs == {} and cropped.transform is None


def test_rpcs_stay_over_their_pixels():
    """GDAL's own transformer finds a place at the same pixels of the ground."""
    polynomials = {
        "LINE_NUM": (0.1, 0, -1),
        "SAMP_NUM": (0.2, 1),
        "LINE_DEN": (1,),
        "SAMP_DEN": (1,),
    }
    rpcs = {"LAT_OFF": "49", "LAT_SCALE": "0.1", "LONG_OFF": "10", "LONG_SCALE": "0.2",
            "HEIGHT_OFF": "0", "HEIGHT_SCALE": "1", "LINE_OFF": "23.5", "LINE_SCALE": "24",
            "SAMP_OFF": "31.5", "SAMP_SCALE": "32", "ERR_BIAS": "0", "ERR_RAND": "0"}  # fmt: skip
    for name, known in polynomials.items():
        rpcs[f"{name}_COEFF"] = " ".join(map(str, (*known, *[0] * (20 - len(known)))))
    whole = Georeference(transform=None, crs_wkt=None, rpcs=rpcs)

    def edges(of):
        with RPCTransformer(RPC.from_gdal(dict(of.rpcs))) as place:
            row, col = place.rowcol([10.05], [49.02], [0], op=float)
        return np.array([col[0], row[0]]) if np.ndim(col) else np.array([col, row])

    first = edges(whole)
    np.testing.assert_allclose(edges(whole.crop(PART, of=WHOLE)), first - (12, 7), atol=1e-6)
    np.testing.assert_allclose(edges(whole.coarsen(cols=4, rows=2)), first / (4, 2), atol=1e-6)


def test_cropping_to_the_corner_moves_nothing():
    gcps = ((10.5, 20.25, 7.0, 49.0, 3.0, "a", ""),)
    georeference = Georeference(transform=Affine(2, 0, 5, 0, -2, 7), crs_wkt="x", gcps=gcps)
    assert georeference.crop(CORNER, of=WHOLE) == georeference


def test_larger_pixels_begin_at_the_same_corner():
    gcps = ((10.0, 20.0, 7.0, 49.0, 3.0, "a", ""),)
    transform = Affine.translation(5, 7) @ Affine.rotation(30) @ Affine.scale(2, -2)
    georeference = Georeference(transform=transform, crs_wkt="x", gcps=gcps, rpcs={"LINE_OFF": "1"})
    coarse = georeference.coarsen(cols=4, rows=5)
    for col, row in ((0, 0), (3, 0), (2.5, 7)):
        assert coarse.transform @ (col, row) == pytest.approx(transform @ (4 * col, 5 * row))
    assert coarse.gcps == ((2.0, 5.0, 7.0, 49.0, 3.0, "a", ""),)
    assert coarse.crs_wkt == "x" and coarse.rpcs == {}
