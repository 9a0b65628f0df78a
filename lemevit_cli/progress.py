"""How pipelines tell what they do; the commands draw it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Hears what happens; never decides anything."""

    def start(self, label: str, *, total: int, unit: str) -> None:
        """A phase of ``total`` units begins."""
        ...

    def advance(self, count: int = 1, **figures: float) -> None:
        """``count`` units are done; figures (loss, megapixels) are for show."""
        ...

    def finish(self) -> None:
        """The phase is over."""
        ...

    def warn(self, message: str) -> None:
        """Something the user should know, in one line."""
        ...

    def note(self, message: str) -> None:
        """Something that was decided for the user, in one line."""
        ...


class Silent:
    """Hears nothing."""

    def start(self, label: str, *, total: int, unit: str) -> None: ...

    def advance(self, count: int = 1, **figures: float) -> None: ...

    def finish(self) -> None: ...

    def warn(self, message: str) -> None: ...

    def note(self, message: str) -> None: ...
