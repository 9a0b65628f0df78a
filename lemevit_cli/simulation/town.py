"""What makes one town look unlike another: climate, colours, sun and sensor, all from the seed."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, pi, sin
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Date = Literal["before", "after"]
Colour = NDArray[np.float32]  # (3,), linear light in [0, 1]

MAX_SHADOW_M = 36.0  # what a block looks at beyond its edge; nothing throws a longer shadow

# Display colours (RGB 0..255), dark and light end of what one material shows.
_CLIMATES: dict[str, dict[str, tuple[tuple[int, int, int], tuple[int, int, int]]]] = {
    "temperate": {
        "grass": ((62, 84, 52), (122, 138, 88)),
        "crop": ((42, 82, 52), (98, 132, 76)),
        "ripe": ((150, 138, 74), (188, 176, 108)),
        "crown": ((36, 60, 38), (92, 120, 66)),
        "soil": ((120, 100, 80), (172, 150, 122)),
        "sand": ((168, 152, 124), (206, 192, 164)),
        "water": ((42, 58, 52), (66, 84, 76)),
    },
    "dry": {
        "grass": ((92, 96, 62), (158, 148, 104)),
        "crop": ((74, 92, 52), (136, 138, 88)),
        "ripe": ((176, 156, 100), (214, 194, 142)),
        "crown": ((46, 60, 40), (98, 108, 70)),
        "soil": ((150, 118, 86), (206, 172, 132)),
        "sand": ((190, 166, 130), (226, 206, 172)),
        "water": ((40, 66, 74), (76, 104, 104)),
    },
    "desert": {
        "grass": ((66, 82, 46), (116, 124, 76)),
        "crop": ((58, 78, 42), (112, 120, 72)),
        "ripe": ((178, 160, 122), (214, 198, 160)),
        "crown": ((34, 46, 30), (80, 90, 58)),
        "soil": ((172, 152, 128), (218, 202, 178)),
        "sand": ((196, 180, 156), (238, 228, 210)),
        "water": ((34, 48, 44), (62, 88, 84)),
    },
    "boreal": {
        "grass": ((64, 84, 62), (116, 128, 94)),
        "crop": ((52, 84, 62), (104, 126, 88)),
        "ripe": ((142, 134, 92), (182, 172, 126)),
        "crown": ((30, 50, 42), (78, 100, 74)),
        "soil": ((104, 94, 82), (152, 140, 122)),
        "sand": ((150, 142, 126), (194, 186, 168)),
        "water": ((28, 40, 46), (50, 64, 68)),
    },
}
_GROWING = ("grass", "crop", "ripe", "crown")
_PAVING = {
    "asphalt": ((92, 93, 96), (138, 138, 138)),
    "concrete": ((128, 126, 122), (188, 185, 178)),
    "track": ((150, 136, 114), (194, 180, 156)),
    "pool": ((60, 150, 176), (110, 196, 206)),
}
_RED, _BROWN, _GREY = (166, 92, 70), (120, 86, 70), (140, 140, 140)
_DARK, _WHITE, _BEIGE = (78, 80, 84), (222, 222, 218), (204, 190, 164)
_BLUE, _GREEN, _RUST = (92, 118, 148), (112, 136, 118), (150, 96, 72)
_ROOFS = {
    "temperate": ((_RED, 5), (_BROWN, 2), (_GREY, 2), (_DARK, 2), (_WHITE, 1), (_RUST, 1)),
    "dry": ((_RED, 4), (_BEIGE, 3), (_WHITE, 2), (_RUST, 2), (_GREY, 1), (_BLUE, 1)),
    "desert": ((_WHITE, 4), (_BEIGE, 5), (_GREY, 2), (_RUST, 1), (_GREEN, 1)),
    "boreal": ((_DARK, 5), (_RED, 2), (_GREY, 3), (_RUST, 2), (_BROWN, 1), (_WHITE, 1)),
}


@dataclass(frozen=True, slots=True)
class Material:
    """A ground colour between two ends; ``field`` names the noise that chooses between them."""

    dark: Colour
    light: Colour
    field: str = "rough"

    def with_tone(
        self, gain: float, *, tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    ) -> Material:
        """Return the same material, brighter or darker, with a tint by channel."""
        factor = np.float32(gain) * np.asarray(tint, dtype=np.float32)
        return Material(self.dark * factor, self.light * factor, self.field)


@dataclass(frozen=True, slots=True)
class Light:
    """Sun, air and sensor of one date.

    Args:
        towards_sun: unit vector in metres ``(x east, y south, z up)``.
        sun, sky: what sunlit and shaded flat ground send back per channel, in sum about 1.
        haze, haze_colour: share of the air's own light, and its colour.
        gain: the sensor's colour cast by channel. contrast, saturation: 1 leaves the
            picture as it is.
        glint: how brightly water sparkles.
        blur: weight of either neighbour in the sensor's three-pixel spread.
        noise: standard deviation of the sensor's noise in grey levels of 255.
    """

    towards_sun: tuple[float, float, float]
    sun: Colour
    sky: Colour
    haze: float
    haze_colour: Colour
    gain: Colour
    contrast: float
    saturation: float
    blur: float
    noise: float
    glint: float

    @property
    def max_height_m(self) -> float:
        """Return the height whose shadow is as long as a block can see."""
        x, y, z = self.towards_sun
        return MAX_SHADOW_M * z / float(np.hypot(x, y))


@dataclass(frozen=True, slots=True)
class Town:
    """Parts of a world that do not depend on the place.

    ``materials`` are ground colours by name; a roof has colour k with ``roof_weights[k]``.
    """

    seed: int
    climate: str
    materials: dict[str, Material]
    roofs: tuple[Colour, ...]
    roof_weights: tuple[float, ...]


def linear(colour: tuple[float, float, float]) -> Colour:
    """Return a display colour (0..255) as linear light: the gamma is a square root here."""
    return ((np.asarray(colour) / 255) ** 2).astype(np.float32)


def make_town(seed: int, date: Date) -> Town:
    """Draw climate and colours of the seed's town; what grows has another shade later."""
    rng = np.random.default_rng([seed, 1])
    climate = str(rng.choice(list(_CLIMATES), p=[0.4, 0.2, 0.2, 0.2]))
    materials = {}
    for name, (dark, light) in {**_CLIMATES[climate], **_PAVING}.items():
        tint = rng.normal(1.0, 0.05, 3) * rng.normal(1.0, 0.09)
        field = {"asphalt": "worn", "concrete": "worn", "water": "swell"}.get(name, "rough")
        ends = [linear(end) * tint.astype(np.float32) for end in (dark, light)]
        materials[name] = Material(ends[0], ends[1], field)
    season = np.random.default_rng([seed, 8])
    for name in _GROWING:
        red, green, blue = season.normal(1.0, 0.13, 3).tolist()
        if date == "after":
            materials[name] = materials[name].with_tone(0.9, tint=(red, green, blue))
    colours, shares = zip(*_ROOFS[climate], strict=True)
    weights = np.asarray(shares) * rng.uniform(0.3, 1.7, len(shares))
    tints = rng.normal(1.0, 0.06, (len(colours), 3))
    roofs = tuple(linear(c) * t.astype(np.float32) for c, t in zip(colours, tints, strict=True))
    return Town(seed, climate, materials, roofs, tuple(weights / weights.sum()))


