import pytest


@pytest.fixture
def write_scene(write_raster):
    """Scenes of any kind: rasters with masks, colours and whatever rasterio writes."""
    return write_raster
