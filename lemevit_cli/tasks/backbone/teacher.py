"""What a teacher says of views: dense features, reduced, asked for once and kept on disk.

Channels of a vision transformer differ in size by orders of magnitude; each is brought to unit
variance before a principal component analysis keeps the directions in which views differ.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lemevit_cli.atomic import written_whole
from lemevit_cli.errors import DataError, OutputError
from lemevit_cli.models.dense_features import DenseFeatures
from lemevit_cli.models.distiller import TARGET_STRIDE

_TOKENS_A_VIEW = 48  # that the components are found from
_FEATURES, _DONE, _BASIS, _MADE_FOR = "features.f16", "done.u8", "basis.npz", "made_for.json"


@dataclass(frozen=True)
class Basis:
    """Principal components of standardised features.

    Args:
        mean, std: ``(C,)`` of the features as the teacher gives them.
        components: ``(width, C)``, orthonormal.
        scale: ``(width,)`` standard deviation along each.
        explained: part of the variance that they hold, in [0, 1].
    """

    mean: NDArray[np.float32]
    std: NDArray[np.float32]
    components: NDArray[np.float32]
    scale: NDArray[np.float32]
    explained: float


def find_basis(tokens: NDArray[np.float32], *, width: int) -> Basis:
    """Find the first ``width`` principal components of tokens ``(N, C)``, or all that there are.

    Raises:
        DataError: if the tokens are all alike.
    """
    mean, std = tokens.mean(axis=0), tokens.std(axis=0)
    if not std.any():
        raise DataError("the teacher says the same of every view; there is nothing to learn")
    std = np.maximum(std, 1e-6)
    centred = ((tokens - mean) / std).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(values)[::-1][:width]
    kept = np.maximum(values[order], 1e-8)
    return Basis(
        mean=mean,
        std=std,
        components=vectors[:, order].T.astype(np.float32),
        scale=np.sqrt(kept).astype(np.float32),
        explained=float(kept.sum() / max(values.sum(), 1e-12)),
    )


class Teacher:
    """Answers views with reduced features at stride ``TARGET_STRIDE`` of the view's pixels.

    Args:
        dtype: of its arithmetic.
        seen: batches of views, which the components are found from; asked for once, and not at all
            where ``kept`` has them already.
        kept: where answers are kept; None computes them again and again.
    """

    def __init__(
        self,
        features: DenseFeatures,
        *,
        width: int,
        device: torch.device,
        dtype: torch.dtype,
        seen: Callable[[], Iterable[Mapping[str, Tensor]]],
        kept: KeptAnswers | None = None,
    ) -> None:
        self._features = features.to(device)
        self._device, self._dtype = device, dtype
        self._kept = kept
        basis = None if kept is None else kept.basis()
        if basis is None:
            basis = find_basis(self._tokens(seen()), width=width)
            if kept is not None:
                kept.keep_basis(basis)
        self.basis = basis
        self._mean, self._std, self._components = (
            torch.from_numpy(values).to(device)
            for values in (self.basis.mean, self.basis.std, self.basis.components)
        )
        self.scale = torch.from_numpy(self.basis.scale).to(device)

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Answer views as they were read: ``(B, width, side / 8, side / 8)``, float32."""
        views = batch["view"].tolist()
        answers: dict[int, Tensor] = {}
        if self._kept is not None:
            answers = {
                i: torch.from_numpy(self._kept.read(view)).to(self._device).float()
                for i, view in enumerate(views)
                if self._kept.has(view)
            }
        missing = [i for i in range(len(views)) if i not in answers]
        if missing:
            found = self.ask(batch, missing).half()
            for i, answer in zip(missing, found, strict=True):
                # Through 16 bits either way: a resume that finds it kept sees the same numbers.
                answers[i] = answer.float()
                if self._kept is not None:
                    self._kept.keep(views[i], answer.cpu().numpy())
        return torch.stack([answers[i] for i in range(len(views))])

    def ask(self, batch: Mapping[str, Tensor], chosen: Sequence[int] | None = None) -> Tensor:
        """Answer some views of a batch, or all, whatever is kept of them."""
        return self._reduced(self._raw(batch, chosen or range(len(batch["view"]))))

    def _raw(self, batch: Mapping[str, Tensor], chosen: Sequence[int]) -> Tensor:
        """Return all maps of some views of a batch on one grid, ``(n, C, g, g)``."""
        grid = batch["shown"].shape[-1] // TARGET_STRIDE
        zooms = batch["zoom"][list(chosen)].tolist()
        raw: list[Tensor] = [torch.empty(0)] * len(chosen)
        for zoom in sorted(set(zooms)):
            alike = [i for i, own in enumerate(zooms) if own == zoom]
            pixels = batch["shown"][[chosen[i] for i in alike]].to(self._device)
            for i, maps in zip(alike, self._look(pixels, zoom, grid), strict=True):
                raw[i] = maps
        return torch.stack(raw)

    def _look(self, pixels: Tensor, zoom: float, grid: int) -> Tensor:
        is_short = self._dtype != torch.float32
        with (
            torch.inference_mode(),
            torch.autocast(self._device.type, self._dtype, enabled=is_short),
        ):
            maps = self._features(pixels, zoom=zoom)
        sized = [
            F.interpolate(
                m.float(),
                size=(grid, grid),
                mode="bilinear",
                antialias=m.shape[-1] > grid,
            )
            for m in maps
        ]
        return torch.cat(sized, dim=1).clone()

    def _reduced(self, raw: Tensor) -> Tensor:
        standard = (raw - self._mean.view(-1, 1, 1)) / self._std.view(-1, 1, 1)
        return torch.einsum("wc,bchk->bwhk", self._components, standard)

    def _tokens(self, batches: Iterable[Mapping[str, Tensor]]) -> NDArray[np.float32]:
        """Collect tokens ``(N, C)`` of views, spread evenly over each."""
        found = []
        for batch in batches:
            raw = self._raw(batch, range(len(batch["view"]))).flatten(2)  # (B, C, g * g)
            every = max(raw.shape[-1] // _TOKENS_A_VIEW, 1)
            found.append(raw[..., every // 2 :: every].transpose(1, 2).flatten(0, 1).cpu().numpy())
        return np.concatenate(found).astype(np.float32)


class KeptAnswers:
    """A teacher's answers on disk, memory-mapped, in half precision; each is written once.

    Several processes may share a folder: they write the same numbers.

    Args:
        folder: made where it is missing.
        shape: of one answer.
        made_for: plain values that decide what the answers are.

    Raises:
        OutputError: if the folder holds answers made for something else, or lacks room.
    """

    def __init__(
        self, folder: Path, *, count: int, shape: tuple[int, int, int], made_for: Mapping[str, Any]
    ) -> None:
        self._folder = folder
        self._create(count, shape, made_for)
        self._answers = np.memmap(
            folder / _FEATURES, dtype=np.float16, mode="r+", shape=(count, *shape)
        )
        self._done = np.memmap(folder / _DONE, dtype=np.uint8, mode="r+", shape=(count,))

    def has(self, view: int) -> bool:
        return bool(self._done[view])

    def read(self, view: int) -> NDArray[np.float16]:
        return np.array(self._answers[view])

    def keep(self, view: int, answer: NDArray[np.float16]) -> None:
        self._answers[view] = answer
        self._done[view] = 1

    def basis(self) -> Basis | None:
        """Read the components that the answers are made with; None before there are any."""
        if not (self._folder / _BASIS).is_file():
            return None
        with np.load(self._folder / _BASIS, allow_pickle=False) as file:
            arrays = {name: file[name] for name in ("mean", "std", "components", "scale")}
            return Basis(**arrays, explained=float(file["explained"]))

    def keep_basis(self, basis: Basis) -> None:
        with written_whole(self._folder / _BASIS) as temporary, temporary.open("wb") as file:
            np.savez(file, **vars(basis))

    def _create(self, count: int, shape: tuple[int, int, int], made_for: Mapping[str, Any]) -> None:
        stated = json.dumps({**made_for, "count": count, "shape": list(shape)}, sort_keys=True)
        note = self._folder / _MADE_FOR
        self._folder.mkdir(parents=True, exist_ok=True)
        if note.is_file():
            if note.read_text(encoding="utf-8") != stated:
                raise OutputError(
                    f"{self._folder} holds a teacher's answers for other data or options; name "
                    "another --cache, or remove it"
                )
            return
        size = 2 * count * int(np.prod(shape))
        free = shutil.disk_usage(self._folder).free
        if size > free:
            raise OutputError(
                f"{self._folder}: a cache of {size / 1e9:.1f} GB does not fit into the "
                f"{free / 1e9:.1f} GB that are free; choose a smaller --cache-gb"
            )
        for name, length in ((_FEATURES, size), (_DONE, count)):
            with (self._folder / name).open("ab") as file:
                file.truncate(length)
        with written_whole(note) as temporary:  # last: without it the folder counts as empty
            temporary.write_text(stated, encoding="utf-8")
