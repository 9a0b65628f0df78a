"""Rotated RoIAlign as one sparse product: every bin is a weighted sum of rows of a table.

The table holds the feature vectors of all cells of all levels and pictures. Four samples a bin with
four cells each make sixteen rows and weights; ``embedding_bag`` sums them without an array of the
samples. It is differentiable in the features; boxes are constants.

Sources: He et al., "Mask R-CNN", ICCV 2017; Ding et al., "Learning RoI Transformer", CVPR 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import torch
import torch.nn.functional as F
from torch import Tensor

BINS = 7  # along each side of a box
_SAMPLES = 2  # along each side of a bin
_FINEST_SIDE_PX = 56  # boxes from twice this side on (as the root of w * h) leave the first level


def align_rois(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, pictures: Tensor
) -> Tensor:
    """Sample features of oriented boxes on a grid turned as they are: ``(R, BINS * BINS, C)``.

    The bins go along the box's width first, from its top left corner. A cell's value stands in
    the cell's middle and is interpolated linearly between middles. As in the original, a sample up
    to one cell outside the map gets the value at the border, one farther off gets zero.

    Args:
        maps: ``(B, C, H, W)`` of each level, of any floating dtype; read as float32 at least.
        strides: pixels of a cell of each level.
        boxes: ``(R, 5)``, pixels.
        pictures: ``(R,)``, index of the picture that each box is in.
    """
    channels = maps[0].shape[1]
    if len(boxes) == 0:
        return maps[0].new_zeros(0, BINS * BINS, channels)
    rows, weights = _rows_and_weights(maps, strides, boxes, pictures)
    cells = torch.cat([level.permute(0, 2, 3, 1).reshape(-1, channels) for level in maps])
    cells = cells.to(weights.dtype)
    bags = F.embedding_bag(rows, cells, mode="sum", per_sample_weights=weights)
    return bags.unflatten(0, (len(boxes), BINS * BINS))


def levels_of(boxes: Tensor, number: int) -> Tensor:
    """Choose each box's level ``(R,)`` by size: 0 to 112 pixels, one more with every doubling."""
    sides = (boxes[:, 2] * boxes[:, 3]).sqrt()
    return torch.log2(sides / _FINEST_SIDE_PX + 1e-6).floor().clamp(0, number - 1).long()


def _rows_and_weights(
    maps: Sequence[Tensor], strides: Sequence[int], boxes: Tensor, pictures: Tensor
) -> tuple[Tensor, Tensor]:
    """Return rows of the table and their weights, both ``(R * bins, samples * 4)``."""
    level = levels_of(boxes, len(maps))
    sizes = torch.tensor([m.shape[-2:] for m in maps], device=boxes.device)
    counts = [m.shape[0] * m.shape[2] * m.shape[3] for m in maps]
    # Counted by Python: of what torch counts a trace keeps the steps, and two streams of OpenVINO
    # 2026.4.1 share a constant's memory, where each of them computes the last step once more.
    begins = torch.tensor([0, *accumulate(counts[:-1])], device=boxes.device)
    height, width = (column[:, None] for column in sizes[level].unbind(-1))
    first = (begins[level] + pictures * sizes[level].prod(dim=-1))[:, None]
    stride = torch.tensor(strides, device=boxes.device)[level][:, None]

    x, y = (p / stride - 0.5 for p in _sample_points(boxes))  # (R, bins * samples), in cells
    inside = (x > -1) & (x < width) & (y > -1) & (y < height)
    left, right, from_left = _neighbours(x, width)
    top, bottom, from_top = _neighbours(y, height)
    share = inside / _SAMPLES**2
    of_top, of_bottom = share * (1 - from_top), share * from_top
    weights = torch.stack(
        [
            of_top * (1 - from_left),
            of_top * from_left,
            of_bottom * (1 - from_left),
            of_bottom * from_left,
        ],
        dim=-1,
    )
    top, bottom = first + top * width, first + bottom * width
    rows = torch.stack([top + left, top + right, bottom + left, bottom + right], dim=-1)
    shape = (len(boxes) * BINS**2, _SAMPLES**2 * 4)
    return rows.view(shape), weights.to(boxes.dtype).view(shape)


def _sample_points(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return x and y ``(R, bins * samples)`` in pixels, samples of a bin side by side."""
    cx, cy, w, h, angle = boxes[:, :, None].unbind(1)
    steps = BINS * _SAMPLES
    along = (torch.arange(steps, device=boxes.device, dtype=boxes.dtype) + 0.5) / steps - 0.5
    v, u = torch.meshgrid(along, along, indexing="ij")
    u, v = (
        part.reshape(BINS, _SAMPLES, BINS, _SAMPLES).permute(0, 2, 1, 3).flatten()
        for part in (u, v)
    )
    across, down = u * w, v * h
    cos, sin = angle.cos(), angle.sin()
    return cx + across * cos - down * sin, cy + across * sin + down * cos


def _neighbours(position: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the cells before and after a position on an axis, and its distance from the first."""
    position = position.clamp(min=0).minimum(size - 1)
    before = position.floor()
    after = (before + 1).minimum(size - 1)
    return before.long(), after.long(), position - before
