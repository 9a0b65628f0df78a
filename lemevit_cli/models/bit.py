"""Change between two dates over any timm backbone: BIT, or the difference of all levels.

Papers: Chen, Qi, Shi, "Remote Sensing Image Change Detection with Transformers" (BIT), IEEE TGRS
2021, arXiv 2103.00208; over LeMeViT: Jiang et al., IJCAI 2024, arXiv 2405.09789.
Original code: ViTAE-Transformer/LeMeViT @1b48783, for research use only. The head is written from a
description of what that code computes, not from the code, and reproduces its numbers
(tests/models/test_bit.py).

    bit         one level of the backbone -> a few tokens a date -> both dates' tokens read each
                other -> every pixel reads its date's tokens -> difference -> logits
    difference  four levels, each with a batch norm -> difference -> the segmenter's light decoder
                -> logits; or, with ``decode_first``, decoder -> difference -> logits

Where there is one kind of change, ``difference`` looks at sizes of differences alone: dates may be
swapped, and dates that are the same leave it nothing to see. Where there are more (built, torn
down), the sign tells them apart.

Deviations from the original:
- Pixels are normalised by the card's mean and deviation; ``raw_pixels`` gives them as they are.
- Both dates go through the backbone as one batch: in training, its batch norms see both at once.
- Sizes that are no multiples of 16 are padded, and the logits cut back to the size of the input.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
import torch.nn.functional as F
from segmentation_models_pytorch.base.modules import Conv2dReLU
from segmentation_models_pytorch.decoders.upernet.decoder import UPerNetDecoder
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import STRIDE, check_backbone, make_encoder, pad_to_stride
from lemevit_cli.models.lemevit import split_heads

DATES = 2
_LEVELS = 4  # of the backbone, strides 4 to 32
_FINEST = 4  # stride of the first of them
_SMALLEST_STRIDE = 16  # that pictures are padded to
_ONE_KIND = 2  # classes: unchanged and changed
_LARGEST = 4096  # that a width, a depth or a number may be


@dataclass(frozen=True)
class BitForm:
    """Arguments of the head ``bit``; the defaults are the authors'.

    Args:
        level: of the backbone, 0 to 3 for strides 4 to 32.
        channels: of pixels and tokens.
        tokens: of one date.
        encoder_depth: layers in which the tokens of both dates read each other.
        decoder_depth: layers in which pixels read tokens.
        heads, head_dim: of every attention.
        hidden: width inside the MLPs.
        raw_pixels: the backbone sees values as they are, neither mean nor deviation applied. For
            weights of the authors, who give it 0 to 255.
    """

    level: int = 2
    channels: int = 32
    tokens: int = 4
    encoder_depth: int = 1
    decoder_depth: int = 8
    heads: int = 8
    head_dim: int = 64
    hidden: int = 64
    raw_pixels: bool = False


@dataclass(frozen=True)
class DifferenceForm:
    """Arguments of the head ``difference``.

    Args:
        channels: of the decoder.
        decode_first: each date is decoded by itself, and what was decoded compared. Norms and
            decoder are then a segmenter's, and begin from one's weights.
    """

    channels: int = 64
    decode_first: bool = False


_FORMS: dict[str, type[BitForm] | type[DifferenceForm]] = {
    "bit": BitForm,
    "difference": DifferenceForm,
}
HEADS = tuple(_FORMS)
DEFAULT_HEAD = "bit"


def head_defaults(head: str) -> dict[str, Any]:
    """Return all arguments of a head of that name."""
    return asdict(_form(head, None))


def check_head(head: str, head_args: Mapping[str, Any] | None = None) -> None:
    """Refuse a head that there is not, or arguments that it does not take.

    Raises:
        WeightsError: with the names that there are, or the values that fit.
    """
    _form(head, head_args)


class ChangeDetector(nn.Module):
    """Two dates in, logits out, at the same size: normalisation and padding happen inside.

    Args:
        backbone: a timm name with features of strides 4 to 32 (or 2 to 32).
        head: one of ``HEADS``.
        head_args: fields of :class:`BitForm` or :class:`DifferenceForm` that differ from the
            defaults; None: none.
        num_classes: the first is "unchanged".
        mean, std: one value a band of one date, in the values of the pixels.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm or the head refuses; one line with what fits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: str,
        backbone_args: Mapping[str, Any] | None = None,
        head: str = DEFAULT_HEAD,
        head_args: Mapping[str, Any] | None = None,
        num_classes: int = 2,
        mean: Sequence[float],
        std: Sequence[float],
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        check_backbone(backbone, pretrained=pretrained)
        form = self.form = _form(head, head_args)
        bands = len(mean)
        self.in_chans = DATES * bands  # timm's name for it: models/cost.py asks
        self.encoder, widths = make_encoder(
            backbone, backbone_args, bands=bands, pretrained=pretrained
        )
        self.signed = num_classes > _ONE_KIND
        if isinstance(form, BitForm):
            self.stride = max(_SMALLEST_STRIDE, _FINEST << form.level)
            width = widths[-_LEVELS:][form.level]
            self.head: nn.Module = BitHead(width, form, num_classes, signed=self.signed)
            if form.raw_pixels:
                mean, std = (0.0,) * bands, (1.0,) * bands
        else:
            self.stride = STRIDE
            # One for every level of the encoder, as a segmenter has them: its norms fit.
            self.feature_norms = nn.ModuleList(
                nn.BatchNorm2d(width) if width else nn.Identity() for width in widths
            )
            self.decoder = _light_decoder(widths, form)
            self.head = _difference_head(form.channels, num_classes)
        # Not in the state: the card holds them, and one truth is enough.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    @property
    def classifiers(self) -> tuple[str, ...]:
        """Return the names of the layers that have a row for every class."""
        return ("head.classify",)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W)`` of two dates, uint8 or float, on a grid of any size.

        Args:
            pixels: ``(B, 2 * bands, H, W)``, all bands of the earlier date first.
        """
        height, width = pixels.shape[-2:]
        both = torch.cat(pixels.chunk(DATES, dim=1))  # (2B, bands, H, W)
        x = (pad_to_stride(both, self.stride) - self.mean) / self.std
        maps = self.encoder(x)[1:]  # finest first; of strides that there are not without channels
        if isinstance(self.form, BitForm):
            logits: Tensor = self.head(maps[-_LEVELS:][self.form.level])
            return logits[..., :height, :width]
        normed = [norm(level) for norm, level in zip(self.feature_norms, maps, strict=True)]
        # The decoder looks at neither of the first two, the picture and stride 2.
        if self.form.decode_first:
            differing = difference(self.decoder([x, *normed]), signed=self.signed)
        else:
            of_levels = [difference(level, signed=self.signed) for level in normed]
            differing = self.decoder([x, *of_levels])
        logits = self.head(differing)
        return logits[..., :height, :width]


def difference(both: Tensor, *, signed: bool) -> Tensor:
    """Subtract the earlier half of a batch ``(2B, ...)`` from the later: ``(B, ...)``.

    Not ``signed``: how much they differ, the same for either order of the dates.
    """
    before, after = both.chunk(DATES)
    return after - before if signed else (after - before).abs()


# --- BIT --------------------------------------------------------------------------------------


class BitHead(nn.Module):
    """The bitemporal image transformer on one map of the backbone.

    Args:
        width: channels of that map.
        signed: take the difference with its sign.
    """

    def __init__(self, width: int, form: BitForm, num_classes: int, *, signed: bool) -> None:
        super().__init__()
        channels = form.channels
        self.signed = signed
        self.scale = 1 << form.level  # what is left of the stride once it was halved twice
        self.project = nn.Conv2d(width, channels, 3, padding=1)
        self.tokenize = nn.Conv2d(channels, form.tokens, 1, bias=False)
        self.position = nn.Parameter(torch.randn(1, DATES * form.tokens, channels))
        self.encoder = nn.ModuleList(TokenLayer(form) for _ in range(form.encoder_depth))
        self.decoder = nn.ModuleList(TokenLayer(form) for _ in range(form.decoder_depth))
        self.refine = Conv2dReLU(channels, channels, kernel_size=3, padding=1)
        self.classify = nn.Conv2d(channels, num_classes, 3, padding=1)

    def forward(self, both: Tensor) -> Tensor:
        """Turn a map ``(2B, width, h, w)`` of stride s into logits ``(B, classes, sh, sw)``."""
        x = self.project(F.interpolate(both, scale_factor=2.0))  # (2B, C, 2h, 2w)
        pixels = x.flatten(2).mT  # (2B, N, C)
        tokens = self._mix(self.tokenize(x).flatten(2).softmax(-1) @ pixels)  # (2B, T, C)
        for layer in self.decoder:
            pixels = layer(pixels, tokens)
        x = difference(pixels, signed=self.signed).mT.unflatten(2, x.shape[-2:])  # (B, C, 2h, 2w)
        x = F.interpolate(x, scale_factor=2.0)
        x = F.interpolate(x, scale_factor=float(self.scale), mode="bilinear", align_corners=True)
        return self.classify(self.refine(x))

    def _mix(self, tokens: Tensor) -> Tensor:
        """Let the tokens ``(2B, T, C)`` of both dates read each other."""
        pair = torch.cat(tokens.chunk(DATES), dim=1) + self.position  # (B, 2T, C)
        for layer in self.encoder:
            pair = layer(pair, pair)
        return torch.cat(pair.chunk(DATES, dim=1))


class TokenLayer(nn.Module):
    """Attention of ``x`` to a memory, and an MLP, each with a norm in front and a residual."""

    def __init__(self, form: BitForm) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(form.channels)
        self.attn = TokenAttention(form)
        self.norm2 = nn.LayerNorm(form.channels)
        self.mlp = nn.Sequential(
            nn.Linear(form.channels, form.hidden),
            nn.GELU(),
            nn.Linear(form.hidden, form.channels),
        )

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        # As in the original: one norm for both.
        x = x + self.attn(self.norm1(x), self.norm1(memory))
        return x + self.mlp(self.norm2(x))


class TokenAttention(nn.Module):
    """Attention of ``x`` ``(B, N, C)`` to a memory ``(B, M, C)``, wider inside than outside."""

    def __init__(self, form: BitForm) -> None:
        super().__init__()
        inner = form.heads * form.head_dim
        self.heads = form.heads
        self.scale = form.channels**-0.5  # as in the original: not of a head's width
        self.q = nn.Linear(form.channels, inner, bias=False)
        self.k = nn.Linear(form.channels, inner, bias=False)
        self.v = nn.Linear(form.channels, inner, bias=False)
        self.proj = nn.Linear(inner, form.channels)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        (q,) = split_heads(self.q(x), 1, self.heads)
        (k,) = split_heads(self.k(memory), 1, self.heads)
        (v,) = split_heads(self.v(memory), 1, self.heads)
        read = F.scaled_dot_product_attention(q, k, v, scale=self.scale)
        return self.proj(read.transpose(1, 2).flatten(2))


# --- Difference of all levels -----------------------------------------------------------------


def _light_decoder(widths: Sequence[int], form: DifferenceForm) -> nn.Module:
    """Make the library's UPerNet: maps of strides 4 to 32 to one of stride 4."""
    # In front stand the picture and, of a backbone without it, stride 2: neither is looked at.
    decoder = UPerNetDecoder([0, 0, *widths[-_LEVELS:]], decoder_channels=form.channels)
    if not form.decode_first:
        # They would make the faintest difference as large as a new house.
        decoder.feature_norms = nn.ModuleList(nn.Identity() for _ in decoder.feature_norms)
    return decoder


