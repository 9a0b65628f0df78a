"""The network of detection: an oriented box around every object."""

from __future__ import annotations

from functools import partial

from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.settings import DetectionOptions
from lemevit_cli.tasks.detection.decoding import decode, symmetric_detector


def network_for(options: DetectionOptions | None = None) -> CardNetwork:
    """Return the network whose answers hold the boxes asked for; None leaves that to itself."""
    return CardNetwork(
        "det",
        build="lemevit_cli.models.oriented_rcnn:build_detector",
        scores=None,
        decode=partial(decode, options=options),
        over_symmetries=partial(symmetric_detector, options=options),
    )


NETWORK = network_for()
