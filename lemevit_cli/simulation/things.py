"""Drawing of things: each on its own small rectangle, with soft edges and a true height."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.simulation.canvas import BUILDING, LAND, ROAD, VEGETATION, WATER, Canvas, View
from lemevit_cli.simulation.recipes import Thing
from lemevit_cli.simulation.texture import Floats
from lemevit_cli.simulation.town import Material, linear

_CAR_PAINTS = tuple(
    linear(c)
    for c in (
        (236, 236, 236), (226, 228, 230), (40, 42, 46), (58, 60, 64), (150, 152, 156),
        (186, 188, 192), (150, 40, 36), (44, 66, 120), (84, 100, 110), (120, 104, 84),
    )
)  # fmt: skip
_GLASS = linear((38, 44, 52))
_WHITE = linear((232, 232, 228))


def draw_things(canvas: Canvas, things: list[Thing]) -> None:
    """Draw things in their order; those off the canvas cost nothing."""
    for thing in things:
        reach = 0.5 * float(np.hypot(thing.w, thing.h)) + 2 * canvas.gsd_m
        view = canvas.view(thing.cx, thing.cy, thing.angle, reach)
        if view is not None:
            _BRUSHES[thing.kind](view, thing)


def draw_trees(canvas: Canvas, trees: NDArray[np.float64]) -> None:
    """Stamp crowns ``(N, 5)`` of x, y, radius, height, tone: the higher one wins a pixel."""
    if not len(trees):
        return
    ragged = 0.45 + canvas.fields["ragged"]
    for x, y, radius, height, tone in trees.tolist():
        left, right = np.searchsorted(canvas.x, (x - radius * 1.2, x + radius * 1.2))
        top, bottom = np.searchsorted(canvas.y, (y - radius * 1.2, y + radius * 1.2))
        if left == right or top == bottom:
            continue
        at = (slice(int(top), int(bottom)), slice(int(left), int(right)))
        dx = ((canvas.x[at[1]] - x) / radius).astype(np.float32)
        dy = ((canvas.y[at[0]] - y) / radius).astype(np.float32)[:, None]
        squared = dx * dx + dy * dy
        crown = np.float32(height) - squared * np.float32(0.55 * radius)
        here = canvas.height[at]
        wins = (squared < ragged[at]) & (crown > here)
        np.copyto(here, crown, where=wins)
        np.copyto(canvas.foliage[at], np.float32(0.02 + 0.98 * tone), where=wins)


def colour_trees(canvas: Canvas) -> None:
    """Give all crowns colour, bumps and class at once."""
    crowns = canvas.foliage > 0
    dark, light = canvas.town.materials["crown"].dark, canvas.town.materials["crown"].light
    weight = canvas.foliage * np.float32(0.7)
    weight -= np.float32(0.1)
    weight += canvas.fields["fine"] * np.float32(0.55)
    weight += (canvas.fields["mid"] - np.float32(0.5)) * np.float32(0.4)
    for band, low, high in zip(canvas.albedo, dark, light, strict=True):
        np.copyto(band, low + (high - low) * weight, where=crowns)
    bumps = (canvas.fields["ragged"] - np.float32(0.5)) * np.float32(2.4)
    np.add(canvas.height, bumps, out=canvas.height, where=crowns)
    np.copyto(canvas.class_ids, VEGETATION, where=crowns)


def _box(view: View, w: float, h: float, u: float = 0.0, v: float = 0.0) -> Floats:
    """Return signed metres from a rectangle about (u, v): negative inside."""
    du = np.abs(view.u - np.float32(u)) - np.float32(w / 2)
    dv = np.abs(view.v - np.float32(v)) - np.float32(h / 2)
    return np.maximum(du, dv)


def _flat(name: str, class_id: int) -> Callable[[View, Thing], None]:
    """Make a brush for yards, lawns and pools: one material, no height."""

    def draw(view: View, t: Thing) -> None:
        tint = 1 + 0.14 * (t.looks[1] - 0.5)
        material = view.canvas.town.materials[name].with_tone(
            0.8 + 0.4 * t.looks[2], tint=(tint, 1.0, 2 - tint)
        )
        view.paint(view.cover(_box(view, t.w, t.h)), material, class_id)

    return draw


def _yard(view: View, t: Thing) -> None:
    _flat("asphalt" if t.looks[0] < 0.5 else "concrete", ROAD)(view, t)


def _drive(view: View, t: Thing) -> None:
    _flat(("concrete", "track", "asphalt")[int(t.looks[0] * 3)], ROAD)(view, t)


def _basin(view: View, t: Thing) -> None:
    view.tint(view.cover(_box(view, t.w, t.h)), linear((150, 148, 142)))
    _flat("water", WATER)(view, t)


def _hedge(view: View, t: Thing) -> None:
    ragged = (view.field("ragged") - np.float32(0.5)) * np.float32(0.9)
    inside = _box(view, t.w, t.h) + ragged < 0
    np.copyto(view.canvas.foliage[view.at], np.float32(0.05 + 0.9 * t.looks[0]), where=inside)
    np.copyto(view.canvas.height[view.at], np.float32(t.height), where=inside)


def _bays(view: View, t: Thing) -> None:
    lines = np.abs(view.u / np.float32(2.6) - np.rint(view.u / np.float32(2.6))) * np.float32(2.6)
    line = view.cover(lines - np.float32(0.06)) * view.cover(_box(view, t.w, t.h))
    view.tint(line * np.float32(0.8), linear((214, 214, 208)))


def _roof(view: View, t: Thing, share: Floats, *, gain: float = 1.0) -> None:
    """Cover with the building's roofing: a colour, courses along u, weather."""
    town = view.canvas.town
    pick = int(np.searchsorted(np.cumsum(town.roof_weights), t.looks[0] * 0.999))
    colour = town.roofs[min(pick, len(town.roofs) - 1)] * np.float32(
        gain * (0.72 + 0.56 * t.looks[1])
    )
    view.paint(share, Material(colour * np.float32(0.86), colour * np.float32(1.14), "worn"),
               BUILDING)  # fmt: skip
    if view.canvas.gsd_m < 0.45:
        pitch = np.float32(0.9 if t.looks[2] < 0.6 else 2.4)
        course = np.abs(view.v / pitch - np.floor(view.v / pitch) - np.float32(0.5))
        at = view.at
        view.canvas.albedo[:, at[0], at[1]] *= 1 + (course - np.float32(0.25)) * share * 0.22


