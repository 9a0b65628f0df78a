"""A backbone that learns to say what a teacher says: features projected, the projections discarded.

Each level passes a batch norm, so that no wild channel rules the projection, and one convolution of
1 x 1: what the teacher knows has to stand in the features linearly, where any head can read it.

Sources: Hinton, Vinyals and Dean 2015 (arXiv 1503.02531) for distillation; Romero et al. 2015,
FitNets (arXiv 1412.6550) for hints at several depths through a discarded projection; Heo et al.
2019 (arXiv 1904.01866) for its place in front of the comparison; Oquab et al. 2023 (arXiv
2304.07193) for dense features of DINOv2 and their transfer to small networks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import STRIDE, make_encoder, pad_to_stride

TARGET_STRIDE = 8  # of what a teacher says, brought to the student's pixels


class Distiller(nn.Module):
    """Pixels in, one vector a token of each taught level out.

    Args:
        backbone, backbone_args: a timm name and what it is made with.
        strides: of the levels that are taught.
        width: of the teacher's vectors.
        mean, std: one value a band, in the values of the pixels.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm refuses, or the backbone has no level of such a stride.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: str,
        backbone_args: Mapping[str, Any] | None = None,
        strides: Sequence[int],
        width: int,
        mean: Sequence[float],
        std: Sequence[float],
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, widths = make_encoder(
            backbone, backbone_args, bands=len(mean), pretrained=pretrained
        )
        by_stride = {2 ** (i + 1): channels for i, channels in enumerate(widths) if channels}
        missing = [stride for stride in strides if stride not in by_stride]
        if missing:
            raise WeightsError(
                f"{backbone} has no features of stride {missing[0]}; it has "
                f"{', '.join(map(str, by_stride))}"
            )
        self._strides = tuple(strides)
        self.norms = nn.ModuleList(nn.BatchNorm2d(by_stride[s], affine=False) for s in strides)
        self.projections = nn.ModuleList(nn.Conv2d(by_stride[s], width, 1) for s in strides)
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return tokens ``(B, width, T)`` of all levels, one level behind the other.

        A level finer than ``TARGET_STRIDE`` is averaged to it: a teacher is blind for such detail,
        and nothing of it is to be unlearned.
        """
        levels = self.encoder((pad_to_stride(pixels) - self.mean) / self.std)[1:]
        tokens = []
        for stride, norm, project in zip(self._strides, self.norms, self.projections, strict=True):
            features = norm(levels[stride.bit_length() - 2])
            if stride < TARGET_STRIDE:
                features = F.avg_pool2d(features, TARGET_STRIDE // stride)
            tokens.append(project(features).flatten(2))
        return torch.cat(tokens, dim=2)


def tokens_of(maps: Tensor, strides: Sequence[int]) -> Tensor:
    """Turn maps ``(B, C, h, w)`` of ``TARGET_STRIDE`` into tokens ``(B, C, T)`` of all levels."""
    averaged = [F.avg_pool2d(maps, max(stride // TARGET_STRIDE, 1)) for stride in strides]
    return torch.cat([level.flatten(2) for level in averaged], dim=2)


def tokens_of_levels(side: int, strides: Sequence[int]) -> list[int]:
    """Count the tokens of each level, of square pixels whose side is a multiple of 32.

    Raises:
        ValueError: if it is not.
    """
    if side % STRIDE:
        raise ValueError(f"a side of {side} pixels is no multiple of {STRIDE}")
    return [(side // max(stride, TARGET_STRIDE)) ** 2 for stride in strides]
