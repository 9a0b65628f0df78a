"""All data of a training on oriented boxes: folders and scenes opened, checked and weighted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from math import sqrt

from lemevit_cli.errors import DataError
from lemevit_cli.tasks.detection.datasets.folders import open_box_folder
from lemevit_cli.tasks.detection.datasets.scenes import open_boxes_of_scene
from lemevit_cli.tasks.detection.datasets.source import BoxSource
from lemevit_cli.training.datasets.folders import PictureReader
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.options import DataOptions, LabelledScene
from lemevit_cli.training.sources import check_alike, items_of, share_out, with_own_names

_MANY_LONG = 0.25  # of a class


@dataclass(frozen=True)
class BoxSources:
    """What was found in the user's data.

    Args:
        training: what windows are drawn from.
        weights: how often each of ``training`` is drawn from, in any unit.
        validation: empty where nothing is held back.
        notes: what a user should know, a line each.
    """

    training: tuple[BoxSource, ...]
    weights: tuple[float, ...]
    validation: tuple[BoxSource, ...]
    notes: tuple[str, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """List the classes of all sources, in order of appearance, matched by name."""
        return tuple(dict.fromkeys(name for source in self.training for name in source.classes))


@dataclass
class _Found:
    """Sources of one item of the user's data, with a weight each."""

    training: list[BoxSource] = field(default_factory=list)
    weights: list[float] = field(default_factory=list)
    validation: list[BoxSource] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def open_box_sources(data: DataOptions, *, crop: int) -> BoxSources:
    """Open all data of a training; every label is read once.

    Weights go by the square root of the number of objects: a large source counts for more, but
    does not drown the others. A weight in a listing replaces that; ``source_weights`` say it of
    every path and training scene in turn, and the sources of one listing share theirs.

    Args:
        crop: side of the training windows; blocks of undivided scenes follow from it.

    Raises:
        DataError: if something is missing, wrong, or does not fit the rest.
    """
    reader = PictureReader()
    found = [_open_item(item, data, crop, reader) for item in items_of(data)]
    if data.source_weights is not None:
        share_out(data.source_weights, [f for f in found if f.training or not f.validation])
    training = [source for each in found for source in each.training]
    validation = [source for each in found for source in each.validation]
    if not training:
        raise DataError("nothing to train on: name a folder, or a scene with its labels")
    check_alike([*training, *validation])
    return BoxSources(
        training=tuple(with_own_names(training)),
        weights=tuple(weight for each in found for weight in each.weights),
        validation=tuple(with_own_names(validation)),
        notes=(
            *(note for each in found for note in each.notes),
            *_note_of_long_objects(training, crop),
        ),
    )


def _note_of_long_objects(sources: Sequence[BoxSource], crop: int) -> list[str]:
    """Note, in a line, the classes of which much is seen in parts only, or shrunk."""
    lengths: dict[str, list[float]] = {}
    for source in sources:
        for name, found in source.lengths.items():
            lengths.setdefault(name, []).extend(found)
    long = [
        name
        for name, found in lengths.items()
        if sum(length > crop for length in found) > _MANY_LONG * len(found)
    ]
    if not long:
        return []
    return [
        f"{', '.join(long)}: more than {_MANY_LONG:.0%} of the objects are longer than a window "
        f"of {crop} pixels; a larger --crop shows them whole"
    ]


def _open_item(
    item: Sequence[LabelledFolder | LabelledScene],
    data: DataOptions,
    crop: int,
    reader: PictureReader,
) -> _Found:
    found = _Found()
    for entry in item:
        if isinstance(entry, LabelledFolder):
            parts = open_box_folder(entry.path, reader=reader, naming=entry.naming)
        else:
            parts = open_boxes_of_scene(
                entry, crop=crop, val_fraction=data.val_fraction, seed=data.seed
            )
        found.notes.extend(parts.notes)
        if parts.training is not None:
            objects = int(parts.training.counts.sum())
            if objects == 0:
                raise DataError(
                    f"{parts.training.name}/train: no object is left to find; those that are there "
                    "are difficult, dropped, of no class, without area or centred outside"
                )
            found.training.append(parts.training)
            found.weights.append(entry.weight or sqrt(objects))
        if parts.validation is None:
            continue
        if parts.validation.counts.any():
            found.validation.append(parts.validation)
        else:
            name = parts.validation.name
            found.notes.append(f"{name}/val: no object is left to find; it is not validated on")
    return found
