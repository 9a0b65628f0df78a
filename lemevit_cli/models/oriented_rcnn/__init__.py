"""Oriented R-CNN: the detector of oriented boxes (see ``detector.py``)."""

from lemevit_cli.models.oriented_rcnn.detector import (
    LIGHT_HEAD,
    PAPER_HEAD,
    Decoding,
    HeadForm,
    OrientedRCNN,
    check_head_args,
    head_defaults,
)

__all__ = [
    "LIGHT_HEAD",
    "PAPER_HEAD",
    "Decoding",
    "HeadForm",
    "OrientedRCNN",
    "check_head_args",
    "head_defaults",
]
