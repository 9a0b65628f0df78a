"""Which classes of a model a data set can tell apart.

A data set may know only some of a model's classes: a layer of buildings says "building" or
"not building", never "road". Its ``background`` then stands for all classes that it does not
name. A *group* vector states this: for every class of the model, the data set's class that it
belongs to, or ``NO_GROUP``.
"""

from __future__ import annotations

from collections.abc import Sequence

from lemevit_cli.errors import DataError

BACKGROUND = "background"
NO_GROUP = -1


def union_of_classes(
    class_lists: Sequence[Sequence[str]], are_complete: Sequence[bool] | None = None
) -> tuple[str, ...]:
    """Return the classes of a model that learns from several data sets, in order of appearance.

    ``background`` stays a class only if every complete data set has it: where one names all that
    there is, another's background is a group of these.

    Args:
        are_complete: whether each data set gives a class to all that it shows; polygons around
            which all is ignored do not. None: all do.
    """
    names = dict.fromkeys(name for names in class_lists for name in names)
    complete = [True] * len(class_lists) if are_complete is None else are_complete
    if any(c and BACKGROUND not in of for of, c in zip(class_lists, complete, strict=True)):
        names.pop(BACKGROUND, None)
    return tuple(names)


def groups_of(model_classes: Sequence[str], data_classes: Sequence[str]) -> tuple[int, ...]:
    """Return the data set's class id of every class of the model, matched by name.

    Raises:
        DataError: if no class but the background is shared.
    """
    ids = {name: i for i, name in enumerate(data_classes)}
    background = ids.get(BACKGROUND, NO_GROUP)
    groups = tuple(ids.get(name, background) for name in model_classes)
    if not set(model_classes) & (set(data_classes) - {BACKGROUND}):
        raise DataError(
            f"the data know {', '.join(data_classes)}, the model {', '.join(model_classes)}: "
            "no class is shared"
        )
    return groups
