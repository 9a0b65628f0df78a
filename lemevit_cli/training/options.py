"""What a user can choose about a training."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any

from lemevit_cli.settings import Device, FusedShare, Precision


@dataclass(frozen=True, kw_only=True)
class AugmentationOptions:
    """Variation of training windows: probabilities and strengths, all off by :meth:`none`.

    Args:
        symmetries: one of the eight symmetries of the square.
        turns: probability of a turn by any angle; None takes the task's. Segmentation has none.
        zoom: range of the magnification, drawn evenly in its logarithm.
        brightness, contrast, saturation: factors between ``1 - x`` and ``1 + x``.
        hue: shift of at most this part of the colour circle, either way.
        gain: factors of single bands between ``1 - x`` and ``1 + x`` (a cast of colour).
        haze, blur, noise: probabilities.
        shift_px: of two dates one is moved against the other by at most this, along each axis.
        swap: of two dates the later may become the earlier, and what was built torn down.
    """

    symmetries: bool = True
    turns: float | None = None
    zoom: tuple[float, float] = (0.5, 2.0)
    brightness: float = 0.3
    contrast: float = 0.3
    saturation: float = 0.3
    hue: float = 0.03
    gain: float = 0.1
    haze: float = 0.1
    blur: float = 0.15
    noise: float = 0.15
    shift_px: float = 2.0
    swap: bool = True

    @classmethod
    def none(cls) -> AugmentationOptions:
        """Return options that leave windows as they are."""
        off: dict[str, Any] = dict.fromkeys((f.name for f in fields(cls)), 0.0)
        return cls(**off | {"symmetries": False, "zoom": (1.0, 1.0), "swap": False})


@dataclass(frozen=True, kw_only=True)
class TimmAugmentation:
    """How timm varies pictures as a whole, in place of :class:`AugmentationOptions`.

    Args:
        scale, ratio: of the part of a picture that is seen: its area, and width over height.
        interpolation: by which that becomes a window.
        hflip, vflip: probabilities.
        randaugment: its policy in timm's words; empty for none.
        erasing, erasing_mode: probability that a rectangle becomes noise, and of which kind.
        mixup, cutmix: of two windows, the alphas of the mixture; 0 for none of its kind.
        mix_prob, mix_switch: probability of any mixture, and of cutmix where both are asked for.
        mix_mode: whether a ``batch``, a ``pair`` or an ``elem`` is mixed by one share.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    interpolation: str = "bicubic"
    hflip: float = 0.5
    vflip: float = 0.0
    randaugment: str = "rand-m9-mstd0.5-inc1"
    erasing: float = 0.25
    erasing_mode: str = "pixel"
    mixup: float = 0.8
    cutmix: float = 1.0
    mix_prob: float = 1.0
    mix_switch: float = 0.5
    mix_mode: str = "batch"


