"""A class for every window: any backbone of timm with its own pooling, and one linear layer.

timm's plain vision transformers may run on fewer tokens, as ``backbone_args`` of their card say:
``fuse_tokens`` (``r=16``, see ``token_fusion.py``), or ``merge_tokens``, the share of their patch
tokens that the last block has merged away (see ``token_merging.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor, nn

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import (
    STRIDE,
    PixelFront,
    any_size,
    build_lemevit,
    check_backbone,
    load_timm,
)
from lemevit_cli.models.variants import VARIANTS
from lemevit_cli.models.weights import Card

HEAD = "linear"
# Of timm's vision transformers: they import timm.
_FUSION, _MERGING = "lemevit_cli.models.token_fusion", "lemevit_cli.models.token_merging"
# The encoder's answers to pictures, whose ``logits`` are yet to pass the head.
Ask = Callable[[Any, Tensor], tuple[Any, ...]]


class Classifier(nn.Module):
    """Pixels in, logits of the window out: normalisation and padding happen inside.

    Args:
        encoder: a picture to one vector, as timm pools and norms it.
        head: that to logits.
    """

    classifiers = ("head",)  # the layers that have a row for every class

    def __init__(self, *, front: PixelFront, encoder: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.front, self.encoder, self.head = front, encoder, head

    def forward(self, pixels: Tensor, ask: Ask | None = None) -> Any:
        """Return logits ``(B, classes)`` of uint8 or float ``(B, bands, H, W)``.

        Args:
            ask: returns, of encoder and pictures, records in place of logits; for a training.
        """
        pictures = self.front(pixels)
        if ask is None:
            return self.head(self.encoder(pictures))
        found = ask(self.encoder, pictures)
        return tuple(answer._replace(logits=self.head(answer.logits)) for answer in found)


def build_classifier(card: Card, pretrained: bool = False) -> Classifier:
    """Build the network of a card, untrained.

    Args:
        card: its backbone is any classifier of timm that ends in one linear layer.
        pretrained: load timm's own weights of the backbone.

    Raises:
        WeightsError: if timm refuses, the backbone ends in something else, or cannot run on fewer
            tokens.
    """
    check_backbone(card.backbone, pretrained=pretrained)
    arguments, fusion, merged = _split_arguments(card)
    try:
        encoder = _build_encoder(card, arguments, pretrained=pretrained)
    except (TypeError, ValueError, RuntimeError, KeyError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"backbone {card.backbone!r}: {reason}") from error
    head = encoder.get_classifier()
    if not isinstance(head, nn.Linear):
        raise WeightsError(
            f"backbone {card.backbone!r} ends in {type(head).__name__}, not in one linear layer; "
            "choose another for cls"
        )
    # Taken out, so that backbone and head may learn at rates of their own.
    encoder.reset_classifier(0)
    stride = _stride_of(encoder)
    if merged:
        import_module(_MERGING).merge_share(
            encoder, merged, side=-(-card.window // stride) * stride
        )
    if fusion:
        mctf = import_module(_FUSION)
        mctf.apply_mctf(encoder, mctf.parse_fusion(fusion))
    front = PixelFront(card.mean, card.std, stride=stride)
    return Classifier(front=front, encoder=encoder, head=head)


def _build_encoder(card: Card, arguments: dict[str, Any], *, pretrained: bool) -> Any:
    if card.backbone in VARIANTS and not pretrained:
        return build_lemevit(
            card.backbone, bands=card.bands, num_classes=len(card.classes), **arguments
        )
    return load_timm().create_model(
        card.backbone,
        pretrained=pretrained,
        num_classes=len(card.classes),
        in_chans=card.bands,
        **any_size(card.backbone) | arguments,
    )


def fusion_of(card: Card) -> str | None:
    """Return how the blocks of a card's vision transformer fuse tokens; None where none does."""
    text = _split_arguments(card)[1]
    return text if text and import_module(_FUSION).parse_fusion(text).r else None


def merges_in_blocks(card: Card) -> bool:
    """Tell whether a card's vision transformer merges tokens."""
    return bool(_split_arguments(card)[2])


def _split_arguments(card: Card) -> tuple[dict[str, Any], str | None, float]:
    """Split a backbone's arguments: timm's, how its blocks fuse, and the share that they merge.

    LeMeViT merges by itself.
    """
    arguments = dict(card.backbone_args)
    fusion = arguments.pop("fuse_tokens", None)
    merged = 0.0 if card.backbone in VARIANTS else arguments.pop("merge_tokens", 0.0)
    if fusion and merged:
        raise WeightsError("tokens are fused or merged: give --fuse-tokens or --merge-tokens")
    return arguments, fusion, merged


def _stride_of(encoder: nn.Module) -> int:
    """Return what sides are grown to multiples of; patches of 14 pixels do not fill 32."""
    patch = getattr(getattr(encoder, "patch_embed", None), "patch_size", (STRIDE,))
    side = int(patch[0]) if isinstance(patch, tuple) else STRIDE
    return STRIDE if STRIDE % side == 0 else side
