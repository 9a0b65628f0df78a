"""A segmentation network: any timm backbone, and UPerNet, a library's decoder or the paper's.

LeMeViT's features leave the backbone without a normalisation: after some training, channels of
one level differ in size by two orders of magnitude, and a LayerNorm over them, as UPerNet has
here, lets the largest few hide the rest. A batch norm of each level in front of the decoder
gives every channel the same say. The paper's own head (``upernet_paper``) reads the raw features.
For few labels, ``upernet_pixels`` is ``upernet`` with a second opinion from single pixels and
scores that are smoothed along edges (see ``pixel_view.py``); weights of the one fit the other.

Paper: Jiang et al., "LeMeViT", IJCAI 2024, arXiv 2405.09789; its head is mmsegmentation's UPerHead
(Xiao et al., ECCV 2018, arXiv 1807.10221) with an auxiliary FCN head, built here from
``upernet.py``, which computes the same without its LayerNorms.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import (
    PixelFront,
    any_size,
    check_backbone,
    level_norms,
    load_timm,
    make_encoder,
)
from lemevit_cli.models.pixel_view import PixelView, colours_around, smooth_along_edges
from lemevit_cli.models.upernet import (
    ConvNormRelu,
    UPerNet,
    initialise_decoder,
    initialise_head,
    segmentation_head,
)
from lemevit_cli.models.weights import Card

PAPER_DECODER = "upernet_paper"
PIXEL_DECODER = "upernet_pixels"
DECODERS = (
    "fpn",
    "linknet",
    "manet",
    "segformer",
    "unet",
    "unetplusplus",
    "upernet",
    PIXEL_DECODER,
    PAPER_DECODER,
)
DEFAULT_DECODER = "upernet"
_ARGUMENTS = {
    # They keep a decoder below one million parameters.
    "fpn": {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64},
    "segformer": {"decoder_segmentation_channels": 128},
    "upernet": {"decoder_channels": 64},
    PIXEL_DECODER: {"decoder_channels": 64},
    PAPER_DECODER: {"decoder_channels": 512},
}
_UPERNETS = {"upernet", PIXEL_DECODER, PAPER_DECODER}
_UPERNET_WIDTH = {"decoder_channels": 256}  # the one argument that ours takes, as the library's
_AUXILIARY_LEVEL = 4  # of [picture, stride 2, 4, 8, 16, 32]: stride 16, as in the paper
_DETAIL_LEVEL = 2  # likewise: stride 4, the finest that every backbone has
_AUXILIARY_CHANNELS = 256
_SAY_OF_PIXELS = 0.5  # share of the pixel view in the scores
_DROPOUT = 0.1  # of whole channels, in front of the paper's classifiers


def decoder_defaults(decoder: str) -> dict[str, Any]:
    """Return a decoder's arguments where ours differ from the library's: light ones."""
    return dict(_ARGUMENTS.get(decoder, {}))


def check_architecture(backbone: str, decoder: str, *, pretrained: bool = False) -> None:
    """Refuse names that there are not, without building anything.

    Raises:
        WeightsError: if a name is unknown, or ``pretrained`` and timm has no weights of the
            backbone.
    """
    if decoder not in DECODERS:
        raise WeightsError(f"no decoder {decoder!r}; choose one of {', '.join(DECODERS)}")
    check_backbone(backbone, pretrained=pretrained)


class Segmenter(nn.Module):
    """Pixels in, logits out, at the same size: normalisation and padding happen inside.

    Args:
        encoder: answers the picture and its maps, finest first, of strides 2 to 32.
        feature_norms: one for each map.
        decoder: picture and normed maps to features.
        dropout: in front of the classifiers.
        segmentation_head: features to logits at the size of the picture.
        auxiliary_head: logits from stride 16 alone; they teach the backbone, nobody else asks.
        pixel_view: a second opinion from single pixels.
    """

    def __init__(
        self,
        *,
        front: PixelFront,
        encoder: nn.Module,
        feature_norms: nn.ModuleList,
        decoder: nn.Module,
        dropout: nn.Module,
        segmentation_head: nn.Module,
        auxiliary_head: nn.Module | None = None,
        pixel_view: PixelView | None = None,
    ) -> None:
        super().__init__()
        self.front, self.encoder, self.decoder = front, encoder, decoder
        self.segmentation_head, self.feature_norms = segmentation_head, feature_norms
        self.dropout = dropout
        self.auxiliary_head, self.pixel_view = auxiliary_head, pixel_view

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Return the names of the layers that have a row for every class."""
        names = ["segmentation_head.0"]
        if self.auxiliary_head is not None:
            names.append("auxiliary_head.2")
        if self.pixel_view is not None:
            names.append("pixel_view.classify")
        return tuple(names)

    @torch.no_grad()
    def divide_logits(self, by: float) -> None:
        """Divide the logits of inference by a number, within the layer that gives them."""
        for parameter in self.get_submodule(self.classifiers[0]).parameters():
            parameter.div_(by)

    def forward(self, pixels: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits ``(B, classes, H, W)`` of uint8 or float ``(B, bands, H, W)``, any size.

        In training mode, with the paper's auxiliary head: the logits of both.
        """
        height, width = pixels.shape[-2:]
        pixels, x, features = self._features(pixels)
        normed = [norm(f) for norm, f in zip(self.feature_norms, features, strict=True)]
        # A list of its own: the library's UPerNet writes into the one that it is given.
        logits: Tensor = self.segmentation_head(self.dropout(self.decoder([x, *normed])))
        if self.auxiliary_head is not None and self.training:
            coarse = self.auxiliary_head(normed[_AUXILIARY_LEVEL - 1])
            auxiliary = F.interpolate(coarse, size=x.shape[-2:], mode="bilinear")
            return logits[..., :height, :width], auxiliary[..., :height, :width]
        if self.pixel_view is not None and not self.training:
            of_pixels = self.pixel_view(pixels, x, features[_DETAIL_LEVEL - 1])
            scores = torch.lerp(logits.softmax(dim=1), of_pixels.softmax(dim=1), _SAY_OF_PIXELS)
            smooth = smooth_along_edges(scores, x)
            logits = smooth.clamp(min=torch.finfo(smooth.dtype).tiny).log()
        return logits[..., :height, :width]

    def pixel_inputs(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Return what the pixel view reads: colours ``(B, C, H, W)``, detail ``(B, D, H, W)``.

        The detail is the backbone's own: norms behind it go on changing while the head is trained.
        """
        height, width = pixels.shape[-2:]
        pixels, x, features = self._features(pixels)
        detail = F.interpolate(features[_DETAIL_LEVEL - 1], size=x.shape[-2:], mode="bilinear")
        colours = colours_around(pixels, x)
        return colours[..., :height, :width], detail[..., :height, :width]

    def _features(self, pixels: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return pixels, grown to whole strides, as they are and normalised; and the levels."""
        pixels = self.front.pad(pixels)
        x = self.front.normalise(pixels)
        return pixels, x, list(self.encoder(x)[1:])


def build_segmenter(card: Card, pretrained: bool = False) -> Segmenter:
    """Build the network of a card, untrained.

    Args:
        card: its head is one of ``DECODERS``; those that need dilated features are not among them.
            Its backbone has features of strides 4 to 32 (or 2 to 32).
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm or the decoder refuses; one line with what fits.
    """
    check_architecture(card.backbone, card.head, pretrained=pretrained)
    try:
        encoder, widths, decoder, head = _build_parts(card, pretrained=pretrained)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"backbone {card.backbone!r} with decoder {card.head!r}: {reason}; "
            "a backbone needs features of strides 4 to 32"
        ) from error
    num_classes, is_paper = len(card.classes), card.head == PAPER_DECODER
    if is_paper:
        decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in decoder.feature_norms)
    pixel_view = None
    if card.head == PIXEL_DECODER:
        pixel_view = PixelView(
            bands=card.bands, detail=widths[_DETAIL_LEVEL - 1], num_classes=num_classes
        ).requires_grad_(False)  # fitted by itself, see pixel_inputs
    return Segmenter(
        front=PixelFront(card.mean, card.std),
        encoder=encoder,
        feature_norms=level_norms([0 if is_paper else width for width in widths]),
        decoder=decoder,
        dropout=nn.Dropout2d(_DROPOUT) if is_paper else nn.Identity(),
        segmentation_head=head,
        auxiliary_head=_fcn_head(widths, num_classes) if is_paper else None,
        pixel_view=pixel_view,
    )


def _build_parts(card: Card, *, pretrained: bool) -> tuple[nn.Module, list[int], Any, nn.Module]:
    """Build encoder (also return its widths, of strides 2 to 32), decoder and segmentation head."""
    if card.head not in _UPERNETS or not card.head_args.keys() <= _UPERNET_WIDTH.keys():
        return _librarys_parts(card, pretrained=pretrained)
    encoder, widths = make_encoder(
        card.backbone, card.backbone_args, bands=card.bands, pretrained=pretrained
    )
    channels = (_UPERNET_WIDTH | card.head_args)["decoder_channels"]
    decoder = UPerNet(widths[1:], channels)
    head = segmentation_head(channels, len(card.classes))
    initialise_decoder(decoder)
    initialise_head(head)
    return encoder, widths, decoder, head


def _librarys_parts(card: Card, *, pretrained: bool) -> tuple[nn.Module, list[int], Any, nn.Module]:
    load_timm()  # the library asks it for ours too
    network = import_module("segmentation_models_pytorch").create_model(
        "upernet" if card.head in _UPERNETS else card.head,
        encoder_name=f"tu-{card.backbone}",
        encoder_weights=True if pretrained else None,
        in_channels=card.bands,
        classes=len(card.classes),
        **any_size(card.backbone) | card.backbone_args,
        **card.head_args,
    )
    widths = list(network.encoder.out_channels[1:])
    return network.encoder, widths, network.decoder, network.segmentation_head


def _fcn_head(widths: Sequence[int], num_classes: int) -> nn.Module:
    return nn.Sequential(
        ConvNormRelu(widths[_AUXILIARY_LEVEL - 1], _AUXILIARY_CHANNELS, kernel_size=3, padding=1),
        nn.Dropout2d(_DROPOUT),
        nn.Conv2d(_AUXILIARY_CHANNELS, num_classes, kernel_size=1),
    )
