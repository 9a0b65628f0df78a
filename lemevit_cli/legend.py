"""Names and colours of classes, shared by weights, writers and pictures."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

NODATA_CLASS = 255  # in every class raster and mask: no class, never scored
MAX_CLASSES = 255  # ids 0..254 fit uint8 beside NODATA_CLASS

_KNOWN_COLORS = {
    "background": (40, 40, 40),
    "land": (222, 203, 164),
    "building": (214, 69, 65),
    "road": (128, 128, 140),
    "vegetation": (86, 158, 82),
    "water": (66, 135, 245),
    "unchanged": (40, 40, 40),
    "changed": (236, 46, 122),  # seen on roofs, fields and soil
}


LONGEST_NAME = 200  # characters


def is_class_name(name: object) -> bool:
    """Say whether a class may be called so: by a text that shows, and steers no terminal."""
    is_text = isinstance(name, str) and bool(name.strip()) and len(name) <= LONGEST_NAME
    return is_text and str(name).isprintable()


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """A class as users see it; ``color`` is RGB, 0 to 255."""

    name: str
    color: tuple[int, int, int]


def classes_from_names(names: Sequence[str]) -> tuple[ClassInfo, ...]:
    """Give every name a colour: the customary one if it has one, else spread over the hues."""
    return tuple(
        ClassInfo(name, _KNOWN_COLORS.get(name.lower()) or _spread_color(i))
        for i, name in enumerate(names)
    )


def _spread_color(index: int) -> tuple[int, int, int]:
    # Steps of the golden ratio keep neighbours apart for any number of classes.
    red, green, blue = colorsys.hsv_to_rgb((index * 0.618034) % 1.0, 0.65, 0.85)
    return round(red * 255), round(green * 255), round(blue * 255)
