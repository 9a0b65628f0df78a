"""Labels of whole pictures: folders of classes, tables, and scenes as segmentation has them."""

from __future__ import annotations

from pathlib import Path

from lemevit_cli.tasks.classification.data import WINDOWS, other_splits
from lemevit_cli.tasks.labels import Entry, Labels, read_pixel_labels
from lemevit_cli.training.datasets.listing import LabelledFolder


def _is_layout(entry: Entry) -> bool:
    if not isinstance(entry, LabelledFolder):
        return False
    folder = Path(entry.path)
    if folder.is_dir():
        return any(place.is_dir() for place in folder.iterdir())
    return folder.suffix.lower() == ".csv"


LABELS = Labels(
    read=lambda data, progress: read_pixel_labels(
        data, WINDOWS, "pictures with a class each", other_splits
    ),
    is_layout=_is_layout,
)
