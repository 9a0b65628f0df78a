"""Oriented boxes against Shapely's rectangles and pyproj's geodesics."""

import itertools

import numpy as np
import pyproj
import pytest
import shapely
from affine import Affine

from lemevit_cli.geometry.georeference import Georeference
from lemevit_cli.geometry.oriented_boxes import (
    axis_aligned_bounds,
    box_of_polygon,
    boxes_of_corners,
    canonical,
    corners_of,
    ground_sizes,
    map_boxes,
    sizes_of_corners,
    uncrossed,
)

UTM, DEGREES = "EPSG:32633", "EPSG:4326"
WGS84 = pyproj.Geod(ellps="WGS84")


def wkt(code):
    return pyproj.CRS.from_user_input(code).to_wkt()


def georeference(transform, code):
    return Georeference(transform=transform, crs_wkt=None if code is None else wkt(code))


def random_boxes(count, seed=0, centre=(0.0, 0.0)):
    random = np.random.default_rng(seed)
    return np.column_stack(
        [
            random.uniform(-200, 200, (count, 2)) + centre,
            random.uniform(0.5, 60, (count, 2)),
            random.uniform(-9, 9, count),
        ]
    )


def angle_between(some, others):
    """Return the angle between lines, in [0, pi/2]."""
    apart = np.abs(some - others) % np.pi
    return np.minimum(apart, np.pi - apart)


def assert_same_boxes(found, expected, tolerance=1e-9):
    """Compare as rectangles: the angle of a square counts by quarters of a turn."""
    np.testing.assert_allclose(found[:, :4], expected[:, :4], atol=tolerance)
    assert (angle_between(found[:, 4], expected[:, 4]) * expected[:, 2] < tolerance).all()


def test_corners_run_clockwise_on_screen_from_the_top_left():
    corners = corners_of([[10, 20, 4, 2, 0.0]])
    assert corners.tolist() == [[[8, 19], [12, 19], [12, 21], [8, 21]]]


def test_a_positive_angle_turns_clockwise_on_screen():
    # The end of the long axis that was on the right goes down, where y grows.
    corners = corners_of([[0, 0, 4, 0, np.pi / 6]])[0]
    np.testing.assert_allclose(corners[1], [2 * np.cos(np.pi / 6), 1.0])


def test_corners_and_back_are_the_canonical_box():
    boxes = random_boxes(2000)
    assert_same_boxes(boxes_of_corners(corners_of(boxes)), canonical(boxes))


def test_map_coordinates_lose_no_digits():
    boxes = random_boxes(500, centre=(5e5, 5.6e6))
    assert_same_boxes(boxes_of_corners(corners_of(boxes)), canonical(boxes), 1e-6)


def test_canonical_boxes_are_long_and_turned_by_less_than_half_a_turn():
    boxes = random_boxes(2000)
    boxes[:6, 4] = [np.pi / 2, -np.pi / 2, np.nextafter(-np.pi / 2, -9), np.pi, -np.pi, 0]
    found = canonical(boxes)
    assert (found[:, 2] >= found[:, 3]).all()
    assert (found[:, 4] >= -np.pi / 2).all() and (found[:, 4] < np.pi / 2).all()
    np.testing.assert_array_equal(canonical(found), found)
    same = shapely.symmetric_difference(
        shapely.polygons(corners_of(boxes)), shapely.polygons(corners_of(found))
    )
    assert shapely.area(same).max() < 1e-9


def test_any_quadrilateral_gets_the_smallest_rectangle():
    quadrilaterals = np.random.default_rng(1).uniform(0, 50, (500, 4, 2))  # many of them crossed
    found = boxes_of_corners(quadrilaterals)
    oracle = shapely.minimum_rotated_rectangle(shapely.multipoints(quadrilaterals))
    # Shapely before 2.1 takes GEOS's narrowest rectangle, which may be larger.
    assert (found[:, 2] * found[:, 3] <= shapely.area(oracle) * (1 + 1e-9)).all()
    around = shapely.buffer(shapely.polygons(corners_of(found)), 1e-6)
    assert shapely.covers(around, shapely.multipoints(quadrilaterals)).all()
    turns = np.linspace(0, np.pi / 2, 2001)
    axes = np.stack([np.cos(turns), np.sin(turns)])
    normals = np.stack([-np.sin(turns), np.cos(turns)])
    areas = np.ptp(quadrilaterals @ axes, axis=1) * np.ptp(quadrilaterals @ normals, axis=1)
    least = areas.min(axis=1)
    assert (found[:, 2] * found[:, 3] <= least + 1e-9).all()
    assert (found[:, 2] * found[:, 3] >= least * 0.98).all()


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_corners_in_any_order_are_uncrossed(order):
    square = np.array([(0, 0), (4, 1), (5, 3), (-1, 2)], dtype=float)
    again = uncrossed(square[list(order)])[0]
    assert shapely.Polygon(again).equals(shapely.Polygon(square))


