"""When a scene was taken and whom it is owed to, as far as its file says."""

from __future__ import annotations

import re
from datetime import date

from lemevit_cli.errors import reading
from lemevit_cli.raster.scene import Scene

# GDAL's domain for facts of the sensor, and tags that providers write; in the order of trust.
# TIFFTAG_DATETIME may be the time of a copy, but most files have nothing better.
_IMAGERY = "IMAGERY"
_TAGS = ("ACQUISITIONDATETIME", "ACQUISITION_DATE", "ACQUISITION", "TIFFTAG_DATETIME")
_DATE = re.compile(r"(\d{4})[-:/]?(\d{2})[-:/]?(\d{2})(?!\d)")


def date_of(scene: Scene) -> str | None:
    """Return the day a scene was taken, as ``2018-05-12``, None if no tag of its file tells one."""
    with reading(scene.name, "its tags cannot be read"):
        dataset = scene.dataset()
        tags = {**dataset.tags(), **dataset.tags(ns=_IMAGERY)}
    for wanted in _TAGS:
        for name, text in tags.items():
            day = _day_in(text) if name.upper().startswith(wanted) else None
            if day is not None:
                return day
    return None


def credit_of(scene: Scene) -> str:
    """Return what the file of a scene wants to be said beside every picture of it; "" if nothing.

    That is TIFF's tag for copyright, in one line.
    """
    return " ".join(scene.dataset().tags().get("TIFFTAG_COPYRIGHT", "").split())


def _day_in(text: str) -> str | None:
    match = _DATE.match(text.strip())
    if match is None:
        return None
    try:
        return date(*map(int, match.groups())).isoformat()
    except ValueError:  # an unset clock leaves 0000:00:00
        return None
