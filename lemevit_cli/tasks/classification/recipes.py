"""The trainings of the LeMeViT paper, as its code configures them (28 March to 30 April 2024).

The rates are those of a batch of 512 windows in a step of all processes, and go with it. What
differs from the original:

* The rate changes at every update, not every epoch; the whole cosine follows the warm-up, where
  the original's begins beside it (its first 5 of 280 epochs are never seen).
* The precision is that of ``--precision`` (on a CPU none is fp16), the original's is fp16.
* The averaged weights forget the first ones faster at the start, up to a decay of 0.996.
* With several processes, statistics of batch norms are those of the first one; the original
  averages them every epoch.
* Magnitudes of RandAugment end at 9.99, not 10, at which Pillow refuses to posterise.
* Windows are drawn with replacement, evenly over pictures; the original shuffles its pictures.
* Of a validation picture the middle square is judged, not 0.875 of its side.

Which values the published weights were trained with is uncertain: until 25 March 2024 the
configuration had a rate of 1e-3, drop path 0.1 and no averaged weights, and until 30 April no
cool-down. For MillionAID it names the weight decay twice; YAML keeps the last, 2e-5.
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
        "betas": (0.9, 0.999),
        "eps": 1e-8,
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
