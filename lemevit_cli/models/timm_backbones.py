"""Our backbones under their names in timm: whoever imports this may ask ``timm.create_model``."""

from __future__ import annotations

from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model

from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.variants import VARIANTS


def _cfg() -> dict[str, Any]:
    # No url: the authors never released weights.
    return {
        "url": "",
        "num_classes": 1000,
        "input_size": (3, 224, 224),
        "pool_size": (7, 7),
        "crop_pct": 0.875,
        "interpolation": "bicubic",
        "mean": IMAGENET_DEFAULT_MEAN,
        "std": IMAGENET_DEFAULT_STD,
        "first_conv": "stages.0.downsample.0",
        "classifier": "head",
        "paper_ids": "arXiv:2405.09789",
    }


# timm asks for it by this name.
default_cfgs = generate_default_cfgs({name: _cfg() for name in VARIANTS})


def _create(variant: str, pretrained: bool, **kwargs: Any) -> LeMeViT:
    return build_model_with_cfg(
        LeMeViT,
        variant,
        pretrained,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **(VARIANTS[variant] | kwargs),
    )


@register_model
def lemevit_tiny(pretrained: bool = False, **kwargs: Any) -> LeMeViT:
    return _create("lemevit_tiny", pretrained, **kwargs)


@register_model
def lemevit_small(pretrained: bool = False, **kwargs: Any) -> LeMeViT:
    return _create("lemevit_small", pretrained, **kwargs)


@register_model
def lemevit_base(pretrained: bool = False, **kwargs: Any) -> LeMeViT:
    return _create("lemevit_base", pretrained, **kwargs)
