"""The progress of long work: whoever does it reports here, the commands draw it."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Listener to the progress of a run; never decides anything."""

    def start(self, label: str, *, total: int, unit: str) -> None:
        """Begin a phase of ``total`` units; 0 of one whose length nobody knows."""
        ...

    def advance(self, count: int = 1, **figures: float) -> None:
        """Add ``count`` units that are done; figures (loss, megapixels) are for show."""
        ...

    def finish(self) -> None:
        """End the phase."""
        ...

    def warn(self, message: str) -> None:
        """Say something that the user should know, in one line."""
        ...

    def note(self, message: str) -> None:
        """Say what was decided for the user, in one line."""
        ...


class Silent:
    """A listener that does nothing."""

    def start(self, label: str, *, total: int, unit: str) -> None: ...

    def advance(self, count: int = 1, **figures: float) -> None: ...

    def finish(self) -> None: ...

    def warn(self, message: str) -> None: ...

    def note(self, message: str) -> None: ...
