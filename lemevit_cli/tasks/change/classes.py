"""What classes of change are called, and which of a model's a data set can tell apart.

The first class is always ``unchanged``. Of data with one kind of change the other is ``changed``,
whatever a file calls it: there is nothing to confuse it with, and sets from many places add up.
Data with several kinds (built, torn down) name them; beside them, data with one kind teach that
something changed, not what.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.legend import NODATA_CLASS

UNCHANGED, CHANGED = "unchanged", "changed"
ONE_KIND = (UNCHANGED, CHANGED)
# Kinds that turn into each other where the dates are swapped.
_OPPOSITES = (
    ("built", "torn down"),
    ("built", "demolished"),
    ("appeared", "disappeared"),
    ("new", "removed"),
    ("gain", "loss"),
)


def change_names(names: Sequence[str]) -> tuple[str, ...]:
    """Return names of classes by id, as this program calls them."""
    return ONE_KIND if len(names) <= len(ONE_KIND) else (UNCHANGED, *names[1:])


def check_first_is_unchanged(path: str, names: Sequence[str], *, first_id: int = 0) -> None:
    """Refuse classes whose first, by their order, cannot be what stayed as it was.

    Args:
        path: of the labels, for messages.
        first_id: what the first class has in the file.

    Raises:
        DataError: in one line.
    """
    is_named = names[0].strip().lower() == UNCHANGED
    if not is_named and (first_id != 0 or UNCHANGED in (name.lower() for name in names[1:])):
        raise DataError(
            f"{path}: its first class, {names[0]!r} (id {first_id}), would be what stayed as it "
            f"was; labels of change need {UNCHANGED} first: as id 0 (and 0 not as nodata), or "
            "by name"
        )


def classes_of_all(sources: Sequence[tuple[str, Sequence[str]]]) -> tuple[str, ...]:
    """Return the classes of a model that learns from several data sets.

    Args:
        sources: name and classes of each.

    Raises:
        DataError: if two of them tell different kinds apart.
    """
    several = [(name, tuple(classes)) for name, classes in sources if len(classes) > len(ONE_KIND)]
    if not several:
        return ONE_KIND
    first, kinds = several[0]
    for name, classes in several:
        if set(classes) != set(kinds):
            raise DataError(
                f"{name} tells apart {', '.join(classes[1:])}, {first} {', '.join(kinds[1:])}; "
                "data trained together need the same kinds of change, or one kind"
            )
    return kinds


def change_groups(model_classes: Sequence[str], data_classes: Sequence[str]) -> tuple[int, ...]:
    """Return the data set's class id of every class of the model, as ``class_groups.groups_of``.

    Where one of them knows one kind of change, that stands for all kinds.
    """
    if set(model_classes) == set(data_classes):
        return tuple(data_classes.index(name) for name in model_classes)
    return (0, *[1] * (len(model_classes) - 1))


def ids_of_swapped_dates(classes: Sequence[str]) -> NDArray[np.int64] | None:
    """Return each id ``(256,)`` as it is with the dates swapped; None where nobody can tell."""
    ids = {name.lower(): i for i, name in enumerate(classes)}
    swapped = np.arange(NODATA_CLASS + 1)
    if len(classes) == len(ONE_KIND):
        return swapped
    for one, other in _OPPOSITES:
        if set(ids) == {UNCHANGED, one, other}:
            swapped[[ids[one], ids[other]]] = ids[other], ids[one]
            return swapped
    return None
