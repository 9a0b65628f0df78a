"""Shadows are as long as the sun says."""

import numpy as np
import pytest

from lemevit_cli.simulation.canvas import Canvas
from lemevit_cli.simulation.light import render
from lemevit_cli.simulation.town import make_light, make_town


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_a_pillar_throws_a_shadow_away_from_the_sun_by_its_height(seed):
    light = make_light(seed, "before")
    gsd_m, height, half = 0.5, 10.0, 8
    x = (np.arange(201) - 100) * gsd_m
    canvas = Canvas(x, x, gsd_m=gsd_m, town=make_town(seed, "before"))
    canvas.albedo += 0.3
    canvas.height[100 - half : 101 + half, 100 - half : 101 + half] = height
    picture = render(canvas, light)[1]
    lit = picture[0, 0]
    east, south, up = light.towards_sun
    length = height * np.hypot(east, south) / up
    away = -np.array([east, south]) / np.hypot(east, south)
    edge = half * gsd_m / np.abs(away).max()  # from the middle to the pillar's side

    def brightness(metres):
        col, row = np.rint(100 + away * metres / gsd_m).astype(int)
        return picture[row, col]

    assert brightness(edge + 0.5 * length) < 0.8 * lit
    assert brightness(edge + 0.85 * length) < 0.8 * lit
    assert brightness(edge + 1.15 * length + 1) == pytest.approx(lit, rel=1e-3)
    assert brightness(-edge - 3) == pytest.approx(lit, rel=1e-3)
