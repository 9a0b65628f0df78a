"""Windows by true and found class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import Confusion, match_classes, ratio

_BEST = 5


class ClassTally:
    """Counts windows; classes are matched by name, as :func:`match_classes` does.

    Args:
        classes: of the model.
        data_classes: of the truth.
    """

    def __init__(self, classes: Sequence[str], data_classes: Sequence[str]) -> None:
        self._match = match_classes(classes, data_classes)
        self.confusion = Confusion(self._match.classes)
        self._among_best = 0

    def add(self, scores: NDArray[np.float32], truth: int) -> None:
        """Count a window.

        Args:
            scores: ``(classes,)`` of the model.
            truth: id of the data; ``NODATA_CLASS`` is left out.
        """
        true = self._match.truth(np.array([truth], dtype=np.uint8))
        if true[0] == NODATA_CLASS:
            return
        best = np.argsort(-scores, kind="stable")[:_BEST].astype(np.uint8)
        found = self._match.prediction(best)
        self.confusion.add(true, found[:1])
        self._among_best += int(true[0] in found)

    def figures(self) -> dict[str, Any]:
        """Return ``top1``, ``top5``, ``f1`` (the classes' mean), all in [0, 1], and counts.

        ``classes.<name>`` has ``f1``, ``precision``, ``recall``, ``windows`` and what it is most
        often ``taken_for``; ``confusion`` has a row for every true class, ``unmatched`` what was
        found of classes that the data do not have.
        """
        counts = self.confusion.counts
        figures, windows = self.confusion.figures(), int(counts.sum())
        classes = {
            name: {
                **{key: record[key] for key in ("f1", "precision", "recall")},
                "windows": int(counts[i].sum()),
                "taken_for": self._taken_for(i),
            }
            for i, (name, record) in enumerate(figures["classes"].items())
        }
        return {
            "top1": figures["accuracy"],
            "top5": ratio(self._among_best, windows),
            "f1": figures["f1"],
            "classes": classes,
            "confusion": counts[:, :-1].tolist(),
            "unmatched": counts[:, -1].tolist(),
            "windows": windows,
        }

    def _taken_for(self, class_id: int) -> str | None:
        """Name the class that a true one is most often mistaken for, with the share of it."""
        row = self.confusion.counts[class_id].copy()
        total = row.sum()
        row[class_id] = 0
        most = int(row.argmax())
        if row[most] == 0:
            return None
        name = (*self._match.classes, "other")[most]
        return f"{name} {row[most] / total:.0%}"
