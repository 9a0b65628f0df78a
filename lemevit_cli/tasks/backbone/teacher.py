"""What a teacher says of views: dense features, reduced, asked for once and kept on disk.

Channels of a vision transformer differ in size by orders of magnitude; each is brought to unit
variance before a principal component analysis keeps the directions in which views differ.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Mapping, Sequence
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

_LEAST_SHARE = 1e-6  # of the largest variance: below it a component is rounding
_PATIENCE_S = 0.5  # between two looks for what another process makes
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
    std = np.where(std > 0, std, np.float32(1.0))  # what never differs tells nothing apart
    centred = ((tokens - mean) / std).astype(np.float64)
    values, vectors = np.linalg.eigh(centred.T @ centred / len(centred))
    order = np.argsort(values)[::-1][:width]
    order = order[values[order] > _LEAST_SHARE * values.max()]
    variances = values[order]
    return Basis(
        mean=mean,
        std=std,
        components=vectors[:, order].T.astype(np.float32),
        scale=np.sqrt(variances).astype(np.float32),
        explained=float(variances.sum() / max(values.sum(), 1e-12)),
    )


class Teacher:
    """Answers views with reduced features at stride ``TARGET_STRIDE`` of the view's pixels.

    Args:
        basis: how the features are reduced.
        device, dtype: of its arithmetic.
        cache: where answers are kept; None computes them again and again.
    """

    def __init__(
        self,
        features: DenseFeatures,
        basis: Basis,
        *,
        device: torch.device,
        dtype: torch.dtype,
        cache: AnswerCache | None = None,
    ) -> None:
        self._features = features.to(device)
        self._device, self._dtype = device, dtype
        self._cache = cache
        self.basis = basis
        self._mean, self._std, self._components = (
            torch.from_numpy(values).to(device)
            for values in (basis.mean, basis.std, basis.components)
        )
        self.scale = torch.from_numpy(basis.scale).to(device)

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Answer views as they were read: ``(B, width, side / 8, side / 8)``, float32."""
        views = batch["view"].tolist()
        answers: dict[int, Tensor] = {}
        if self._cache is not None:
            answers = {
                i: torch.from_numpy(self._cache.read(view)).to(self._device).float()
                for i, view in enumerate(views)
                if self._cache.has(view)
            }
        missing = [i for i in range(len(views)) if i not in answers]
        if missing:
            fresh = self.ask(batch, missing).half()
            for i, answer in zip(missing, fresh, strict=True):
                # Through 16 bits either way: a resume that finds it kept sees the same numbers.
                answers[i] = answer.float()
                if self._cache is not None:
                    self._cache.keep(views[i], answer.cpu().numpy())
        return torch.stack([answers[i] for i in range(len(views))])

    def ask(self, batch: Mapping[str, Tensor], chosen: Sequence[int] | None = None) -> Tensor:
        """Answer some views of a batch, or all, whatever is kept of them."""
        chosen = range(len(batch["view"])) if chosen is None else chosen
        raw = raw_features(self._features, batch, chosen, device=self._device, dtype=self._dtype)
        return self._reduce(raw)

    def _reduce(self, raw: Tensor) -> Tensor:
        standard = (raw - self._mean.view(-1, 1, 1)) / self._std.view(-1, 1, 1)
        return torch.einsum("wc,bchk->bwhk", self._components, standard)


def raw_features(
    features: DenseFeatures,
    batch: Mapping[str, Tensor],
    chosen: Sequence[int],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """Return all maps of some views of a batch on one grid, ``(n, C, g, g)``."""
    grid = batch["shown"].shape[-1] // TARGET_STRIDE
    zooms = batch["zoom"][list(chosen)].tolist()
    raw: list[Tensor] = [torch.empty(0)] * len(chosen)
    for zoom in sorted(set(zooms)):
        alike = [i for i, own in enumerate(zooms) if own == zoom]
        pixels = batch["shown"][[chosen[i] for i in alike]].to(device)
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype, enabled=dtype != torch.float32),
        ):
            maps = features(pixels, zoom=zoom)
        sized = [
            F.interpolate(
                m.float(), size=(grid, grid), mode="bilinear", antialias=m.shape[-1] > grid
            )
            for m in maps
        ]
        for i, own in zip(alike, torch.cat(sized, dim=1).clone(), strict=True):
            raw[i] = own
    return torch.stack(raw)