def make_light(seed: int, date: Date) -> Light:
    """Draw sun, air and sensor of one date."""
    rng = np.random.default_rng([seed, 2, int(date == "after")])
    azimuth, elevation = rng.uniform(0, 2 * pi), rng.uniform(0.62, 1.05)
    shade = rng.uniform(0.10, 0.26)
    sky = np.asarray([0.80, 0.98, 1.30], dtype=np.float32) * np.float32(shade)
    warm = np.asarray([1.03, 1.0, 0.94], dtype=np.float32)
    return Light(
        towards_sun=(
            cos(elevation) * cos(azimuth), cos(elevation) * sin(azimuth), sin(elevation),
        ),
        sun=warm * np.float32(1 - shade),
        sky=sky,
        haze=float(rng.uniform(0.0, 0.10)),
        haze_colour=linear((150, 172, 190)),
        gain=(rng.normal(1.0, 0.05, 3) * rng.uniform(0.72, 1.25)).astype(np.float32),
        contrast=float(rng.uniform(0.9, 1.25)),
        saturation=float(rng.uniform(0.5, 1.0)),
        blur=float(rng.uniform(0.10, 0.24)),
        noise=float(rng.uniform(1.0, 4.0)),
        glint=float(rng.choice([0.0, 1.0, 4.0])),
    )  # fmt: skip
