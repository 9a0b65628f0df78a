"""Losses of dense predictions."""

from __future__ import annotations

import torch
from torch import Tensor

from lemevit_cli.legend import NODATA_CLASS


def grouped_cross_entropy(logits: Tensor, ids: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy where a target may mean several classes that its source cannot tell apart.

    With the logits ``z`` of a pixel and the set ``G`` of the model's classes that its target
    stands for::

        loss = -log sum_{c in G} softmax(z)_c = logsumexp_c(z_c) - logsumexp_{c in G}(z_c)

    which is plain cross-entropy where ``G`` has one class, and zero where it has all: an ignored
    pixel is one that tells nothing apart.

    Args:
        logits: ``(B, C, H, W)``.
        ids: ``(B, H, W)``, class ids of the source, ``NODATA_CLASS`` where ignored.
        groups: ``(B, C)``, for every class of the model the source's class that it belongs to.

    Returns:
        Sum over the pixels that are not ignored, and their number.
    """
    log_scores = torch.log_softmax(logits.float(), dim=1)
    ignored = ids == NODATA_CLASS
    belongs = (groups[:, :, None, None] == ids[:, None]) | ignored[:, None]  # (B, C, H, W)
    in_group = log_scores.masked_fill(~belongs, float("-inf")).logsumexp(dim=1)  # (B, H, W)
    # A class of the source that no class of the model stands for teaches nothing either.
    counted = ~ignored & belongs.any(dim=1)
    return -in_group[counted].sum(), counted.sum()
