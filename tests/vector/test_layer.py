"""What layers keep of the grid that they outline."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyogrio
import pyproj
import pytest
import shapely
from affine import Affine

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.window import Window
from lemevit_cli.legend import ClassInfo
from lemevit_cli.raster.targets import RasterSpec
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks.change.results import WRITERS, change_spec
from lemevit_cli.tasks.segmentation.results import open_polygons
from lemevit_cli.vector.layer import lonlat_decimals
from lemevit_cli.vector.region_layers import open_layers

CLASSES = (ClassInfo("land", (0, 0, 0)), ClassInfo("building", (255, 0, 0)))


def spec_of(mask, gsd, epsg, origin):
    transform = Affine(gsd, 0, origin[0], 0, -gsd, origin[1])
    place = Georeference(transform=transform, crs_wkt=pyproj.CRS(epsg).to_wkt())
    height, width = mask.shape
    return RasterSpec(width=width, height=height, georeference=place, classes=CLASSES)


def write_through(sink, mask):
    window = Window(col_off=0, row_off=0, width=mask.shape[1], height=mask.shape[0])
    sink.write(window, mask, np.full(mask.shape, 65535, np.uint16))


def write_classes(target, spec, mask, sides=None, **chosen):
    options = OutputOptions(**{"classes": ("building",), "min_area_m2": 0.0, **chosen})
    with open_polygons(str(target), spec, options, WRITERS, sides=sides) as sink:
        write_through(sink, mask)
    return pyogrio.read_dataframe(target)


def write_changes(target, spec, mask, sides=None, **chosen):
    options = OutputOptions(**{"min_area_m2": 0.0, **chosen})
    change = change_spec(spec, options, before="a", after="b", sides=sides)
    with open_layers([str(target)], change, options, WRITERS) as sink:
        write_through(sink, mask)
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


@pytest.mark.parametrize("name", ["out.gpkg", "out.geojson"])
@pytest.mark.parametrize("values", [2, 4])
def test_simplified_rings_of_centimetre_pixels_are_valid(tmp_path, name, values):
    # Rings touch: rounded on the map, or in pixels after metres, a corner amid an edge crosses it.
    for seed in (0, 1):
        rng = np.random.default_rng(seed)
        mask = np.kron(rng.integers(0, values, (60, 60)), np.ones((3, 3))).astype(np.uint8)
        speckles = rng.random(mask.shape) < 0.1
        mask[speckles] = rng.integers(0, values, speckles.sum())
        spec = spec_of(mask, 0.01, 32633, (458_123.457, 5_548_321.123))
        classes = tuple(ClassInfo(f"{i}", (i, i, i)) for i in range(values))
        turned = spec.georeference.transform @ Affine.rotation(17 * seed)
        spec = replace(
            spec, classes=classes, georeference=replace(spec.georeference, transform=turned)
        )
        for simplify in (0.015, 0.03):
            path = tmp_path / f"{seed} {simplify} {name}"
            frame = write_changes(path, spec, mask, sides=(0.01, 0.0101), simplify_m=simplify)
            assert set(frame.geom_type) == {"Polygon"} and frame.geometry.is_valid.all()


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
