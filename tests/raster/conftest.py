import pytest


@pytest.fixture
def write_scene(write_raster):
    """Return a function that writes scenes of any kind: with masks, colours and all of rasterio."""
    return write_raster
