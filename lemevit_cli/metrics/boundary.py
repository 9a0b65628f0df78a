"""How well the outlines of classes lie: the boundary F1 at a tolerance on the ground.

A pixel of a class belongs to its boundary if one of its four neighbours is valid and of another
class; the edges of the scene and of what is not valid are no boundary. A found boundary pixel is
right if a true one of the same class lies within the tolerance, centre to centre, and a true one
is hit likewise. With precision and recall as the parts that are right and hit, the figure is
``2 P R / (P + R)``, pooled over the whole scene.

Source: Csurka et al., What is a good evaluation measure for semantic segmentation?, BMVC 2013,
after the boundary measure of Martin et al., PAMI 2004; there with one-to-one matching, and there
and here by distance alone. Csurka averages over pictures; a scene is one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window

# By row offset, the first and last column offset within the tolerance.
Disc = dict[int, tuple[int, int]]

_ROUNDING = 1e-4  # a distance that equals the tolerance counts, whatever rounding did to it
_NOT_THERE = np.iinfo(np.int32).max // 2


def disc_of(metric: NDArray[np.float64], tolerance: float) -> Disc:
    """Return the pixel steps ``d = (cols, rows)`` with ``sqrt(d G d) <= tolerance``, row by row.

    Args:
        metric: the symmetric ``(2, 2)`` G of :func:`lemevit_cli.geometry.ground.pixel_metric_m2`,
            or the identity for a tolerance in pixels.
    """
    (a, b), (_, c) = metric
    limit = (tolerance * (1 + _ROUNDING)) ** 2
    reach = int(np.sqrt(limit * a / (a * c - b * b)))
    disc: Disc = {}
    for row in range(-reach, reach + 1):
        # a x^2 + 2 b x row + c row^2 <= limit
        centre = -b * row / a
        half = np.sqrt(max(centre**2 - (c * row**2 - limit) / a, 0.0))
        first, last = int(np.ceil(centre - half)), int(np.floor(centre + half))
        if first <= last:
            disc[row] = (first, last)
    return disc


def reach_of(disc: Disc) -> int:
    """Count the pixels from the centre to the farthest row or column."""
    return max(abs(n) for row, columns in disc.items() for n in (row, *columns))


class BoundaryTally:
    """Boundary pixels and those within the tolerance, by class, pooled over blocks.

    The counts do not depend on the blocks if each comes with :attr:`halo` pixels around it, as
    far as the scene goes.
    """

    def __init__(self, num_classes: int, disc: Disc) -> None:
        self._disc = disc
        self.halo = reach_of(disc) + 1
        self._true, self._hit, self._found, self._right = np.zeros((4, num_classes), np.int64)

    def add(
        self,
        truth: NDArray[Any],
        found: NDArray[Any],
        valid: NDArray[np.bool_],
        core: Window,
    ) -> None:
        """Count the pixels of ``core``, a window of these arrays ``(H, W)`` of class ids."""
        inside = core.slices
        here = np.union1d(truth[valid], found[valid])
        for class_id in here[here < len(self._true)].tolist():
            edge_true = mark_boundary(truth == class_id, valid)
            edge_found = mark_boundary(found == class_id, valid)
            if edge_true.any():
                self._true[class_id] += np.count_nonzero(edge_true[inside])
                near = dilate(edge_true, self._disc)
                self._right[class_id] += np.count_nonzero((edge_found & near)[inside])
            if edge_found.any():
                self._found[class_id] += np.count_nonzero(edge_found[inside])
                near = dilate(edge_found, self._disc)
                self._hit[class_id] += np.count_nonzero((edge_true & near)[inside])

    def f1(self) -> list[float | None]:
        """Return boundary F1 of each class; None where neither truth nor prediction has one."""
        return [
            _f1(*counts)
            for counts in zip(
                self._hit.tolist(),
                self._true.tolist(),
                self._right.tolist(),
                self._found.tolist(),
                strict=True,
            )
        ]


def _f1(hit: int, true: int, right: int, found: int) -> float | None:
    if not true and not found:
        return None
    recall, precision = hit / max(true, 1), right / max(found, 1)
    both = precision + recall
    return 2 * precision * recall / both if both else 0.0


def mark_boundary(mask: NDArray[np.bool_], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Mark valid pixels of a mask ``(H, W)`` with a valid neighbour, of four, that is not in it."""
    other = valid & ~mask
    edge = np.zeros_like(mask)
    edge[1:] |= other[:-1]
    edge[:-1] |= other[1:]
    edge[:, 1:] |= other[:, :-1]
    edge[:, :-1] |= other[:, 1:]
    return edge & mask & valid


def dilate(points: NDArray[np.bool_], disc: Disc) -> NDArray[np.bool_]:
    """Mark where some point ``(H, W)`` lies on the disc around a pixel: a dilation, exact.

    For every pixel the column of the next point to the right is found once; each row of the disc
    then takes one comparison, however wide it is.
    """
    height, width = points.shape
    columns = np.arange(width, dtype=np.int32)
    following = np.where(points, columns, np.int32(_NOT_THERE))
    following = np.minimum.accumulate(following[:, ::-1], axis=1)[:, ::-1]
    reach = reach_of(disc)
    following = np.pad(following, ((0, 0), (reach, 0)), mode="edge")
    following = np.pad(following, ((0, 0), (0, reach)), constant_values=_NOT_THERE)
    near = np.zeros_like(points)
    for row, (first, last) in disc.items():
        top, bottom = max(0, -row), min(height, height - row)
        if top >= bottom:
            continue
        start = first + reach
        candidates = following[top + row : bottom + row, start : start + width]
        near[top:bottom] |= candidates <= columns + last
    return near
