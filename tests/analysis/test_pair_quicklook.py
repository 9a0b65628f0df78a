import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from PIL import Image
from rasterio.warp import Resampling, reproject, transform_bounds

from lemevit_cli.analysis.pair_quicklook import pair_quicklook
from lemevit_cli.analysis.quicklook import QuicklookOptions
from lemevit_cli.errors import OutputError, SceneError
from lemevit_cli.pictures.map_picture import TITLE_HEIGHT

NORTH_UP = Affine(0.5, 0, 458_000, 0, -0.5, 5_548_000)
CHANGED = (236, 46, 122)
GAP = 8


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def pair(write_scene):
    """Return two dates of 640 x 480 pixels: dark with a bright left half, and reversed."""
    before = np.full((3, 480, 640), 40, np.uint8)
    before[:, :, :320] = 200
    return (
        write_scene(before, "before.tif", transform=NORTH_UP),
        write_scene(240 - before, "after.tif", transform=NORTH_UP),
    )


@pytest.fixture
def changes():
    """Return a layer with one changed square, 100 pixels wide, at column 400 and row 100."""
    corners = [NORTH_UP @ c for c in ((400, 100), (500, 100), (500, 200), (400, 200))]
    table = geopandas.GeoDataFrame({"class": ["changed"]}, geometry=[shapely.Polygon(corners)])
    table.set_crs(32633).to_crs(4326).to_file("changes.gpkg")
    return "changes.gpkg"


def panels(before, after, **settings):
    """Return the panels of a quicklook without titles and legend, and the record."""
    options = {k: settings.pop(k) for k in ("size", "bounds", "alpha") if k in settings}
    options = QuicklookOptions(**options, overwrite=True)
    record = pair_quicklook(before, after, "q.png", options=options, **settings)
    picture = np.asarray(Image.open("q.png").convert("RGB"))
    count, width, height = record["panels"], record["width"], record["height"]
    assert picture.shape[1] == count * width + (count - 1) * GAP
    rows = picture[TITLE_HEIGHT : TITLE_HEIGHT + height]
    return [rows[:, i * (width + GAP) :][:, :width] for i in range(count)], record


def test_two_dates_stand_side_by_side(pair):
    (first, second), record = panels(*pair)
    assert record["width"], record["height"] == (640, 480)
    assert first[240, 160].tolist() == second[240, 480].tolist() == [255] * 3
    assert first[240, 480].tolist() == second[240, 160].tolist() == [0] * 3
    assert record["scale_bar"] and record["classes"] == []


@pytest.mark.parametrize("nodata", [None, -9999])
def test_nodata_pixels_of_the_second_date_darken_nothing_around_them(pair, write_scene, nodata):
    after = np.random.default_rng(0).uniform(100, 200, (3, 480, 640)).astype(np.float32)
    hole = np.zeros((480, 640), bool)
    hole[100:110, 200:300] = True
    turned = NORTH_UP @ Affine.translation(-60, -40) @ Affine.rotation(5)

    def shown(hole):
        held = np.where(hole, np.nan if nodata is None else nodata, after).astype(np.float32)
        path = write_scene(held, "turned.tif", transform=turned, nodata=nodata)
        return panels(pair[0], path)[0][1].astype(int)

    whole, holed = shown(np.zeros_like(hole)), shown(hole)
    apart = np.abs(whole - holed).max(axis=2)
    assert 900 < (apart > 2).sum() < 1400  # the hole, and half the weight of its rim


def test_change_lies_over_the_second_date(pair, changes):
    (_, second, third), record = panels(*pair, change=changes, alpha=1.0)
    assert record["classes"] == ["changed"]
    assert third[150, 450].tolist() == list(CHANGED) and second[150, 450].tolist() == [255] * 3
    np.testing.assert_array_equal(third[300:400], second[300:400])


