"""Maps of features of any network: what a teacher shows, and what a probe reads.

Any model of timm answers with the maps that its ``forward_intermediates`` gives: a pyramid with one
map a stride, or a transformer with several maps of its one stride, as dense prediction reads them
of DINOv2 (Oquab et al. 2023, arXiv 2304.07193, section 7.4). Weights of ours answer with the
backbone's pyramid, whatever their task is.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import lemevit_cli.models.timm_backbones  # noqa: F401  registers lemevit_* with timm
from lemevit_cli.errors import WeightsError
from lemevit_cli.models.backbone import PixelFront, any_size, check_backbone, make_encoder
from lemevit_cli.models.weights import find_weights, has_card, load_state, load_weights, rename_keys

_DEPTHS = (0.5, 0.75, 1.0)  # layers of a transformer, as parts of its depth
_LEVELS = 4  # of a pyramid, from the coarsest on
_HEADS = ("head", "fc", "classifier", "fc_norm", "norm_meta")  # no map depends on them


@dataclass(frozen=True)
class FeatureSource:
    """Origin of a network and its weights.

    Args:
        name: a timm name, a starter weight of ours, or a file of either kind.
        model: the timm name of a file that does not say it.
        layers: which maps, counted from 1; None takes three of a transformer, four of a pyramid.
    """

    name: str
    model: str | None = None
    layers: tuple[int, ...] | None = None


class DenseFeatures(nn.Module):
    """Pixels in, maps out; normalised inside, weights fixed.

    Args:
        network: answers normalised pixels with maps ``(B, C, H, W)``.
        strides: of each map, in pixels of the input.
        mean, std: one a band, in the values of the pixels.
        dtype, value_range: of the pixels that it knows.
        label: what messages and cards call it.
        licence: of the weights, None where it is not known.
        digest: of the weights' file; empty where timm brought them.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        strides: Sequence[int],
        mean: Sequence[float],
        std: Sequence[float],
        label: str,
        dtype: str = "uint8",
        value_range: tuple[float, float] = (0.0, 255.0),
        licence: str | None = None,
        digest: str = "",
    ) -> None:
        super().__init__()
        self.network = network.eval().requires_grad_(False)
        self.strides, self.label = tuple(strides), label
        self.licence, self.digest = licence, digest
        self.dtype, self.value_range = dtype, value_range
        self.front = PixelFront(mean, std)

    @property
    def bands(self) -> int:
        return len(self.front.mean)

    def try_out(self, side: int, zooms: Sequence[float] = (1.0,)) -> int:
        """Look at empty pixels as large as those to come, and count the channels of all maps.

        Raises:
            WeightsError: if the network takes no pictures of that size.
        """
        pixels = torch.zeros(1, self.bands, side, side, device=self.front.mean.device)
        try:
            with torch.inference_mode():
                maps = [self(pixels, zoom=zoom) for zoom in zooms][-1]
        except (AssertionError, RuntimeError, ValueError) as error:
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise WeightsError(
                f"{self.label} does not take windows of {side} pixels seen {zooms[-1]:g} times as "
                f"large ({reason}); choose another size, zoom or network"
            ) from error
        return sum(m.shape[1] for m in maps)

    @property
    def step(self) -> int:
        """Return the pixels of which the sides of the input have to be multiples."""
        return max(self.strides)

    def train(self, mode: bool = True) -> DenseFeatures:
        """Stay in evaluation mode: the features do not learn."""
        return super().train(False)

    def forward(self, pixels: Tensor, *, zoom: float = 1.0) -> list[Tensor]:
        """Return maps ``(B, C, H / stride, W / stride)`` of pixels ``(B, bands, H, W)``, any size.

        Args:
            zoom: how much larger the network sees the pixels; its sides are then rounded to whole
                strides.
        """
        sides = [max(round(side * zoom / self.step), 1) * self.step for side in pixels.shape[-2:]]
        x = self.front.normalise(pixels.float())
        if list(x.shape[-2:]) != sides:
            antialias = sides[0] < x.shape[-2]
            x = F.interpolate(x, size=sides, mode="bicubic", antialias=antialias)
        return list(self.network(x))


def open_features(source: FeatureSource, *, option: str = "--model") -> DenseFeatures:
    """Build a network and load its weights, on the CPU.

    Args:
        option: by which a user names the timm model of a file, for messages.

    Raises:
        WeightsError: if the name or file is unknown, timm cannot bring the weights, or tensors and
            network do not fit each other.
    """
    path = find_weights(source.name)
    if path.is_file() and has_card(path):
        return _of_our_weights(path, source)
    if path.is_file():
        return _of_file(path, source, option)
    # A name of timm may have a tag, which looks like a suffix.
    if not timm.is_model(source.name) and (path.suffix or "/" in source.name):
        raise WeightsError(f"{source.name}: no such file, and no name of a model in timm")
    return _of_timm(source)


