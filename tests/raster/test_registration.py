"""Shifts measured between two simulated dates, whose light, season and buildings differ."""

from __future__ import annotations

import numpy as np
import pytest
from affine import Affine
from rasterio.enums import Resampling
from rasterio.transform import array_bounds
from rasterio.warp import calculate_default_transform, reproject

from lemevit_cli.geometry.window import Window
from lemevit_cli.raster.registration import displacement, estimate_shift
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.simulation.world import World, WorldSpec

SIDE = 640
MARGIN = 32
CRS = "EPSG:32633"
TRANSFORM = Affine(0.3, 0, 458_000, 0, -0.3, 5_548_000)
WIDE = TRANSFORM @ Affine.translation(-MARGIN, -MARGIN)


@pytest.fixture(scope="module")
def town():
    """Return a town before, and after with a margin around it and no shift of its own."""
    spec = {"seed": 3, "width": SIDE, "height": SIDE}
    before = World(WorldSpec(**spec))
    after = World(WorldSpec(**spec, date="after"))
    cols, rows = after.shift_px
    wide = SIDE + 2 * MARGIN
    return (
        before.draw(Window(col_off=0, row_off=0, width=SIDE, height=SIDE)).pixels,
        after.draw(
            Window(col_off=-MARGIN - cols, row_off=-MARGIN - rows, width=wide, height=wide)
        ).pixels,
    )


@pytest.fixture
def pair_off_by(town, write_scene):
    """Return a function that writes the town twice, the second date some pixels off."""
    before, wide = town

    def open_it(dx_px, dy_px, *, crs=CRS, scale=1.0, nodata=None):
        pixels, transform = wide, WIDE
        # Said to lie where it does not: the ground appears so many pixels further.
        said = WIDE @ Affine.translation(dx_px, dy_px)
        if (crs, scale) == (CRS, 1.0) and dx_px == round(dx_px) and dy_px == round(dy_px):
            transform = said
        else:
            transform, width, height = calculate_default_transform(
                CRS, crs, *wide.shape[1:], *array_bounds(*wide.shape[1:], WIDE)
            )
            transform, width, height = (
                transform @ Affine.scale(scale),
                int(width / scale),
                int(height / scale),
            )
            pixels = np.zeros((3, height, width), np.uint8)
            reproject(
                wide, pixels, src_transform=said, src_crs=CRS, dst_transform=transform,
                dst_crs=crs, resampling=Resampling.cubic,
            )  # fmt: skip
        if nodata is not None:
            pixels = pixels.copy()
            pixels[:, *nodata] = 0
        return open_pair(
            write_scene(before, "before.tif", crs=CRS, transform=TRANSFORM),
            write_scene(pixels, "after.tif", crs=crs, transform=transform, nodata=0),
        )

    return open_it


@pytest.mark.parametrize(
    ("dx_px", "dy_px", "grid"),
    [
        (0, 0, {}),
        (20, -20, {}),
        (0.5, -0.5, {}),
        (-13.3, 7.8, {}),
        (3.37, 18.81, {"crs": "EPSG:32632", "scale": 0.7}),
        (-17.5, 11.25, {"crs": "EPSG:4326", "scale": 1.3}),
        (1.2, -2.6, {"crs": "EPSG:3857", "scale": 0.5}),
    ],
)
def test_known_shifts_are_found_and_undone_to_a_quarter_pixel(pair_off_by, dx_px, dy_px, grid):
    with pair_off_by(dx_px, dy_px, **grid) as pair:
        shift = estimate_shift(pair)
        assert shift.dx_px == pytest.approx(dx_px, abs=0.25)
        assert shift.dy_px == pytest.approx(dy_px, abs=0.25)
        assert shift.spread_px < 0.5 and shift.windows >= 6
        # The transform's pixels are 0.3 m in the map; near the meridian the map is the ground.
        assert shift.length_m == pytest.approx(0.3 * shift.length_px, rel=1e-3)
        left = estimate_shift(pair.shift(dx_px=shift.dx_px, dy_px=shift.dy_px))
    assert left.length_px < 0.15


def test_nodata_parts_do_not_pull_the_shift(pair_off_by):
    with pair_off_by(6, -9, nodata=(slice(0, 300), slice(0, 400))) as pair:
        shift = estimate_shift(pair)
    assert shift.dx_px == pytest.approx(6, abs=0.25)
    assert shift.dy_px == pytest.approx(-9, abs=0.25)


def test_a_shift_of_both_halves_apart_shows_in_the_spread(town, write_scene):
    before, wide = town
    after = wide[:, MARGIN:-MARGIN, MARGIN:-MARGIN].copy()
    after[:, 320:] = wide[:, MARGIN + 320 : -MARGIN, MARGIN - 2 : -MARGIN - 2]
    with open_pair(write_scene(before, "a.tif"), write_scene(after, "b.tif")) as pair:
        shift = estimate_shift(pair)
    assert shift.spread_px > 0.5


def test_other_ground_and_bare_ground_have_no_shift(town, write_scene):
    before, _ = town
    whole = Window(col_off=0, row_off=0, width=SIDE, height=SIDE)
    other = World(WorldSpec(seed=8, width=SIDE, height=SIDE)).draw(whole).pixels
    path = write_scene(before, "a.tif")
    with open_pair(path, write_scene(other, "b.tif")) as pair:
        assert estimate_shift(pair) is None
    flat = write_scene(np.full_like(before, 90), "c.tif")
    with open_pair(flat, flat) as pair:
        assert estimate_shift(pair) is None


def test_a_small_pair_has_a_shift_and_a_tiny_one_has_none(town, write_scene):
    before, wide = town
    after = wide[:, MARGIN - 5 :, MARGIN + 3 :]
    with open_pair(
        write_scene(before[:, :256, :256], "a.tif", crs=None),
        write_scene(after[:, :256, :256], "b.tif", crs=None),
    ) as pair:
        shift = estimate_shift(pair)
    assert (shift.dx_px, shift.dy_px) == pytest.approx((-3, 5), abs=0.25)
    assert shift.length_m is None
    tiny = write_scene(before[:, :50, :300], "c.tif")
    with open_pair(tiny, tiny) as pair:
        assert estimate_shift(pair) is None


def test_a_band_limited_picture_is_found_between_the_pixels():
    rng = np.random.default_rng(5)
    frequencies = np.fft.fftfreq(128)
    soft = np.exp(-8 * (frequencies**2 + frequencies[:, None] ** 2))
    spectrum = np.fft.fft2(rng.normal(size=(128, 128))) * soft
    ramp = np.exp(-2j * np.pi * (5.32 * frequencies + -7.16 * frequencies[:, None]))
    first = np.fft.ifft2(spectrum).astype(np.complex64)
    second = np.fft.ifft2(spectrum * ramp).astype(np.complex64)
    assert displacement(first, second) == pytest.approx((5.32, -7.16), abs=0.021)
