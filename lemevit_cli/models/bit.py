"""BIT: change between two dates, seen by a few tokens of each that read each other.

Paper: Chen, Qi, Shi, "Remote Sensing Image Change Detection with Transformers" (BIT), IEEE TGRS
2021, arXiv 2103.00208; over LeMeViT: Jiang et al., IJCAI 2024, arXiv 2405.09789.
Original code: ViTAE-Transformer/LeMeViT @1b48783, for research use only. The head is written from a
description of what that code computes, not from the code, and reproduces its numbers
(tests/models/test_bit.py).

    one level of the backbone -> a few tokens a date -> both dates' tokens read each other ->
    every pixel reads its date's tokens -> difference -> logits

Deviations from the original:
- Pixels are normalised by the card's mean and deviation; ``raw_pixels`` gives them as they are.
- Both dates go through the backbone as one batch: in training, its batch norms see both at once.
- Sizes that are no multiples of 16 are padded, and the logits cut back to the size of the input.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.models.backbone import PixelFront
from lemevit_cli.models.lemevit import split_heads
from lemevit_cli.models.two_dates import DATES, difference, one_batch
from lemevit_cli.models.upernet import ConvNormRelu

LEVELS = 4  # of the backbone, strides 4 to 32


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


class BIT(nn.Module):
    """Two dates in, logits out, at the same size: normalisation and padding happen inside.

    Args:
        front: normalises one date.
        encoder: answers the picture and its maps, the last four of strides 4 to 32.
        level: which of these four the head reads.
    """

    classifiers = ("head.classify",)  # layers that have a row for every class

    def __init__(
        self, *, front: PixelFront, encoder: nn.Module, head: nn.Module, level: int
    ) -> None:
        super().__init__()
        self.front, self.encoder, self.head, self.level = front, encoder, head, level
        self.in_chans = DATES * len(front.mean)  # timm's name for it: models/cost.py asks

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W)`` of two dates, uint8 or float, on a grid of any size.

        Args:
            pixels: ``(B, 2 * bands, H, W)``, all bands of the earlier date first.
        """
        height, width = pixels.shape[-2:]
        maps = self.encoder(self.front(one_batch(pixels)))
        logits: Tensor = self.head(maps[-LEVELS:][self.level])
        return logits[..., :height, :width]


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
        self.refine = ConvNormRelu(channels, channels, kernel_size=3, padding=1)
        self.classify = nn.Conv2d(channels, num_classes, 3, padding=1)

    def forward(self, both: Tensor) -> Tensor:
        """Turn a map ``(2B, width, h, w)`` of stride s into logits ``(B, classes, sh, sw)``."""
        x = self.project(F.interpolate(both, scale_factor=2.0))  # (2B, C, 2h, 2w)
        pixels = x.flatten(2).transpose(1, 2)  # (2B, N, C)
        tokens = self._mix(self.tokenize(x).flatten(2).softmax(-1) @ pixels)  # (2B, T, C)
        for layer in self.decoder:
            pixels = layer(pixels, tokens)
        x = (
            difference(pixels, signed=self.signed).transpose(1, 2).unflatten(2, x.shape[-2:])
        )  # (B, C, 2h, 2w)
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
