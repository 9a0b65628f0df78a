"""Oriented R-CNN put together from its parts, by the arguments in a card.

The paper's form (``PAPER_HEAD``) reads the backbone's raw features. The light form, the default,
has narrower layers, fewer proposals, and a batch norm of each level in front of the pyramid:
channels of LeMeViT's levels differ in size by two orders of magnitude (see ``segmenter.py``). It
learns by a more generous assigner (``assignment.ASSIGNERS``), and has three cascade stages: of a
better box the next stage tells more exactly where the object lies, and what it is. It also has a
second pyramid scale, each picture at half its size, where what is as large as the windows that it
learned from is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import PixelFront, check_backbone, level_norms, make_encoder
from lemevit_cli.models.oriented_rcnn.assignment import ASSIGNERS
from lemevit_cli.models.oriented_rcnn.detector import LEVELS, OrientedRCNN
from lemevit_cli.models.oriented_rcnn.pyramid import FeaturePyramid
from lemevit_cli.models.oriented_rcnn.roi_head import RoiHead
from lemevit_cli.models.oriented_rcnn.rpn import RegionProposals
from lemevit_cli.models.weights import Card

_MOST = {"cascade_stages": 9, "pyramid_scales": 3}
# What arguments are called in the cards of older weights.
_FORMER_NAMES = {"looks": "cascade_stages", "octaves": "pyramid_scales", "rules": "assigner"}


@dataclass(frozen=True)
class HeadForm:
    """Sizes of all parts that stand on the backbone.

    Args:
        channels: of the pyramid's levels.
        hidden: width of the two layers that classify and refine a proposal.
        proposals: kept of each level, and of a picture.
        rpn_samples, roi_samples: anchors and proposals of a picture that the losses look at.
        cascade_stages: each refines the boxes of the one before.
        pyramid_scales: 1 sees pictures as they are, 2 at half their size too, and so on.
        norm_levels: a batch norm of each level of the backbone in front of the pyramid.
        assigner: a name in ``assignment.ASSIGNERS``: which anchors and proposals are samples.
        freeze_norms: the backbone's batch norms keep their statistics while training. Right for a
            backbone that has learned much already, wrong for one that starts from nothing.
        stage_score: what no class scores above this after a cascade stage goes no further.
    """

    channels: int
    hidden: int
    proposals: int
    rpn_samples: int
    roi_samples: int
    cascade_stages: int
    pyramid_scales: int
    norm_levels: bool
    assigner: str
    freeze_norms: bool = False
    stage_score: float = 0.05


LIGHT_HEAD = asdict(
    HeadForm(
        channels=96,
        hidden=256,
        proposals=1000,
        rpn_samples=256,
        roi_samples=512,
        cascade_stages=3,
        pyramid_scales=2,
        norm_levels=True,
        assigner="generous",
    )
)
PAPER_HEAD = asdict(
    HeadForm(
        channels=256,
        hidden=1024,
        proposals=2000,
        rpn_samples=256,
        roi_samples=512,
        cascade_stages=1,
        pyramid_scales=1,
        norm_levels=False,
        assigner="paper",
        freeze_norms=True,
    )
)


def head_defaults() -> dict[str, Any]:
    """Return a copy of the arguments of the light form."""
    return dict(LIGHT_HEAD)


def check_head_args(head_args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return arguments by the names of today, and refuse those that the head does not have.

    Raises:
        WeightsError: with those that it has.
    """
    given = {_FORMER_NAMES.get(name, name): value for name, value in (head_args or {}).items()}
    unknown = sorted(given.keys() - LIGHT_HEAD.keys())
    if unknown:
        raise WeightsError(
            f"a detector's head has no argument {unknown[0]!r}; it has {', '.join(LIGHT_HEAD)}"
        )
    form = HeadForm(**LIGHT_HEAD | given)
    for name, most in _MOST.items():
        if (value := getattr(form, name)) not in range(1, most + 1):
            raise WeightsError(f"a detector's head takes {name} from 1 to {most}, not {value!r}")
    if not 0 <= form.stage_score < 1:
        raise WeightsError(
            f"a detector's head takes a stage_score from 0 to below 1, not {form.stage_score!r}"
        )
    if form.assigner not in ASSIGNERS:
        raise WeightsError(
            f"a detector's head has no assigner {form.assigner!r}; choose one of "
            f"{', '.join(ASSIGNERS)}"
        )
    return given


def build_detector(card: Card, pretrained: bool = False) -> OrientedRCNN:
    """Build the detector of a card, untrained.

    Args:
        card: its head's arguments are fields of :class:`HeadForm` that differ from the light form.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm refuses, or the head has no such argument; one line with what fits.
    """
    check_backbone(card.backbone, pretrained=pretrained)
    form = HeadForm(**LIGHT_HEAD | check_head_args(card.head_args))
    encoder, widths = make_encoder(
        card.backbone, card.backbone_args, bands=card.bands, pretrained=pretrained
    )
    first = len(widths) - LEVELS  # the levels of strides 4 to 32 are the last
    normed = [width if form.norm_levels and i >= first else 0 for i, width in enumerate(widths)]
    return OrientedRCNN(
        front=PixelFront(card.mean, card.std),
        encoder=encoder,
        feature_norms=level_norms(normed),
        pyramid=FeaturePyramid(widths[first:], form.channels),
        rpn=_rpn(form),
        roi_head=_roi_head(form, num_classes=len(card.classes)),
        pyramid_scales=form.pyramid_scales,
        freeze_norms=form.freeze_norms,
    )


def _rpn(form: HeadForm) -> RegionProposals:
    return RegionProposals(
        form.channels,
        samples=form.rpn_samples,
        proposals=form.proposals,
        assigner=ASSIGNERS[form.assigner],
    )


def _roi_head(form: HeadForm, *, num_classes: int) -> RoiHead:
    return RoiHead(
        form.channels,
        hidden=form.hidden,
        num_classes=num_classes,
        samples=form.roi_samples,
        assigner=ASSIGNERS[form.assigner],
        stages=form.cascade_stages,
        stage_score=form.stage_score,
    )
