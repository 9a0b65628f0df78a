"""Oriented R-CNN: the detector of oriented boxes (see ``detector.py``)."""

from lemevit_cli.models.oriented_rcnn.build import (
    LIGHT_HEAD,
    PAPER_HEAD,
    HeadForm,
    build_detector,
    check_head_args,
    head_defaults,
)
from lemevit_cli.models.oriented_rcnn.detector import OrientedRCNN

__all__ = [
    "LIGHT_HEAD",
    "PAPER_HEAD",
    "HeadForm",
    "OrientedRCNN",
    "build_detector",
    "check_head_args",
    "head_defaults",
]
