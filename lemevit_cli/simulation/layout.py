"""What stands in a district: buildings, yards, vehicles, trees, as plain records.

Each district draws its things from its own random numbers, so they do not depend on what else is
looked at. What the district's recipe proposes and would touch a road, the river or a neighbour is
left out.
"""

from __future__ import annotations

from dataclasses import replace
from math import cos, sin

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from lemevit_cli.simulation.districts import REACH_M, District, Winding, locate
from lemevit_cli.simulation.recipes import RECIPES, Block, Thing

BUILDINGS = frozenset({"gable", "hip", "flat", "court", "ell", "shed"})
CLASS_OF = {
    **dict.fromkeys(BUILDINGS, "building"),
    "tank": "storage-tank", "car": "small-vehicle", "ship": "ship", "plane": "plane",
}  # fmt: skip
_CLEARANCE_M = 6.0  # from a border: half the widest road
_CHANGED = 0.11  # share of buildings built, and as many torn down, between the dates


def furnish(
    district: District, seed: int, windings: dict[str, Winding]
) -> tuple[tuple[Thing, ...], NDArray[np.float64]]:
    """Draw all things and trees of a district.

    Returns:
        The things in drawing order, and ``(N, 5)`` trees: x, y, radius, height, tone.
    """
    rng = np.random.default_rng([seed, 6, district.i + 2**20, district.j + 2**20])
    blocks = _blocks(district, seed, windings)
    recipe = RECIPES.get(district.kind)
    proposals = list(recipe(district, blocks, rng)) if recipe else []
    things = _settle(proposals, district, seed, windings, rng)
    trees = _plant(district, things, seed, windings, rng)
    return tuple(things), trees


def _settle(
    proposals: list[Thing],
    district: District,
    seed: int,
    windings: dict[str, Winding],
    rng: Generator,
) -> list[Thing]:
    """Keep proposals that fit in, moved to world metres; buildings get their dates."""
    if not proposals:
        return []
    c, s = cos(district.angle), sin(district.angle)
    u, v, w, h, angle = np.array([(t.cx, t.cy, t.w, t.h, t.angle) for t in proposals]).T
    x, y = district.cx + u * c - v * s, district.cy + u * s + v * c
    angle += district.angle
    clearance = np.repeat([_clearance(thing, district) for thing in proposals], 9)
    points = _nine_points(x, y, w, h, angle)
    free = _all_nine(_is_free(points, district, seed, windings, clearance=clearance))
    changes = rng.random(len(proposals))
    settled = []
    for k in np.flatnonzero(free):
        thing = replace(proposals[k], cx=float(x[k]), cy=float(y[k]), angle=float(angle[k]))
        if thing.kind in BUILDINGS:
            built, torn_down = changes[k] < _CHANGED, changes[k] > 1 - _CHANGED
            thing = replace(thing, before=not built, after=not torn_down)
        settled.append(thing)
    return settled


def _clearance(thing: Thing, district: District) -> float:
    """Return metres to keep from the district's border: ships stay where the water is."""
    if thing.kind == "ship":
        return 31.0 if district.kind == "lake" else 11.0
    return _CLEARANCE_M


def _nine_points(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    w: NDArray[np.float64] | float,
    h: NDArray[np.float64] | float,
    angle: NDArray[np.float64] | float,
) -> NDArray[np.float64]:
    """Return corners, middles of sides and centre of N rectangles, a little grown, ``(2, 9 N)``."""
    room = 1.6
    x, y, w, h, angle = (values[:, None] for values in np.broadcast_arrays(x, y, w, h, angle))
    u = np.array([-0.5, 0, 0.5, -0.5, 0, 0.5, -0.5, 0, 0.5]) * (w + room)
    v = np.array([-0.5, -0.5, -0.5, 0, 0, 0, 0.5, 0.5, 0.5]) * (h + room)
    c, s = np.cos(angle), np.sin(angle)
    return np.stack([x + u * c - v * s, y + u * s + v * c]).reshape(2, -1)


def _all_nine(free: NDArray[np.bool_]) -> NDArray[np.bool_]:
    return np.logical_and.reduce(free.reshape(-1, 9), axis=1)


def _is_free(
    points: NDArray[np.float64],
    district: District,
    seed: int,
    windings: dict[str, Winding],
    *,
    clearance: float | NDArray[np.float64],
) -> NDArray[np.bool_]:
    """Mark points ``(2, N)`` in the district, off its border, the river and the highway."""
    x, y = points
    i, j, border = locate(x, y, seed)
    free = (i == district.i) & (j == district.j) & (border > clearance)
    for winding in windings.values():
        free &= np.abs(winding.distance(x, y)[0]) > winding.half_m + clearance
    return free


