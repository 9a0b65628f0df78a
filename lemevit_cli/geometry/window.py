"""Rectangles of whole pixels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A rectangle of pixels, rows downward, as in rasterio: offsets and sizes in pixels.

    Raises:
        ValueError: if a side is not positive.
    """

    col_off: int
    row_off: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a window needs at least one pixel, got {self}")

    @property
    def right(self) -> int:
        """Return the first column beyond the window."""
        return self.col_off + self.width

    @property
    def bottom(self) -> int:
        """Return the first row beyond the window."""
        return self.row_off + self.height

    @property
    def slices(self) -> tuple[slice, slice]:
        """Return rows and columns, to index an array of the frame that the window lies in."""
        return slice(self.row_off, self.bottom), slice(self.col_off, self.right)

    def intersection(self, other: Window) -> Window | None:
        """Return the pixels in both, None where there are none."""
        col_off, row_off = max(self.col_off, other.col_off), max(self.row_off, other.row_off)
        width = min(self.right, other.right) - col_off
        height = min(self.bottom, other.bottom) - row_off
        if width < 1 or height < 1:
            return None
        return Window(col_off=col_off, row_off=row_off, width=width, height=height)

    def shift(self, *, cols: int, rows: int) -> Window:
        """Return the same rectangle, moved by whole pixels."""
        return Window(
            col_off=self.col_off + cols,
            row_off=self.row_off + rows,
            width=self.width,
            height=self.height,
        )

    def relative_to(self, frame: Window) -> Window:
        """Return the same rectangle, counted from the upper left corner of ``frame``."""
        return self.shift(cols=-frame.col_off, rows=-frame.row_off)
