"""Weights with their contract: tensors in safetensors, a JSON card in its metadata.

The one module that reads and writes weight files, and the only caller of ``torch.load``
(with ``weights_only=True``): for checkpoints of a training, and of the authors. Who asks for no
tensor, but for the card or the bytes, imports no torch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import WeightsError, cause_of, reading
from lemevit_cli.models.card import Card as Card
from lemevit_cli.whole_files import LONGEST_HEADER

if TYPE_CHECKING:
    from torch import Tensor, nn

CARD_KEY = "lemevit_card"
_METADATA = "__metadata__"
CONVERTED_KEY = "lemevit_converted"
_TENSORS = "safetensors.torch"
_MOST_TENSORS = 50_000
_STATES = ("state_dict_ema", "state_dict", "model", "teacher")  # where checkpoints keep tensors


def save_weights(
    path: str | os.PathLike[str], state: Mapping[str, Tensor], card: Card, *, half: bool = False
) -> None:
    """Write tensors and card beside ``path`` and rename; ``half`` stores floats as fp16.

    Tensors with values beyond fp16's 65504 stay as they are: a batch norm's variance easily is, and
    a channel of infinite variance answers nothing.

    Raises:
        WeightsError: if a value is no finite number; nothing is written.
    """
    target = Path(path)
    wrong = [k for k, v in state.items() if v.is_floating_point() and not v.isfinite().all()]
    if wrong:
        raise WeightsError(
            f"{target}: {wrong[0]} holds values that are no finite numbers; the training went "
            "astray: start again with a smaller learning rate"
        )
    tensors = {k: _storable(v, half=half) for k, v in state.items()}
    serialise = import_module(_TENSORS).save
    with written_whole(target) as temporary:
        # Not save_file, whose files nobody but their owner may read.
        metadata = {CARD_KEY: card.to_json(), "format": "pt"}
        temporary.write_bytes(serialise(tensors, metadata=metadata))


def _storable(tensor: Tensor, *, half: bool) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    if half and tensor.is_floating_point() and tensor.half().isfinite().all():
        return tensor.half()
    return tensor.clone()


@dataclass(frozen=True)
class Weights:
    """A file of weights, read once: what is loaded later is what was checked.

    Args:
        name: as the user gave it, for reports and tags.
        card: what it says of itself.
        digest: first 16 hexadecimal digits of its SHA-256.
        content: its bytes.
    """

    name: str
    card: Card
    digest: str
    content: bytes = field(repr=False)

    @property
    def is_converted(self) -> bool:
        """Tell whether it holds a network of OpenVINO in place of tensors."""
        return CONVERTED_KEY in _metadata_in(self.content, self.name)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of its tensors, as the file's header has them."""
        header = _header_in(self.content, self.name)
        return {key: tuple(of["shape"]) for key, of in header.items() if key != _METADATA}

    def state(self) -> dict[str, Tensor]:
        """Return its tensors, floats as fp32, on the CPU.

        Raises:
            WeightsError: if they are not what the file's header says.
        """
        deserialise = import_module(_TENSORS).load
        with _reading_tensors(self.name):
            tensors = deserialise(self.content)
        return {key: _as_float32(tensor) for key, tensor in tensors.items()}


def open_weights(name_or_file: str | os.PathLike[str]) -> Weights:
    """Read starter weights by their name, or a file.

    Raises:
        WeightsError: if it is missing, no safetensors, or has no card.
    """
    path = find_weights(name_or_file)
    content = _read_bytes(path)
    card = _card_in(content, path)
    return Weights(str(name_or_file), card, hashlib.sha256(content).hexdigest()[:16], content)


def read_card(path: str | os.PathLike[str]) -> Card:
    """Read the card alone.

    Raises:
        WeightsError: if the file is missing, no safetensors, or has no card.
    """
    return _card_in(_read_bytes(Path(path), header_only=True), path)


def load_weights(path: str | os.PathLike[str]) -> tuple[dict[str, Tensor], Card]:
    """Read all tensors (floats as fp32, on the CPU) and the card.

    Raises:
        WeightsError: as :func:`read_card`.
    """
    weights = open_weights(path)
    return weights.state(), weights.card


def _read_bytes(path: Path, *, header_only: bool = False) -> bytes:
    """Read a safetensors file, or its header: eight bytes with the length of the JSON behind."""
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file; starter weights: {_starter_names()}")
    with reading(path, raises=WeightsError):
        if not header_only:
            return path.read_bytes()
        with path.open("rb") as file:
            length = file.read(8)
            return length + file.read(min(int.from_bytes(length, "little"), LONGEST_HEADER))


def _card_in(content: bytes, path: str | os.PathLike[str]) -> Card:
    """Parse the card in the header of a safetensors file."""
    text = _metadata_in(content, path).get(CARD_KEY)
    if text is None:
        raise WeightsError(
            f"{path}: a safetensors file without lemevit's card; write it by `lemevit train`"
        )
    try:
        return Card.from_json(text)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def _metadata_in(content: bytes, path: str | os.PathLike[str]) -> dict[str, str]:
    """Parse what a safetensors file says of itself."""
    metadata: dict[str, str] = _header_in(content, path).get(_METADATA, {})
    return metadata


