"""Metres on the ground against pyproj's geodesics."""

from __future__ import annotations

import sys

import numpy as np
import pyproj
import pytest
import shapely
import shapely.affinity
from affine import Affine

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.ground import (
    is_tied_to_earth,
    lengths_m,
    local_metres,
    north_in_pixels,
    pixel_area_m2,
    pixel_metric_m2,
    polygon_areas_m2,
    polygon_perimeters_m,
)

WGS84 = pyproj.Geod(ellps="WGS84")
EARTH_M2 = 510_065_621_724_088  # WGS 84's surface
LOCAL = 'LOCAL_CS["site grid",UNIT["metre",1]]'


def wkt(code):
    return pyproj.CRS.from_user_input(code).to_wkt()


def geodesic_area(polygon):
    return abs(WGS84.geometry_area_perimeter(shapely.segmentize(polygon, 0.01))[0])


def square_at(lon, lat, code, side):
    x, y = pyproj.Transformer.from_crs("EPSG:4326", code, always_xy=True).transform(lon, lat)
    return shapely.box(x, y, x + side, y + side)


@pytest.mark.parametrize(
    ("code", "tied"),
    [
        ("EPSG:32633", True),
        ("EPSG:4326", True),
        ("EPSG:2227", True),
        ("EPSG:7415", True),
        (LOCAL, False),
    ],
)
def test_only_geographic_and_projected_crs_are_tied_to_the_earth(code, tied):
    assert is_tied_to_earth(wkt(code)) is tied


def test_no_crs_is_tied_to_nothing():
    assert is_tied_to_earth(None) is False


@pytest.mark.parametrize(
    ("code", "lon", "lat"),
    [
        ("EPSG:32633", 15, 60),
        ("EPSG:3857", 10, 60),
        ("EPSG:3035", 20, 40),
        ("EPSG:2227", -122, 37.5),
    ],
)
def test_areas_of_projected_squares_are_geodesic(code, lon, lat):
    square = square_at(lon, lat, code, 20_000)
    back = pyproj.Transformer.from_crs(code, "EPSG:4326", always_xy=True)
    degrees = shapely.transform(
        shapely.segmentize(square, 200), lambda xy: np.column_stack(back.transform(*xy.T))
    )
    area = polygon_areas_m2([square], wkt(code))[0]
    assert area == pytest.approx(geodesic_area(degrees), rel=2e-6)


def test_web_mercator_at_60_north_is_a_quarter():
    square = square_at(0, 60, "EPSG:3857", 1)
    assert polygon_areas_m2([square], wkt("EPSG:3857"))[0] == pytest.approx(0.25, rel=6e-3)


def test_areas_in_degrees_are_of_the_ellipsoid():
    box = shapely.box(7, 48, 8, 49)
    assert polygon_areas_m2([box], wkt("EPSG:4326"))[0] == pytest.approx(
        geodesic_area(box), rel=1e-7
    )


def test_area_of_a_pixel_of_ten_centimetres_keeps_its_digits():
    transform = Affine(0.1, 0, 500_000, 0, -0.1, 5_400_000)
    georeference = Georeference(transform=transform, crs_wkt=wkt("EPSG:32633"))
    area = pixel_area_m2(georeference, col=200, row=200)
    assert area == pytest.approx(0.01 / 0.9996**2, rel=1e-6)  # UTM's scale on its central meridian


def test_holes_and_parts_count():
    outer, hole = shapely.box(0, 0, 300, 300), shapely.box(100, 100, 200, 200)

    def shift(geometry):
        return shapely.affinity.translate(geometry, 500_000, 5_400_000)

    whole, inner = polygon_areas_m2([shift(outer), shift(hole)], wkt("EPSG:32633"))
    ring = shift(outer.difference(hole))
    both = shapely.MultiPolygon([ring, shift(hole)])
    areas = polygon_areas_m2([ring, both, shapely.Polygon()], wkt("EPSG:32633"))
    np.testing.assert_allclose(areas, [whole - inner, whole, 0], rtol=1e-8)


def test_polygon_across_the_antimeridian_does_not_span_the_globe():
    here, across = shapely.box(10, 50, 12, 51), shapely.box(179, 50, 181, 51)
    areas = polygon_areas_m2([here, across], wkt("EPSG:4326"))
    np.testing.assert_allclose(areas, areas[0], rtol=1e-9)


def test_polygon_of_the_whole_globe_has_the_earths_surface():
    globe = shapely.box(-180, -90, 180, 90)
    assert polygon_areas_m2([globe], wkt("EPSG:4326"))[0] == pytest.approx(EARTH_M2, rel=1e-9)


def test_projected_polygon_across_the_antimeridian_is_as_large_as_elsewhere():
    square = square_at(179.95, 52, "EPSG:32660", 20_000)
    assert polygon_areas_m2([square], wkt("EPSG:32660"))[0] == pytest.approx(4e8, rel=5e-3)