def _blocks(d: District, seed: int, windings: dict[str, Winding]) -> list[Block]:
    """Return all blocks between the district's streets, those cut off by its border included."""
    kerb = 2 * (d.street + 1.6)
    width, height = d.pitch_u - kerb, d.pitch_v - kerb
    c, s = cos(d.angle), sin(d.angle)
    last_u, last_v = int(REACH_M // d.pitch_u) + 1, int(REACH_M // d.pitch_v) + 1
    u = (np.arange(-last_u, last_u) + 0.5).repeat(2 * last_v) * d.pitch_u
    v = np.tile((np.arange(-last_v, last_v) + 0.5) * d.pitch_v, 2 * last_u)
    x, y = d.cx + u * c - v * s, d.cy + u * s + v * c
    points = _nine_points(x, y, width, height, d.angle)
    free = _all_nine(_is_free(points, d, seed, windings, clearance=_CLEARANCE_M))
    return [
        Block(float(middle_u), float(middle_v), width, height, bool(whole))
        for middle_u, middle_v, whole in zip(u, v, free, strict=True)
    ]


# Trees in each kind of district: spacing of the lattice in metres, share of it that is planted.
_PLANTING = {
    "wood": (4.6, 0.93), "suburb": (4.6, 0.25), "slabs": (6.0, 0.28), "city": (6.0, 0.18),
    "meadow": (7.0, 0.10), "lake": (7.0, 0.3), "industry": (7.0, 0.09), "airfield": (12.0, 0.03),
    "crop": (12.0, 0.01), "bare": (12.0, 0.01),
}  # fmt: skip


def _plant(
    district: District,
    things: list[Thing],
    seed: int,
    windings: dict[str, Winding],
    rng: Generator,
) -> NDArray[np.float64]:
    """Plant crowns at jittered lattice points that lie in the district and off all else."""
    spacing, share = _PLANTING.get(district.kind, (12.0, 0.0))
    side = int(2 * REACH_M / spacing)
    lattice = (np.indices((side, side)).reshape(2, -1).T - (side - 1) / 2) * spacing
    lattice = lattice[rng.random(len(lattice)) < share]
    if not len(lattice):
        return np.empty((0, 5))
    lattice += rng.uniform(-0.42, 0.42, lattice.shape) * spacing
    u, v = lattice.T
    free = _off_the_pavement(u, v, district)
    for thing in things:
        if thing.kind != "lawn":
            free &= ~_covers(thing, u, v, district, margin=1.2)
    c, s = cos(district.angle), sin(district.angle)
    x, y = district.cx + u * c - v * s, district.cy + u * s + v * c
    clearance = 3.5 if district.kind == "wood" else 6.0
    free &= _is_free(np.stack([x, y]), district, seed, windings, clearance=clearance)
    if district.kind == "lake":
        free &= locate(x, y, seed)[2] < 13
    size = rng.random(len(x)) ** 1.5
    radius = (2.0 if district.kind == "wood" else 0.7) + 2.8 * size
    height = 1.5 + 1.7 * radius + 1.5 * rng.random(len(x))
    return np.stack([x, y, radius, height, rng.random(len(x))], axis=1)[free]


def _off_the_pavement(
    u: NDArray[np.float64], v: NDArray[np.float64], d: District
) -> NDArray[np.bool_]:
    if d.kind == "airfield":
        return (np.abs(v - 7) > 55) & (np.abs(v - 76) > 12)
    if d.kind in {"wood", "meadow", "lake", "crop", "bare"}:
        return np.ones(len(u), dtype=bool)
    to_u = np.abs(u - np.rint(u / d.pitch_u) * d.pitch_u)
    to_v = np.abs(v - np.rint(v / d.pitch_v) * d.pitch_v)
    return (to_u > d.street + 1.5) & (to_v > d.street + 1.5)


def _covers(
    thing: Thing, u: NDArray[np.float64], v: NDArray[np.float64], d: District, margin: float
) -> NDArray[np.bool_]:
    c, s = cos(d.angle), sin(d.angle)
    dx, dy = thing.cx - d.cx, thing.cy - d.cy
    du, dv = u - (dx * c + dy * s), v - (dy * c - dx * s)
    a, b = cos(thing.angle - d.angle), sin(thing.angle - d.angle)
    inside = np.abs(du * a + dv * b) < thing.w / 2 + margin
    return inside & (np.abs(dv * a - du * b) < thing.h / 2 + margin)
