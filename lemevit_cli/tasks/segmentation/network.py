"""The network of segmentation: a class for every pixel."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.models.segmenter import build_segmenter

NETWORK = CardNetwork("seg", build_segmenter)
