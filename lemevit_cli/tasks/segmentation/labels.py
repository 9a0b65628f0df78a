"""Labels of pixels: folders of masks, scenes with polygons or rasters of class ids."""

from __future__ import annotations

from lemevit_cli.tasks.labels import (
    Entry,
    Labels,
    has_split_folders,
    holds_quadrilaterals,
    other_split_folders,
    read_pixel_labels,
)
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.listing import LabelledFolder
from lemevit_cli.training.pixel_data import PIXELS


def _is_layout(entry: Entry) -> bool:
    if isinstance(entry, LabelledFolder):
        return has_split_folders(entry.path, "images", "masks")
    return entry.after is None and not holds_quadrilaterals(entry.labels, entry.layer)


LABELS = Labels(
    read=lambda data, progress: read_pixel_labels(
        data, PIXELS, "pictures with masks", other_split_folders(open_folder, ("images", "masks"))
    ),
    is_layout=_is_layout,
)
