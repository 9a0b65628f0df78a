"""The network of segmentation: a class for every pixel."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork

NETWORK = CardNetwork("seg", build="lemevit_cli.models.segmenter:build_segmenter")