def tokens_of_views(
    features: DenseFeatures,
    batches: Iterable[Mapping[str, Tensor]],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> NDArray[np.float32]:
    """Return raw tokens ``(N, C)`` of views, spread evenly over what is valid of each.

    Raises:
        DataError: if nothing is valid.
    """
    features = features.to(device)
    tokens = []
    for batch in batches:
        every = range(len(batch["view"]))
        raw = raw_features(features, batch, every, device=device, dtype=dtype).flatten(2)
        known = F.avg_pool2d(batch["valid"][:, None].float(), TARGET_STRIDE).flatten(1) >= 0.5
        for of_view, valid in zip(raw, known, strict=True):
            own = of_view[:, valid.to(device)]
            step = max(own.shape[1] // _TOKENS_A_VIEW, 1)
            tokens.append(own[:, step // 2 :: step].T.cpu().numpy())
    every_token = np.concatenate(tokens).astype(np.float32)
    if len(every_token) < 2:
        raise DataError("no pixel of the first views is valid; there is nothing to learn from")
    return every_token


class AnswerCache:
    """A teacher's answers on disk, memory-mapped, in half precision; each is written once.

    Args:
        folder: made where it is missing.
        made_for: plain values that decide what the answers are.
        waits: another process of this run makes the folder; go on once it has.

    Raises:
        OutputError: if it is no folder, or holds answers made for something else.
    """

    def __init__(self, folder: Path, *, made_for: Mapping[str, Any], waits: bool = False) -> None:
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder} is a file; --cache names a folder")
        self._folder = folder
        self._stated = json.dumps(made_for, sort_keys=True)
        note = folder / _MADE_FOR
        while waits and not (note.is_file() and note.read_text("utf-8") == self._stated):
            time.sleep(_PATIENCE_S)
        self._is_new = not note.is_file()
        if not self._is_new and note.read_text(encoding="utf-8") != self._stated:
            raise OutputError(
                f"{folder} holds a teacher's answers for other data or options; name another "
                "--cache, or remove it"
            )

    def open(self, basis: Basis, *, count: int, grid: int) -> AnswerCache:
        """Map the answers of ``count`` views, ``(len(basis.scale), grid, grid)`` each.

        Raises:
            OutputError: if the disk lacks room for them.
        """
        shape = (len(basis.scale), grid, grid)
        if self._is_new:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._reserve({_FEATURES: 2 * count * int(np.prod(shape)), _DONE: count})
            save_basis(self._folder / _BASIS, basis)
            with written_whole(self._folder / _MADE_FOR) as temporary:  # last: now it counts
                temporary.write_text(self._stated, encoding="utf-8")
        self._answers = np.memmap(
            self._folder / _FEATURES, dtype=np.float16, mode="r+", shape=(count, *shape)
        )
        self._done = np.memmap(self._folder / _DONE, dtype=np.uint8, mode="r+", shape=(count,))
        return self

    def has(self, view: int) -> bool:
        """Say whether a view was answered."""
        return bool(self._done[view])

    def read(self, view: int) -> NDArray[np.float16]:
        """Read the answer to a view."""
        return np.array(self._answers[view])

    def keep(self, view: int, answer: NDArray[np.float16]) -> None:
        """Keep the answer to a view."""
        self._answers[view] = answer
        self._done[view] = 1

    def basis(self) -> Basis | None:
        """Read the components that the answers are made with; None before there are any."""
        return None if self._is_new else load_basis(self._folder / _BASIS)

    def _reserve(self, sizes: Mapping[str, int]) -> None:
        """Take the room on the disk now: a mapped file that finds none later kills the process."""
        needed, free = sum(sizes.values()), shutil.disk_usage(self._folder).free
        try:
            if needed > free:
                raise OSError
            for name, size in sizes.items():
                with (self._folder / name).open("ab") as file:
                    file.truncate(size)
                    if hasattr(os, "posix_fallocate"):  # not on every system
                        os.posix_fallocate(file.fileno(), 0, size)
        except OSError as error:
            for name in sizes:
                (self._folder / name).unlink(missing_ok=True)
            raise OutputError(
                f"{self._folder}: a cache of {needed / 1e9:.1f} GB does not fit into the "
                f"{free / 1e9:.1f} GB that are free; choose a smaller --cache-gb"
            ) from error


def save_basis(path: Path, basis: Basis) -> None:
    """Write components, whole or not at all."""
    with written_whole(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **vars(basis))


def load_basis(path: Path) -> Basis:
    """Read components that :func:`save_basis` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in ("mean", "std", "components", "scale")}
        return Basis(**arrays, explained=float(file["explained"]))
