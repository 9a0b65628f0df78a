"""A segmentation network: any timm backbone, any decoder of segmentation-models-pytorch.

LeMeViT's features leave the backbone without a normalisation: after some training, channels of
one level differ in size by two orders of magnitude, and a LayerNorm over them, as UPerNet has, lets
the largest few hide the rest. A batch norm of each level in front of the decoder gives every
channel the same say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lemevit_cli.models.lemevit  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError

DECODERS = ("fpn", "linknet", "manet", "segformer", "unet", "unetplusplus", "upernet")
DEFAULT_DECODER = "upernet"
_LIGHT = {  # arguments that keep a decoder below one million parameters, where ours differ
    "fpn": {"decoder_pyramid_channels": 128, "decoder_segmentation_channels": 64},
    "segformer": {"decoder_segmentation_channels": 128},
    "upernet": {"decoder_channels": 64},
}
_STRIDE = 32  # of the coarsest features


def decoder_defaults(decoder: str) -> dict[str, Any]:
    """Arguments of a light decoder of that name; empty where the library's own are taken."""
    return dict(_LIGHT.get(decoder, {}))


class Segmenter(nn.Module):
    """Pixels in, logits out, at the same size: normalisation and padding happen inside.

    Args:
        backbone: a timm name with features of strides 4 to 32 (or 2 to 32).
        decoder: one of ``DECODERS``; those that need dilated features are not among them.
        mean, std: one value a band, in the values of the pixels.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm or the decoder refuses; one line with what fits.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        *,
        backbone: str,
        backbone_args: Mapping[str, Any] | None = None,
        decoder: str = DEFAULT_DECODER,
        decoder_args: Mapping[str, Any] | None = None,
        num_classes: int,
        mean: Sequence[float],
        std: Sequence[float],
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if decoder not in DECODERS:
            raise WeightsError(f"no decoder {decoder!r}; choose one of {', '.join(DECODERS)}")
        if not timm.is_model(backbone):
            raise WeightsError(
                f"no backbone {backbone!r} in timm {timm.__version__}; "
                "names are listed by timm.list_models(), ours are lemevit_tiny, _small, _base"
            )
        try:
            network = smp.create_model(
                decoder,
                encoder_name=f"tu-{backbone}",
                encoder_weights=True if pretrained else None,
                in_channels=len(mean),
                classes=num_classes,
                **(backbone_args or {}),
                **(decoder_defaults(decoder) if decoder_args is None else decoder_args),
            )
        except (TypeError, ValueError, RuntimeError, KeyError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"backbone {backbone!r} with decoder {decoder!r}: {reason}; "
                "a backbone needs features of strides 4 to 32"
            ) from error
        self.encoder, self.decoder = network.encoder, network.decoder
        # Levels without channels stand for strides that a backbone does not have.
        self.feature_norms = nn.ModuleList(
            nn.BatchNorm2d(channels) if channels else nn.Identity()
            for channels in network.encoder.out_channels[1:]
        )
        self.segmentation_head = network.segmentation_head
        # Not in the state: the card holds them, and one truth is enough.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Logits ``(B, classes, H, W)`` of uint8 or float pixels ``(B, bands, H, W)``, any size."""
        x = (pixels - self.mean) / self.std
        x, (height, width) = _pad_to_stride(x), pixels.shape[-2:]
        picture, *features = self.encoder(x)
        normed = [norm(f) for norm, f in zip(self.feature_norms, features, strict=True)]
        logits: Tensor = self.segmentation_head(self.decoder([picture, *normed]))
        return logits[..., :height, :width]


def _pad_to_stride(x: Tensor) -> Tensor:
    right, bottom = -x.shape[-1] % _STRIDE, -x.shape[-2] % _STRIDE
    if right == 0 and bottom == 0:
        return x
    # Repeated edge pixels: a reflection needs more pixels than a narrow scene has.
    return F.pad(x, (0, right, 0, bottom), mode="replicate")
