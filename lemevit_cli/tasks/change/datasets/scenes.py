"""Two georeferenced scenes of one place, with what has changed between them: polygons, or ids.

The later date is read on the grid of the earlier one (``raster/scene_pair.py``), so both may come
from anybody. Polygons are burnt on that grid window by window; what none covers is unchanged.
"""

from __future__ import annotations

from dataclasses import replace

from lemevit_cli.errors import DataError
from lemevit_cli.raster.inspection import STATE_NODATA, value_warnings
from lemevit_cli.raster.scene_pair import ScenePair, open_pair
from lemevit_cli.tasks.change.classes import (
    CHANGED,
    UNCHANGED,
    change_names,
    check_first_is_unchanged,
)
from lemevit_cli.training.datasets.holding_back import Division
from lemevit_cli.training.datasets.labels import (
    IGNORE,
    RasterLabels,
    check_labelled,
    open_labels,
    open_to_learn,
)
from lemevit_cli.training.datasets.scenes import Ground, divide_ground
from lemevit_cli.training.datasets.source import Parts, check_alike
from lemevit_cli.training.options import LabelledScene
from lemevit_cli.vector.scene_polygons import is_vector


def open_labelled_pair(labelled: LabelledScene, division: Division) -> Parts:
    """Open two dates with their labels, count the classes, and divide the place by blocks.

    All is as ``open_labelled_scene`` does it; without a field all polygons are one kind of change.

    Raises:
        DataError: if a date is missing or they do not fit each other, and as
            ``open_labelled_scene``.
    """
    check_labelled(labelled, dates=2)
    if labelled.background == IGNORE:
        raise DataError(
            f"{labelled.labels}: with the background {IGNORE} no ground is known to be unchanged"
        )
    with open_to_learn(lambda: open_pair(labelled.scene, str(labelled.after))) as pair:
        check_alike(
            [(date.name, date.num_bands, date.dtype) for date in (pair.before, pair.after)],
            "two dates to learn from",
        )
        labels = open_labels(pair.before, _as_change(labelled))
        if isinstance(labels, RasterLabels):
            labels = replace(
                labels, notes=(*labels.notes, *_notes_of_order(labels, labelled.labels))
            )
        ground = Ground(
            pair,
            pair.before.num_bands,
            replace(labels, classes=change_names(labels.classes)),
            may_have_nodata=_may_have_nodata(pair),
        )
        warnings = [*pair.warnings, *pair.before.warnings, *pair.after.warnings]
        dates = (pair.before, pair.after)
        values = [
            f"{date.name}: {line}"
            for date in dates
            for line in value_warnings(date, option=STATE_NODATA)
        ]
        notes = (*(f"{pair.name}: {warning}" for warning in warnings), *values, *labels.notes)
        return divide_ground(ground, labelled, division, notes)


def _notes_of_order(labels: RasterLabels, path: str) -> tuple[str, ...]:
    """Tell which of two ids without names stands for what stayed as it was, where 0 is neither.

    Raises:
        DataError: if the first class cannot be that.
    """
    first, *others = labels.ids
    is_unnamed = labels.classes[0] == f"class_{first}"
    if first != 0 and is_unnamed and len(others) == 1 and 0 not in labels.raster.nodata:
        return (f"{path}: {first} is taken for what stayed as it was, {others[0]} for change",)
    check_first_is_unchanged(path, labels.classes, first_id=first)
    return ()


def _may_have_nodata(pair: ScenePair) -> bool:
    has_mask = any(date.mask_kind != "none" for date in (pair.before, pair.after))
    return has_mask or pair.resampling is not None or pair.overlap != pair.window


def _as_change(labelled: LabelledScene) -> LabelledScene:
    """Return the options of polygons, with the names of change where the user gave none."""
    if not is_vector(labelled.labels):
        return labelled
    is_usual = labelled.background == LabelledScene.background
    one_kind = labelled.class_name or (CHANGED if labelled.label_field is None else None)
    return replace(
        labelled,
        background=UNCHANGED if is_usual else labelled.background,
        class_name=one_kind,
    )
