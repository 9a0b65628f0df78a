"""The network of detection: an oriented box around every object."""

from __future__ import annotations

from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.models.oriented_rcnn import build_detector
from lemevit_cli.tasks.detection.decoding import decode, symmetric_detector

NETWORK = CardNetwork("det", build_detector, decode, symmetric_detector)
