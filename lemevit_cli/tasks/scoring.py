"""What ``lemevit score`` asks of a task: which results it compares, and how."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from lemevit_cli.errors import DataError
from lemevit_cli.progress import Progress
from lemevit_cli.training.options import LabelledScene

RASTER, POLYGONS = "a raster", "polygons"  # kinds of files that are no task's own
_BLOCK = 1024  # pixels: bounds memory
# Options that comparisons heed, by what they are of.
OF_RASTERS = ("--classes", "--tolerance", "--png")
OF_LAYERS = ("--layer", "--where")
OF_NAMES = ("--label-field", "--class")
OF_BOXES = ("--score", "--skip-bad-labels", *OF_NAMES, *OF_LAYERS)


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """Options of the comparison of two results.

    Args:
        classes: names of the ids 0, 1, ... of rasters that do not name theirs.
        tolerance_m: of the boundaries, in metres on the ground; None takes two pixels.
        labels: how a truth of polygons or boxes is read; its paths are filled in.
        min_score: of the boxes that precision and recall are counted over.
        picture: a PNG to draw.
        overwrite: replace an existing picture.
        block_size: pixels; the figures do not depend on it.
        skip_bad_labels: of boxes in texts and tables: count what cannot be understood.
    """

    classes: tuple[str, ...] | None = None
    tolerance_m: float | None = None
    labels: LabelledScene = field(default_factory=lambda: LabelledScene(scene="", labels=""))
    min_score: float = 0.0
    picture: str | None = None
    overwrite: bool = False
    block_size: int = _BLOCK
    skip_bad_labels: bool = False


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Comparison of a task's results with the truth.

    Args:
        compare: a prediction and a truth, by path; gives figures.
        pairs: kinds of prediction and truth that it compares.
        kind: of file that is the task's own; None without one.
        is_kind: says whether the file of a path is of that kind.
    """

    compare: Callable[[str, str, ScoreOptions, Progress], dict[str, Any]]
    pairs: frozenset[tuple[str, str]]
    kind: str | None = None
    is_kind: Callable[[str], bool] = lambda path: False


def refuse_unheeded(options: ScoreOptions, compared: str, heeded: Collection[str]) -> None:
    """Refuse an option that a comparison does not heed.

    Args:
        compared: what is compared, with its verb: "boxes are".
        heeded: names of options that it does.

    Raises:
        DataError: naming the first.
    """
    labels = options.labels
    given = {
        "--classes": options.classes is not None,
        "--tolerance": options.tolerance_m is not None,
        "--png": options.picture is not None,
        "--score": options.min_score != 0.0,
        "--skip-bad-labels": options.skip_bad_labels,
        "--label-field": labels.label_field is not None,
        "--class": labels.class_name is not None,
        "--layer": labels.layer is not None,
        "--where": labels.where is not None,
        "--background": labels.background != LabelledScene.background,
        "--all-touched": labels.all_touched,
    }
    for name, is_given in given.items():
        if is_given and name not in heeded:
            kind = "for rasters of classes" if name in OF_RASTERS else "not heeded here"
            raise DataError(f"{name} is {kind}; {compared} compared without it")
