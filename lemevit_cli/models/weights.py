"""Weights with their contract: tensors in safetensors, a JSON card in its metadata.

The one module that reads and writes weight files, and the only caller of ``torch.load``
(with ``weights_only=True``): for checkpoints of a training, and of the authors.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import ClassInfo

FORMAT_VERSION = 1
_CARD_KEY = "lemevit_card"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What weights expect and what they answer.

    Args:
        task: name in ``TASKS`` (``seg``), or ``backbone`` for an imported backbone without a task.
        backbone: timm name, with the arguments that made it.
        head: the head's name (for ``seg`` a decoder of segmentation-models-pytorch), likewise.
        classes: in the order of the logits.
        bands: number of input bands.
        dtype: numpy name of the rasters it learned from; other dtypes are stretched.
        value_range: the values of ``dtype`` that it saw, lowest and highest.
        mean, std: per band, in the same values; applied inside the model.
        gsd_m: smallest and largest ground sample distance it learned, None if unknown.
        window, overlap: in pixels, the tiling that suits it.
        training: data with licences, steps, recipe: for people.
        metrics: each with the command that measured it.
    """

    task: str
    backbone: str
    backbone_args: dict[str, Any] = field(default_factory=dict)
    head: str = ""
    head_args: dict[str, Any] = field(default_factory=dict)
    classes: tuple[ClassInfo, ...]
    bands: int = 3
    dtype: str = "uint8"
    value_range: tuple[float, float] = (0.0, 255.0)
    mean: tuple[float, ...] = (123.675, 116.28, 103.53)
    std: tuple[float, ...] = (58.395, 57.12, 57.375)
    gsd_m: tuple[float, float] | None = None
    window: int = 512
    overlap: int = 64
    training: dict[str, Any] = field(default_factory=dict)
    metrics: tuple[dict[str, Any], ...] = ()
    format_version: int = FORMAT_VERSION

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def to_json(self) -> str:
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Inverse of :meth:`to_json`; fields of later versions are refused, not ignored."""
        raw = json.loads(text)
        if raw.get("format_version", 0) > FORMAT_VERSION:
            raise WeightsError(
                f"the card has format version {raw['format_version']}, this program reads up to "
                f"{FORMAT_VERSION}; update lemevit"
            )
        raw["classes"] = tuple(ClassInfo(c["name"], tuple(c["color"])) for c in raw["classes"])
        for name in ("value_range", "mean", "std", "metrics"):
            raw[name] = tuple(raw[name])
        raw["gsd_m"] = None if raw["gsd_m"] is None else tuple(raw["gsd_m"])
        return cls(**raw)


def save_weights(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], card: Card, *, half: bool = False
) -> None:
    """Write tensors and card beside ``path`` and rename; ``half`` stores floats as fp16."""
    target = Path(path)
    tensors = {k: _storable(v, half=half) for k, v in state.items()}
    temporary = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        # Not save_file, whose files nobody but their owner may read.
        metadata = {_CARD_KEY: card.to_json(), "format": "pt"}
        temporary.write_bytes(serialise(tensors, metadata=metadata))
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _storable(tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor.clone()


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read the card alone.

    Raises:
        WeightsError: if the file is missing, no safetensors, or has no card.
    """
    return _read(path, tensors=False)[1]


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Card]:
    """Read all tensors (floats as fp32, on the CPU) and the card.

    Raises:
        WeightsError: as :func:`read_card`.
    """
    return _read(path, tensors=True)


def _read(path: str | os.PathLike[str], *, tensors: bool) -> tuple[dict[str, Tensor], Card]:
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weights file; starter weights: {_starter_names()}")
    try:
        with safe_open(path, framework="pt") as file:
            text = (file.metadata() or {}).get(_CARD_KEY)
            keys = list(file.keys()) if tensors else []
            state = {k: _as_float32(file.get_tensor(k)) for k in keys}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path}: not a safetensors file ({error}); "
            "a checkpoint of the authors is converted by `lemevit import`"
        ) from error
    if text is None:
        raise WeightsError(
            f"{path}: a safetensors file without lemevit's card; write it by `lemevit train`"
        )
    try:
        return state, Card.from_json(text)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path}: its card cannot be read ({error})") from error


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def load_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a torch checkpoint of tensors and plain values; anything else in it is refused."""
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, OSError, ValueError) as error:
        # Not torch's own text: it advises to unpickle without care.
        raise WeightsError(
            f"{path}: not a torch checkpoint of plain tensors; pickled code is never loaded"
        ) from error
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path}: holds a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


def starter_weights() -> dict[str, Path]:
    """Names and paths of the weights that come with the package."""
    folder = Path(str(resources.files("lemevit_cli") / "weights"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}


def find_weights(name_or_file: str) -> Path:
    """Path of a starter weight by its name, or the file itself."""
    return starter_weights().get(name_or_file, Path(name_or_file))


def _starter_names() -> str:
    return ", ".join(starter_weights()) or "none"