def _difference_head(channels: int, num_classes: int) -> nn.Module:
    """Make layers that turn a difference of stride 4 into logits at the size of the picture."""
    return nn.Sequential(
        OrderedDict(
            refine=Conv2dReLU(channels, channels, kernel_size=3, padding=1),
            classify=nn.Conv2d(channels, num_classes, kernel_size=1),
            enlarge=nn.Upsample(scale_factor=float(_FINEST), mode="bilinear"),
        )
    )


# --- Arguments --------------------------------------------------------------------------------


def _form(head: str, head_args: Mapping[str, Any] | None) -> BitForm | DifferenceForm:
    if head not in _FORMS:
        raise WeightsError(f"no change head {head!r}; choose one of {', '.join(HEADS)}")
    form = _FORMS[head]
    defaults = {field.name: field.default for field in fields(form)}
    for name, value in dict(head_args or {}).items():
        if name not in defaults:
            raise WeightsError(
                f"the change head {head!r} has no argument {name!r}; it has {', '.join(defaults)}"
            )
        if (fits := _what_fits(name, value, defaults[name])) is not None:
            raise WeightsError(f"the change head {head!r} takes {fits} as {name}, not {value!r}")
    return form(**dict(head_args or {}))


def _what_fits(name: str, value: object, default: object) -> str | None:
    """Say in words what an argument takes; None if the value is good."""
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    allowed = range(_LEVELS) if name == "level" else range(1, _LARGEST + 1)
    if isinstance(value, int) and not isinstance(value, bool) and value in allowed:
        return None
    return f"a whole number from {allowed.start} to {allowed.stop - 1}"
