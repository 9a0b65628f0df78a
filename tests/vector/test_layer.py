"""What layers keep of the grid that they outline."""

from __future__ import annotations

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import ClassInfo
from lemevit_cli.raster.targets import RasterSpec, open_sink
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.change.results import ChangeSpec, open_layers
from lemevit_cli.tasks.segmentation.inference import WRITERS
from lemevit_cli.vector.layer import lonlat_decimals

CLASSES = (ClassInfo("land", (0, 0, 0)), ClassInfo("building", (255, 0, 0)))


def spec_of(mask, gsd, epsg, origin):
    transform = Affine(gsd, 0, origin[0], 0, -gsd, origin[1])
    place = Georeference(transform=transform, crs_wkt=pyproj.CRS(epsg).to_wkt())
    height, width = mask.shape
    return RasterSpec(width=width, height=height, georeference=place, classes=CLASSES)


def write_classes(target, spec, mask):
    with open_sink(str(target), spec, OutputOptions(classes=("building",)), WRITERS) as sink:
        sink.write(Window(col_off=0, row_off=0, width=spec.width, height=spec.height), mask)
    return pyogrio.read_dataframe(target)


def write_changes(target, spec, mask):
    change = ChangeSpec(raster=spec, before="a", after="b")
    with open_layers([str(target)], change, OutputOptions()) as sink:
        window = Window(col_off=0, row_off=0, width=spec.width, height=spec.height)
        sink.write(window, mask, np.ones(mask.shape, np.float32))
    return pyogrio.read_dataframe(target)


@pytest.mark.parametrize("write", [write_classes, write_changes])
@pytest.mark.parametrize(
    ("gsd", "epsg", "origin"),
    [
        (0.005, 32633, (8e5, 5.5e6)),
        (0.01, 3857, (1.6e6, 8.4e6)),
        (0.02, 2227, (6e6, 2.1e6)),
        (2e-7, 4326, (15, 60)),
    ],
)
def test_geojson_keeps_rings_of_small_pixels_whole(tmp_path, write, gsd, epsg, origin):
    mask = (np.random.default_rng(0).random((40, 40)) > 0.6).astype(np.uint8)
    spec = spec_of(mask, gsd, epsg, origin)
    frame = write(tmp_path / "out.geojson", spec, mask)
    layer = write(tmp_path / "out.gpkg", spec, mask)
    assert set(frame.geom_type) == {"Polygon"} and frame.geometry.is_valid.all()
    assert len(frame) == len(layer)
    corners = shapely.get_coordinates(frame.to_crs(epsg).geometry.to_numpy())
    pixels = np.column_stack(~spec.georeference.transform @ tuple(corners.T))
    assert np.abs(pixels - np.round(pixels)).max() < 0.01


def test_geojson_keeps_a_hole_beside_an_edge_that_bends_in_degrees(tmp_path):
    # A row of pixels of 8 km, straight in UTM: its parallel lies metres off the chord in its midst.
    mask = np.ones((3, 8000), np.uint8)
    mask[1, 4000] = 0
    frame = write_classes(tmp_path / "out.geojson", spec_of(mask, 1.0, 32633, (5e5, 7e6)), mask)
    (polygon,) = frame.geometry
    assert polygon.geom_type == "Polygon" and len(polygon.interiors) == 1
    assert frame.to_crs(32633).area.sum() == pytest.approx(mask.sum(), rel=1e-4)


@pytest.mark.parametrize(
    ("pixel_m", "decimals"), [(30, 7), (10, 8), (0.3, 9), (0.01, 11), (1e-9, 13), (None, 9)]
)
def test_decimals_follow_the_pixels(pixel_m, decimals):
    assert lonlat_decimals(pixel_m) == decimals
