"""All data of a training: folders and scenes opened, checked against each other, and weighted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from lemevit_cli.errors import DataError
from lemevit_cli.legend import LONGEST_NAME, is_class_name
from lemevit_cli.models.weights import find_weights, read_card
from lemevit_cli.raster.inspection import picture_warnings
from lemevit_cli.training.class_counts import note_counts, warn_of_missing
from lemevit_cli.training.datasets.folders import PictureReader
from lemevit_cli.training.datasets.holding_back import Division, place_of
from lemevit_cli.training.datasets.labels import IGNORE, classes_on
from lemevit_cli.training.datasets.listing import LabelledFolder, is_listing, read_listing
from lemevit_cli.training.datasets.source import Cells, Parts, Source, Sources, check_alike
from lemevit_cli.training.options import DataOptions, LabelledScene


@dataclass(frozen=True)
class Openers:
    """Functions that open the data of a task.

    Args:
        folder: opens both splits of a folder.
        scene: opens a scene with its labels, as
            :func:`lemevit_cli.training.datasets.scenes.open_labelled_scene`.
        merge_classes: gives the classes of a model that learns from several sources.
        unit: what the counts of a source count.
    """

    folder: Callable[[LabelledFolder, PictureReader, Division], Parts]
    scene: Callable[[LabelledScene, Division], Parts]
    merge_classes: Callable[[Sequence[Source]], tuple[str, ...]]
    unit: str = "pixels"


@dataclass(frozen=True)
class _Item:
    """Parts of one item of the user's data; their cells, and the weight of each to train on."""

    parts: tuple[Parts, ...]
    cells: tuple[Cells, ...]
    held_back: tuple[Cells, ...]
    weights: tuple[float, ...]

    @property
    def is_trained_on(self) -> bool:
        return bool(self.weights) or all(part.validation is None for part in self.parts)


def open_sources(
    data: DataOptions, *, crop: int, openers: Openers, init: str | None = None
) -> Sources:
    """Open all data of a training; every label is read once, for its checks and its counts.

    Weights go by the square root of the labelled pixels, or objects: a large source counts for
    more, but does not drown the others. A weight in a listing replaces that; ``source_weights`` say
    it of every path and training scene in turn, and the sources of one listing share theirs. What
    weighs nothing is judged, not learned from.

    Args:
        crop: side of the training windows; blocks of undivided scenes follow from it.
        init: weights to begin from, whose order the classes follow where names agree.

    Raises:
        DataError: if something is missing, wrong, or does not fit the rest.
    """
    reader = PictureReader()
    entries = [
        *(read_listing(p) if is_listing(p) else (LabelledFolder(path=p),) for p in data.paths),
        *((scene,) for scene in data.scenes),
    ]
    entries = _with_known_classes(entries)
    _refuse_judging_what_is_learned([each for item in entries for each in item])
    division = Division(crop=crop, val_fraction=data.val_fraction, seed=data.seed)
    items = [
        _open_item(each, division, reader, openers, skip_bad_labels=data.skip_bad_labels)
        for each in entries
    ]
    if data.source_weights is not None:
        items = _share_out(data.source_weights, items)
    items = _with_numbered_names(items)
    items = [_without_weightless(item) for item in items]
    parts = [part for item in items for part in item.parts]
    training = [part.training for part in parts if part.training is not None]
    validation = [part.validation for part in parts if part.validation is not None]
    if not training:
        raise DataError("nothing to train on: name a folder, or a scene with its labels")
    check_alike(
        [(source.name, source.bands, source.dtype) for source in (*training, *validation)],
        "data trained together",
    )
    cells = tuple(cells for item in items for cells in item.cells)
    held_back = tuple(cells for item in items for cells in item.held_back)
    classes = order_as(openers.merge_classes(training), init)
    _check_class_names(classes)
    learned = list(zip(training, cells, strict=True))
    judged = list(zip(validation, held_back, strict=True))
    return Sources(
        training=tuple(training),
        cells=cells,
        weights=tuple(weight for item in items for weight in item.weights),
        validation=tuple(validation),
        classes=classes,
        notes=(
            *(note for part in parts for note in part.notes),
            *(note_counts(*each, openers.unit) for each in learned if each[1].counts.any()),
        ),
        warnings=warn_of_missing(classes, learned, judged, openers.unit),
    )


def _with_known_classes(
    items: Sequence[Sequence[LabelledFolder | LabelledScene]],
) -> list[tuple[LabelledFolder | LabelledScene, ...]]:
    """Tell scenes that share a layer all its classes: what one lacks is known to be absent."""
    groups: dict[tuple[str | None, ...], list[LabelledScene]] = {}
    for entry in (each for item in items for each in item):
        if isinstance(entry, LabelledScene) and entry.label_field is not None:
            groups.setdefault(_layer_of(entry), []).append(entry)
    known = {
        layer: tuple(sorted(set().union(*map(classes_on, scenes))))
        for layer, scenes in groups.items()
        if len({each.scene for each in scenes}) > 1
    }
    return [
        tuple(
            replace(entry, known=known.get(_layer_of(entry), ()))
            if isinstance(entry, LabelledScene)
            else entry
            for entry in item
        )
        for item in items
    ]


def _layer_of(entry: LabelledScene) -> tuple[str | None, ...]:
    return entry.labels, entry.layer, entry.label_field, entry.where


