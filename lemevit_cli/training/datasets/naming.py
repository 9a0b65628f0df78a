"""Names of classes, changed as labels are read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Naming:
    """Changes to the names of classes as labels are read.

    Args:
        rename: other names for some of them; several may become one.
        drop: names, after renaming, whose objects are ignored: neither a class nor background.
        classes: the only names that are kept, in their order, whether they occur or not; objects of
            others are ignored. None keeps all.
    """

    rename: Mapping[str, str] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    classes: tuple[str, ...] | None = None

    def name(self, name: str | None) -> str | None:
        """Return a name as it is used; None where the object is ignored."""
        if name is None:
            return None
        name = self.rename.get(name, name)
        is_kept = name not in self.drop and (self.classes is None or name in self.classes)
        return name if is_kept else None

    def names(self, known: Iterable[str]) -> tuple[str, ...]:
        """Return the classes of a data set that knows these names, in their order."""
        if self.classes is not None:
            return self.classes
        found = (self.name(name) for name in known)
        return tuple(dict.fromkeys(name for name in found if name is not None))

    def list_missing(self, known: Iterable[str]) -> list[str]:
        """List names that are to be renamed or dropped, and are none of the data set's."""
        names = set(known)
        after = {self.rename.get(name, name) for name in names}
        return [n for n in self.rename if n not in names] + [n for n in self.drop if n not in after]
