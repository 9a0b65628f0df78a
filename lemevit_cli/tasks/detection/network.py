"""The network of detection: an oriented box around every object."""

from __future__ import annotations

from functools import partial

from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.settings import DetectionOptions
from lemevit_cli.tasks.detection.decoding import (
    decode,
    share_of_equal_boxes,
    symmetric_detector,
)


def network_for(options: DetectionOptions | None = None) -> CardNetwork:
    """Return the network whose answers hold the boxes asked for; None leaves that to itself."""
    return CardNetwork(
        "det",
        build="lemevit_cli.models.oriented_rcnn:build_detector",
        scores=None,
        decode=partial(decode, options=options),
        over_symmetries=partial(symmetric_detector, options=options),
        # In the 8 bits of bf16 boxes fit less closely (docs/figures.md).
        auto_precision="fp32",
        # What is computed of coordinates, and the few small layers that give them.
        kept_in_floats=(
            r"aten::.*",
            r"__module\.roi_head.*",
            r"__module\.rpn\.(objectness|deltas).*",
        ),
        share_of_equal=share_of_equal_boxes,
    )


NETWORK = network_for()
