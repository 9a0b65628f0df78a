"""All data of a training: folders and scenes opened, checked against each other, and weighted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from lemevit_cli.errors import DataError
from lemevit_cli.metrics.class_groups import union_of_classes
from lemevit_cli.training.datasets.folders import PictureReader, open_folder
from lemevit_cli.training.datasets.listing import SUFFIX, LabelledFolder, read_listing
from lemevit_cli.training.datasets.naming import Naming
from lemevit_cli.training.datasets.scenes import SceneParts, open_labelled_scene
from lemevit_cli.training.datasets.source import Cells, Source
from lemevit_cli.training.options import DataOptions, LabelledScene

NamedSource = TypeVar("NamedSource", bound="Alike")


@dataclass(frozen=True)
class Openers:
    """How folders, by split, and scenes with their labels are opened."""

    folder: Callable[[str, str, PictureReader], Source]
    scene: Callable[..., SceneParts]


PICTURES = Openers(open_folder, open_labelled_scene)


@dataclass(frozen=True)
class Sources:
    """What was found in the user's data.

    Args:
        training: what windows are drawn from.
        cells: the classes of each of ``training``.
        weights: how often each of ``training`` is drawn from, in any unit.
        validation: empty where nothing is held back.
        notes: what a user should know, a line each.
    """

    training: tuple[Source, ...]
    cells: tuple[Cells, ...]
    weights: tuple[float, ...]
    validation: tuple[Source, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """Return the classes of a model that learns from all of them."""
        return union_of_classes(
            [source.classes for source in self.training],
            [source.is_complete for source in self.training],
        )


@dataclass
class _Found:
    """Sources of one item of the user's data, with a weight each."""

    training: list[Source] = field(default_factory=list)
    cells: list[Cells] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    validation: list[Source] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_sources(data: DataOptions, *, crop: int, openers: Openers = PICTURES) -> Sources:
    """Open all data of a training; every label is read once, for its checks and its counts.

    Weights go by the square root of the labelled pixels: a large source counts for more, but does
    not drown the others. A weight in a listing replaces that; ``source_weights`` say it of every
    path and training scene in turn, and the sources of one listing share theirs.

    Args:
        crop: side of the training windows; blocks of undivided scenes follow from it.
        openers: of pictures with masks, unless told.

    Raises:
        DataError: if something is missing, wrong, or does not fit the rest.
    """
    reader = PictureReader()
    found = [_open_item(item, data, crop, reader, openers) for item in items_of(data)]
    if data.source_weights is not None:
        share_out(data.source_weights, [f for f in found if f.training or not f.validation])
    training = [source for each in found for source in each.training]
    validation = [source for each in found for source in each.validation]
    if not training:
        raise DataError("nothing to train on: name a folder, or a scene with its labels")
    check_alike([*training, *validation])
    sources = Sources(
        training=tuple(with_own_names(training)),
        cells=tuple(cells for each in found for cells in each.cells),
        weights=tuple(weight for each in found for weight in each.weights),
        validation=tuple(with_own_names(validation)),
        notes=tuple(note for each in found for note in each.notes),
    )
    if len(sources.classes) < 2:
        raise DataError(
            f"{training[0].name}: its labels have one class, {', '.join(sources.classes)}, and the "
            "background is ignored; nothing is there to tell apart"
        )
    return sources


def items_of(data: DataOptions) -> Iterator[Sequence[LabelledFolder | LabelledScene]]:
    """Yield what each path, and then each scene, stands for."""
    for path in data.paths:
        is_listing = Path(path).suffix.lower() == SUFFIX
        yield read_listing(path) if is_listing else (LabelledFolder(path=path),)
    for scene in data.scenes:
        yield (scene,)


def _open_item(
    item: Sequence[LabelledFolder | LabelledScene],
    data: DataOptions,
    crop: int,
    reader: PictureReader,
    openers: Openers,
) -> _Found:
    found = _Found()
    for entry in item:
        training: Source | None
        validation: Source | None
        if isinstance(entry, LabelledFolder):
            if entry.naming != Naming():
                raise DataError(f"{entry.path}: rename, drop and classes are for boxes, not masks")
            training = openers.folder(entry.path, "train", reader)
            validation = openers.folder(entry.path, "val", reader)
        else:
            parts = openers.scene(entry, crop=crop, val_fraction=data.val_fraction, seed=data.seed)
            training, validation = parts.training, parts.validation
            found.notes.extend(parts.notes)
        if training is not None:
            cells = _counted(training)
            found.training.append(training)
            found.cells.append(cells)
            found.weights.append(entry.weight or float(np.sqrt(cells.counts.sum())))
        if validation is not None:
            _counted(validation)  # for its checks: before any step, not after the first
            found.validation.append(validation)
    return found


def _counted(source: Source) -> Cells:
    cells = source.count_classes()
    if not cells.counts.any():
        raise DataError(f"{source.name}/{source.split}: no pixel of its labels has a class")
    return cells


class Weighted(Protocol):
    """What has a weight for each of its parts."""

    weights: list[float]


def share_out(weights: Sequence[float], found: Sequence[Weighted]) -> None:
    """Replace weights of sources: one for each item, which its parts share as before.

    Raises:
        DataError: if their numbers differ, or one is not above zero.
    """
    if len(weights) != len(found) or min(weights) <= 0:
        raise DataError(
            f"{len(weights)} weights for {len(found)} data sets; each needs one above zero"
        )
    for weight, each in zip(weights, found, strict=True):
        total = sum(each.weights)
        each.weights = [weight * own / total for own in each.weights]


class Alike(Protocol):
    """What a model reads from."""

    @property
    def name(self) -> str: ...

    @property
    def bands(self) -> int: ...

    @property
    def dtype(self) -> str: ...


def check_alike(sources: Sequence[Alike]) -> None:
    """Refuse sources that one model cannot read.

    Raises:
        DataError: naming two that differ in bands or dtype.
    """
    first = sources[0]
    for source in sources:
        if (source.bands, source.dtype) != (first.bands, first.dtype):
            raise DataError(
                f"{source.name} has {source.bands} bands of {source.dtype}, {first.name} has "
                f"{first.bands} of {first.dtype}; data trained together need the same"
            )


def with_own_names(sources: Sequence[NamedSource]) -> Iterator[NamedSource]:
    """Number sources of one name: figures are kept by name."""
    seen = Counter[str]()
    for source in sources:
        seen[source.name] += 1
        number = seen[source.name]
        # Every source is a frozen record, whatever its layout.
        yield source if number == 1 else replace(source, name=f"{source.name} ({number})")  # type: ignore[type-var]
