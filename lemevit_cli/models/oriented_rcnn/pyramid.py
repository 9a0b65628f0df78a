"""Feature pyramid: what coarse levels know is added to the finer ones.

Paper: Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv 1612.03144.
What it computes, the names of its tensors and how they begin are those of torchvision's, whose
import takes as long as torch's (tests/models/test_feature_pyramid.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn


class FeaturePyramid(nn.Module):
    """Gives each map as many channels, and one more of twice the coarsest stride.

    Args:
        widths: channels of the maps that come in, finest first.
        channels: of each map that goes out.
    """

    def __init__(self, widths: Sequence[int], channels: int) -> None:
        super().__init__()
        self.inner_blocks, self.layer_blocks = nn.ModuleList(), nn.ModuleList()
        for width in widths:
            self.inner_blocks.append(nn.Sequential(nn.Conv2d(width, channels, 1)))
            self.layer_blocks.append(nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1)))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Return maps ``(B, channels, H, W)``, finest first, one more than come in."""
        *finer, summed = [project(x) for project, x in zip(self.inner_blocks, maps, strict=True)]
        sums = [summed]
        for lateral in reversed(finer):
            summed = lateral + F.interpolate(summed, size=lateral.shape[-2:], mode="nearest")
            sums.insert(0, summed)
        levels = [smooth(x) for smooth, x in zip(self.layer_blocks, sums, strict=True)]
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]