def _details(view: View, t: Thing, share: Floats, *, size: float, count: int) -> None:
    """Draw vents, chimneys, skylights, solar panels: small boxes on the roof."""
    rng = np.random.default_rng(int(t.looks[3] * 2**31))
    for _ in range(count):
        w, h = size * rng.uniform(0.5, 1.4, 2)
        u, v = rng.uniform(-0.42, 0.42, 2) * (t.w, t.h)
        box = view.cover(_box(view, w, h, u, v)) * share
        view.tint(box, linear((225, 225, 220)) if rng.random() < 0.55 else linear((70, 74, 80)))
        here = view.canvas.height[view.at]
        here += box * np.float32(rng.uniform(0.3, 1.1))
    if t.looks[2] > 0.86:
        panel = view.cover(_box(view, t.w * 0.55, t.h * 0.3, 0, t.h * 0.23)) * share
        view.tint(panel, linear((34, 42, 66)))


def _gable(view: View, t: Thing) -> None:
    share = view.cover(_box(view, t.w, t.h))
    _roof(view, t, share)
    slope = 0.35 + 0.45 * t.looks[2]
    rise = np.minimum(np.float32(t.h / 2) - np.abs(view.v), np.float32(7)) * np.float32(slope)
    view.raise_to(share, rise + np.float32(t.height))
    _details(view, t, share, size=0.9, count=2)


