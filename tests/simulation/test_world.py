"""The simulated world keeps its promises: alone as in the whole, and true to its truth."""

import numpy as np
import pytest
from pyproj import CRS, Geod, Transformer
from shapely import Polygon, contains_xy

from lemevit_cli.geometry.window import Window
from lemevit_cli.simulation.world import (
    CLASS_NAMES,
    OBJECT_NAMES,
    World,
    WorldSpec,
    change_ids,
    place_on_earth,
)

BUILDING, ROAD, WATER = 1, 2, 4


def whole(spec):
    return Window(col_off=0, row_off=0, width=spec.width, height=spec.height)


def polygon_of(box):
    c, s = np.cos(box.angle_rad), np.sin(box.angle_rad)
    signs = ((-1, -1), (1, -1), (1, 1), (-1, 1))
    return Polygon(
        [
            (
                box.cx + a * box.w / 2 * c - b * box.h / 2 * s,
                box.cy + a * box.w / 2 * s + b * box.h / 2 * c,
            )
            for a, b in signs
        ]
    )


def classes_inside(box, class_ids):
    """Return class ids of the pixels whose centre lies in the box; None if it leaves the scene."""
    polygon = polygon_of(box)
    left, top, right, bottom = (int(v) for v in polygon.bounds)
    height, width = class_ids.shape
    if left < 0 or top < 0 or right + 1 >= width or bottom + 1 >= height:
        return None
    rows, cols = np.mgrid[top : bottom + 1, left : right + 1]
    inside = contains_xy(polygon, cols + 0.5, rows + 0.5)
    return class_ids[rows[inside], cols[inside]]


@pytest.mark.parametrize("date", ["before", "after"])
@pytest.mark.parametrize("gsd_m", [0.3, 1.0])
def test_a_window_drawn_alone_equals_the_same_part_of_the_whole(date, gsd_m):
    spec = WorldSpec(seed=3, width=300, height=260, gsd_m=gsd_m, date=date)
    scene = World(spec).draw(whole(spec))
    for col_off, row_off, width, height in [(0, 0, 1, 1), (101, 37, 130, 97), (299, 259, 1, 1)]:
        window = Window(col_off=col_off, row_off=row_off, width=width, height=height)
        alone = World(spec).draw(window)
        np.testing.assert_array_equal(alone.pixels, scene.pixels[:, *window.slices])
        np.testing.assert_array_equal(alone.class_ids, scene.class_ids[window.slices])


def test_neither_the_order_of_windows_nor_the_size_of_the_scene_matters():
    small = WorldSpec(seed=5, width=200, height=200)
    world = World(WorldSpec(seed=5, width=100_000, height=90_000))
    world.draw(Window(col_off=80_000, row_off=70_000, width=64, height=64))
    np.testing.assert_array_equal(
        world.draw(whole(small)).pixels, World(small).draw(whole(small)).pixels
    )


def test_another_seed_draws_another_town():
    specs = [WorldSpec(seed=seed, width=128, height=128) for seed in (1, 2)]
    first, second = (World(spec).draw(whole(spec)) for spec in specs)
    assert not np.array_equal(first.pixels, second.pixels)
    assert not np.array_equal(first.class_ids, second.class_ids)


@pytest.mark.parametrize("seed", [0, 2])
def test_a_small_scene_shows_every_class(seed):
    spec = WorldSpec(seed=seed, width=1024, height=1024)
    class_ids = World(spec).draw(whole(spec)).class_ids
    shares = np.bincount(class_ids.ravel(), minlength=len(CLASS_NAMES)) / class_ids.size
    assert len(shares) == len(CLASS_NAMES)
    assert shares.min() > 0.003, dict(zip(CLASS_NAMES, shares, strict=True))


def test_colour_alone_does_not_tell_the_class():
    spec = WorldSpec(seed=0, width=512, height=512)
    drawing = World(spec).draw(whole(spec))
    for class_id in np.unique(drawing.class_ids):
        pixels = drawing.pixels[:, drawing.class_ids == class_id]
        assert pixels.std(axis=1).min() > 4, CLASS_NAMES[class_id]


