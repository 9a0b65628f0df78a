"""The network of segmentation: a class for every pixel."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork, mean_over_symmetries, softmax_over_classes
from lemevit_cli.models.segmenter import build_segmenter

NETWORK = CardNetwork("seg", build_segmenter, softmax_over_classes, mean_over_symmetries)
