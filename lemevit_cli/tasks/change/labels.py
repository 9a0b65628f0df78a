"""Labels of change: folders of pairs with masks, two dates with polygons or a raster."""

from __future__ import annotations

from lemevit_cli.tasks.change.data import PAIRS
from lemevit_cli.tasks.change.datasets.folders import DATES, open_pair_folder
from lemevit_cli.tasks.labels import (
    Entry,
    Labels,
    has_split_folders,
    other_split_folders,
    read_pixel_labels,
)
from lemevit_cli.training.datasets.listing import LabelledFolder


def _is_layout(entry: Entry) -> bool:
    if isinstance(entry, LabelledFolder):
        return any(has_split_folders(entry.path, *dates) for dates in DATES)
    return entry.after is not None


LABELS = Labels(
    read=lambda data, progress: read_pixel_labels(
        data, PAIRS, "pairs with masks", other_split_folders(open_pair_folder, *DATES)
    ),
    is_layout=_is_layout,
)