def test_what_does_not_cross_stays_as_it_is():
    dart = np.array([(0, 0), (4, 2), (0, 4), (1, 2)], dtype=float)
    flat = np.zeros((4, 2))
    np.testing.assert_array_equal(uncrossed([dart, flat]), [dart, flat])


def test_corners_on_a_line_or_a_point_make_a_box_without_area():
    line, point = [[0, 0], [2, 2], [1, 1], [3, 3]], [[4, 5]] * 4
    found = boxes_of_corners([line, point])
    np.testing.assert_allclose(found[0], [1.5, 1.5, np.sqrt(18), 0, np.pi / 4], atol=1e-12)
    np.testing.assert_array_equal(found[1, :4], [4, 5, 0, 0])
    assert boxes_of_corners(np.empty((0, 4, 2))).shape == (0, 5)


def test_a_polygon_of_many_points_gets_its_smallest_rectangle():
    box = np.array([[30.0, 40.0, 20.0, 8.0, 0.4]])
    outline = shapely.segmentize(shapely.Polygon(corners_of(box)[0]), 0.7)
    dented = shapely.difference(outline, shapely.Point(30, 40).buffer(1))
    assert_same_boxes(box_of_polygon(shapely.get_coordinates(dented))[None], box)
    assert box_of_polygon([[3, 4]]).tolist() == [3, 4, 0, 0, 0]
    with pytest.raises(ValueError, match="at least one point"):
        box_of_polygon([])


def test_circumscribed_rectangles_are_the_bounds_of_the_corners():
    boxes = random_boxes(500)
    expected = shapely.bounds(shapely.polygons(corners_of(boxes)))
    np.testing.assert_allclose(axis_aligned_bounds(boxes), expected, atol=1e-9)


@pytest.mark.parametrize(
    "transform",
    [
        Affine(0.3, 0, 5e5, 0, -0.3, 5.6e6),
        Affine(0.3, 0, 5e5, 0, 0.3, 5.6e6),  # south-up
        Affine.translation(5e5, 5.6e6) @ Affine.rotation(33) @ Affine.scale(0.5, -0.5),
    ],
)
def test_an_affine_that_keeps_right_angles_maps_boxes_exactly(transform):
    boxes = random_boxes(300)
    found = map_boxes(boxes, transform)
    scale = np.sqrt(abs(transform.determinant))
    np.testing.assert_allclose(found[:, 2:4], canonical(boxes)[:, 2:4] * scale, atol=1e-6)
    corners = np.array([transform @ tuple(xy) for xy in corners_of(boxes).reshape(-1, 2)])
    around = shapely.buffer(shapely.polygons(corners_of(found)), 1e-5)
    assert shapely.covers(around, shapely.polygons(corners.reshape(-1, 4, 2))).all()
    assert_same_boxes(map_boxes(found, ~transform), canonical(boxes), 1e-5)


def test_a_sheared_box_becomes_the_smallest_rectangle_around_it():
    transform = Affine.shear(20, 5) @ Affine.scale(1.5, 1)
    boxes = random_boxes(100)
    corners = np.array([transform @ tuple(xy) for xy in corners_of(boxes).reshape(-1, 2)])
    found = map_boxes(boxes, transform)
    around = shapely.buffer(shapely.polygons(corners_of(found)), 1e-6)
    assert shapely.covers(around, shapely.polygons(corners.reshape(-1, 4, 2))).all()
    assert_same_boxes(found, boxes_of_corners(corners.reshape(-1, 4, 2)))


@pytest.mark.parametrize(
    ("code", "lon", "lat"),
    [
        ("EPSG:3857", 15, 60),
        ("EPSG:3857", -70, 84.5),
        ("EPSG:3395", 15, 50),
        ("EPSG:3031", 30, -40),  # polar stereographic, far from its parallel
        ("EPSG:6933", 100, 65),  # equal areas of the world: no squares
        ("ESRI:54009", -120, 40),
        ("EPSG:32633", 15, 60),
        ("EPSG:32633", 20, 60),
        ("EPSG:2227", -121, 37.5),  # US survey feet
        ("EPSG:4326", 15, 88),
        ("EPSG:4326", 180, 10),
    ],
)
def test_sizes_are_metres_on_the_ground_in_any_crs(code, lon, lat):
    azimuth = 30.0
    half_length, half_width = 20.0, 5.0
    local = pyproj.CRS.from_proj4(f"+proj=aeqd +lat_0={lat} +lon_0={lon} +datum=WGS84")
    to_map = pyproj.Transformer.from_crs(local, code, always_xy=True)
    along = np.array([np.sin(np.radians(azimuth)), np.cos(np.radians(azimuth))])
    across = np.array([along[1], -along[0]])
    signs = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    corners = signs[:, :1] * half_length * along + signs[:, 1:] * half_width * across
    xy = np.column_stack(to_map.transform(*corners.T))
    if code == DEGREES and lon == 180:
        xy[:, 0] %= 360
    sizes = sizes_of_corners([xy], wkt(code))
    assert sizes.length_m[0] == pytest.approx(40, rel=1e-4)
    assert sizes.width_m[0] == pytest.approx(10, rel=1e-4)
    assert sizes.area_m2[0] == pytest.approx(400, rel=1e-4)
    assert sizes.unit == "m"
    # Grid north: the azimuth of a step up the map.
    back = pyproj.Transformer.from_crs(code, DEGREES, always_xy=True)
    x, y = xy.mean(axis=0)
    up = 1e-4 if code == DEGREES else 5.0
    grid_north = WGS84.inv(*back.transform(x, y - up), *back.transform(x, y + up))[0]
    expected = (azimuth - grid_north) % 180
    assert sizes.bearing[0] == pytest.approx(expected, abs=1e-2)


