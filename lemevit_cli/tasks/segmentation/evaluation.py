"""Segmentation weights scored on labelled pictures, used as ``lemevit predict`` uses them."""

from __future__ import annotations

from typing import Any

from lemevit_cli.inference.run import BlockInference, class_ids
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import Confusion, match_classes
from lemevit_cli.metrics.reliability import Reliability
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.tasks.evaluation import Evaluation, ids_to_judge
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Site, Source


def open_pixels(data: str, split: str, card: Card) -> Source:
    """Open a split of a folder that weights shall be scored on.

    Raises:
        DataError: if it cannot be opened, or no class is shared.
    """
    source = open_folder(data, split)
    match_classes(card.class_names, source.classes)  # for its check
    source.count_classes()  # for its checks
    return source


class PixelTally:
    """Counts pixels of areas by true and predicted class, matched by :func:`match_classes`."""

    def __init__(self, card: Card, source: Source, progress: Progress) -> None:
        self._source = source
        self._match = match_classes(card.class_names, source.classes)
        self._confusion = Confusion(self._match.classes)
        self._reliability = Reliability()

    def add(self, site: Site, scene: SceneInput, inference: BlockInference) -> None:
        """Count an area, in the blended answers of its windows."""
        for rows in inference.rows(site.core):
            answers = class_ids(rows, NODATA_CLASS)
            truth, found = ids_to_judge(self._source, site, rows.window, answers, self._match)
            self._confusion.add(truth, found)
            is_judged = truth != NODATA_CLASS
            certainty = self._match.certainty(rows.scores, found)
            self._reliability.add(certainty[is_judged], (truth == found)[is_judged])

    def figures(self) -> dict[str, Any]:
        """Return the figures of :class:`Confusion`, ``calibration_error`` and scored ``pixels``."""
        return {
            **self._confusion.figures(),
            "calibration_error": self._reliability.error(),
            "pixels": int(self._confusion.counts.sum()),
        }


EVALUATION = Evaluation(open_pixels, PixelTally)
