"""The network of change: what has become of every pixel from one date to the next."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork, mean_over_symmetries, softmax_over_classes
from lemevit_cli.models.change import build_change_detector

NETWORK = CardNetwork("change", build_change_detector, softmax_over_classes, mean_over_symmetries)