def _header_in(content: bytes, path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse the header of a safetensors file: its metadata, and a shape for every tensor."""
    length = int.from_bytes(content[:8], "little")
    if length > LONGEST_HEADER:
        raise _no_safetensors(path, f"a header of {length:,} bytes")
    with _reading_tensors(path):
        header = json.loads(content[8 : 8 + length])
    if not _is_header(header):
        raise _no_safetensors(path, "its header is none")
    if len(header) > _MOST_TENSORS:
        raise _no_safetensors(path, f"{len(header):,} tensors; no network has more than 50,000")
    return dict(header)


def _is_header(header: object) -> bool:
    if not isinstance(header, dict) or not all(isinstance(of, dict) for of in header.values()):
        return False
    metadata = header.get(_METADATA, {})
    shapes = (of.get("shape") for key, of in header.items() if key != _METADATA)
    return all(isinstance(text, str) for text in metadata.values()) and all(
        isinstance(shape, list) and all(isinstance(side, int) for side in shape) for shape in shapes
    )


def _reading_tensors(name: str | os.PathLike[str]) -> AbstractContextManager[None]:
    return reading(name, "not a safetensors file", raises=WeightsError, cause=_with_advice)


def _with_advice(error: BaseException) -> str:
    return f"{cause_of(error)}; a checkpoint of the authors is converted by `lemevit import`"


def _no_safetensors(name: str | os.PathLike[str], reason: str) -> WeightsError:
    return WeightsError(
        f"{name}: not a safetensors file ({reason}); "
        "a checkpoint of the authors is converted by `lemevit import`"
    )


def _as_float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor


def has_card(path: str | os.PathLike[str]) -> bool:
    """Tell whether a file is weights of ours, by its card alone."""
    try:
        with reading(path, raises=WeightsError), safe_open(path, framework="pt") as file:
            return CARD_KEY in (file.metadata() or {})
    except WeightsError:
        return False


def load_state(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read the tensors of a file that is not ours: safetensors, or a torch checkpoint.

    A state dict that a checkpoint holds under ``state_dict``, ``model`` or the like is found.

    Raises:
        WeightsError: if it is neither, or holds no tensors.
    """
    try:
        with reading(path, raises=WeightsError), safe_open(path, framework="pt") as file:
            return {key: _as_float32(file.get_tensor(key)) for key in file.keys()}  # noqa: SIM118
    except WeightsError:
        checkpoint = load_checkpoint(path)
    places = (checkpoint.get(key) for key in _STATES)
    inner = next((place for place in places if isinstance(place, Mapping)), checkpoint)
    kind = import_module("torch").Tensor
    state = {k: v for k, v in inner.items() if isinstance(v, kind)}
    if not state:
        raise WeightsError(f"{path}: holds no tensors under their names")
    return {key: _as_float32(tensor) for key, tensor in state.items()}


def load_checkpoint(path: str | os.PathLike[str]) -> Mapping[str, Any]:
    """Read a torch checkpoint of tensors and plain values; anything else in it is refused."""
    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such checkpoint")
    torch = import_module("torch")
    # Not torch's own text: it advises to unpickle without care.
    what = "not a torch checkpoint of plain tensors"
    with reading(path, what, raises=WeightsError, cause=lambda _: "pickled code is never loaded"):
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(checkpoint, Mapping):
        raise WeightsError(f"{path}: holds a {type(checkpoint).__name__}, not a state dict")
    return checkpoint


@dataclass(frozen=True)
class Initialised:
    """What other weights gave to a model.

    Args:
        copied: tensors, whole or in part.
        left: what starts afresh, in words for people: parts of the model with their numbers of
            tensors, and classes.
    """

    copied: int
    left: tuple[str, ...]


def initialise(model: nn.Module, card: Card, name_or_file: str) -> Initialised:
    """Copy into a model what fits of other weights, of any task.

    Tensors of equal name and shape are copied, unless a value in them is infinite or no number.
    Where whole parts have other names (a backbone alone, as ``lemevit import`` writes it), the
    prefix is exchanged under which most tensors fit. Layers with a row for every class
    (``model.classifiers``) are copied row by row, by the classes' names. The first convolution is
    fitted to another number of bands: the old bands keep their weights, in their order, and further
    ones get the mean over the bands; if the model has fewer, all get the mean. All are multiplied
    by ``old / new``, so that the sum over the bands stays.

    Args:
        card: the model's own.

    Raises:
        WeightsError: if the file is no weights file, or nothing of it fits.
    """
    target = model.state_dict()
    loaded, given = load_weights(find_weights(name_or_file))
    state = rename_keys(loaded, target)
    classifiers = getattr(model, "classifiers", ())
    fitted: dict[str, Tensor] = {}
    for key, tensor in target.items():
        if key not in state or not state[key].isfinite().all():
            continue
        if key.rpartition(".")[0] in classifiers:
            found = _rows_by_name(state[key], tensor, given.class_names, card.class_names)
        elif state[key].shape == tensor.shape:
            found = state[key]
        else:
            found = _bands_fitted(state[key], tensor, given.bands, card.bands)
        if found is not None:
            fitted[key] = found
    if not fitted:
        raise WeightsError(
            f"{name_or_file}: no tensor of {given.backbone} with {given.head or 'no head'} fits "
            f"{card.backbone} with {card.head or 'no head'}; choose the --backbone of the weights"
        )
    model.load_state_dict(fitted, strict=False)
    left = _parts(target, fitted)
    if any(key.rpartition(".")[0] in classifiers for key in fitted):
        new = [name for name in card.class_names if name not in given.class_names]
        left = (*left, *(f"class {name}" for name in new))
    return Initialised(len(fitted), left)


def rename_keys(state: Mapping[str, Tensor], target: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """Exchange the prefix of names for the one under which most tensors fit a target.

    Where timm flattens a network to give its maps it writes ``stages_0`` for ``stages.0``; both are
    the same here, and the target's spelling is taken.
    """
    given = {_spell_out(key): tensor for key, tensor in state.items()}
    wanted = {_spell_out(key): key for key in target}

    def exchange_prefix(old: str, new: str) -> dict[str, Tensor]:
        names = {new + k.removeprefix(old): v for k, v in given.items() if k.startswith(old)}
        return {wanted.get(name, name): tensor for name, tensor in names.items()}

    def fits(pair: tuple[str, str]) -> int:
        names = exchange_prefix(*pair)
        return sum(k in target and target[k].shape == v.shape for k, v in names.items())

    pairs = [(old, new) for old in _prefixes(given) for new in _prefixes(wanted)]
    best = max(pairs, key=fits)  # of equals the first: names as they are
    return exchange_prefix(*(("", "") if fits(best) == fits(("", "")) else best))


def _spell_out(key: str) -> str:
    return re.sub(r"_(\d+)(?=\.)", r".\1", key)


def _prefixes(keys: Iterable[str]) -> list[str]:
    """List how names of parts begin, the empty one first; three levels hold any backbone."""
    parts = [key.split(".")[:-1] for key in keys]
    found = (".".join([*part[:depth], ""]) for part in parts for depth in (1, 2, 3)[: len(part)])
    return ["", *dict.fromkeys(found)]


def _rows_by_name(
    old: Tensor, new: Tensor, old_classes: Sequence[str], new_classes: Sequence[str]
) -> Tensor | None:
    """Return the new rows, those of classes that both know taken from the old.

    Rows behind those of the classes, as a detector has one for background, are taken too.
    """
    behind = len(old) - len(old_classes)
    if old.shape[1:] != new.shape[1:] or behind < 0 or behind != len(new) - len(new_classes):
        return None
    shared = [name for name in new_classes if name in old_classes]
    if not shared:
        return None
    rows = new.clone()
    to, of = ([names.index(name) for name in shared] for names in (new_classes, old_classes))
    rows[to] = old[of].to(rows)
    rows[len(new_classes) :] = old[len(old_classes) :].to(rows)
    return rows


def _bands_fitted(old: Tensor, new: Tensor, old_bands: int, new_bands: int) -> Tensor | None:
    """Fit a first convolution's weights to another number of bands; None of other tensors."""
    if old.ndim != 4 or (old.shape[1], new.shape[1]) != (old_bands, new_bands):
        return None
    if (old.shape[0], *old.shape[2:]) != (new.shape[0], *new.shape[2:]):
        return None
    bands = old.mean(dim=1, keepdim=True).repeat(1, new_bands, 1, 1)
    if new_bands > old_bands:
        bands[:, :old_bands] = old
    return bands * (old_bands / new_bands)


def _parts(target: Mapping[str, Tensor], fitted: Mapping[str, Tensor]) -> tuple[str, ...]:
    """List a model's parts that nothing was copied into: ``decoder (70 of 70 tensors)``."""
    all_of = Counter(key.partition(".")[0] for key in target)
    missing = Counter(key.partition(".")[0] for key in target if key not in fitted)
    return tuple(f"{part} ({n} of {all_of[part]} tensors)" for part, n in missing.items())


def starter_weights() -> dict[str, Path]:
    """Return names and paths of the weights that come with the package."""
    folder = Path(str(resources.files("lemevit_cli") / "weights"))
    return {p.stem: p for p in sorted(folder.glob("*.safetensors"))}


def find_weights(name_or_file: str | os.PathLike[str]) -> Path:
    """Return the path of a starter weight by its name, or the file itself."""
    return starter_weights().get(os.fspath(name_or_file), Path(name_or_file))


def _starter_names() -> str:
    return ", ".join(starter_weights()) or "none"
