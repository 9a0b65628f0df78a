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


@dataclass(frozen=True, kw_only=True)
class FigureTable:
    """How figures of one kind are printed: a row a class, in columns of its figures.

    Args:
        headline: a figure that only this kind has.
        columns: titles by the keys of a class's figures.
        above, below: further rows.
        remark: what the figures add to the title.
    """

    headline: str
    columns: Mapping[str, str]
    above: tuple[Row, ...] = ()
    below: tuple[Row, ...]
    remark: Callable[[Mapping[str, Any]], str] = lambda figures: ""

    def titles(self) -> list[str]:
        """Return the titles of all columns."""
        return ["class", *self.columns.values()]

    def rows(self, figures: Mapping[str, Any]) -> Iterator[list[str]]:
        """Yield rows of figures as text, a dash where one is unknown."""
        classes = figures.get("classes", {})
        yield from self._further(self.above, figures)
        for name, record in classes.items():
            yield [name, *(_text(record.get(column)) for column in self.columns)]
        yield from self._further(self.below, figures)

    def _further(self, rows: tuple[Row, ...], figures: Mapping[str, Any]) -> Iterator[list[str]]:
        for row in rows:
            values = {column: _look_up(figures, key) for column, key in row.figures.items()}
            if row.is_optional and None in values.values():
                continue
            texts = {column: _text(value, row.form) for column, value in values.items()}
            yield [row.title, *(texts.get(column, "") for column in self.columns)]


def _look_up(figures: Any, key: str) -> Any:
    for part in key.split("."):
        figures = figures.get(part) if isinstance(figures, Mapping) else None
    return figures


def _text(value: float | None, form: str = "{:.3f}") -> str:
    if value is None:
        return "-"
    return str(value) if isinstance(value, int) else form.format(value)