def _refuse_judging_what_is_learned(entries: Iterable[LabelledFolder | LabelledScene]) -> None:
    """Refuse a scene that is both learned from and judged by, in ways that share pixels.

    Where no entry says what lies between its polygons, windows share pixels and no label.

    Raises:
        DataError: naming it.
    """
    places: dict[tuple[str, str | None], list[LabelledScene]] = {}
    for entry in entries:
        if isinstance(entry, LabelledScene):
            places.setdefault(place_of(entry), []).append(entry)
    for scenes in places.values():
        splits = {each.split for each in scenes}
        if len(splits) > 1 and (None in splits or any(e.background != IGNORE for e in scenes)):
            raise DataError(
                f"{scenes[0].scene}: is both learned from and named to be judged by, and windows "
                "would share pixels; name it once, and blocks of it are held back, or cut it in two"
            )


def _check_class_names(classes: Sequence[str]) -> None:
    """Refuse, before any step, names that the weights' card could not keep."""
    wrong = next((name for name in classes if not is_class_name(name)), None)
    if wrong is not None:
        raise DataError(
            f"the class {wrong!a} has no name that can be printed, in at most {LONGEST_NAME} "
            "characters; rename it"
        )


def order_as(classes: tuple[str, ...], init: str | None) -> tuple[str, ...]:
    """Put the classes that weights know first, in their order, and the others behind."""
    known = () if init is None else read_card(find_weights(init)).class_names
    return tuple(dict.fromkeys([*(name for name in known if name in classes), *classes]))


def _open_item(
    entries: Iterable[LabelledFolder | LabelledScene],
    division: Division,
    reader: PictureReader,
    openers: Openers,
    *,
    skip_bad_labels: bool,
) -> _Item:
    parts, cells, held_back, weights = [], [], [], []
    for entry in entries:
        if isinstance(entry, LabelledFolder):
            entry = replace(entry, skip_bad_labels=skip_bad_labels)
            part = _with_values(openers.folder(entry, reader, division))
        else:
            part = openers.scene(entry, division)
        parts.append(part)
        if part.training is not None:
            cells.append(_count(part.training))
            # Where nothing is labelled each picture counts as one label does.
            labels = cells[-1].counts.sum() or len(part.training.sites)
            weights.append(float(np.sqrt(labels)) if entry.weight is None else entry.weight)
        if part.validation is not None:
            # Also for its checks: before any step, not after the first.
            held_back.append(_count(part.validation))
    return _Item(tuple(parts), tuple(cells), tuple(held_back), tuple(weights))


def _with_values(parts: Parts) -> Parts:
    """Note what is likely to be read wrongly of a folder's pictures."""
    sources = [source for source in (parts.training, parts.validation) if source is not None]
    paths = [path for source in sources for site in source.sites for path in site.dates]
    return replace(parts, notes=(*parts.notes, *picture_warnings(paths)))


def _count(source: Source) -> Cells:
    cells = source.count_classes()
    if not cells.counts.any() and not source.objects:
        raise DataError(f"{source.name}/{source.split}: no pixel of its labels has a class")
    return cells


def _share_out(weights: Sequence[float], items: Sequence[_Item]) -> list[_Item]:
    """Replace weights of sources: one for each item, which its parts share as before.

    Raises:
        DataError: if their numbers differ, or one is below zero or infinite.
    """
    wanted = sum(item.is_trained_on for item in items)
    if len(weights) != wanted or not all(0 <= weight < inf for weight in weights):
        raise DataError(
            f"{len(weights)} weights for {wanted} data sets; each needs one from zero on"
        )
    remaining = iter(weights)
    return [
        replace(item, weights=_scale(item.weights, next(remaining))) if item.is_trained_on else item
        for item in items
    ]


def _scale(weights: Sequence[float], to: float) -> tuple[float, ...]:
    total = sum(weights)
    return tuple(to * weight / total if total else 0.0 for weight in weights)


def _without_weightless(item: _Item) -> _Item:
    """Leave out of the training what weighs nothing; its validation part is judged.

    Raises:
        DataError: if such a source has no validation part.
    """
    weights = iter(item.weights)
    parts = []
    for part in item.parts:
        if part.training is not None and next(weights) == 0:
            if part.validation is None:
                raise DataError(
                    f"{part.training.name} weighs nothing and none of it is held back: "
                    "leave it out, or give it a weight"
                )
            note = f"{part.training.name}: of weight 0, so judged and not learned from"
            part = replace(part, training=None, notes=(*part.notes, note))
        parts.append(part)
    learned = [each for each in zip(item.cells, item.weights, strict=True) if each[1] > 0]
    return replace(
        item,
        parts=tuple(parts),
        cells=tuple(cells for cells, _ in learned),
        weights=tuple(weight for _, weight in learned),
    )


def _with_numbered_names(items: Sequence[_Item]) -> list[_Item]:
    """Number data of one name, what is learned as what is judged: figures are kept by name."""
    counts = Counter[str]()
    numbered = []
    for item in items:
        parts = []
        for part in item.parts:
            sources = [source for source in (part.training, part.validation) if source is not None]
            counts[sources[0].name] += 1
            number = counts[sources[0].name]
            parts.append(part if number == 1 else _numbered(part, number))
        numbered.append(replace(item, parts=tuple(parts)))
    return numbered


def _numbered(part: Parts, number: int) -> Parts:
    def named(source: Source | None) -> Source | None:
        return source and replace(source, name=f"{source.name} ({number})")

    return replace(part, training=named(part.training), validation=named(part.validation))