def _hip(view: View, t: Thing) -> None:
    outline = _box(view, t.w, t.h)
    share = view.cover(outline)
    _roof(view, t, share)
    view.raise_to(share, np.float32(t.height) - outline * np.float32(0.3 + 0.4 * t.looks[2]))
    _details(view, t, share, size=0.9, count=1)


def _flat_roof(view: View, t: Thing) -> None:
    outline = _box(view, t.w, t.h)
    share = view.cover(outline)
    _roof(view, t, share, gain=1.0 + 0.3 * t.looks[3])
    parapet = view.cover(np.abs(outline + np.float32(0.35)) - np.float32(0.35)) * share
    view.tint(parapet * np.float32(0.5), linear((205, 203, 198)))
    view.raise_to(share, parapet * np.float32(0.7) + np.float32(t.height))
    _details(view, t, share, size=1.0 + 0.02 * t.w, count=int(min(14, 1 + t.w * t.h / 90)))


def _court(view: View, t: Thing) -> None:
    """Draw a closed block around its courtyard, with the ridge along its middle."""
    depth = 10.0 + 3.0 * t.looks[3]
    outer = _box(view, t.w, t.h)
    ring = np.abs(outer + np.float32(depth / 2)) - np.float32(depth / 2)
    share = view.cover(ring)
    _roof(view, t, share)
    slope = 0.0 if t.looks[2] < 0.3 else 0.6
    view.raise_to(share, np.float32(t.height) - ring * np.float32(slope))
    _details(view, t, share, size=1.2, count=8)


def _ell(view: View, t: Thing) -> None:
    """Draw two wings at a right angle that fill the same rectangle."""
    long = _box(view, t.w, t.h * 0.5, 0, -t.h * 0.25)
    short = _box(view, t.w * 0.45, t.h, t.w * 0.275, 0)
    share = view.cover(np.minimum(long, short))
    _roof(view, t, share)
    slope = np.float32(0.3 + 0.4 * t.looks[2])
    view.raise_to(share, np.maximum(-long, -short) * slope + np.float32(t.height))


def _tank(view: View, t: Thing) -> None:
    radius = np.sqrt(view.u * view.u + view.v * view.v)
    share = view.cover(radius - np.float32(t.w / 2))
    colour = _WHITE * np.float32(0.75 + 0.3 * t.looks[0])
    view.paint(share, Material(colour * np.float32(0.9), colour, "worn"), BUILDING)
    rim = view.cover(np.abs(radius - np.float32(t.w / 2 - 0.35)) - np.float32(0.2))
    view.tint(rim * np.float32(0.6), linear((120, 120, 118)))
    floating = t.looks[1] < 0.3
    top = np.where(radius < t.w / 2 - 0.8, -2.5, 0) if floating else (t.w / 2 - radius) * 0.18
    view.raise_to(share, (top + t.height).astype(np.float32))


def _car(view: View, t: Thing) -> None:
    corner = np.float32(0.35)
    du = np.maximum(np.abs(view.u) - np.float32(t.w / 2) + corner, 0)
    dv = np.maximum(np.abs(view.v) - np.float32(t.h / 2) + corner, 0)
    share = view.cover(np.sqrt(du * du + dv * dv) - corner)
    paint = _CAR_PAINTS[int(t.looks[0] * len(_CAR_PAINTS))] * np.float32(0.85 + 0.3 * t.looks[1])
    view.tint(share, paint)
    cabin = view.cover(_box(view, t.w * 0.52, t.h * 0.86, -t.w * 0.06))
    roof = view.cover(_box(view, t.w * 0.3, t.h * 0.8, -t.w * 0.07))
    view.tint(cabin * np.float32(0.85), _GLASS)
    view.tint(roof, paint)
    view.raise_to(share, np.float32(0.85) + cabin * np.float32(t.height - 0.85))


def _hull(view: View, t: Thing) -> Floats:
    """Return signed metres (nearly) from a hull pointed at +u, square at the stern."""
    bow = np.clip((view.u / np.float32(t.w) - np.float32(0.1)) / np.float32(0.4), 0, 1)
    half = np.float32(t.h / 2) * (1 - bow * bow * np.float32(0.98))
    return np.maximum(np.abs(view.v) - half, np.abs(view.u) - np.float32(t.w / 2))


