"""The loss of a distillation, token by token.

The loss of a token is ``1 - cosine`` between what the student says and the teacher's reduced
features, and half a smooth L1 between both with every component at unit variance: the first is
ruled by the few directions in which views differ most, the second gives the others a say.
Sources: see ``models/distiller.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from lemevit_cli.models.distiller import TARGET_STRIDE, tokens_of, tokens_of_levels

_WHITENED = 0.5  # weight of the smooth L1


def token_weights(side: int, levels: Mapping[int, float]) -> Tensor:
    """Weight every token ``(T,)``, so that a level counts by its weight, whatever its tokens."""
    counts = tokens_of_levels(side, list(levels))
    parts = [
        torch.full((count,), weight / count)
        for count, weight in zip(counts, levels.values(), strict=True)
    ]
    return torch.cat(parts) / sum(levels.values())


def known_tokens(valid: Tensor, levels: Iterable[int]) -> Tensor:
    """Say of every token ``(B, T)`` whether half of its pixels, ``(B, 1, H, W)``, are valid."""
    return tokens_of(F.avg_pool2d(valid.float(), TARGET_STRIDE), list(levels))[:, 0] >= 0.5


def token_loss(said: Tensor, wanted: Tensor, scale: Tensor) -> Tensor:
    """Return the loss ``(B, T)`` of tokens ``(B, width, T)``.

    Args:
        said: in units of each component's deviation, as the student's projection gives them.
        wanted: as the teacher says them.
        scale: ``(width,)``, that deviation.
    """
    scale = scale.view(-1, 1)
    cosine = F.cosine_similarity(said.float() * scale, wanted, dim=1)
    smooth = F.smooth_l1_loss(said.float(), wanted / scale, reduction="none").mean(dim=1)
    return 1.0 - cosine + _WHITENED * smooth