def test_a_mask_shows_what_changed_alone(pair, write_scene):
    ids = np.zeros((1, 480, 640), np.uint8)
    ids[0, 100:200, 400:500] = 1
    mask = write_scene(ids, "mask.tif", transform=NORTH_UP, nodata=255)
    with rasterio.open(mask, "r+") as raster:
        raster.update_tags(1, CLASS_0="unchanged", CLASS_1="changed")
    (_, second, third), record = panels(*pair, change=mask, alpha=1.0)
    assert record["classes"] == ["changed"]
    assert third[150, 450].tolist() == list(CHANGED)
    np.testing.assert_array_equal(third[300:400], second[300:400])


def test_the_layer_that_change_leaves_is_taken_unasked(pair, changes):
    geopandas.read_file(changes).to_file("after_changes.shp")
    shown, record = panels(*pair)
    assert len(shown) == 3 and record["change"] == "after_changes.shp"


def test_nothing_changed_is_a_third_panel_like_the_second(pair, changes):
    geopandas.read_file(changes).iloc[:0].to_file("none.gpkg")
    (_, second, third), _ = panels(*pair, change="none.gpkg")
    # Within the scale bar and the arrow.
    np.testing.assert_array_equal(second[100:400], third[100:400])


def test_a_second_date_on_another_grid_is_drawn_on_that_of_the_first(pair, changes):
    with rasterio.open(pair[1]) as file:
        pixels, profile = file.read(), file.profile
        west, _, east, north = transform_bounds(file.crs, 3857, *file.bounds)
    step = (east - west) / 450
    transform = Affine(step, 0, west + 9.7, 0, -step, north) @ Affine.rotation(3)
    other = np.zeros((3, 330, 450), np.uint8)
    reproject(
        pixels,
        other,
        src_transform=profile["transform"],
        src_crs=profile["crs"],
        dst_transform=transform,
        dst_crs=3857,
        resampling=Resampling.average,
    )
    profile.update(crs="EPSG:3857", transform=transform, width=450, height=330, nodata=0)
    with rasterio.open("other.tif", "w", **profile) as file:
        file.write(other)
    (first, plain), _ = panels(*pair, size=300)
    (same, warped, third), record = panels(pair[0], "other.tif", change=changes, size=300)
    assert (record["width"], record["height"]) == (300, 225)
    np.testing.assert_array_equal(first[:180], same[:180])
    inner = warped[60:200, 60:240].astype(int), plain[60:200, 60:240].astype(int)
    assert (np.abs(inner[0] - inner[1]) > 8).mean() < 0.02  # but for the edge between the halves
    np.testing.assert_allclose(third[70, 211], [(255 + c) / 2 for c in CHANGED], atol=1)


def test_bounds_choose_a_part(pair):
    corners = [NORTH_UP @ c for c in ((300, 200), (340, 180))]
    bounds = tuple(v for corner in corners for v in corner)
    _, record = panels_of_small(pair, bounds)
    assert (record["width"], record["height"]) == (40, 20)


def panels_of_small(pair, bounds):
    record = pair_quicklook(*pair, "small.png", options=QuicklookOptions(bounds=bounds))
    return np.asarray(Image.open("small.png")), record


def test_what_cannot_be_drawn_is_refused(pair, write_scene):
    far = write_scene(
        np.zeros((3, 20, 20), np.uint8),
        "far.tif",
        transform=Affine.translation(9e5, 0) @ NORTH_UP,
    )
    with pytest.raises(SceneError, match="do not overlap"):
        pair_quicklook(pair[0], far)
    with pytest.raises(OutputError, match="a quicklook is a PNG or JPEG"):
        pair_quicklook(*pair, "q.tif")


def test_both_dates_are_credited_once_each(pair):
    plain = panels(*pair)[0][1].copy()
    for path, credit in zip(pair, ("by A", "by B"), strict=True):
        with rasterio.open(path, "r+") as scene:
            scene.update_tags(TIFFTAG_COPYRIGHT=credit)
    both = panels(*pair)[0][1].copy()
    with rasterio.open(pair[1], "r+") as scene:
        scene.update_tags(TIFFTAG_COPYRIGHT="by A")
    once = panels(*pair)[0][1]

    def width_of(picture):
        return np.ptp(np.nonzero((picture != plain).any(axis=2))[1])

    assert 20 < width_of(once) < 0.6 * width_of(both)
