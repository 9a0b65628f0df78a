"""The trainings of the LeMeViT paper, as its code configures them (28 March to 30 April 2024).

The rates are those of a batch of 512 windows in a step of all processes, and go with it. Two things
differ from the original: the rate changes at every update, not every epoch, and the whole cosine
follows the warm-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lemevit_cli.training.options import AugmentationOptions, TimmAugmentation, TrainingOptions

_RATE, _BATCH = 5e-4, 512


def imagenet_recipe(options: TrainingOptions, processes: int) -> Mapping[str, Any]:
    """Train 300 epochs as on ImageNet: 5 of warm-up, 20 at the lowest rate."""
    windows = options.batch_size * options.accumulate * processes
    return {
        "optimizer": "adamw",
        "lr": _RATE * windows / _BATCH,
        "weight_decay": 0.05,
        "epochs": 300.0,
        "warmup": 5 / 300,
        "cooldown": 20 / 300,
        "first_rate": 1e-6 / _RATE,
        "last_rate": 5e-6 / _RATE,
        "clip_norm": None,
        "ema_decay": 0.996,
        "backbone_args": {"drop_path_rate": 0.15, **options.backbone_args},
        "crop": 224,
        "balance": 0.0,
        "label_smoothing": 0.1,
        "timm": TimmAugmentation(),
        "augmentation": AugmentationOptions.none(),
    }


def million_aid_recipe(options: TrainingOptions, processes: int) -> Mapping[str, Any]:
    """Train 100 epochs as on the scenes of MillionAID: without warm-up, with little decay."""
    return {
        **imagenet_recipe(options, processes),
        "epochs": 100.0,
        "warmup": 0.0,
        "cooldown": 0.0,
        "last_rate": 1e-5 / _RATE,
        "weight_decay": 2e-5,
    }


RECIPES = {"paper": imagenet_recipe, "paper-scenes": million_aid_recipe}
