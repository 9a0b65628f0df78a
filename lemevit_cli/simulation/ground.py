"""The ground of a block: districts by kind, river, highway and the roads between districts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.simulation.canvas import LAND, ROAD, VEGETATION, WATER, Canvas, View
from lemevit_cli.simulation.districts import (
    CELL_M,
    REACH_M,
    RURAL,
    District,
    Winding,
    bend_grid,
    cell_centre,
    nearest_two,
)
from lemevit_cli.simulation.recipes import harbour_basin
from lemevit_cli.simulation.texture import Floats, hash_unit
from lemevit_cli.simulation.town import Material, linear

DistrictAt = Callable[[int, int], District]
_MARKING = linear((226, 226, 222))


def paint_ground(canvas: Canvas, district_at: DistrictAt, windings: dict[str, Winding]) -> None:
    """Paint everything flat, from the fields up to the road markings."""
    plan = survey(canvas, district_at)
    for number, district in enumerate(plan.districts):
        _paint_district(canvas, plan, number, district)
    _paint_river(canvas, windings["river"])
    _paint_borders(canvas, plan)
    _paint_highway(canvas, windings["highway"])


class Plan:
    """District of each pixel, the next one, and metres to the border between them."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.districts: list[District] = []
        self.numbers: dict[tuple[int, int], int] = {}
        self.nearest = np.zeros(shape, dtype=np.int16)
        self.second = np.zeros(shape, dtype=np.int16)
        self.border_m = np.zeros(shape, dtype=np.float32)

    def number_of(self, i: int, j: int, district_at: DistrictAt) -> int:
        """Return the position of a district in ``districts``; it is added when new."""
        if (i, j) not in self.numbers:
            self.numbers[i, j] = len(self.districts)
            self.districts.append(district_at(i, j))
        return self.numbers[i, j]