@pytest.mark.parametrize("code", ["EPSG:3413", "EPSG:3031"])
def test_polygon_around_a_pole_has_the_area_of_the_cap(code):
    square = shapely.box(-500_000, -500_000, 500_000, 500_000)
    quarter = shapely.box(0, 0, 500_000, 500_000)
    around, part = polygon_areas_m2([square, quarter], wkt(code))
    assert around == pytest.approx(1e12, rel=0.07)  # true to scale at 70 degrees, not here
    assert around == pytest.approx(4 * part, rel=1e-4)


def test_pixels_of_a_global_grid_add_up_to_the_earth():
    georeference = Georeference(transform=Affine(30, 0, -180, 0, -30, 90), crs_wkt=wkt("EPSG:4326"))
    areas = [
        pixel_area_m2(georeference, col=c + 0.5, row=r + 0.5) for c in range(12) for r in range(6)
    ]
    assert sum(areas) == pytest.approx(EARTH_M2, rel=1e-9)


def test_what_leaves_the_crs_domain_has_no_metres():
    beyond = Georeference(transform=Affine(1, 0, 0, 0, -1, 95), crs_wkt=wkt("EPSG:4326"))
    assert pixel_area_m2(beyond, col=0.5, row=0.5) is None
    boxes = [shapely.box(0, 88, 1, 92), shapely.box(0, 0, 1, 1)]
    np.testing.assert_array_equal(
        np.isnan(polygon_areas_m2(boxes, wkt("EPSG:4326"))), [True, False]
    )
    assert np.isnan(lengths_m([[0, 95]], [[0, 10]], wkt("EPSG:4326"))).all()


def test_what_has_no_metres_says_so():
    transform = Affine(1, 0, 0, 0, -1, 0)
    for georeference in (
        Georeference(transform=None, crs_wkt=wkt("EPSG:4326")),
        Georeference(transform=transform, crs_wkt=None),
        Georeference(transform=transform, crs_wkt=wkt(LOCAL)),
    ):
        assert pixel_area_m2(georeference, col=0, row=0) is None
    with pytest.raises(ValueError, match="tied to the earth"):
        polygon_areas_m2([shapely.box(0, 0, 1, 1)], wkt(LOCAL))
    with pytest.raises(ValueError, match="tied to the earth"):
        lengths_m([[0, 0]], [[1, 1]], None)


@pytest.mark.parametrize("code", ["EPSG:32633", "EPSG:3857", "EPSG:4326", "EPSG:2227"])
def test_perimeters_are_geodesic_and_count_holes(code):
    to_map = pyproj.Transformer.from_crs("EPSG:4326", code, always_xy=True)
    lon, lat = (-121.0, 37.5) if code == "EPSG:2227" else (15.0, 50.0)
    outline = shapely.box(lon, lat, lon + 2e-3, lat + 1e-3)
    whole = outline.difference(shapely.box(lon + 5e-4, lat + 2e-4, lon + 7e-4, lat + 6e-4))
    both = [shapely.transform(p, to_map.transform, interleaved=False) for p in (outline, whole)]
    expected = [WGS84.geometry_length(p.boundary) for p in (outline, whole)]
    rtol = 1e-5 if code == "EPSG:2227" else 1e-9  # its datum is another
    np.testing.assert_allclose(polygon_perimeters_m(both, wkt(code)), expected, rtol=rtol)


def test_perimeters_of_nothing_and_of_what_has_no_place():
    beyond = shapely.box(0, 89.9, 1, 91)
    perimeters = polygon_perimeters_m([shapely.Polygon(), beyond], wkt("EPSG:4326"))
    assert perimeters[0] == 0 and np.isnan(perimeters[1])
    assert len(polygon_perimeters_m([], wkt("EPSG:4326"))) == 0


def test_lengths_are_geodesics_in_any_crs():
    to_feet = pyproj.Transformer.from_crs("EPSG:4269", "EPSG:2227", always_xy=True)
    ends = np.array([[-122.1, 37.5], [-122.0, 37.6]])
    expected = pyproj.Geod(ellps="GRS80").inv(*ends[0], *ends[1])[2]
    feet = np.column_stack(to_feet.transform(*ends.T))
    np.testing.assert_allclose(lengths_m(feet[:1], feet[1:], wkt("EPSG:2227")), expected, rtol=1e-8)
    np.testing.assert_allclose(lengths_m(ends[0], ends[1], wkt("EPSG:4269")), expected, rtol=1e-9)


def test_length_across_the_antimeridian_goes_the_short_way():
    expected = WGS84.inv(179.5, 0, -179.5, 0)[2]
    np.testing.assert_allclose(lengths_m([[179.5, 0]], [[-179.5, 0]], wkt("EPSG:4326")), expected)


def test_degrees_that_are_grads_from_paris_are_understood():
    paris = wkt("EPSG:4807")  # grads
    box = shapely.box(0, 50, 1, 51)
    expected = pyproj.Geod(a=6378249.2, rf=293.4660212936269).geometry_area_perimeter(
        shapely.segmentize(shapely.box(0, 45, 0.9, 45.9), 0.01)
    )[0]
    assert polygon_areas_m2([box], paris)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("measure", [polygon_areas_m2, polygon_perimeters_m])
