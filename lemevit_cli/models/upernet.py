"""UPerNet: four maps of a backbone to one of the finest, seen through a pyramid and a pooling.

Paper: Xiao et al., "Unified Perceptual Parsing for Scene Understanding", ECCV 2018, arXiv
1807.10221. What it computes, the names of its tensors and how they begin are those of
segmentation-models-pytorch, so that weights fit either (tests/models/test_upernet.py). That library
takes longer to import than a small scene to be classified; other decoders come from it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.models.device import is_recording

_POOLED_SIDES = (1, 2, 3, 6)
_SKIPPED = 2  # the picture, and stride 2
_FINEST = 4  # stride of the answer


class ConvNormRelu(nn.Sequential):
    """A convolution without bias, a batch norm, ReLU."""

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel_size: int, padding: int = 0
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, out_channels, kernel_size, padding=padding, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )


class UPerNet(nn.Module):
    """Takes picture and maps, finest first, of strides 2 to 32; gives one map of stride 4.

    Neither the picture nor stride 2 is looked at.

    Args:
        widths: channels of the maps of strides 4 to 32.
        channels: of the answer, and of all maps inside.
        norm_channels: a layer norm over the channels of each map in front.
    """

    def __init__(self, widths: Sequence[int], channels: int, *, norm_channels: bool = True) -> None:
        super().__init__()
        self.feature_norms = nn.ModuleList(
            ChannelNorm(width, eps=1e-6) if norm_channels else nn.Identity() for width in widths
        )
        self.psp = PooledPyramid(widths[-1], channels)
        coarse_to_fine = widths[-2::-1]
        self.fpn_lateral_blocks = nn.ModuleList()
        self.fpn_conv_blocks = nn.ModuleList()
        for width in coarse_to_fine:  # by turns: each draws its first weights
            self.fpn_lateral_blocks.append(Lateral(width, channels))
            self.fpn_conv_blocks.append(ConvNormRelu(channels, channels, kernel_size=3, padding=1))
        self.fusion_block = ConvNormRelu(len(widths) * channels, channels, kernel_size=3, padding=1)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return a map ``(B, channels, H / 4, W / 4)``."""
        maps = zip(self.feature_norms, features[_SKIPPED:], strict=True)
        *finer, coarsest = [norm(level) for norm, level in maps]
        levels = [self.psp(coarsest)]
        for lateral, level in zip(self.fpn_lateral_blocks, finer[::-1], strict=True):
            levels.append(lateral(levels[-1], level))
        for i, smooth in enumerate(self.fpn_conv_blocks, start=1):
            levels[i] = smooth(levels[i])
        size = levels[-1].shape[2:]
        fused: Tensor = self.fusion_block(torch.cat([_resize(m, size) for m in levels[::-1]], 1))
        return fused


class AveragePool(nn.Module):
    """Average a map ``(B, C, H, W)`` over a grid of ``side x side`` fields that may overlap."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.side = side

    def forward(self, x: Tensor) -> Tensor:
        if not is_recording():
            return F.adaptive_avg_pool2d(x, self.side)
        # ONNX has no such operation where the sides are no multiples: two products are the same.
        rows, cols = (_averaging(int(length), self.side, like=x) for length in x.shape[-2:])
        return rows @ x @ cols.t()


def _averaging(length: int, fields: int, *, like: Tensor) -> Tensor:
    """Return the matrix ``(fields, length)`` that averages fields of an axis, as torch cuts it."""
    begins = torch.arange(fields) * length // fields
    ends = ((torch.arange(fields) + 1) * length + fields - 1) // fields
    places = torch.arange(length)
    inside = (places >= begins[:, None]) & (places < ends[:, None])
    return (inside / inside.sum(dim=1, keepdim=True)).to(like)


class PooledPyramid(nn.Module):
    """Pooling to a few sizes, each brought back and set beside the map: what is all around."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(AveragePool(side), ConvNormRelu(width, channels, kernel_size=1))
            for side in _POOLED_SIDES
        )
        self.out_conv = ConvNormRelu(
            width + len(_POOLED_SIDES) * channels, channels, kernel_size=3, padding=1
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = [_resize(block(x), x.shape[2:]) for block in self.blocks]
        out: Tensor = self.out_conv(torch.cat([x, *pooled], dim=1))
        return out


class Lateral(nn.Module):
    """A finer map, brought to the pyramid's channels, plus what comes down from the coarser one."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.conv_norm_relu = ConvNormRelu(width, channels, kernel_size=1)

    def forward(self, coarser: Tensor, level: Tensor) -> Tensor:
        level = self.conv_norm_relu(level)
        return _resize(coarser, level.shape[2:]) + level


class ChannelNorm(nn.LayerNorm):
    """A layer norm over the channels of each pixel ``(B, C, H, W)``."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


def segmentation_head(channels: int, num_classes: int) -> nn.Module:
    """Make what turns a map of stride 4 into logits at the size of the picture."""
    return nn.Sequential(
        nn.Conv2d(channels, num_classes, kernel_size=1),
        nn.Upsample(scale_factor=float(_FINEST), mode="bilinear", align_corners=True),
    )


def initialise_decoder(decoder: nn.Module) -> None:
    """Draw first weights anew as the library does: He et al.'s for the ReLU behind each."""
    for module in decoder.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_uniform_(module.weight, mode="fan_in", nonlinearity="relu")


def initialise_head(head: nn.Module) -> None:
    """Draw first weights anew as the library does: Glorot and Bengio's, no bias."""
    for module in head.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)  # type: ignore[arg-type]


def _resize(x: Tensor, size: Sequence[int]) -> Tensor:
    return F.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)
