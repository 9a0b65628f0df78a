"""Small scenes of every kind, written by rasterio."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import rasterio
from affine import Affine
from rasterio.errors import NotGeoreferencedWarning

ROTATED = Affine.translation(500_000, 5_400_000) @ Affine.rotation(30) @ Affine.scale(2, -2)


@pytest.fixture
def write_raster(tmp_path):
    """Write ``(bands, H, W)`` as a raster; returns its path as text."""

    def write(pixels, name="scene.tif", *, colors=None, mask=None, setup=None, **profile):
        pixels = np.asarray(pixels)
        profile = {"crs": "EPSG:32633", "transform": ROTATED, "driver": "GTiff"} | profile
        count, height, width = pixels.shape
        path = tmp_path / name
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            size = {"width": width, "height": height, "count": count}
            with rasterio.open(path, "w", dtype=pixels.dtype, **size, **profile) as out:
                if colors:
                    out.colorinterp = colors
                out.write(pixels)
                if mask is not None:
                    out.write_mask(mask)
                if setup:
                    setup(out)
        return str(path)

    return write


@pytest.fixture
def rgb():
    """Return 64 x 48 pixels (not square) of three bands, no two the same."""
    return np.random.default_rng(0).integers(1, 250, (3, 48, 64), dtype=np.uint8)
