"""What every task asks of a backbone of timm: a name that exists, any size of image, whole strides.

Backbones are built through segmentation-models-pytorch's wrapper, which turns the maps of every
family to ``(B, C, H, W)``; LeMeViT without it and without timm, whose import takes longer than a
small scene. Their tensors have the same names in every task: weights of one task can begin the
training of another.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.variants import VARIANTS

STRIDE = 32  # of the coarsest features


def check_backbone(backbone: str, *, pretrained: bool = False) -> None:
    """Refuse a name that there is not, without building anything.

    Raises:
        WeightsError: if timm does not know it, or ``pretrained`` and timm has no weights of it.
    """
    if backbone in VARIANTS and not pretrained:
        return
    timm = load_timm()
    if not timm.is_model(backbone):
        raise WeightsError(
            f"no backbone {backbone!r} in timm {timm.__version__}; "
            "names are listed by timm.list_models(), ours are lemevit_tiny, _small, _base"
        )
    if pretrained and not timm.is_model_pretrained(backbone):
        raise WeightsError(
            f"timm {timm.__version__} has no weights of backbone {backbone!r}; "
            "leave out --pretrained, or begin from weights of ours with --init"
        )


def check_reduction(backbone: str, backbone_args: Mapping[str, Any]) -> None:
    """Refuse to fuse or merge tokens in a backbone whose maps would suffer from it.

    Raises:
        WeightsError: naming it.
    """
    if fusion := backbone_args.get("fuse_tokens"):
        raise WeightsError(
            f"--fuse-tokens {fusion}: is for timm's vision transformers with --task cls; LeMeViT "
            "fuses a share, such as 0.5, or auto"
        )
    if backbone_args.get("merge_tokens") and backbone not in VARIANTS:
        raise WeightsError(
            f"--merge-tokens: the backbone is {backbone}; {', '.join(VARIANTS)} learn to merge, "
            "with --task cls timm's vision transformers too"
        )


def make_encoder(
    backbone: str, backbone_args: Mapping[str, Any] | None, *, bands: int, pretrained: bool
) -> tuple[nn.Module, list[int]]:
    """Make a backbone that answers the picture and its maps, finest first; return the maps' widths.

    A width of zero stands for a stride that the backbone does not have.

    Raises:
        WeightsError: if timm or the wrapper refuses; one line with what fits.
    """
    try:
        encoder = _build_encoder(backbone, dict(backbone_args or {}), bands, pretrained)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"backbone {backbone!r}: {reason}; a backbone needs features of strides 4 to 32"
        ) from error
    return encoder, list(encoder.out_channels[1:])


def _build_encoder(backbone: str, arguments: dict[str, Any], bands: int, pretrained: bool) -> Any:
    if backbone in VARIANTS and not pretrained:
        return LeMeViTEncoder(build_lemevit(backbone, bands=bands, **arguments))
    encoders = import_module("segmentation_models_pytorch.encoders")
    return encoders.get_encoder(
        f"tu-{backbone}",
        in_channels=bands,
        weights=True if pretrained else None,
        **any_size(backbone) | arguments,
    )


def build_lemevit(variant: str, *, bands: int, **arguments: Any) -> LeMeViT:
    """Build one of ours, untrained, as ``timm.create_model`` does: there None leaves the default.

    Raises:
        TypeError: for an argument that :class:`LeMeViT` does not take.
    """
    given = {name: value for name, value in arguments.items() if value is not None}
    return LeMeViT(**VARIANTS[variant] | {"in_chans": bands} | given)


class LeMeViTEncoder(nn.Module):
    """LeMeViT as the library's wrapper answers: the picture, stride 2 (no channels), four maps."""

    def __init__(self, network: LeMeViT) -> None:
        super().__init__()
        network.prune_intermediate_layers(len(network.feature_info), prune_norm=True)
        widths = [info["num_chs"] for info in network.feature_info]
        self.out_channels = [network.in_chans, 0, *widths]
        # Two names deep, as in the wrapper: tensors are called model.model.*.
        self.model = nn.ModuleDict({"model": network})

    def forward(self, x: Tensor) -> list[Tensor]:
        B, _, H, W = x.shape
        network: Any = self.model["model"]
        maps = network.forward_intermediates(x, intermediates_only=True)
        return [x, x.new_empty(B, 0, H // 2, W // 2), *maps]


def load_timm() -> Any:
    """Import timm, with our backbones among its own; it takes longer than a small scene."""
    import_module("lemevit_cli.models.timm_backbones")
    return import_module("timm")


def any_size(backbone: str) -> dict[str, Any]:
    """Return what frees a backbone of the image size of its training, if timm can do so."""
    if backbone in VARIANTS:
        return {}
    timm = load_timm()
    configuration = timm.get_pretrained_cfg(backbone)
    if configuration is None or not configuration.fixed_input_size:
        return {}
    with torch.device("meta"):
        model = timm.create_model(backbone)
    takes = inspect.signature(type(model).__init__).parameters
    # Swin and its kin take windows of any size; a ViT resamples the positions that it learned.
    freeing = {"strict_img_size": False, "dynamic_img_size": True}
    return {name: value for name, value in freeing.items() if name in takes}


def pad_to_stride(x: Tensor, stride: int = STRIDE) -> Tensor:
    """Grow pictures ``(B, bands, H, W)`` to the right and below to multiples of ``stride``."""
    right, bottom = -x.shape[-1] % stride, -x.shape[-2] % stride
    if right == 0 and bottom == 0:
        return x
    # Repeated edge pixels: a reflection needs more pixels than a narrow scene has.
    return F.pad(x, (0, right, 0, bottom), mode="replicate")


class PixelFront(nn.Module):
    """The front of a network: grows pictures to whole strides, then normalises them.

    Args:
        mean, std: one value a band, in the values of the pixels.
        stride: that the sides are grown to multiples of.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: Sequence[float], std: Sequence[float], *, stride: int = STRIDE
    ) -> None:
        super().__init__()
        self.stride = stride
        # Not in the state: the card holds them, and one truth is enough.
        self.register_buffer("mean", torch.tensor(mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(-1, 1, 1), persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        """Return pixels ``(B, bands, H, W)``, uint8 or float, grown and normalised."""
        return self.normalise(self.pad(pixels))

    def pad(self, pixels: Tensor) -> Tensor:
        """Grow pictures to the right and below; their values stay as they are."""
        return pad_to_stride(pixels, self.stride)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Bring values to those that the network learned from."""
        return (pixels - self.mean) / self.std


def level_norms(widths: Sequence[int]) -> nn.ModuleList:
    """Make a batch norm for each level; a width of zero, of a level that is not normed, gets none.

    There is one for every level of an encoder in any task, so that norms of one task begin another.
    """
    return nn.ModuleList(nn.BatchNorm2d(width) if width else nn.Identity() for width in widths)


def freeze_norms(network: nn.Module) -> None:
    """Keep the statistics of a network's batch norms, until its mode is set anew."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.eval()
