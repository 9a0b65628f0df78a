"""Windows around objects: where they are aimed at, and the boxes that a detector learns from."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, hypot, pi, sin

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from lemevit_cli.geometry.window import Window
from lemevit_cli.training.augmentation import draw_zoom, uniform
from lemevit_cli.training.datasets.objects import IGNORED
from lemevit_cli.training.datasets.source import Site, Source
from lemevit_cli.training.draw import Aims, draw_cell, pick, pick_evenly
from lemevit_cli.training.frames import Crop, Frame
from lemevit_cli.training.options import TrainingOptions

EMPTY = -1  # the label of a row without an object
MOST_OBJECTS = 512  # that are learned of a window, the largest ones
MOST_ROWS = 3 * MOST_OBJECTS  # for these and for what is ignored
SMALLEST_SIDE = 2.0  # pixels of the window; smaller boxes are ignored
_GROUND = 0.1  # share of the windows that are drawn anywhere, not around an object
_TURNS = 0.5  # share of the frames that are turned by any angle, by default


def aim_at_objects(
    aims: Aims, options: TrainingOptions, generator: Generator
) -> tuple[Site, Frame]:
    """Draw a site and a frame in it: around an object of the class that was drawn, or anywhere."""
    site, target = _draw_target(aims, generator)
    return site, draw_frame(site.extent, target, options, generator)


def _draw_target(aims: Aims, generator: Generator) -> tuple[Site, tuple[float, float, float]]:
    """Draw a site, and what to aim at in it: a place ``x, y`` and the width of the object there."""
    if uniform(generator, 0.0, 1.0) < _GROUND or len(aims.places) == 0:
        site = aims.source.sites[pick(aims.site_shares, generator)]
        x = site.core.col_off + uniform(generator, 0.0, site.core.width)
        return site, (x, site.core.row_off + uniform(generator, 0.0, site.core.height), 0.0)
    class_id, site, cell = draw_cell(aims, generator)
    objects = aims.source.objects[site.scene]
    inside = objects.counted_in(cell.intersection(site.core) or cell)
    inside = inside[objects.class_ids[inside] == class_id]
    chosen = inside[pick_evenly(len(inside), generator)]
    x, y, w, h, _ = objects.boxes[chosen].tolist()
    return site, (x, y, hypot(w, h))


def draw_frame(
    extent: Window,
    target: tuple[float, float, float],
    options: TrainingOptions,
    generator: Generator,
) -> Frame:
    """Draw a frame with the target in it, whole if it fits, and inside the extent if that fits.

    A frame is not wider than the extent, unless that is smaller than a window: nothing is shrunk to
    leave the window empty, and nothing magnified for want of space.
    """
    augmentation, crop = options.augmentation, options.crop
    side = round(crop / draw_zoom(augmentation, generator))
    side = min(side, max(crop, extent.width, extent.height))
    turns = _TURNS if augmentation.turns is None else augmentation.turns
    is_turned = uniform(generator, 0.0, 1.0) < turns
    angle = uniform(generator, -pi, pi) if is_turned else 0.0
    x, y, width = target
    slack = max((side - width) / 2, side / 10)
    across, down = (uniform(generator, -slack, slack) for _ in range(2))
    drawn_x = x + across * cos(angle) - down * sin(angle)
    drawn_y = y + across * sin(angle) + down * cos(angle)
    moved_x = _move_inside(drawn_x, extent.col_off, extent.right, side)
    moved_y = _move_inside(drawn_y, extent.row_off, extent.bottom, side)
    if angle == 0.0:
        half = side / 2
        return Frame(round(moved_x - half) + half, round(moved_y - half) + half, side, 0.0)
    is_kept = _is_well_inside(x - moved_x, y - moved_y, angle, slack)
    return Frame(moved_x, moved_y, side, angle) if is_kept else Frame(drawn_x, drawn_y, side, angle)


def _move_inside(centre: float, low: float, high: float, side: float) -> float:
    """Move an interval's centre so that one of it and ``low`` to ``high`` holds the other."""
    first, last = sorted((low + side / 2, high - side / 2))
    return min(max(centre, first), last)


def _is_well_inside(dx: float, dy: float, angle: float, slack: float) -> bool:
    """Say whether a place is no farther off a turned frame's centre than it may be drawn."""
    across, down = dx * cos(angle) + dy * sin(angle), dy * cos(angle) - dx * sin(angle)
    return max(abs(across), abs(down)) <= slack


@dataclass(frozen=True)
class BoxTargets:
    """Targets of a detector's loss, all of constant shape.

    ``boxes`` ``(MOST_ROWS, 5)`` float32 in pixels of the window; ``labels`` ``(MOST_ROWS,)``: ids
    of the model's classes, at most ``MOST_OBJECTS``, ``IGNORED`` for what is neither a class nor
    background (difficult, tiny, cut by the edge, dropped, beyond that number), ``EMPTY`` in unused
    rows, which come last; ``unknown`` ``(classes,)`` bool: classes that the source does not
    label, or of which objects have no row. A cut object keeps its whole box.

    Args:
        classes: of the model.
    """

    classes: tuple[str, ...]

    def __call__(self, crop: Crop, source: Source) -> dict[str, Tensor]:
        objects = crop.objects
        if objects is None:
            raise ValueError(f"{source.name} has no objects")
        boxes, valid = objects.boxes, crop.valid.numpy()
        cols, rows = np.clip(boxes[:, :2].astype(np.int64), 0, len(valid) - 1).T
        is_kept = objects.counted & (boxes[:, 3] >= SMALLEST_SIDE) & valid[rows, cols]
        own_ids = np.array([self.classes.index(name) for name in source.classes])
        labels = np.full(len(objects), IGNORED)
        labels[is_kept] = own_ids[objects.class_ids[is_kept]]
        unknown = np.array([name not in source.classes for name in self.classes])
        return _rows(boxes, labels, unknown)


def _rows(
    boxes: NDArray[np.float64], labels: NDArray[np.int64], unknown: NDArray[np.bool_]
) -> dict[str, Tensor]:
    """Put boxes and labels in a constant number of rows: objects to find first, then by size.

    What is there and is not learned must not become background: it is ignored where it lies, or
    else its class may be anywhere in the window.
    """
    order = np.lexsort([-boxes[:, 2] * boxes[:, 3], labels == IGNORED])
    own = labels[order]
    lost = own[MOST_ROWS:]
    unknown[lost[lost >= 0]] = True
    own[MOST_OBJECTS:] = IGNORED
    count = min(len(order), MOST_ROWS)
    padded = np.zeros((MOST_ROWS, 5), dtype=np.float32)
    padded[:count] = boxes[order[:count]]
    ids = np.full(MOST_ROWS, EMPTY, dtype=np.int64)
    ids[:count] = own[:count]
    found = {"boxes": padded, "labels": ids, "unknown": unknown}
    return {name: torch.from_numpy(values) for name, values in found.items()}
