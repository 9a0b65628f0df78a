"""Anchors: axis-aligned boxes of three shapes around every cell of every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

_SCALE = 8  # side of the square anchor, in strides
_RATIOS = (0.5, 1.0, 2.0)  # height over width; the area stays


def anchors_of(
    sizes: Sequence[tuple[int, int]], strides: Sequence[int], *, device: torch.device
) -> list[Tensor]:
    """Return anchors ``(H * W * 3, 4)`` of each level as ``x1, y1, x2, y2``, in the order of cells.

    As in the original, an anchor's centre is the upper left corner of its cell: ``i * stride``.
    (torchvision's generator rounds the sides to whole pixels.)

    Args:
        sizes: rows and columns of each level.
    """
    return [
        _anchors_of_level(height, width, stride, device)
        for (height, width), stride in zip(sizes, strides, strict=True)
    ]


def _anchors_of_level(height: int, width: int, stride: int, device: torch.device) -> Tensor:
    roots = torch.tensor(_RATIOS, device=device).sqrt()
    half = torch.stack([1 / roots, roots], dim=-1) * (_SCALE * stride / 2)  # (3, 2)
    y = torch.arange(height, device=device, dtype=torch.float32) * stride
    x = torch.arange(width, device=device, dtype=torch.float32) * stride
    centres = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)[:, :, None]  # (H, W, 1, 2)
    return torch.cat([centres - half, centres + half], dim=-1).flatten(0, 2)
