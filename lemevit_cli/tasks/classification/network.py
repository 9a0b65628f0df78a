"""The network of classification: a class for every window."""

from __future__ import annotations

import torch
from torch import Tensor

from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.models.classifier import build_classifier


def scores_of_windows(logits: Tensor) -> Tensor:
    """Bring logits ``(B, classes)`` to scores that sum to one: maps of a single pixel."""
    return torch.softmax(logits, dim=1)[:, :, None, None]


NETWORK = CardNetwork("cls", build_classifier, decode=scores_of_windows)
