"""A linear layer on frozen features: multinomial logistic regression, fitted in whole.

Frozen features judged by a linear layer: Alain and Bengio 2016 (arXiv 1610.01644); for dense
prediction as in Oquab et al. 2023 (arXiv 2304.07193, section 7.4).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_ITERATIONS = 150
_DECAY = 1e-4  # of the squared weights, beside the mean loss of a pixel


@dataclass(frozen=True)
class LinearLayer:
    """Logits of features: ``weight`` ``(classes, C)`` and ``bias`` ``(classes,)``."""

    weight: Tensor
    bias: Tensor

    def logits(self, maps: Sequence[Tensor], *, height: int, width: int) -> Tensor:
        """Return logits ``(B, classes, height, width)`` of maps ``(B, C, h, w)`` of all strides.

        A linear layer and an interpolation may change places: the layer is applied where a map is
        coarse, and only its few logits are enlarged.
        """
        parts = self.weight.split([m.shape[1] for m in maps], dim=1)
        enlarged = [
            F.interpolate(
                F.conv2d(m.float(), part[:, :, None, None]),
                size=(height, width),
                mode="bilinear",
            )
            for m, part in zip(maps, parts, strict=True)
        ]
        return torch.stack(enlarged).sum(dim=0) + self.bias.view(-1, 1, 1)


def features_at(maps: Sequence[Tensor], points: Tensor) -> Tensor:
    """Return features ``(N, C)`` at points, interpolated as by :meth:`LinearLayer.logits`.

    Args:
        maps: of one picture, ``(1, C, h, w)`` each.
        points: ``(N, 2)`` as ``(x, y)`` in [-1, 1], from edge to edge of the picture.
    """
    at = points[None, None]
    columns = [
        F.grid_sample(m.float(), at, mode="bilinear", padding_mode="border", align_corners=False)
        for m in maps
    ]
    return torch.cat(columns, dim=1)[0, :, 0].T


def fit_linear_layer(features: Tensor, ids: Tensor, *, num_classes: int) -> LinearLayer:
    """Fit a linear layer by L-BFGS on the mean cross-entropy; the same for the same features.

    Args:
        features: ``(N, C)`` float32; standardised in place.
        ids: ``(N,)`` class ids.
    """
    mean, std = features.mean(dim=0), features.std(dim=0).clamp(min=1e-6)
    features.sub_(mean).div_(std)
    weight = torch.zeros(num_classes, features.shape[1], device=features.device)
    bias = torch.zeros(num_classes, device=features.device)
    weight.requires_grad_(True)
    bias.requires_grad_(True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=_ITERATIONS, history_size=10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(features, weight, bias), ids)
        loss = loss + _DECAY * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    with torch.no_grad():
        of_raw = weight / std
        return LinearLayer(of_raw, bias - of_raw @ mean)