def _ship(view: View, t: Thing) -> None:
    hull = _hull(view, t)
    share = view.cover(hull)
    paints = ((226, 226, 222), (96, 60, 52), (60, 74, 92), (150, 148, 140), (70, 72, 74))
    view.tint(share, linear(paints[int(t.looks[0] * len(paints))]))
    deck = view.cover(hull + np.float32(0.08 * t.h))
    decks = ((170, 140, 104), (190, 190, 184), (120, 124, 122), (146, 96, 80))
    view.tint(deck, linear(decks[int(t.looks[1] * len(decks))]))
    view.raise_to(share, np.float32(t.height))
    u = -t.w * 0.32 if t.looks[2] < 0.7 else t.w * 0.02
    house = view.cover(_box(view, t.w * 0.16, t.h * 0.66, u)) * share
    view.tint(house, _WHITE)
    hatches = 0 if t.w < 18 else 3
    for k in range(hatches):
        hatch = view.cover(_box(view, t.w * 0.12, t.h * 0.55, t.w * (-0.12 + 0.17 * k))) * share
        view.tint(hatch, linear(((70, 100, 84), (128, 62, 48), (92, 96, 102))[k]))
    here = view.canvas.height[view.at]
    here += house * np.float32(t.height)


def _plane(view: View, t: Thing) -> None:
    """Draw fuselage, swept wings and tail; nose at +u."""
    length, span = np.float32(t.w), np.float32(t.h)
    slim = np.float32(0.055) * length
    nose = np.clip((np.abs(view.u) / length - np.float32(0.34)) / np.float32(0.16), 0, 1)
    body = np.maximum(np.abs(view.v) - slim * (1 - nose * nose * np.float32(0.9)),
                      np.abs(view.u) - length / 2)  # fmt: skip
    out = np.abs(view.v) / (span / 2)
    lead = view.u - length * (np.float32(0.12) - np.float32(0.20) * out)
    chord = length * (np.float32(0.21) - np.float32(0.14) * out)
    wing = np.maximum(np.abs(lead + chord / 2) - chord / 2, np.abs(view.v) - span / 2)
    tail = view.u - length * (np.float32(-0.38) - np.float32(0.16) * out)
    tail = np.maximum(np.abs(tail + length * np.float32(0.035)) - length * np.float32(0.035),
                      np.abs(view.v) - span * np.float32(0.19))  # fmt: skip
    tail = np.maximum(tail, np.abs(view.u) - length / 2)
    share = view.cover(np.minimum(np.minimum(body, wing), tail))
    view.tint(share, _WHITE * np.float32(0.85 + 0.3 * t.looks[0]))
    stripe = view.cover(np.abs(view.v) - slim * np.float32(0.25)) * view.cover(body)
    tints = ((200, 202, 206), (60, 80, 130), (150, 52, 48))
    view.tint(stripe * np.float32(0.5), linear(tints[int(t.looks[1] * 3)]))
    engines = np.abs(np.abs(view.v) - span * np.float32(0.18)) - np.float32(0.028) * span
    engines = np.maximum(engines, np.abs(view.u - length * np.float32(0.03)) - length * 0.045)
    view.tint(view.cover(engines), linear((120, 122, 126)))
    view.raise_to(share, np.float32(2.4) + view.cover(body) * np.float32(t.height - 2.4))


_BRUSHES: dict[str, Callable[[View, Thing], None]] = {
    "gable": _gable, "hip": _hip, "flat": _flat_roof, "court": _court, "ell": _ell,
    "shed": _flat_roof, "tank": _tank, "car": _car, "ship": _ship, "plane": _plane,
    "hedge": _hedge, "yard": _yard, "drive": _drive, "bays": _bays, "basin": _basin,
    "soil": _flat("soil", LAND), "lawn": _flat("grass", VEGETATION), "pool": _flat("pool", WATER),
}  # fmt: skip