def survey(canvas: Canvas, district_at: DistrictAt) -> Plan:
    """Find the districts of every pixel, cell by cell of the plan's lattice."""
    plan = Plan(canvas.height.shape)
    bend_x, bend_y = bend_grid(canvas.x, canvas.y, canvas.town.seed)
    for j, rows in _cells(canvas.y):
        for i, cols in _cells(canvas.x):
            around = [(i + k % 3 - 1, j + k // 3 - 1) for k in range(9)]
            # Positions count from the cell, so that float32 keeps millimetres anywhere.
            sites = [
                (np.float32(x - i * CELL_M), np.float32(y - j * CELL_M))
                for x, y in (cell_centre(*cell, canvas.town.seed) for cell in around)
            ]
            x = bend_x[rows, cols] + (canvas.x[cols] - i * CELL_M).astype(np.float32)
            y = bend_y[rows, cols] + (canvas.y[rows] - j * CELL_M).astype(np.float32)[:, None]
            places = nearest_two(x, y, sites)
            numbers = np.array(
                [plan.number_of(*cell, district_at) for cell in around], dtype=np.int16
            )
            plan.nearest[rows, cols] = numbers[places.nearest]
            plan.second[rows, cols] = numbers[places.second]
            plan.border_m[rows, cols] = places.border_m
    return plan


def _cells(values: Floats) -> list[tuple[int, slice]]:
    cells = np.floor(values / CELL_M).astype(int)
    starts = np.flatnonzero(np.diff(cells, prepend=cells[0] - 1))
    ends = [*starts[1:].tolist(), len(values)]
    return [(int(cells[a]), slice(int(a), b)) for a, b in zip(starts, ends, strict=True)]


def _paint_district(canvas: Canvas, plan: Plan, number: int, district: District) -> None:
    view = canvas.view(district.cx, district.cy, district.angle, REACH_M + 15)
    if view is None:
        return
    mine = plan.nearest[view.at] == number
    rows, cols = np.flatnonzero(mine.any(1)), np.flatnonzero(mine.any(0))
    if not len(rows):
        return
    inner = (slice(rows[0], rows[-1] + 1), slice(cols[0], cols[-1] + 1))
    at = tuple(
        slice(whole.start + part.start, whole.start + part.stop)
        for whole, part in zip(view.at, inner, strict=True)
    )
    view = View(canvas, (at[0], at[1]), view.u[inner], view.v[inner])
    share = mine[inner].astype(np.float32)
    _PAINTERS[district.kind](view, district, share, plan.border_m[view.at])


def _material(view: View, name: str, d: District, *, spread: float = 0.3) -> Material:
    """Return the town's material in this district's own shade."""
    tint = 1 + 0.16 * (d.tones[5] - 0.5)
    gain = 1 + spread * (d.tones[4] - 0.5)
    return view.canvas.town.materials[name].with_tone(gain, tint=(tint, 1.0, 2 - tint))


def _streets(view: View, d: District, share: Floats) -> None:
    """Paint the grid of streets, with pavements in concrete and a broken middle line."""
    to_u = np.abs(view.u - np.rint(view.u / np.float32(d.pitch_u)) * np.float32(d.pitch_u))
    to_v = np.abs(view.v - np.rint(view.v / np.float32(d.pitch_v)) * np.float32(d.pitch_v))
    distance = np.minimum(to_u, to_v)
    pavement = view.cover(distance - np.float32(d.street + 1.5)) * share
    view.paint(pavement, _material(view, "concrete", d), ROAD)
    road = view.cover(distance - np.float32(d.street)) * share
    view.paint(road, _material(view, "asphalt", d, spread=0.6), ROAD)
    if d.street > 3:
        dashes = np.where(to_u < to_v, view.v, view.u)
        dashes = np.abs(dashes / 9 - np.floor(dashes / 9) - np.float32(0.5)) < 0.17
        crossing = np.maximum(to_u, to_v) > d.street + 3
        line = view.cover(distance - np.float32(0.07)) * share * (dashes & crossing)
        view.tint(line * np.float32(0.8), _MARKING)


def _patches(view: View, d: District, share: Floats, *, above: float, name: str = "soil") -> None:
    """Paint bare patches where slow noise is high, with ragged edges."""
    level = view.field("broad") + (view.field("ragged") - np.float32(0.5)) * np.float32(0.25)
    bare = np.clip((level - np.float32(above)) * 14 + np.float32(0.5), 0, 1) * share
    view.paint(bare, _material(view, name, d), LAND)


def _parcels(view: View, d: District, share: Floats, *, strength: float) -> None:
    """Give each plot of ground its own shade."""
    u = np.floor(view.u / np.float32(9 + 8 * d.tones[0])).astype(np.int32) + 64
    v = np.floor(view.v / np.float32(d.pitch_v / 2)).astype(np.int32) + 64
    shades = hash_unit(np.arange(128)[None], np.arange(128)[:, None], int(d.tones[4] * 2**31))
    plot = shades.reshape(-1).take((v & 127) * 128 + (u & 127))
    _shade(view, (plot - np.float32(0.5)) * share * np.float32(strength))


def _suburb(view: View, d: District, share: Floats, border: Floats) -> None:
    dry = view.canvas.town.climate == "desert"
    if dry:
        view.paint(share, _material(view, "sand", d), LAND)
        level = view.field("broad") + (view.field("ragged") - np.float32(0.5)) * np.float32(0.3)
        lawn = np.clip((level - np.float32(0.55)) * 16 + np.float32(0.5), 0, 1) * share
        view.paint(lawn, _material(view, "grass", d), VEGETATION)
    else:
        view.paint(share, _material(view, "grass", d), VEGETATION)
        _patches(view, d, share, above=0.80)
    _parcels(view, d, share, strength=0.5)
    _streets(view, d, share)


def _city(view: View, d: District, share: Floats, border: Floats) -> None:
    if d.tones[2] < 0.5:
        dry = view.canvas.town.climate == "desert"
        name, class_id = ("sand", LAND) if dry else ("grass", VEGETATION)
    else:
        name, class_id = ("asphalt" if d.tones[2] < 0.75 else "concrete"), ROAD
    view.paint(share, _material(view, name, d, spread=0.5), class_id)
    _parcels(view, d, share, strength=0.6)
    _streets(view, d, share)


def _industry(view: View, d: District, share: Floats, border: Floats) -> None:
    dry = view.canvas.town.climate in {"desert", "dry"}
    name, class_id = ("sand", LAND) if dry else ("grass", VEGETATION)
    view.paint(share, _material(view, name, d), class_id)
    _patches(view, d, share, above=0.62)
    _streets(view, d, share)


def _crop(view: View, d: District, share: Floats, border: Floats) -> None:
    name = ("crop", "ripe", "crop", "grass")[int(d.tones[0] * 4)]
    view.paint(share, _material(view, name, d, spread=0.5), VEGETATION)
    if d.tones[2] < 0.4:
        rows = _waves(view, view.v, 0.75 + 2.2 * d.tones[1])
        gaps = rows * (0.35 + 0.5 * view.field("mid")) * share
        view.paint(gaps, _material(view, "soil", d), None)
    else:
        shade = (_waves(view, view.v, 3.0 + 9 * d.tones[1]) - np.float32(0.5)) * np.float32(0.16)
        _shade(view, shade * share)
    _patches(view, d, share, above=0.84)
    _tramlines(view, d, share)


def _bare(view: View, d: District, share: Floats, border: Floats) -> None:
    dry = view.canvas.town.climate in {"desert", "dry"}
    sandy = d.tones[0] < (0.7 if dry else 0.2)
    view.paint(share, _material(view, "sand" if sandy else "soil", d, spread=0.5), LAND)
    if sandy:
        level = view.field("ragged") + (view.field("broad") - np.float32(0.5)) * np.float32(0.5)
        shrub = np.clip((level - np.float32(0.86)) * 10, 0, 1) * share
        view.paint(shrub, _material(view, "crown", d), VEGETATION)
    else:
        furrows = (_waves(view, view.v, 0.9 + 3.5 * d.tones[1]) - np.float32(0.5)) * share
        _shade(view, furrows * np.float32(0.22))
        _tramlines(view, d, share)


def _meadow(view: View, d: District, share: Floats, border: Floats) -> None:
    view.paint(share, _material(view, "grass", d, spread=0.5), VEGETATION)
    swaths = (_waves(view, view.v, 4 + 6 * d.tones[1]) - np.float32(0.5)) * share
    _shade(view, swaths * np.float32(0.14 * (d.tones[2] > 0.5)))
    _patches(view, d, share, above=0.78)


def _wood(view: View, d: District, share: Floats, border: Floats) -> None:
    view.paint(share, _material(view, "grass", d).with_tone(0.45), VEGETATION)


def _lake(view: View, d: District, share: Floats, border: Floats) -> None:
    view.paint(share, _material(view, "grass", d), VEGETATION)
    shore = border + (view.field("broad") - np.float32(0.5)) * 22
    shore += (view.field("ragged") - np.float32(0.5)) * 2
    sand = np.clip((shore - 13) / 2, 0, 1) * share
    view.paint(sand, _material(view, "sand" if d.tones[0] < 0.5 else "soil", d), LAND)
    wet = np.clip((shore - np.float32(15 + 3 * d.tones[1])) / np.float32(0.9), 0, 1) * share
    deep = np.clip((shore - 18) / 22, 0, 1)
    view.paint(wet, _material(view, "water", d, spread=0.7).with_tone(1.35), WATER)
    view.paint(wet * deep, _material(view, "water", d, spread=0.7), None)


def _harbour(view: View, d: District, share: Floats, border: Floats) -> None:
    half_u, half_v = harbour_basin(d)
    view.paint(share, _material(view, "concrete", d), ROAD)
    basin = np.maximum(np.abs(view.u) - half_u, np.abs(view.v) - half_v)
    inside = np.maximum(basin, 9 - border)
    view.tint(view.cover(inside - np.float32(0.9)) * share, linear((120, 118, 112)))
    view.paint(view.cover(inside) * share, _material(view, "water", d, spread=0.7), WATER)


def _airfield(view: View, d: District, share: Floats, border: Floats) -> None:
    view.paint(share, _material(view, "grass", d), VEGETATION)
    _patches(view, d, share, above=0.7)
    apron = np.maximum(np.abs(view.u) - 95, np.maximum(-44 - view.v, view.v - 58))
    apron = view.cover(np.maximum(apron, 8 - border)) * share
    view.paint(apron, _material(view, "concrete", d), ROAD)
    slabs = np.minimum(
        *(np.abs(w / 7.5 - np.floor(w / 7.5) - np.float32(0.5)) * 7.5 for w in (view.u, view.v))
    )
    view.tint(view.cover(slabs - np.float32(0.05)) * apron * np.float32(0.5), linear((92, 92, 90)))
    lead = view.cover(np.abs(view.v - 6) - np.float32(0.12)) * apron
    view.tint(lead * np.float32(0.8), linear((206, 176, 60)))


def _waves(view: View, along: Floats, period: float) -> Floats:
    """Return soft stripes in [0, 1] with a little unrest; 0.5 where pixels cannot show them."""
    visible = min(1.0, max(0.0, period / view.canvas.gsd_m / 2.5 - 0.8))
    phase = along / np.float32(period) + (view.field("mid") - np.float32(0.5)) * np.float32(0.5)
    wave = np.abs(phase - np.floor(phase) - np.float32(0.5)) * 2
    return (wave * wave * (3 - 2 * wave) - np.float32(0.5)) * np.float32(visible) + np.float32(0.5)


def _shade(view: View, change: Floats) -> None:
    view.canvas.albedo[:, view.at[0], view.at[1]] *= 1 + change


def _tramlines(view: View, d: District, share: Floats) -> None:
    """Shade the wheel tracks of tractors, in pairs."""
    pitch = np.float32(15 + 15 * d.tones[3])
    lane = np.abs(np.abs(view.v / pitch - np.floor(view.v / pitch) - np.float32(0.5)) * pitch - 1)
    _shade(view, view.cover(lane - np.float32(0.22)) * share * np.float32(-0.22))


def _paint_river(canvas: Canvas, river: Winding) -> None:
    winding = _winding_view(canvas, river, margin=10)
    if winding is None:
        return
    view, distance, _ = winding
    bank = distance + (view.field("broad") - np.float32(0.5)) * 6
    grass = canvas.town.materials["grass"].with_tone(0.85)
    dry = canvas.class_ids != WATER
    view.paint(np.clip((river.half_m + 4 - bank) / 2, 0, 1) * dry, grass, VEGETATION)
    wet = np.clip((river.half_m - bank) / np.float32(0.9) + np.float32(0.5), 0, 1)
    view.paint(wet * dry, canvas.town.materials["water"].with_tone(1.15), WATER)


def _paint_highway(canvas: Canvas, highway: Winding) -> None:
    winding = _winding_view(canvas, highway, margin=8)
    if winding is None:
        return
    view, distance, along = winding
    verge = canvas.town.materials["grass"]
    view.paint(view.cover(distance - np.float32(highway.half_m + 4)), verge, VEGETATION)
    lanes = np.maximum(distance - np.float32(highway.half_m), np.float32(1.2) - distance)
    view.paint(view.cover(lanes), canvas.town.materials["asphalt"].with_tone(1.1), ROAD)
    edge = np.minimum(np.abs(distance - np.float32(10.2)), np.abs(distance - np.float32(1.9)))
    dashes = np.abs(along / 12 - np.floor(along / 12) - np.float32(0.5)) < 0.25
    middle = view.cover(np.abs(distance - np.float32(6.0)) - np.float32(0.08)) * dashes
    line = np.maximum(view.cover(edge - np.float32(0.09)), middle)
    view.tint(line * np.float32(0.85), _MARKING)


def _winding_view(
    canvas: Canvas, winding: Winding, *, margin: float
) -> tuple[View, Floats, Floats] | None:
    """View the canvas in world metres, with metres from a winding and along it; None if far."""
    x, y = np.broadcast_arrays(
        canvas.x.astype(np.float32)[None], canvas.y.astype(np.float32)[:, None]
    )
    # A test of few points first: most blocks lie off the river.
    thin = (slice(None, None, 8), slice(None, None, 8))
    rough, _ = winding.distance(x[thin], y[thin])
    if np.abs(rough).min() > winding.half_m + margin + 16 * canvas.gsd_m:
        return None
    distance, along = winding.distance(x, y)
    whole = (slice(0, len(canvas.y)), slice(0, len(canvas.x)))
    return View(canvas, whole, x, y), np.abs(distance), along


def _paint_borders(canvas: Canvas, plan: Plan) -> None:
    """Paint roads and tracks along the districts' borders: what lies there depends on the pair."""
    half, paved, gain = _border_table(plan)
    pair = plan.nearest.astype(np.intp) * len(plan.districts) + plan.second
    half_m, is_paved = half.reshape(-1).take(pair), paved.reshape(-1).take(pair)
    whole = (slice(0, len(canvas.y)), slice(0, len(canvas.x)))
    view = View(canvas, whole, plan.border_m, plan.border_m)
    ragged = (view.field("ragged") - np.float32(0.5)) * 1.2 * ~is_paved
    distance = plan.border_m + ragged - half_m
    track = view.cover(distance) * (~is_paved & (half_m > 0))
    view.paint(track, canvas.town.materials["track"], ROAD)
    kerb = view.cover(distance - np.float32(0.7)) * is_paved
    view.paint(kerb, canvas.town.materials["concrete"], ROAD)
    road = view.cover(distance) * is_paved
    view.paint(road, canvas.town.materials["asphalt"], ROAD)
    _shade(view, (gain.reshape(-1).take(pair) - 1) * road)
    edge = np.abs(distance + np.float32(0.5)) - np.float32(0.06)
    line = np.minimum(edge, plan.border_m - np.float32(0.09))
    view.tint(view.cover(line) * road * np.float32(0.75), _MARKING)


def _border_table(plan: Plan) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.float32]]:
    """Tabulate half width in metres (0: nothing), paved or not, brightness, for every pair."""
    count = len(plan.districts)
    half = np.zeros((count, count), dtype=np.float32)
    paved = np.zeros((count, count), dtype=bool)
    gain = np.ones((count, count), dtype=np.float32)
    for a, one in enumerate(plan.districts):
        for b, other in enumerate(plan.districts):
            rural = one.kind in RURAL and other.kind in RURAL
            draw = (one.tones[2] + other.tones[2]) % 1.0
            gain[a, b] = 0.7 + 0.6 * ((one.tones[3] + other.tones[3]) % 1.0)
            if not rural:
                half[a, b], paved[a, b] = 2.9 + 2.4 * draw, True
            elif draw < 0.25:
                half[a, b], paved[a, b] = 2.8, True
            elif draw < 0.7:
                half[a, b] = 1.7
    return half, paved, gain


_PAINTERS: dict[str, Callable[[View, District, Floats, Floats], None]] = {
    "suburb": _suburb, "city": _city, "slabs": _suburb, "industry": _industry,
    "depot": _industry, "crop": _crop, "bare": _bare, "meadow": _meadow, "wood": _wood,
    "lake": _lake, "harbour": _harbour, "airfield": _airfield,
}  # fmt: skip
