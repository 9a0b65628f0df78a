"""Oriented R-CNN: pixels in, oriented boxes out, over any backbone of timm.

    backbone -> feature pyramid -> proposals -> rotated features of each -> class and box

Paper: Xie et al., "Oriented R-CNN for Object Detection", ICCV 2021, arXiv 2108.05699; numbers as
LeMeViT's authors trained it in OBBDetection. Written from a description of what that code computes.

The paper's form (``PAPER_HEAD``) reads the backbone's raw features. The light form, the default,
has narrower layers, fewer proposals, and a batch norm of each level in front of the pyramid:
channels of LeMeViT's levels differ in size by two orders of magnitude (see ``segmenter.py``). It
learns by a more generous assigner (``assignment.RULES``), and has three cascade stages: of a better
box the next stage tells more exactly where the object lies, and what it is. It also has a second
pyramid scale, each picture at half its size, where what is as large as the windows that it learned
from is small.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from lemevit_cli.errors import WeightsError
from lemevit_cli.geometry.rotated_nms import rotated_nms
from lemevit_cli.models.backbone import check_backbone, make_encoder, pad_to_stride
from lemevit_cli.models.oriented_rcnn.assignment import RULES, truths_of
from lemevit_cli.models.oriented_rcnn.boxes import within_reach
from lemevit_cli.models.oriented_rcnn.coders import decode_rotated
from lemevit_cli.models.oriented_rcnn.roi_head import RoiHead
from lemevit_cli.models.oriented_rcnn.rpn import STRIDES, RegionProposals, anchors_like

_LEVELS = 4  # of the backbone, strides 4 to 32; the pyramid adds a fifth
_CANDIDATES_A_PLACE = 10  # boxes that suppression looks at, for each that the answer has room for
_MOST_LOOKS, _MOST_OCTAVES = 9, 3
_ANSWER = 7  # cx, cy, w, h, angle_rad, score, class id


@dataclass(frozen=True)
class HeadForm:
    """Sizes of what stands on the backbone.

    Args:
        channels: of the pyramid's levels.
        hidden: width of the two layers that look at a proposal.
        proposals: kept of each level, and of a picture.
        rpn_samples, roi_samples: anchors and proposals of a picture that the losses look at.
        rules: the assigner, a name in ``assignment.RULES``: which anchors, proposals are samples.
        looks: cascade stages, each refining the boxes of the one before.
        octaves: pyramid scales: 1 sees pictures as they are, 2 at half their size too, and so on.
        norm_levels: a batch norm of each level of the backbone in front of the pyramid.
        freeze_norms: the backbone's batch norms keep their statistics while training. Right for a
            backbone that has learned much already, wrong for one that starts from nothing.
    """

    channels: int
    hidden: int
    proposals: int
    rpn_samples: int
    roi_samples: int
    looks: int
    octaves: int
    norm_levels: bool
    rules: str
    freeze_norms: bool = False


LIGHT_HEAD = asdict(
    HeadForm(
        channels=96,
        hidden=256,
        proposals=1000,
        rpn_samples=256,
        roi_samples=512,
        looks=3,
        octaves=2,
        norm_levels=True,
        rules="generous",
    )
)
PAPER_HEAD = asdict(
    HeadForm(
        channels=256,
        hidden=1024,
        proposals=2000,
        rpn_samples=256,
        roi_samples=512,
        looks=1,
        octaves=1,
        norm_levels=False,
        rules="paper",
        freeze_norms=True,
    )
)


def head_defaults() -> dict[str, Any]:
    """Return a copy of the arguments of the light form."""
    return dict(LIGHT_HEAD)


@dataclass(frozen=True)
class Decoding:
    """Which boxes are an answer.

    Args:
        score: boxes of a lower score are left out.
        nms_iou: of two boxes of a class that overlap more, the better one stays.
        max_per_window: rows for boxes in the answer.
    """

    score: float = 0.05
    nms_iou: float = 0.1
    max_per_window: int = 300


class OrientedRCNN(nn.Module):
    """Finds objects as oriented boxes; normalisation and padding happen inside.

    Args:
        backbone: a timm name with features of strides 4 to 32 (or 2 to 32).
        head_args: fields of :class:`HeadForm` that differ from the light form's; None: none.
        mean, std: one value a band, in the values of the pixels.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm refuses, or the head has no such argument; one line with what fits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: str,
        backbone_args: Mapping[str, Any] | None = None,
        head_args: Mapping[str, Any] | None = None,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_backbone(backbone, pretrained=pretrained)
        form = _form(head_args)
        rules = RULES[form.rules]
        self.encoder, widths = make_encoder(
            backbone, backbone_args, bands=len(mean), pretrained=pretrained
        )
        first = len(widths) - _LEVELS  # the levels of strides 4 to 32 are the last
        # One for every level of the encoder, as a segmenter has them: its norms fit.
        self.feature_norms = nn.ModuleList(
            nn.BatchNorm2d(width) if form.norm_levels and number >= first else nn.Identity()
            for number, width in enumerate(widths)
        )
        self.pyramid = FeaturePyramidNetwork(widths[first:], form.channels, LastLevelMaxPool())
        self.rpn = RegionProposals(
            form.channels, samples=form.rpn_samples, proposals=form.proposals, rules=rules
        )
        self.roi_head = RoiHead(
            form.channels,
            hidden=form.hidden,
            num_classes=num_classes,
            samples=form.roi_samples,
            rules=rules,
        )
        self.num_classes = num_classes
        self.looks, self.octaves = form.looks, form.octaves
        self.freeze_norms = form.freeze_norms
        self.decoding = Decoding()
        # Not in the state: the card holds them, and one truth is enough.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Return the names of the layers that have a row for every class."""
        return ("roi_head.classify",)

    def forward(
        self,
        pixels: Tensor,
        boxes: Tensor | None = None,
        labels: Tensor | None = None,
        unknown: Tensor | None = None,
    ) -> Tensor:
        """Return the loss in training mode; in evaluation mode the boxes that were found.

        Args:
            pixels: ``(B, bands, H, W)``, uint8 or float, any size.
            boxes: ``(B, K, 5)``, pixels of the window; as ``labels``, for training only.
            labels: ``(B, K)``: class ids; -1 where a slot is empty, -2 for an object that is
                neither truth nor background.
            unknown: ``(B, classes)`` bool: classes that the picture's data set does not label.

        Returns:
            The loss, a float32 scalar; or ``(B, max_per_window, 7)`` float32: ``cx, cy, w, h,
            angle_rad, score, class id``, best first; rows without a box have score 0, class -1.
            All is NaN for a picture that the network has no finite answer for.
        """
        if not self.training:
            return self._detect(pixels)
        if boxes is None or labels is None:
            raise ValueError("a detector in training mode needs boxes and labels beside pixels")
        return torch.stack(list(self.losses(pixels, boxes, labels, unknown).values())).sum()

    def losses(
        self, pixels: Tensor, boxes: Tensor, labels: Tensor, unknown: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Return the four terms of the loss by name, each a mean over the samples of the batch."""
        if self.freeze_norms:
            self._rest_norms()
        truths = truths_of(boxes, labels, unknown, self.num_classes)
        levels = self.levels(pixels)
        logits, deltas = self.rpn(levels)
        anchors = anchors_like(levels)
        with torch.autocast(pixels.device.type, enabled=False):
            size = (pixels.shape[-2], pixels.shape[-1])
            terms = self.rpn.losses(logits, deltas, anchors, truths, size)
            samples = self.roi_head.choose(self.rpn.proposals(logits, deltas, anchors), truths)
        logits, deltas = self.roi_head.look(
            levels[:_LEVELS], STRIDES[:_LEVELS], samples.boxes, samples.pictures
        )
        with torch.autocast(pixels.device.type, enabled=False):
            return terms | self.roi_head.losses(logits, deltas, samples)

    def _detect(self, pixels: Tensor) -> Tensor:
        room = self.decoding.max_per_window
        answer = pixels.new_zeros((len(pixels), room, _ANSWER), dtype=torch.float32)
        answer[..., -1] = -1.0
        if len(pixels) == 0:
            return answer
        seen = [self._seen(pixels, octave) for octave in range(self.octaves)]
        boxes, scores, pictures = (torch.cat(parts) for parts in zip(*seen, strict=True))
        for number in range(len(pixels)):
            own = pictures == number
            if not torch.isfinite(scores[own]).all():
                answer[number] = float("nan")  # not silently nothing
                continue
            found = _best_boxes(boxes[own], scores[own], self.decoding)
            answer[number, : len(found)] = found
        return answer

    def _seen(self, pixels: Tensor, octave: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return what may be objects at one pyramid scale, of pictures halved ``octave`` times.

        Returns:
            Boxes ``(R, 5)`` in pixels of the whole pictures, scores and pictures as :meth:`_look`.
        """
        if octave:
            pixels = halved(pixels, octave)
        levels = self.levels(pixels)
        logits, deltas = self.rpn(levels)
        with torch.autocast(pixels.device.type, enabled=False):
            proposals = self.rpn.proposals(logits, deltas, anchors_like(levels))
        owners = [torch.full_like(own[:, 0], i) for i, own in enumerate(proposals)]
        boxes, scores, pictures = self._look(
            levels[:_LEVELS], torch.cat(proposals), torch.cat(owners).long()
        )
        factor = float(1 << octave)
        return boxes * boxes.new_tensor((factor,) * 4 + (1.0,)), scores, pictures

    def _look(
        self, levels: Sequence[Tensor], boxes: Tensor, pictures: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Refine proposals by cascade stages: boxes ``(R, 5)``, scores ``(R, classes)``, pictures.

        Only what may be an object goes through the next stage.
        """
        scores = boxes.new_full((len(boxes), self.num_classes), float("inf"))
        for _ in range(self.looks):
            hopeful = ~(scores <= self.decoding.score).all(dim=1)  # NaN is: it must be told of
            boxes, scores, pictures = boxes[hopeful], scores[hopeful], pictures[hopeful]
            logits, deltas = self.roi_head.look(levels, STRIDES[:_LEVELS], boxes, pictures)
            with torch.autocast(boxes.device.type, enabled=False):
                found = logits.softmax(dim=1)[:, :-1]
                boxes = within_reach(decode_rotated(boxes, deltas))
            scores = torch.where(scores.isnan(), scores, found)
        return boxes, scores, pictures

    def levels(self, pixels: Tensor) -> list[Tensor]:
        """Return the pyramid ``(B, channels, H / s, W / s)``, s from 4 to 64; sides round up."""
        x = (pad_to_stride(pixels) - self.mean) / self.std
        features = self.encoder(x)[-_LEVELS:]
        norms = list(self.feature_norms)[-_LEVELS:]
        normed = [norm(level) for norm, level in zip(norms, features, strict=True)]
        return list(self.pyramid(OrderedDict((str(i), f) for i, f in enumerate(normed))).values())

    def _rest_norms(self) -> None:
        # At each step, for whoever sets the encoder's mode by itself sets that of its norms too.
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
                module.eval()


def halved(pixels: Tensor, times: int) -> Tensor:
    """Shrink pictures ``(B, bands, H, W)`` by a power of two, to one pixel at least.

    A pixel is the weighted mean of those around it; place ``x`` becomes ``x / 2 ** times`` exactly.
    """
    part = 0.5**times
    # The last row and column are repeated: what does not fill a pixel would be cut off.
    short = [-side % (1 << times) for side in pixels.shape[-2:]]
    padded = F.pad(pixels.float(), (0, short[1], 0, short[0]), mode="replicate")
    return F.interpolate(padded, scale_factor=part, mode="bilinear", antialias=True)


def check_head_args(head_args: Mapping[str, Any] | None) -> None:
    """Refuse arguments that the head does not have.

    Raises:
        WeightsError: with those that it has.
    """
    _form(head_args)


def _form(head_args: Mapping[str, Any] | None) -> HeadForm:
    given = dict(head_args or {})
    unknown = sorted(given.keys() - LIGHT_HEAD.keys())
    if unknown:
        raise WeightsError(
            f"a detector's head has no argument {unknown[0]!r}; it has {', '.join(LIGHT_HEAD)}"
        )
    form = HeadForm(**LIGHT_HEAD | given)
    for name, value, most in (
        ("looks", form.looks, _MOST_LOOKS),
        ("octaves", form.octaves, _MOST_OCTAVES),
    ):
        if value not in range(1, most + 1):
            raise WeightsError(f"a detector's head takes {name} from 1 to {most}, not {value!r}")
    if form.rules not in RULES:
        raise WeightsError(
            f"a detector's head has no rules {form.rules!r}; choose one of {', '.join(RULES)}"
        )
    return form


def _best_boxes(boxes: Tensor, scores: Tensor, decoding: Decoding) -> Tensor:
    """Return the answer ``(N, 7)``, best first, of boxes ``(P, 5)`` and scores ``(P, classes)``.

    A box may answer for several classes; suppression is within a class.
    """
    places, class_ids = (scores > decoding.score).nonzero(as_tuple=True)
    confident = scores[places, class_ids]
    limit = _CANDIDATES_A_PLACE * decoding.max_per_window
    if len(confident) > limit:
        best = confident.topk(limit).indices
        places, class_ids, confident = places[best], class_ids[best], confident[best]
    kept = rotated_nms(
        boxes[places].cpu().numpy().astype(np.float64),
        confident.cpu().numpy(),
        class_ids.cpu().numpy(),
        decoding.nms_iou,
    )
    index = torch.from_numpy(np.asarray(kept, dtype=np.int64)).to(boxes.device)
    index = index[: decoding.max_per_window]
    columns = [boxes[places[index]], confident[index, None], class_ids[index, None].float()]
    return torch.cat(columns, dim=1)