@dataclass(frozen=True, kw_only=True)
class LabelledScene:
    """A scene and the layer or raster that says what it shows.

    Args:
        scene: anything that GDAL opens.
        after: the same place at a later date; ``labels`` then say what has changed.
        labels: polygons in any CRS, or a raster of class ids.
        label_field: the field with a polygon's class; None makes all polygons one class.
        class_name: that one class; None takes the layer's name.
        layer: of a file that holds several; None takes the only one.
        where: an OGR filter of the polygons, such as ``"year = 2020"``.
        background: the class of what no polygon covers, ``ignore`` leaves it out.
        all_touched: a polygon takes all pixels that it touches, not those whose centre it covers.
        split: ``train``, ``val``, or None to divide the scene by blocks.
        weight: how often it is drawn from; None goes by the square root of its labelled pixels.
        known: classes that the layer has on other scenes: here there are none of these.
    """

    scene: str
    labels: str
    after: str | None = None
    label_field: str | None = None
    class_name: str | None = None
    layer: str | None = None
    where: str | None = None
    background: str = "background"
    all_touched: bool = False
    split: str | None = None
    weight: float | None = None
    known: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Data that a user trains on.

    Args:
        paths: folders, or TOML files that list scenes and folders.
        scenes: scenes with their labels.
        source_weights: how often each of ``paths`` and then ``scenes`` is drawn from; None goes by
            the square root of its labelled pixels.
        val_fraction: part of the labelled pixels of an undivided scene that is held back, by
            blocks, or of the pictures of an undivided folder; None holds back a fifth where the
            labels suffice, 0 nothing.
        seed: of the division.
        skip_bad_labels: of boxes and of classes of pictures: count what cannot be understood, and
            leave it out.
    """

    paths: tuple[str, ...] = ()
    scenes: tuple[LabelledScene, ...] = ()
    source_weights: tuple[float, ...] | None = None
    val_fraction: float | None = None
    seed: int = 0
    skip_bad_labels: bool = False


@dataclass(frozen=True, kw_only=True)
class TrainingOptions:
    """Options of a model and its training.

    Args:
        backbone, backbone_args: a timm name and what it is made with (``drop_path_rate``).
        decoder, decoder_args: the head's name; None takes the task's default and light arguments.
        pretrained: load timm's own weights of the backbone.
        init: weights of ours, by name or file, whose tensors are copied where they fit.
        loss: names joined by ``+`` (see ``training/losses.py``), such as ``ce`` or ``ce+dice``.
        class_weights: ``none``, ``balanced``, or ``name=2,other=0.5``; for the cross-entropy.
        steps: updates of the weights.
        epochs: instead of ``steps``: passes over as many pixels as are labelled.
        time_budget_s: instead of ``steps``: seconds that the whole run may take, its validations
            and end included; steps are measured as they go, and the learning rate follows the time.
        batch_size, crop: windows a step and process, and their side in pixels.
        accumulate: batches whose gradients make one update.
        optimizer: a name of timm, such as ``muon`` or ``adamw``.
        betas, eps: of an optimizer of Adam's kind; None takes its own.
        lr, weight_decay: ``lr`` at its peak, Muon's by default (others want less).
        warmup, cooldown: parts of the whole training: up to the peak, and at the lowest rate.
        first_rate, last_rate: where the warm-up begins and the cosine ends, in parts of ``lr``.
        backbone_lr: factor of the backbone's learning rate; 0 leaves it as it is.
        head_first: part of the training in which the backbone is frozen.
        clip_norm: largest norm of the gradient; None: any.
        ema_decay: of the averaged weights, which are validated and saved.
        seed: of weights and windows.
        balance: 0 draws windows evenly over the labelled pixels, 1 evenly over the classes.
        gsd_m: pixel sizes that the data have on the ground, where its files do not say so.
        validate_every, checkpoint_every: in steps.
        checkpoint_every_s: seconds between two checkpoints, instead of or beside steps.
        validation_windows: windows of each validation set, spread evenly; None takes all.
        workers: processes that read windows; 0 reads in the training process.
        label_smoothing: of a task with a class a window: what the other classes share.
        timm: varies whole pictures in place of ``augmentation``; None: it does not.
        recipe: name of a training of the task (``RECIPES``), which sets what was not chosen.
        fuse_tokens: share of LeMeViT's tokens that are fused; ``auto`` those that are alike, from
            a threshold that is calibrated at the end and kept in the card.
        half: store the weights in 16 bits, except what 16 bits cannot hold.
        resume: go on from the checkpoint of an interrupted run.
        chosen: names of the fields above that the user set; a recipe that suits the data leaves
            them as they are.
    """

    backbone: str = "lemevit_tiny"
    backbone_args: dict[str, Any] = field(default_factory=dict)
    decoder: str | None = None
    decoder_args: dict[str, Any] | None = None
    pretrained: bool = False
    init: str | None = None
    loss: str = "ce"
    class_weights: str = "none"
    steps: int = 2000
    epochs: float | None = None
    time_budget_s: float | None = None
    batch_size: int = 8
    crop: int = 256
    accumulate: int = 1
    optimizer: str = "muon"
    betas: tuple[float, float] | None = None
    eps: float | None = None
    lr: float = 4e-3
    weight_decay: float = 0.05
    warmup: float = 0.05
    cooldown: float = 0.0
    first_rate: float = 0.01
    last_rate: float = 0.01
    backbone_lr: float = 1.0
    head_first: float = 0.0
    clip_norm: float | None = 1.0
    ema_decay: float = 0.998
    seed: int = 0
    balance: float = 0.5
    augmentation: AugmentationOptions = field(default_factory=AugmentationOptions)
    gsd_m: tuple[float, float] | None = None
    validate_every: int = 200
    checkpoint_every: int | None = 200
    checkpoint_every_s: float | None = None
    validation_windows: int | None = 48
    workers: int = 1
    label_smoothing: float = 0.1
    timm: TimmAugmentation | None = None
    recipe: str | None = None
    device: Device = "auto"
    precision: Precision = "auto"
    threads: int | None = None
    fuse_tokens: FusedShare = 0.0
    half: bool = False
    resume: bool = False
    overwrite: bool = False
    chosen: tuple[str, ...] = ()