def test_boxes_of_buildings_cover_their_pixels_and_vehicles_stand_where_they_may():
    spec = WorldSpec(seed=0, width=1024, height=1024)
    world = World(spec)
    class_ids = world.draw(whole(spec)).class_ids
    grounds = {"building": BUILDING, "ship": WATER, "small-vehicle": ROAD}
    shares = {name: [] for name in grounds}
    buildings = [box for box in world.objects() if box.class_name == "building"]
    for box in world.objects():
        if box.class_name in grounds:
            ids = classes_inside(box, class_ids)
            if ids is not None:
                shares[box.class_name].append(np.mean(ids == grounds[box.class_name]))
    assert all(len(values) > 5 for values in shares.values())
    assert np.mean(shares["building"]) > 0.85  # an L fills less of its box, a tree hides some
    assert np.min(shares["ship"]) == 1
    assert np.mean(shares["small-vehicle"]) > 0.9
    footprints = np.zeros(class_ids.shape, dtype=bool)
    rows, cols = np.indices(class_ids.shape)
    for box in World(WorldSpec(seed=0, width=1200, height=1200)).objects():
        if box.class_name in {"building", "storage-tank"}:
            polygon = polygon_of(box).buffer(1e-6)
            left, top, right, bottom = (int(v) for v in polygon.bounds)
            part = (slice(max(top, 0), bottom + 1), slice(max(left, 0), right + 1))
            footprints[part] |= contains_xy(polygon, cols[part] + 0.5, rows[part] + 0.5)
    assert len(buildings) > 20
    assert not np.any((class_ids == BUILDING) & ~footprints)


def test_boxes_follow_the_convention_and_windows_share_them_out():
    spec = WorldSpec(seed=2, width=600, height=400)
    world = World(spec)
    boxes = world.objects()
    assert len(boxes) > 20 and {box.class_name for box in boxes} <= set(OBJECT_NAMES)
    assert all(box.w >= box.h > 0 for box in boxes)
    assert all(-np.pi / 2 <= box.angle_rad < np.pi / 2 for box in boxes)
    halves = [Window(col_off=c, row_off=0, width=300, height=400) for c in (0, 300)]
    parts = [box for half in halves for box in world.objects(half)]
    assert sorted(map(repr, parts)) == sorted(map(repr, boxes))


def test_dates_differ_in_buildings_alone():
    spec = WorldSpec(seed=0, width=700, height=700)
    later = WorldSpec(seed=0, width=700, height=700, date="after")
    before, after = (World(s).draw(whole(s)) for s in (spec, later))
    changes = change_ids(before.class_ids, after.class_ids)
    assert set(np.unique(changes)) == {0, 1, 2}
    np.testing.assert_array_equal(changes > 0, before.class_ids != after.class_ids)
    np.testing.assert_array_equal(
        changes == 1, (after.class_ids == BUILDING) & (before.class_ids != BUILDING)
    )
    assert not np.array_equal(before.pixels, after.pixels)


def test_the_later_picture_lies_off_by_the_stated_shift():
    spec = WorldSpec(seed=1, width=400, height=400)
    later = WorldSpec(seed=1, width=400, height=400, date="after")
    worlds = World(spec), World(later)
    before, after = (world.draw(whole(spec)).pixels.mean(axis=0) for world in worlds)
    edges = [np.hypot(*np.gradient(picture)) for picture in (before, after)]

    def correlation(cols, rows):
        moved = np.roll(edges[0], (-rows, -cols), axis=(0, 1))
        inner = (slice(8, -8), slice(8, -8))
        return np.corrcoef(moved[inner].ravel(), edges[1][inner].ravel())[0, 1]

    shifts = [(cols, rows) for cols in range(-4, 5) for rows in range(-4, 5)]
    assert worlds[0].shift_px == (0, 0)
    assert max(shifts, key=lambda shift: correlation(*shift)) == worlds[1].shift_px


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:2263", "EPSG:31370"])
@pytest.mark.parametrize("gsd_m", [0.15, 2.0])
def test_pixels_have_the_asked_size_on_the_ground(crs, gsd_m):
    place = place_on_earth(WorldSpec(seed=0, width=400, height=300, gsd_m=gsd_m, crs=crs))
    to_degrees = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
    left, top = to_degrees.transform(*(place.transform @ (200, 150)))
    right, _ = to_degrees.transform(*(place.transform @ (201, 150)))
    _, bottom = to_degrees.transform(*(place.transform @ (200, 151)))
    geod = Geod(ellps="WGS84")
    assert geod.inv(left, top, right, top)[2] == pytest.approx(gsd_m, rel=2e-3)
    assert geod.inv(left, top, left, bottom)[2] == pytest.approx(gsd_m, rel=2e-3)
    assert CRS.from_wkt(place.crs_wkt) == CRS.from_user_input(crs)