def test_a_conformal_map_shows_bearings_as_they_are():
    place = georeference(Affine(0.5, 0, 8e5, 0, -0.5, 5.6e6), UTM)  # 3.3 degrees of convergence
    boxes = [[10, 10, 40, 10, 0.0], [10, 10, 10, 40, 0.0], [9, 9, 40, 10, -0.3]]
    scale = pyproj.Proj(UTM).get_factors(*pyproj.Proj(UTM)(8e5, 5.6e6, inverse=True))
    sizes = ground_sizes(boxes, place)
    np.testing.assert_allclose(sizes.length_m, 20 / scale.meridional_scale, rtol=1e-5)
    np.testing.assert_allclose(sizes.width_m, 5 / scale.meridional_scale, rtol=1e-5)
    # -0.3 turns the right end up, to the north.
    off = sizes.bearing - [90, 0, 90 - np.degrees(0.3)]
    np.testing.assert_allclose((off + 90) % 180 - 90, 0, atol=1e-3)
    assert sizes.unit == "m"


def test_a_scene_turned_by_its_transform_gives_the_same_sizes():
    box = np.array([[100.0, 50.0, 40.0, 10.0, 0.2]])
    north_up = Affine(0.5, 0, 4e5, 0, -0.5, 5.6e6)
    turned = north_up @ Affine.rotation(25) @ Affine.scale(1, -1)  # and south-up
    one = ground_sizes(box, georeference(north_up, UTM))
    other = ground_sizes(map_boxes(box, ~turned @ north_up), georeference(turned, UTM))
    for name in ("length_m", "width_m", "area_m2", "bearing"):
        np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-5)


def test_sizes_in_degrees_follow_geodesics():
    # Pixels of equal degrees at 60 degrees north: half as wide as high on the ground. Two opposite
    # sides differ by what meridians draw together on the way.
    place = georeference(Affine(1e-5, 0, 10, 0, -1e-5, 60), DEGREES)
    boxes = random_boxes(50)
    sizes = ground_sizes(boxes, place)
    corners = np.array([place.transform @ tuple(xy) for xy in corners_of(boxes).reshape(-1, 2)])
    for box, corner in enumerate(corners.reshape(-1, 4, 2)):
        lon, lat = np.vstack([corner, corner[:1]]).T
        sides = WGS84.inv(lon[:-1], lat[:-1], lon[1:], lat[1:])
        longest = np.argmax(sides[2])
        assert sizes.length_m[box] == pytest.approx(sides[2][longest], rel=2e-5)
        assert sizes.bearing[box] == pytest.approx(sides[0][longest] % 180, abs=1e-3)
        local = pyproj.CRS.from_proj4(f"+proj=aeqd +lat_0={lat[0]} +lon_0={lon[0]} +datum=WGS84")
        to_plane = pyproj.Transformer.from_crs(DEGREES, local, always_xy=True)
        area = shapely.Polygon(np.column_stack(to_plane.transform(lon, lat))).area
        assert sizes.area_m2[box] == pytest.approx(area, rel=1e-6)
    np.testing.assert_allclose(sizes.length_m * sizes.width_m, sizes.area_m2)


def test_a_box_across_the_antimeridian_is_measured_the_short_way():
    corners = [[179.9999, 0], [180.0001, 0], [180.0001, -5e-5], [179.9999, -5e-5]]
    sizes = sizes_of_corners([corners], wkt(DEGREES))
    assert sizes.length_m[0] == pytest.approx(22.26, abs=0.01)
    assert sizes.bearing[0] == pytest.approx(90, abs=1e-3)


@pytest.mark.parametrize(
    "place",
    [georeference(None, None), georeference(None, UTM), georeference(Affine.scale(9, -9), None)],
)
def test_without_a_place_on_earth_sizes_are_pixels_and_up_is_north(place):
    sizes = ground_sizes([[10, 10, 20, 4, -np.pi / 4], [0, 0, 0, 0, 0]], place)
    np.testing.assert_allclose(sizes.length_m, [20, 0])
    np.testing.assert_allclose(sizes.width_m, [4, 0])
    np.testing.assert_allclose(sizes.bearing, [45, 0])
    assert sizes.unit == "px"


def test_outside_the_crs_there_is_no_size():
    place = georeference(Affine(1, 0, 0, 0, -1, 95), DEGREES)
    assert np.isnan(ground_sizes([[0, 0, 2, 1, 0]], place).length_m[0])
