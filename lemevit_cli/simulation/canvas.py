"""What a block is painted on: colour without light, class, height, and the noises of the place."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, sin

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.simulation.texture import Floats, octaves
from lemevit_cli.simulation.town import Colour, Material, Town

LAND, BUILDING, ROAD, VEGETATION, WATER = range(5)


class Canvas:
    """A block of the world under the brush.

    Args:
        x: ``(W,)`` metres of the pixel centres. y: ``(H,)``.

    ``albedo`` is ``(3, H, W)`` linear light, ``class_ids`` and ``height`` (metres) ``(H, W)``;
    ``foliage`` marks tree crowns with their tone in (0, 1], 0 elsewhere.
    """

    def __init__(self, x: Floats, y: Floats, *, gsd_m: float, town: Town) -> None:
        self.x, self.y, self.gsd_m, self.town = x, y, gsd_m, town
        shape = (len(y), len(x))
        self.albedo = np.zeros((3, *shape), dtype=np.float32)
        self.class_ids = np.zeros(shape, dtype=np.uint8)
        self.height = np.zeros(shape, dtype=np.float32)
        self.foliage = np.zeros(shape, dtype=np.float32)
        self.fields = _noise_fields(x, y, gsd_m, town.seed * 31 + 401)

    def view(self, cx: float, cy: float, angle: float, reach: float) -> View | None:
        """Return the part of the canvas within ``reach`` metres of a point, in a turned frame."""
        left, right = np.searchsorted(self.x, (cx - reach, cx + reach))
        top, bottom = np.searchsorted(self.y, (cy - reach, cy + reach))
        if left == right or top == bottom:
            return None
        at = (slice(int(top), int(bottom)), slice(int(left), int(right)))
        c, s = np.float32(cos(angle)), np.float32(sin(angle))
        dx = (self.x[at[1]] - cx).astype(np.float32)
        dy = (self.y[at[0]] - cy).astype(np.float32)[:, None]
        return View(self, at, dx * c + dy * s, dy * c - dx * s)


@dataclass(frozen=True, slots=True)
class View:
    """A rectangle of the canvas with metres ``u`` (along) and ``v`` (across) a turned frame."""

    canvas: Canvas
    at: tuple[slice, slice]
    u: Floats
    v: Floats

    def field(self, name: str) -> Floats:
        """Return one of the canvas' noises, here."""
        return self.canvas.fields[name][self.at]

    def cover(self, distance: Floats) -> Floats:
        """Return each pixel's share inside an outline, of signed metres (negative inside)."""
        share = distance * np.float32(-1 / self.canvas.gsd_m)
        share += np.float32(0.5)
        return np.clip(share, 0, 1, out=share)

    def paint(self, share: Floats, material: Material, class_id: int | None) -> None:
        """Lay a material over what is there; the class changes where it covers half a pixel."""
        field = self.field(material.field)
        for band, dark, light in zip(
            self.canvas.albedo, material.dark, material.light, strict=True
        ):
            colour = field * (light - dark)
            colour += dark
            here = band[self.at]
            colour -= here
            colour *= share
            here += colour
        if class_id is not None:
            np.copyto(self.canvas.class_ids[self.at], class_id, where=share > 0.5)

    def tint(self, share: Floats, colour: Colour) -> None:
        """Lay a flat colour over what is there: markings, details."""
        for band, value in zip(self.canvas.albedo, colour, strict=True):
            here = band[self.at]
            here += (value - here) * share

    def raise_to(self, share: Floats, height: Floats | np.float32) -> None:
        """Lift the surface to a height in metres where the share is not nought."""
        here = self.canvas.height[self.at]
        here += (height - here) * share


def _noise_fields(x: Floats, y: Floats, gsd_m: float, salt: int) -> dict[str, NDArray[np.float32]]:
    """Make the noises that materials choose from, all in [0, 1] around 0.5."""
    fine = octaves(x, y, wavelengths=(0.37, 0.93), gsd_m=gsd_m, salt=salt)
    mid = octaves(x, y, wavelengths=(2.3, 6.1), gsd_m=gsd_m, salt=salt + 1)
    broad = octaves(x, y, wavelengths=(17.0, 47.0), gsd_m=gsd_m, salt=salt + 2)
    return {
        "fine": fine,
        "mid": mid,
        "broad": broad,
        "rough": _mix((fine, 0.60), (mid, 0.40), (broad, 0.44)),
        "worn": _mix((fine, 0.36), (mid, 0.32), (broad, 0.65)),
        "swell": _mix((fine, 0.08), (mid, 0.22), (broad, 0.80)),
        "ragged": _mix((fine, 0.45), (mid, 0.75)),
    }


def _mix(*parts: tuple[Floats, float]) -> NDArray[np.float32]:
    total = np.full(parts[0][0].shape, 0.5 * (1 - sum(w for _, w in parts)), dtype=np.float32)
    for field, weight in parts:
        total += field * np.float32(weight)
    return total
