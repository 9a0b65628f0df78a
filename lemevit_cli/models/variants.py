"""The sizes of LeMeViT, and what can be refused of them before anything that computes is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.models.card import Card
from lemevit_cli.settings import FusedShare

# By timm name, with the arguments of ``models/lemevit.py``.
VARIANTS: dict[str, dict[str, Any]] = {
    "lemevit_tiny": {"embed_dims": (64, 64, 128, 192, 320), "depths": (1, 2, 2, 8, 2)},
    "lemevit_small": {"embed_dims": (96, 96, 192, 320, 384), "depths": (1, 2, 2, 6, 2)},
    "lemevit_base": {"embed_dims": (96, 96, 192, 384, 512), "depths": (2, 4, 4, 18, 4)},
}


# Widths and numbers of parts up to which a network of ours stays below a gigabyte or so.
_USUAL = 1024


def is_of_usual_size(card: Card) -> bool:
    """Tell whether a card builds one of ours, with parts whose size needs no thought."""
    numbers = [value for value in card.head_args.values() if isinstance(value, (int, float))]
    is_plain = not {"embed_dims", "depths", "head_dim"} & card.backbone_args.keys()
    return card.backbone in VARIANTS and is_plain and max(numbers, default=0) <= _USUAL


def check_fusion(backbone: str, backbone_args: Mapping[str, Any], share: FusedShare) -> None:
    """Refuse to fuse what is no share of tokens, or in a backbone that has none to fuse.

    Raises:
        WeightsError: with the value, or the backbone.
    """
    if share != "auto" and not 0 <= share < 1:
        raise WeightsError(f"--fuse-tokens {share:g}: use auto, or a share from 0 to below 1")
    if share != 0 and backbone not in VARIANTS:
        raise WeightsError(
            f"--fuse-tokens {share}: the backbone is {backbone}; tokens are fused in "
            f"{', '.join(VARIANTS)} by a share; with --task cls, in timm's vision transformers "
            "by r=16 or the like"
        )
    if share != 0 and backbone_args.get("merge_tokens"):
        raise WeightsError(
            f"--fuse-tokens {share}: the backbone merges tokens by a mask that it learns "
            "(--merge-tokens); it fuses none beside"
        )
