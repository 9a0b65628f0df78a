"""Change between two dates as the difference of four levels of any timm backbone.

    four levels, each with a batch norm -> difference -> the segmenter's light decoder -> logits;
    or, with ``decode_first``, decoder -> difference -> logits

Where there is one kind of change, it looks at sizes of differences alone: dates may be swapped, and
dates that are the same leave it nothing to see. Where there are more (built, torn down), the sign
tells them apart.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from lemevit_cli.models.backbone import PixelFront
from lemevit_cli.models.two_dates import DATES, difference, one_batch
from lemevit_cli.models.upernet import ConvNormRelu, UPerNet

_LEVELS = 4  # of the backbone, strides 4 to 32
_FINEST = 4  # stride of the first of them


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


class Difference(nn.Module):
    """Two dates in, logits out, at the same size: normalisation and padding happen inside.

    Args:
        front: normalises one date.
        encoder: answers the picture and its maps, finest first, of strides 2 to 32.
        feature_norms: one for each map.
        decoder: picture and normed maps, or their differences, to a map of stride 4.
        head: this map to logits at the size of the picture.
        decode_first: see :class:`DifferenceForm`.
        signed: take differences with their sign.
    """

    classifiers = ("head.classify",)  # layers that have a row for every class

    def __init__(
        self,
        *,
        front: PixelFront,
        encoder: nn.Module,
        feature_norms: nn.ModuleList,
        decoder: nn.Module,
        head: nn.Module,
        decode_first: bool,
        signed: bool,
    ) -> None:
        super().__init__()
        self.front, self.encoder, self.feature_norms = front, encoder, feature_norms
        self.decoder, self.head = decoder, head
        self.decode_first, self.signed = decode_first, signed
        self.in_chans = DATES * len(front.mean)  # timm's name for it: models/cost.py asks

    def forward(self, pixels: Tensor) -> Tensor:
        """Return logits ``(B, classes, H, W)`` of two dates, uint8 or float, on a grid of any size.

        Args:
            pixels: ``(B, 2 * bands, H, W)``, all bands of the earlier date first.
        """
        height, width = pixels.shape[-2:]
        x = self.front(one_batch(pixels))
        maps = self.encoder(x)[1:]  # finest first; of strides that there are not without channels
        normed = [norm(level) for norm, level in zip(self.feature_norms, maps, strict=True)]
        # The decoder looks at neither of the first two, the picture and stride 2.
        if self.decode_first:
            differing = difference(self.decoder([x, *normed]), signed=self.signed)
        else:
            of_levels = [difference(level, signed=self.signed) for level in normed]
            differing = self.decoder([x, *of_levels])
        logits: Tensor = self.head(differing)
        return logits[..., :height, :width]


def light_decoder(widths: Sequence[int], form: DifferenceForm) -> nn.Module:
    """Make a UPerNet: maps of strides 4 to 32 to one of stride 4."""
    # Norms of differences would make the faintest one as large as a new house.
    return UPerNet(widths[-_LEVELS:], form.channels, norm_channels=form.decode_first)


def difference_head(channels: int, num_classes: int) -> nn.Module:
    """Make layers that turn a difference of stride 4 into logits at the size of the picture."""
    return nn.Sequential(
        OrderedDict(
            refine=ConvNormRelu(channels, channels, kernel_size=3, padding=1),
            classify=nn.Conv2d(channels, num_classes, kernel_size=1),
            enlarge=nn.Upsample(scale_factor=float(_FINEST), mode="bilinear"),
        )
    )