def test_many_polygons_are_measured_in_as_many_steps_as_few(measure):
    corners = np.random.default_rng(0).uniform((5e5, 5.4e6), (5.5e5, 5.45e6), (20_000, 2))
    boxes = shapely.box(*corners.T, *(corners + 10).T)
    utm = wkt("EPSG:32633")
    measure(boxes[:2], utm)  # what is kept for later calls is made
    few, _ = counted_calls(lambda: measure(boxes[:2], utm))
    many, found = counted_calls(lambda: measure(boxes, utm))
    assert few > 0 and abs(many - few) < 100  # of 20,000 polygons; a collection may call a few
    np.testing.assert_allclose(found, 100 if measure is polygon_areas_m2 else 40, rtol=2e-3)


def counted_calls(work):
    """Return the number of functions that Python calls for some work, and its result."""
    calls = []
    before = sys.getprofile()
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        result = work()
    finally:
        sys.setprofile(before)
    return sum(event in ("call", "c_call") for event in calls), result


@pytest.mark.parametrize(("lon", "zone_middle"), [(15.0, 15), (17.5, 15), (12.2, 15)])
@pytest.mark.parametrize("angle", [0, 30, 200])
@pytest.mark.parametrize("down", [-1, 1])
def test_north_is_where_a_geodesic_with_azimuth_zero_goes(lon, zone_middle, angle, down):
    crs = pyproj.CRS(32633)
    to_map = pyproj.Transformer.from_crs(4326, crs, always_xy=True)
    x, y = to_map.transform(lon, 50.0)
    turn = Affine.translation(x, y) @ Affine.rotation(angle) @ Affine.scale(0.5, 0.5 * down)
    found = north_in_pixels(Georeference(transform=turn, crs_wkt=crs.to_wkt()), col=0, row=0)
    far = pyproj.Geod(ellps="WGS84").fwd(lon, 50.0, 0.0, 100.0)[:2]
    cols, rows = ~turn @ to_map.transform(*far)
    expected = np.array([cols, rows]) / np.hypot(cols, rows)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_north_is_unknown_without_a_place_on_the_earth():
    assert north_in_pixels(Georeference(transform=None, crs_wkt=None), col=0, row=0) is None
    degrees = Georeference(
        transform=Affine(0.1, 0, 10, 0, -0.2, 60), crs_wkt=pyproj.CRS(4326).to_wkt()
    )
    assert north_in_pixels(degrees, col=3, row=4) == pytest.approx((0, -1))


def test_the_metric_of_a_pixel_gives_geodesic_lengths():
    crs_wkt = pyproj.CRS(4326).to_wkt()
    sheared = Affine(1e-5, 4e-6, 15, 2e-6, -2e-5, 60)
    metric = pixel_metric_m2(Georeference(transform=sheared, crs_wkt=crs_wkt), col=7, row=9)
    for step in ((1, 0), (3, -2), (-5, 4)):
        start, end = sheared @ (7, 9), sheared @ (7 + step[0], 9 + step[1])
        expected = lengths_m([start], [end], crs_wkt)[0]
        assert np.sqrt(np.array(step) @ metric @ np.array(step)) == pytest.approx(
            expected, rel=1e-5
        )
    assert pixel_metric_m2(Georeference(transform=None, crs_wkt=None), col=0, row=0) is None


def test_a_plane_around_a_point_is_the_azimuthal_one():
    group = np.array([[11.0, 48.0], [11.003, 48.001], [10.998, 47.995]])
    plane = local_metres([group], wkt("EPSG:4326"))[0]
    local = pyproj.CRS.from_proj4("+proj=aeqd +lat_0=48 +lon_0=11 +datum=WGS84")
    to_plane = pyproj.Transformer.from_crs("EPSG:4326", local, always_xy=True)
    np.testing.assert_allclose(plane, np.column_stack(to_plane.transform(*group.T)), atol=1e-4)


def test_the_plane_has_metres_of_the_ground_and_the_north_of_the_grid():
    # EPSG:2227: US survey feet. A step along its y, and half of it along its x.
    group = np.array([[[6e6, 2e6], [6e6, 2e6 + 100], [6e6 + 50, 2e6]]])
    to_degrees = pyproj.Transformer.from_crs("EPSG:2227", "EPSG:4269", always_xy=True)
    lon, lat = to_degrees.transform(*group[0].T)
    north, east = (WGS84.inv(lon[0], lat[0], lon[i], lat[i])[2] for i in (1, 2))
    expected = [[[0, 0], [0, north], [east, 0]]]
    np.testing.assert_allclose(local_metres(group, wkt("EPSG:2227")), expected, atol=1e-4)
    with pytest.raises(ValueError, match="tied to the earth"):
        local_metres(group, LOCAL)
