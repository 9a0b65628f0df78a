"""Results as writers take them: classes, georeference, pixels."""

from __future__ import annotations

import numpy as np
import pyproj
import pytest
from affine import Affine

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import ClassInfo
from lemevit_cli.raster.targets import RasterSpec, find_writer, open_sink
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.segmentation.inference import WRITERS
from lemevit_cli.tasks.segmentation.results import open_polygons

UTM33 = pyproj.CRS(32633).to_wkt()
ROTATED = Affine.translation(500_000, 5_000_000) @ Affine.rotation(20) @ Affine.scale(0.5, -0.5)
CLASSES = (
    ClassInfo("land", (222, 203, 164)),
    ClassInfo("building", (214, 69, 65)),
    ClassInfo("Gewässer & Co", (66, 135, 245)),
)


@pytest.fixture
def georeference():
    return Georeference(transform=ROTATED, crs_wkt=UTM33)


@pytest.fixture
def make_spec(georeference):
    """Make a spec of 64 x 48 pixels, rotated, EPSG:32633; arguments replace its fields."""

    def make(**changes):
        fields = {"width": 64, "height": 48, "georeference": georeference, "classes": CLASSES}
        return RasterSpec(**(fields | changes))

    return make


@pytest.fixture
def class_ids():
    """Return blobs of three classes, 64 x 48 pixels, with a nodata corner."""
    rng = np.random.default_rng(7)
    ids = np.kron(rng.integers(0, 3, (12, 16)), np.ones((4, 4))).astype(np.uint8)
    speckles = rng.random(ids.shape) < 0.05
    ids[speckles] = rng.integers(0, 3, speckles.sum())
    ids[:10, :12] = 255
    return ids


def write_all(target, spec, values, options=None, *, rows=None):
    """Write values in stripes, in the order of ``rows`` (default: from the top, 7 rows each).

    Of polygons all scores are 1.
    """
    options = options or OutputOptions()
    is_layer = find_writer(str(target), options, WRITERS).kind == "regions"
    opening = open_polygons if is_layer else open_sink
    with opening(str(target), spec, options, WRITERS) as sink:
        for row in rows if rows is not None else range(0, spec.height, 7):
            height = min(7, spec.height - row)
            window = Window(col_off=0, row_off=row, width=spec.width, height=height)
            some = values[..., row : row + height, :]
            sink.write(window, some, *([np.full_like(some, 65535, np.uint16)] if is_layer else ()))
    return target


@pytest.fixture
def write_result():
    return write_all
