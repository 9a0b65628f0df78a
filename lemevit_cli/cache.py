"""Where what was computed once is kept for the next run, out of the user's sight."""

from __future__ import annotations

import os
from pathlib import Path


def cache_folder() -> Path:
    """Return the user's folder for it: ``$XDG_CACHE_HOME/lemevit``, else ``~/.cache/lemevit``.

    It may not exist, and may be removed at any time.
    """
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lemevit"
