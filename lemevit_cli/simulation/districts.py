"""The plan of the world: districts, the roads between them, a river and a highway.

Districts are the Voronoi cells of jittered points, one for each square of ``CELL_M`` metres, in
space bent by slow noise, so that the roads along their borders wind. All lengths are metres,
x to the east and y to the south of the world's upper left corner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi, sin
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.simulation.texture import Floats, grid_noise, hash_unit, point_noise

CELL_M = 150.0
REACH_M = 170.0  # no point of a district lies farther from its centre
_JITTER = 0.25  # of a cell, either way; with it the nine cells around hold both nearest points
_BEND_M, _BEND_WAVE_M = 11.0, 130.0

# What a group of 2 x 2 districts offers: one kind of each row, in shuffled places.
_Offer = tuple[tuple[tuple[str, int], ...], ...]
_TOWN: _Offer = (
    (("suburb", 4), ("city", 3), ("slabs", 3)),
    (("suburb", 3), ("industry", 3), ("city", 2), ("slabs", 1)),
    (("bare", 4), ("crop", 2), ("meadow", 1), ("wood", 2)),
    (("lake", 4), ("harbour", 3), ("airfield", 2), ("depot", 2)),
)
# The upper left group: a small scene should show every class.
_FIRST: _Offer = (*_TOWN[:3], (("lake", 3), ("harbour", 2)))
_COUNTRY: _Offer = (
    (("crop", 4), ("bare", 3)),
    (("crop", 3), ("meadow", 3), ("suburb", 2)),
    (("wood", 4), ("meadow", 2), ("bare", 2)),
    (("wood", 2), ("lake", 2), ("crop", 2)),
)
# Metres between two streets of a grid, along u and v.
_PITCHES = {
    "city": ((48, 76), (44, 60)),
    "slabs": ((62, 90), (52, 66)),
    "industry": ((62, 90), (52, 74)),
}
RURAL = frozenset({"crop", "bare", "meadow", "wood", "lake"})


@dataclass(frozen=True, slots=True)
class District:
    """One quarter: its number in the lattice, centre, kind, direction of its streets.

    ``pitch_u, pitch_v``: metres between two streets along either axis of its grid;
    ``street``: half the carriageway; ``tones``: five numbers in [0, 1) for its looks.
    """

    i: int
    j: int
    cx: float
    cy: float
    kind: str
    angle: float
    pitch_u: float
    pitch_v: float
    street: float
    tones: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Places:
    """Places of points: indices of the two nearest of nine cells, metres to their border.

    The cell of index k is ``(k % 3 - 1, k // 3 - 1)`` away from the cell that holds the point.
    """

    nearest: NDArray[np.integer]
    second: NDArray[np.integer]
    border_m: Floats


def cell_centre(i: int, j: int, seed: int) -> tuple[float, float]:
    """Return the point that makes the district of cell (i, j)."""
    x, y = _centres(np.array([i]), np.array([j]), seed)
    return float(x[0]), float(y[0])


def _centres(i: NDArray[np.int64], j: NDArray[np.int64], seed: int) -> tuple[Floats, Floats]:
    dx, dy = (hash_unit(i, j, seed * 31 + 101 + axis).astype(np.float64) for axis in (0, 1))
    x, y = (n + 0.5 + _JITTER * (2 * d - 1) for n, d in ((i, dx), (j, dy)))
    return x * CELL_M, y * CELL_M


def make_district(i: int, j: int, seed: int) -> District:
    """Draw the district of cell (i, j)."""
    group_i, group_j = i // 2, j // 2
    offers = np.random.default_rng([seed, 3, group_i + 2**20, group_j + 2**20])
    offer = _COUNTRY if offers.random() < 0.3 else _TOWN
    if (group_i, group_j) == (0, 0):
        offer = _FIRST
    row = int(offers.permutation(4)[2 * (j % 2) + i % 2])
    kinds, weights = zip(*offer[row], strict=True)
    rng = np.random.default_rng([seed, 4, i + 2**20, j + 2**20])
    kind = str(rng.choice(kinds, p=np.asarray(weights) / sum(weights)))
    pitch_u, pitch_v = _PITCHES.get(kind, ((75, 130), (42, 52)))
    cx, cy = cell_centre(i, j, seed)
    return District(
        i=i, j=j, cx=cx, cy=cy, kind=kind,
        angle=float(rng.uniform(-pi / 4, pi / 4)),
        pitch_u=float(rng.uniform(*pitch_u)),
        pitch_v=float(rng.uniform(*pitch_v)),
        street=float(rng.uniform(2.6, 4.2)),
        tones=tuple(rng.random(6).tolist()),
    )  # fmt: skip


def bend_grid(x: Floats, y: Floats, seed: int) -> tuple[Floats, Floats]:
    """Return how far every pixel of a grid moves before its district is looked up, float32."""
    bends = (
        grid_noise(x, y, wavelength=_BEND_WAVE_M, salt=seed * 31 + 201 + axis) for axis in (0, 1)
    )
    east, south = ((bend - np.float32(0.5)) * np.float32(2 * _BEND_M) for bend in bends)
    return east, south


def nearest_two(x: Floats, y: Floats, sites: Sequence[tuple[Any, Any]]) -> Places:
    """Find the two nearest of nine sites, for bent positions ``x, y`` of any one shape.

    A site's coordinates are two numbers, or two arrays of that shape.
    """
    first = np.full(x.shape, np.inf, dtype=x.dtype)
    second = first.copy()
    k1 = np.zeros(x.shape, dtype=np.uint8)
    k2 = k1.copy()
    for k, (site_x, site_y) in enumerate(sites):
        dx, dy = x - site_x, y - site_y
        distance = dx * dx
        distance += dy * dy
        closer = distance < first
        nearer_than_second = distance < second
        np.copyto(second, distance, where=nearer_than_second)
        np.copyto(k2, k, where=nearer_than_second)
        np.copyto(second, first, where=closer)
        np.copyto(k2, k1, where=closer)
        np.copyto(first, distance, where=closer)
        np.copyto(k1, k, where=closer)
    between = _site_distances(sites, k1, k2)
    return Places(k1, k2, (second - first) / (2 * between))


def locate(x: Floats, y: Floats, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Find district numbers ``i, j`` and metres to the border, for points of any one shape."""
    i, j = (np.floor(values / CELL_M).astype(np.int64) for values in (x, y))
    bent_x, bent_y = (
        values
        + (point_noise(x, y, wavelength=_BEND_WAVE_M, salt=seed * 31 + 201 + axis) - 0.5)
        * (2 * _BEND_M)
        for axis, values in ((0, x), (1, y))
    )
    sites = [_centres(i + k % 3 - 1, j + k // 3 - 1, seed) for k in range(9)]
    places = nearest_two(bent_x, bent_y, sites)
    k = places.nearest.astype(np.int64)
    return i + k % 3 - 1, j + k // 3 - 1, places.border_m


def _site_distances(sites: Sequence[tuple[Any, Any]], k1: NDArray, k2: NDArray) -> Floats:
    if np.ndim(sites[0][0]) == 0:
        xy = np.asarray(sites, dtype=np.float32)
        table = np.sqrt(((xy[:, None] - xy[None]) ** 2).sum(axis=-1)) + np.float32(1e-6)
        return table.reshape(-1).take(k1.astype(np.intp) * 9 + k2)
    xs, ys = (np.stack([site[axis] for site in sites]) for axis in (0, 1))
    picks = [
        np.take_along_axis(values, k[None].astype(np.intp), axis=0)[0]
        for values in (xs, ys)
        for k in (k1, k2)
    ]
    return np.hypot(picks[0] - picks[1], picks[2] - picks[3]) + 1e-6


@dataclass(frozen=True, slots=True)
class Winding:
    """Parallel winding bands across the world: rivers, highways.

    ``period_m`` apart, each swinging ``swing_m`` either way with wavelength ``wave_m``;
    ``half_m`` is half the band's width.
    """

    angle: float
    offset_m: float
    period_m: float
    swing_m: float
    wave_m: float
    half_m: float
    salt: int

    def distance(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Return signed metres from the nearest band's middle, and metres along it."""
        c, s = np.asarray((cos(self.angle), sin(self.angle)), dtype=x.dtype)
        along, across = x * c + y * s, y * c - x * s
        number = np.rint((across - x.dtype.type(self.offset_m)) / x.dtype.type(self.period_m))
        wobble = point_noise(along, number * self.wave_m, wavelength=self.wave_m, salt=self.salt)
        middle = number * x.dtype.type(self.period_m) + x.dtype.type(self.offset_m)
        middle += (wobble - x.dtype.type(0.5)) * x.dtype.type(2 * self.swing_m)
        return across - middle, along


def make_windings(seed: int) -> dict[str, Winding]:
    """Draw the river and the highway of a world."""
    rng = np.random.default_rng([seed, 5])
    angle = rng.uniform(-pi, pi)
    return {
        "river": Winding(
            float(angle), float(rng.uniform(-700, 700)), 1400.0, 70.0, 260.0,
            float(rng.uniform(6, 22)), seed * 31 + 301,
        ),
        "highway": Winding(
            float(angle + rng.uniform(0.9, 2.2)), float(rng.uniform(-800, 800)), 1600.0, 90.0,
            420.0, 11.0, seed * 31 + 302,
        ),
    }  # fmt: skip