def _of_our_weights(path: Path, source: FeatureSource) -> DenseFeatures:
    loaded, card = load_weights(path)
    if source.layers is not None:
        raise WeightsError(f"{path}: weights of ours give all levels; layers are for timm models")
    encoder, widths = make_encoder(
        card.backbone, card.backbone_args, bands=card.bands, pretrained=False
    )
    target = encoder.state_dict()
    state = rename_keys(loaded, target)
    missing = [key for key in target if key not in state or state[key].shape != target[key].shape]
    if missing:
        raise WeightsError(f"{path}: lacks {missing[0]} of {card.backbone}; is it a whole file?")
    encoder.load_state_dict({key: state[key] for key in target})
    used = [level for level, width in enumerate(widths) if width]
    return DenseFeatures(
        _Levels(encoder, used),
        strides=[2 ** (level + 1) for level in used],
        mean=card.mean,
        std=card.std,
        label=source.name,
        dtype=card.dtype,
        value_range=card.value_range,
        digest=_digest(path),
    )


class _Levels(nn.Module):
    """An encoder of segmentation-models-pytorch without the picture that it answers first."""

    def __init__(self, encoder: nn.Module, used: Sequence[int]) -> None:
        super().__init__()
        self.encoder, self._used = encoder, list(used)

    def forward(self, x: Tensor) -> list[Tensor]:
        levels = self.encoder(x)[1:]
        return [levels[i] for i in self._used]


def _of_file(path: Path, source: FeatureSource, option: str) -> DenseFeatures:
    if source.model is None:
        raise WeightsError(
            f"{path}: does not say which network it belongs to; name it by {option}, such as "
            "vit_small_patch14_dinov2"
        )
    model = _timm_model(source.model, pretrained=False)
    _load(model, load_state(path), path)
    # Whose weights these are nobody but the user knows.
    label = f"{source.model} ({path.name})"
    return _of_model(model, source, label=label, licence=None, digest=_digest(path))


def _of_timm(source: FeatureSource) -> DenseFeatures:
    check_backbone(source.name)
    if not timm.is_model_pretrained(source.name):
        raise WeightsError(
            f"timm {timm.__version__} has no weights of {source.name}; name a file of them, or "
            "weights of ours"
        )
    try:
        model = _timm_model(source.name, pretrained=True)
    except Exception as error:  # the hub's own errors are of many libraries
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(
            f"timm's weights of {source.name} cannot be had ({reason}); name a file of them"
        ) from error
    licence = model.pretrained_cfg.get("license")  # type: ignore[union-attr, operator]
    return _of_model(model, source, label=source.name, licence=licence)


def _timm_model(name: str, *, pretrained: bool) -> nn.Module:
    check_backbone(name)
    model: nn.Module = timm.create_model(
        name, pretrained=pretrained, num_classes=0, **any_size(name)
    )
    if not hasattr(model, "forward_intermediates"):
        raise WeightsError(f"{name}: timm does not give its maps; choose another network")
    return model


def _load(model: nn.Module, given: Mapping[str, Tensor], path: Path) -> None:
    target = model.state_dict()
    state = rename_keys(given, target)
    needed = [key for key in target if key.split(".")[0] not in _HEADS]
    wrong = [key for key in needed if key not in state or state[key].shape != target[key].shape]
    if wrong:
        raise WeightsError(
            f"{path}: {len(wrong)} of {len(needed)} tensors are missing or of another shape, first "
            f"{wrong[0]}; name the timm model that they belong to"
        )
    model.load_state_dict({key: state[key] for key in needed}, strict=False)


def _of_model(
    model: Any, source: FeatureSource, *, label: str, licence: str | None, digest: str = ""
) -> DenseFeatures:
    info, count = model.feature_info, len(model.feature_info)
    reductions = [info[i]["reduction"] for i in range(count)]
    layers = source.layers
    if layers is None:
        is_flat = len(set(reductions)) == 1
        layers = (
            tuple(dict.fromkeys(max(round(part * count), 1) for part in _DEPTHS))
            if is_flat
            else tuple(i + 1 for i in range(count) if reductions[i] >= 4)[-_LEVELS:]
        )
    if not all(1 <= layer <= count for layer in layers):
        raise WeightsError(f"{label}: layers {layers} of {count}; they are counted from 1")
    configuration = model.pretrained_cfg
    return DenseFeatures(
        _Intermediates(model, [layer - 1 for layer in layers]),
        strides=[reductions[layer - 1] for layer in layers],
        mean=[255.0 * v for v in configuration["mean"]],
        std=[255.0 * v for v in configuration["std"]],
        label=label,
        licence=licence,
        digest=digest,
    )


class _Intermediates(nn.Module):
    """The maps of chosen layers of a timm model, normed where the model has a norm for it."""

    def __init__(self, model: nn.Module, indices: Sequence[int]) -> None:
        super().__init__()
        self.model, self._indices = model, list(indices)
        self._has_norm = True

    def forward(self, x: Tensor) -> list[Tensor]:
        try:
            return self._maps(x)
        except AssertionError:  # some models have no norm to offer
            self._has_norm = False
            return self._maps(x)

    def _maps(self, x: Tensor) -> list[Tensor]:
        maps: list[Tensor] = self.model.forward_intermediates(  # type: ignore[operator]
            x,
            indices=self._indices,
            norm=self._has_norm,
            output_fmt="NCHW",
            intermediates_only=True,
        )
        return maps


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
