"""How much of every class there is to train on, and why there is nothing of some."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lemevit_cli.training.datasets.source import Cells, Source

_MOST_LISTED = 40  # classes of a line


def labels_by_class(source: Source, cells: Cells) -> dict[str, int]:
    """Count the labels of every class: pixels or objects, of whole pictures these."""
    counts = cells.counts
    totals = np.count_nonzero(counts, axis=0) if source.whole_pictures else counts.sum(axis=0)
    return dict(zip(source.classes, totals.tolist(), strict=True))


def note_counts(source: Source, cells: Cells, unit: str) -> str:
    """Tell, in a line, how much of every class a source has, the rarest last."""
    counts = labels_by_class(source, cells)
    listed = [
        f"{name} {count:,}" + _polygons_text(source, name)
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
    ]
    if len(listed) > _MOST_LISTED:
        half = _MOST_LISTED // 2
        between = f"... ({len(listed) - 2 * half} more) ..."
        listed = [*listed[:half], between, *listed[-half:]]
    return f"{source.name}/{source.split}: {_unit_of(source, unit)} by class: {', '.join(listed)}"


def warn_of_missing(
    classes: Sequence[str],
    training: Sequence[tuple[Source, Cells]],
    validation: Sequence[tuple[Source, Cells]],
    unit: str,
) -> tuple[str, ...]:
    """Warn, in a line a reason, of the classes that no training source has a label of, and say why.

    Args:
        classes: of the model.
        training, validation: sources with their counts.
        unit: what is counted, "pixels" or "objects".
    """
    counts = [labels_by_class(source, cells) for source, cells in training]
    held_back = {
        name
        for source, cells in validation
        for name, count in labels_by_class(source, cells).items()
        if count
    }
    names_by_reason: dict[str, list[str]] = {}
    for name in classes:
        naming = [source for (source, _), own in zip(training, counts, strict=True) if name in own]
        if not naming or any(own.get(name) for own in counts):
            continue
        found = (source.reasons[name] for source in naming if name in source.reasons)
        reason = "only in what is held back" if name in held_back else next(found, "none is there")
        text = f"no {_unit_of(naming[0], unit)} to train on, {reason}"
        named = f"{name}{_polygons_text(naming[0], name)}"
        names_by_reason.setdefault(text, []).append(named)
    return tuple(
        f"{', '.join(names)}: {text} (not learned)" for text, names in names_by_reason.items()
    )


def _unit_of(source: Source, unit: str) -> str:
    return "pictures" if source.whole_pictures else unit


def _polygons_text(source: Source, name: str) -> str:
    number = source.polygons.get(name)
    return "" if number is None else f" ({number:,} polygon{'s' if number != 1 else ''})"
