"""Recipes: what each kind of district would like to build, in its own frame.

A recipe proposes things at ``cx`` = u (metres along the streets) and ``cy`` = v (across) from the
district's centre; ``layout.py`` moves them into the world and drops those that do not fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import pi

import numpy as np
from numpy.random import Generator

from lemevit_cli.simulation.districts import REACH_M, District


@dataclass(frozen=True, slots=True)
class Thing:
    """A thing on the ground: oriented rectangle in world metres, and how it looks.

    ``w`` runs along ``angle``, ``h`` across it; ``height`` is that of the eaves;
    ``looks``: four numbers in [0, 1).
    """

    kind: str
    cx: float
    cy: float
    w: float
    h: float
    angle: float
    height: float
    looks: tuple[float, ...]
    before: bool = True
    after: bool = True


@dataclass(frozen=True, slots=True)
class Block:
    """Ground between four streets: middle and sides; ``whole`` if nothing cuts into it."""

    u: float
    v: float
    width: float
    height: float
    whole: bool


def _looks(rng: Generator) -> tuple[float, ...]:
    return tuple(rng.random(4).tolist())


def _suburb(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose two rows of lots in each block, back to back."""
    roof = "gable" if d.tones[1] < 0.6 else "hip"
    lot_width = 13 + 5 * d.tones[0]
    for block in blocks:
        count = max(1, int(block.width // lot_width))
        for side in (-1, 1):
            for k in range(count):
                u = block.u + (k + 0.5 - count / 2) * (block.width / count)
                yield from _lot(u, block, side, lot_width, roof, rng)
    yield from _street_cars(d, rng, share=0.12)


def _lot(
    u: float, block: Block, side: int, lot_width: float, roof: str, rng: Generator
) -> Iterator[Thing]:
    """Propose a house towards the street on one side; drive, hedge, shed or pool, cars."""
    front = block.v + side * block.height / 2
    if rng.random() < 0.05:
        yield Thing("soil", u, front - side * 10, lot_width - 2, 15, 0, 0, _looks(rng))
        return
    w, h = lot_width * rng.uniform(0.5, 0.62), rng.uniform(7.5, 10.5)
    drive_u = u + w / 2 + 1.4
    yield Thing("drive", drive_u, front - side * 5.5, 2.6, 11, 0, 0, _looks(rng))
    kind = str(rng.choice([roof, "flat", "ell"], p=[0.7, 0.1, 0.2]))
    turn = pi / 2 if w < 11 and rng.random() < 0.4 else 0.0
    setback = rng.uniform(3.5, 5.5) + h / 2
    yield Thing(kind, u - 0.6, front - side * setback, w, h, turn, rng.uniform(3, 6.5),
                _looks(rng))  # fmt: skip
    if rng.random() < 0.5:
        yield Thing("hedge", u - lot_width / 2 + 0.5, block.v + side * block.height / 4,
                    1.0, block.height / 2 - 3, 0, 1.5, _looks(rng))  # fmt: skip
    back, extra = front - side * 18.5, rng.random()
    if extra < 0.3 and block.height > 38:
        yield Thing("shed", u + 3, back, rng.uniform(3, 5), 2.6, 0, 2.2, _looks(rng))
    elif extra < 0.42:
        yield Thing("pool", u, back, 7, 3.6, 0, 0, _looks(rng))
    for when in (0, 1):
        if rng.random() < 0.4:
            yield _car(rng, drive_u, front - side * 5, pi / 2, when)


def _city(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose closed blocks around courtyards, beside rows of houses and small squares."""
    storeys = 9 + 6 * d.tones[0]
    for block in blocks:
        u0, v0, width, height = block.u, block.v, block.width, block.height
        r = rng.random(6)
        yield Thing("yard", u0, v0, width + 1.2, height + 1.2, 0, 0, (0.7, *_looks(rng)[1:]))
        if r[0] < 0.42 and block.whole:
            if r[1] < 0.6:
                lawn = (width - 24, height - 24)
                yield Thing("lawn", u0, v0, lawn[0], lawn[1], 0, 0, _looks(rng))
            yield Thing("court", u0, v0, width, height, 0, storeys, _looks(rng))
        elif r[0] < 0.50 and block.whole:
            yield Thing("lawn", u0, v0, width - 6, height - 6, 0, 0, _looks(rng))
        elif r[0] < 0.60 and block.whole:
            yield from _car_park(u0, v0, width - 2, height - 2, rng, yard=False)
        else:
            yield from _terraces(u0, v0, width, height, storeys, rng)
    yield from _street_cars(d, rng, share=0.35)


def _terraces(
    u0: float, v0: float, width: float, height: float, storeys: float, rng: Generator
) -> Iterator[Thing]:
    for side in (-1, 1):
        depth, u = 11 + 3 * rng.random(), u0 - width / 2
        while u < u0 + width / 2 - 9:
            w = min(10 + 14 * rng.random(), u0 + width / 2 - u)
            kind = ("gable", "flat", "hip")[int(rng.integers(3))]
            v = v0 + side * (height / 2 - depth / 2 - 0.5 * rng.random())
            if rng.random() < 0.96:
                tall = storeys * (0.7 + 0.6 * rng.random())
                yield Thing(kind, u + w / 2, v, w - 0.3, depth, 0, tall, _looks(rng))
            u += w
    if height > 42 and rng.random() < 0.6:
        yield Thing("flat", u0, v0, width * 0.4, 9, 0, 4.5, _looks(rng))


def _slabs(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose long flats on lawns, each with its car park."""
    tall = 12 + 10 * d.tones[0]
    for block in blocks:
        u0, v0, width, height = block.u, block.v, block.width, block.height
        r = rng.random(5)
        if r[0] < 0.12:
            yield Thing("soil", u0, v0, width * 0.8, height * 0.7, 0, 0, _looks(rng))
            continue
        kind, deep, looks = "flat" if r[1] < 0.8 else "hip", 12 + 3 * r[2], _looks(rng)
        parts = 1 if block.whole else 3
        for k in range(parts):
            w = (width - 5) / parts
            u = u0 + (k + 0.5 - parts / 2) * w
            yield Thing(kind, u, v0 - height / 2 + 8.5, w - (parts > 1), deep, 0, tall, looks)
        if r[3] < 0.6 and block.whole:
            yield from _car_park(u0, v0 + height / 2 - 9, width * 0.75, 16.5, rng)
        else:
            for u in (-width / 3, 0, width / 3):
                yield Thing("flat", u0 + u, v0 + height / 2 - 9, width / 4, 12, 0, tall, looks)
    yield from _street_cars(d, rng, share=0.25)


def _industry(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose halls on paved yards, car parks, a few tanks, ground that waits."""
    for block in blocks:
        u0, v0, width, height = block.u, block.v, block.width, block.height
        r = rng.random(8)
        if r[0] < 0.15:
            yield Thing("soil", u0, v0, width * 0.95, height * 0.95, 0, 0, _looks(rng))
            continue
        if not block.whole:
            yield from _sheds(u0, v0, width, height, rng)
            continue
        yield Thing("yard", u0, v0, width, height, 0, 0, _looks(rng))
        if r[0] < 0.3:
            yield from _car_park(u0, v0, width - 3, height - 3, rng, yard=False)
            continue
        if r[0] < 0.45:
            yield from _tank_rows(u0, v0, width, height, rng)
            continue
        w, h = width * (0.45 + 0.4 * r[1]), height * (0.45 + 0.35 * r[2])
        kind = "flat" if r[3] < 0.55 else "gable"
        u, v = u0 - (width - w) / 2 + 3, v0 - (height - h) / 2 + 3
        yield Thing(kind, u, v, w - 4, h - 4, 0, 6 + 6 * r[4], _looks(rng))
        if width - w > 19:
            yield from _car_park(u0 + w / 2 + 1, v0, 16.5, height - 6, rng, yard=False)
        if height - h > 12:
            for k in range(int(width // 16)):
                if rng.random() < 0.5:
                    x = u0 - width / 2 + 9 + 16 * k
                    yield Thing("shed", x, v0 + height / 2 - 5, 12, 2.5, 0, 2.6, _looks(rng))
    yield from _street_cars(d, rng, share=0.15)


def _sheds(u0: float, v0: float, width: float, height: float, rng: Generator) -> Iterator[Thing]:
    """Propose small halls, for a block that a road cuts."""
    for a in range(int(width // 21)):
        for b in range(int(height // 20)):
            u, v = u0 - width / 2 + 10.5 + 21 * a, v0 - height / 2 + 10 + 20 * b
            yield Thing("yard", u, v, 21, 20, 0, 0, _looks(rng))
            if rng.random() < 0.7:
                kind = "flat" if rng.random() < 0.6 else "gable"
                yield Thing(kind, u - 2, v, 14, 13, 0, 4 + 4 * rng.random(), _looks(rng))


def _tank_rows(
    u0: float, v0: float, width: float, height: float, rng: Generator
) -> Iterator[Thing]:
    radius = 3.5 + 5 * rng.random()
    pitch, looks = 2.5 * radius, _looks(rng)
    for a in range(int(width // pitch)):
        for b in range(int(height // pitch)):
            if rng.random() < 0.85:
                u = u0 + (a + 0.5 - (width // pitch) / 2) * pitch
                v = v0 + (b + 0.5 - (height // pitch) / 2) * pitch
                yield Thing("tank", u, v, 2 * radius, 2 * radius, 0, 5 + radius * 0.8, looks)


def _depot(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose a tank farm: big tanks on bare or paved ground, a basin of fire water."""
    yield Thing("basin", -45, 40, 34, 18, 0, 0, _looks(rng))
    for block in blocks:
        u0, v0, width, height = block.u, block.v, block.width, block.height
        if abs(u0 + 45) < width / 2 + 17 and abs(v0 - 40) < height / 2 + 9:
            continue
        yield Thing("soil" if rng.random() < 0.5 else "yard", u0, v0, width, height, 0, 0,
                    _looks(rng))  # fmt: skip
        if rng.random() < 0.2:
            yield Thing("flat", u0, v0, width * 0.6, height * 0.4, 0, 5, _looks(rng))
        else:
            yield from _tank_rows(u0, v0, width, height, rng)


def _harbour(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose a basin with ships along the quays, many side by side, and sheds behind."""
    half_u, half_v = harbour_basin(d)
    for side in (-1, 1):
        u = -half_u + 3
        while u < half_u - 14:
            length = 9 + 32 * rng.random() ** 2
            beam = length * (0.30 - 0.08 * length / 41)
            looks, deep = _looks(rng), 0.6
            # Ships in one berth touch: the merge of detections has to keep them apart.
            for _ in range(int(rng.integers(1, 4)) if u + length < half_u - 2 else 0):
                v = side * (half_v - deep - beam / 2)
                for when in (0, 1):
                    if rng.random() < 0.75 and deep + beam < half_v - 2:
                        yield Thing("ship", u + length / 2, v, length, beam, 0, 1.8 + length / 20,
                                    looks, when == 0, when == 1)  # fmt: skip
                deep += beam
            u += length + 1.5 + 6 * rng.random()
    for side in (-1, 1):
        for k in range(-3, 4):
            if rng.random() < 0.7:
                kind = "gable" if rng.random() < 0.5 else "flat"
                yield Thing(kind, k * 36.0, side * (half_v + 26), 30, 16, 0, 6, _looks(rng))
        yield from _car_park(-half_u - 17, side * 20, 16.5, 36, rng, yard=False)


def harbour_basin(d: District) -> tuple[float, float]:
    """Return half the sides of a harbour's basin, along u and v."""
    return 42 + 16 * d.tones[0], 20 + 10 * d.tones[1]


def _lake(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    for _ in range(9):
        u, v = rng.uniform(-45, 45, 2)
        length = 6 + 9 * rng.random()
        turn, looks = rng.uniform(-pi / 2, pi / 2), _looks(rng)
        when = int(rng.integers(2))
        yield Thing("ship", u, v, length, length * 0.34, turn, 1.2, looks, when == 0, when == 1)


def _airfield(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose an apron with planes in rows, hangars at its edge, a pond in the grass."""
    for row, v in enumerate((-14.0, 26.0)):
        span = 11 + 24 * rng.random() if row else 22 + 10 * rng.random()
        u = -70.0
        while u < 70:
            for when in (0, 1):
                if rng.random() < 0.7:
                    turn = pi / 2 + 0.06 * rng.normal()
                    yield Thing("plane", u, v, span * 1.05, span, turn, 3.5, _looks(rng),
                                when == 0, when == 1)  # fmt: skip
            u += span + 5
    for k in range(-2, 3):
        if rng.random() < 0.8:
            yield Thing("flat" if k % 2 else "gable", k * 38.0, -56, 32, 24, 0, 8, _looks(rng))
    yield Thing("basin", 0, 76, 44, 16, 0, 0, _looks(rng))


def _farm(d: District, blocks: list[Block], rng: Generator) -> Iterator[Thing]:
    """Propose now and then a farmstead or a site among the fields."""
    if d.tones[3] < 0.35:
        u, v = rng.uniform(-30, 30, 2)
        yield Thing("yard", u, v, 34, 26, 0, 0, _looks(rng))
        yield Thing("gable", u - 6, v - 7, 20, 9, 0, 5, _looks(rng))
        yield Thing("gable", u + 11, v + 3, 16, 8, pi / 2, 5, _looks(rng))
        yield Thing("shed", u - 8, v + 8, 9, 6, 0, 3, _looks(rng))


def _car_park(
    u0: float, v0: float, width: float, height: float, rng: Generator, *, yard: bool = True
) -> Iterator[Thing]:
    """Propose marked rows of bays on asphalt; a bay may hold another car at the other date."""
    if width < 12 or height < 12:
        return
    if yard:
        yield Thing("yard", u0, v0, width, height, 0, 0, (0.2, *_looks(rng)[1:]))
    turn = width < height
    length, depth = (height, width) if turn else (width, height)
    full = rng.uniform(0.25, 0.85)
    for row in range(max(1, int(depth // 16.0))):
        for side in (-1, 1):
            across = (row + 0.5 - max(1, int(depth // 16.0)) / 2) * 16.0 + side * 5.2
            yield Thing("bays", u0 + (across if turn else 0), v0 + (0 if turn else across),
                        length - 2, 5.0, pi / 2 if turn else 0, 0, _looks(rng))  # fmt: skip
            for k in range(int((length - 2) // 2.6)):
                along = (k + 0.5) * 2.6 - (length - 2) / 2
                u, v = (across, along) if turn else (along, across)
                for when in (0, 1):
                    if rng.random() < full:
                        yield _car(rng, u0 + u, v0 + v, 0 if turn else pi / 2, when)


def _street_cars(d: District, rng: Generator, *, share: float) -> Iterator[Thing]:
    """Propose cars along both kerbs and in both lanes of the district's streets."""
    for pitch, crossing, turn in ((d.pitch_v, d.pitch_u, 0.0), (d.pitch_u, d.pitch_v, pi / 2)):
        for line in range(int(-REACH_M // pitch), int(REACH_M // pitch) + 1):
            for when in (0, 1):
                along = rng.uniform(-REACH_M, REACH_M, int(2 * REACH_M / 6.5 * share))
                for t in np.unique(np.round(along / 6.5)) * 6.5:
                    if abs(t - round(t / crossing) * crossing) < d.street + 3.5:
                        continue
                    across = line * pitch + (d.street - 1.15) * rng.choice([-1, 1])
                    u, v = (across, t) if turn else (t, across)
                    if u * u + v * v < REACH_M**2:
                        yield _car(rng, u, v, turn, when)


def _car(rng: Generator, u: float, v: float, turn: float, when: int) -> Thing:
    r = rng.random(4)
    length, width = (4.1 + 0.8 * r[0], 1.75 + 0.15 * r[1]) if r[2] > 0.07 else (6.2, 2.1)
    turn += 0.03 * (r[3] - 0.5)
    return Thing("car", u, v, length, width, turn, 1.45, _looks(rng), when == 0, when == 1)


RECIPES: dict[str, Callable[[District, list[Block], Generator], Iterator[Thing]]] = {
    "suburb": _suburb, "city": _city, "slabs": _slabs, "industry": _industry, "depot": _depot,
    "harbour": _harbour, "lake": _lake, "airfield": _airfield, "crop": _farm, "meadow": _farm,
}  # fmt: skip
