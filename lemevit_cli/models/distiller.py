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

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import STRIDE, PixelFront, make_encoder
from lemevit_cli.models.weights import Card

TARGET_STRIDE = 8  # of what a teacher says, brought to the student's pixels


class Distiller(nn.Module):
    """Pixels in, one vector a token of each taught level out.

    Args:
        encoder: answers the picture and its maps, finest first, of strides 2 to 32.
        widths: of the taught levels, by their strides.
        width: of the teacher's vectors.
    """

    def __init__(
        self, *, front: PixelFront, encoder: nn.Module, widths: Mapping[int, int], width: int
    ) -> None:
        super().__init__()
        self.front, self.encoder, self._strides = front, encoder, tuple(widths)
        channels = widths.values()
        self.norms = nn.ModuleList(nn.BatchNorm2d(each, affine=False) for each in channels)
        self.projections = nn.ModuleList(nn.Conv2d(each, width, 1) for each in channels)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return tokens ``(B, width, T)`` of all levels, one level behind the other.

        A level finer than ``TARGET_STRIDE`` is averaged to it: a teacher is blind for such detail,
        and nothing of it is to be unlearned.
        """
        levels = self.encoder(self.front(pixels))[1:]
        tokens = []
        for stride, norm, project in zip(self._strides, self.norms, self.projections, strict=True):
            features = norm(levels[stride.bit_length() - 2])
            if stride < TARGET_STRIDE:
                features = F.avg_pool2d(features, TARGET_STRIDE // stride)
            tokens.append(project(features).flatten(2))
        return torch.cat(tokens, dim=2)


def build_distiller(
    card: Card, *, strides: Sequence[int], width: int, pretrained: bool = False
) -> Distiller:
    """Build a student of a card's backbone, with its projections.

    Args:
        strides: of the levels that are taught.
        width: of the teacher's vectors.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm refuses, or the backbone has no level of such a stride.
    """
    encoder, widths = make_encoder(
        card.backbone, card.backbone_args, bands=card.bands, pretrained=pretrained
    )
    by_stride = {2 ** (i + 1): channels for i, channels in enumerate(widths) if channels}
    missing = [stride for stride in strides if stride not in by_stride]
    if missing:
        raise WeightsError(
            f"{card.backbone} has no features of stride {missing[0]}; it has "
            f"{', '.join(map(str, by_stride))}"
        )
    return Distiller(
        front=PixelFront(card.mean, card.std),
        encoder=encoder,
        widths={stride: by_stride[stride] for stride in strides},
        width=width,
    )


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
