"""What a user can choose about a training."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lemevit_cli.settings import Device, Precision


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """How training windows are varied; probabilities and strengths, all off by :meth:`none`.

    Args:
        symmetries: one of the eight symmetries of the square.
        zoom: range of the magnification, drawn evenly in its logarithm.
        brightness, contrast, saturation: factors between ``1 - x`` and ``1 + x``.
        hue: shift of at most this part of the colour circle, either way.
        gain: factors of single bands between ``1 - x`` and ``1 + x`` (a cast of colour).
        haze, blur, noise: probabilities.
    """

    symmetries: bool = True
    zoom: tuple[float, float] = (0.5, 2.0)
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.03
    gain: float = 0.1
    haze: float = 0.1
    blur: float = 0.15
    noise: float = 0.15

    @classmethod
    def none(cls) -> AugmentationOptions:
        """Windows as they are."""
        return cls(
            symmetries=False,
            zoom=(1.0, 1.0),
            brightness=0.0,
            contrast=0.0,
            saturation=0.0,
            hue=0.0,
            gain=0.0,
            haze=0.0,
            blur=0.0,
            noise=0.0,
        )


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """How a model is made and trained.

    Args:
        backbone, backbone_args: a timm name and what it is made with (``drop_path_rate``).
        decoder, decoder_args: the head's name; None takes the task's default and light arguments.
        pretrained: load timm's own weights of the backbone.
        steps: updates of the weights.
        time_budget_s: seconds of training after which the schedule has ended, whatever the step;
            time before a resume counts. None trains ``steps``.
        batch_size, crop: windows a step and process, and their side in pixels.
        lr, weight_decay, warmup: AdamW at its peak; ``warmup`` is a part of the whole training.
        clip_norm: largest norm of the gradient.
        ema_decay: of the averaged weights, which are validated and saved.
        seed: of weights and windows.
        balance: 0 draws windows evenly over the labelled pixels, 1 evenly over the classes.
        source_weights: how often each DATA is drawn from; None goes by the square root of its
            labelled pixels.
        gsd_m: pixel sizes that the data have on the ground, where its files do not say so.
        validate_every, checkpoint_every: in steps.
        validation_windows: windows of each validation set, spread evenly; None takes all.
        workers: processes that read windows; 0 reads in the training process.
        resume: go on from the checkpoint of an interrupted run.
    """

    backbone: str = "lemevit_tiny"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    decoder: str | None = None
    decoder_args: dict[str, Any] | None = None
    pretrained: bool = False
    steps: int = 2000
    time_budget_s: float | None = None
    batch_size: int = 8
    crop: int = 256
    lr: float = 6e-4
    weight_decay: float = 0.05
    warmup: float = 0.05
    clip_norm: float = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    balance: float = 0.5
    source_weights: tuple[float, ...] | None = None
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    gsd_m: tuple[float, float] | None = None
    validate_every: int = 200
    checkpoint_every: int = 200
    validation_windows: int | None = 48
    workers: int = 1
    device: Device = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    resume: bool = False
    overwrite: bool = False
