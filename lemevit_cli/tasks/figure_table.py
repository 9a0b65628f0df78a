"""Figures as a table: what a task says of it is data, the rest is the same for all."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

PIXEL_COLUMNS = {"iou": "IoU", "f1": "F1", "precision": "precision", "recall": "recall"}


@dataclass(frozen=True)
class Row:
    """A row beside those of the classes.

    Args:
        title: in the first column.
        figures: by column the key of its figure, with dots where it lies deeper; others are empty.
        form: of a number.
        is_optional: leave the row out where its figures are unknown.
    """

    title: str
    figures: Mapping[str, str]
    form: str = "{:.3f}"
    is_optional: bool = False

    def is_known(self, figures: Mapping[str, Any]) -> bool:
        """Say whether the row is printed."""
        keys = self.figures.values()
        return not self.is_optional or all(_look_up(figures, key) is not None for key in keys)

    def text(self, figures: Mapping[str, Any], key: str) -> str:
        """Format a figure."""
        value = _look_up(figures, key)
        if value is None:
            return "-"
        return str(value) if isinstance(value, int | str) else self.form.format(value)


def _look_up(figures: Any, key: str) -> Any:
    for part in key.split("."):
        figures = figures.get(part) if isinstance(figures, Mapping) else None
    return figures


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """How figures of one kind are printed: a row a class, in columns of its figures.

    Args:
        headline: a figure that only this kind has.
        columns: titles by the keys of a class's figures.
        above, below: further rows.
        remark: what the figures add to the title.
        form: of a class's numbers.
    """

    headline: str
    columns: Mapping[str, str]
    above: tuple[Row, ...] = ()
    below: tuple[Row, ...] = ()
    remark: Callable[[Mapping[str, Any]], str] = lambda figures: ""
    form: str = Row.form

    def titles(self) -> list[str]:
        """Return the titles of all columns."""
        return ["class", *self.columns.values()]

    def rows(self, figures: Mapping[str, Any]) -> Iterator[list[str]]:
        """Yield rows of figures as text, a dash where one is unknown."""
        own = {column: column for column in self.columns}
        yield from (self._cells(row, figures) for row in self.above)
        for name, record in figures.get("classes", {}).items():
            yield self._cells(Row(name, own, self.form), record)
        yield from (self._cells(row, figures) for row in self.below if row.is_known(figures))

    def _cells(self, row: Row, figures: Mapping[str, Any]) -> list[str]:
        texts = {column: row.text(figures, key) for column, key in row.figures.items()}
        return [row.title, *(texts.get(column, "") for column in self.columns)]


PLAIN = FigureTable(headline="", columns=PIXEL_COLUMNS)  # of a task that has no table of its own
