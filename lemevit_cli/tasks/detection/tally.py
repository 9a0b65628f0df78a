"""Found boxes against labelled ones, picture by picture, into figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import floor
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError
from lemevit_cli.metrics.average_precision import (
    Detections,
    Floats,
    Truth,
    average_precision,
    best_score,
    precision_curve,
    right_boxes,
)
from lemevit_cli.settings import USUAL_SCORE
from lemevit_cli.training.datasets.objects import IGNORED, Objects

_LONG = 1.5  # length over width, from which a box has a direction to be wrong about
_FEWEST_TRUTHS = 10  # of a class, for a score of its own
_UNSHARED = -1


@dataclass(frozen=True, eq=False)
class BoxMatch:
    """The classes that a data set and a model both know.

    Args:
        classes: their names, in the model's order.
        of_data: the model's id of each class of the data, -1 of those that it does not know.
        is_judged: of each class of the model, whether the data know it.
    """

    classes: tuple[str, ...]
    of_data: NDArray[np.int64]
    is_judged: NDArray[np.bool_]


def match_box_classes(
    model_classes: Sequence[str], data_classes: Sequence[str], *, place: str = "the data"
) -> BoxMatch:
    """Match classes by name; what one side does not know is left out.

    Args:
        place: of the data's labels, for the message.

    Raises:
        DataError: if no class is shared.
    """
    ids = {name: i for i, name in enumerate(model_classes)}
    shared = tuple(name for name in model_classes if name in data_classes)
    if not shared:
        raise DataError(
            f"{place}: no class is shared; labelled are {', '.join(data_classes)}, the model "
            f"knows {', '.join(model_classes)}"
        )
    return BoxMatch(
        shared,
        np.array([ids.get(name, _UNSHARED) for name in data_classes], dtype=np.int64),
        np.array([name in shared for name in model_classes], dtype=bool),
    )


class BoxTally:
    """Collects the boxes of pictures, and judges them together, once there is one.

    Pictures may come from data sets that know other classes: each class is judged where it is
    labelled.

    Args:
        classes: the model's.
        scores: of every class: precision, recall and false finds are those of the boxes with at
            least this score; without, 0.3.
    """

    def __init__(self, classes: Sequence[str], *, scores: Sequence[float] | None = None) -> None:
        self.classes = tuple(classes)
        self._scores = np.array([USUAL_SCORE] * len(classes) if scores is None else scores)
        self._judged: set[str] = set()
        self._found: list[Detections] = []
        self._truth: list[Truth] = []

    def __len__(self) -> int:
        """Count the pictures so far."""
        return len(self._found)

    def add(
        self,
        boxes: NDArray[np.float64],
        scores: NDArray[np.float64],
        class_ids: NDArray[np.int64],
        objects: Objects,
        match: BoxMatch,
        areas: Objects | None = None,
    ) -> None:
        """Add a picture, or a window of one.

        What has no class of its own is an ignored area of all: whatever is found there is no
        mistake.

        Args:
            boxes, scores, class_ids: what the model found, ids as it has them.
            objects: what is labelled there, ids as the data have them. Boxes of either may also be
                corners ``(N, 4, 2)``, which have no errors of length and bearing.
            areas: ignored areas, each of one class, where any number of its boxes is no mistake.
        """
        picture = len(self)
        known = match.is_judged[class_ids]
        self._found.append(
            Detections(
                boxes=boxes[known],
                scores=scores[known],
                class_ids=class_ids[known],
                image_ids=np.full(int(known.sum()), picture),
            )
        )
        self._truth.append(_truth(objects, areas, match, picture))
        self._judged.update(match.classes)

    def average_precision(self) -> dict[str, Any]:
        """Return :func:`average_precision` over all pictures, of the classes that are judged."""
        figures = average_precision(*self._all_boxes(), self.classes, score=self._scores)
        judged = {n: r for n, r in figures["classes"].items() if n in self._judged}
        return {**figures, "classes": judged}

    def figures(self) -> dict[str, Any]:
        """Return average precision and errors over all pictures so far.

        Returns:
            As :meth:`average_precision`. Of the boxes that are right at the chosen score and lie on
            an object longer than 1.5 of its width: ``length_error``, the median difference from the
            object's length as a share of that, and ``bearing_error_deg``, the median angle between
            the two; None without any.
        """
        return {**self.average_precision(), **_errors(*self._all_boxes(), self._scores)}

    def best_scores(self) -> tuple[float, ...]:
        """Return the score of the best F1 of every class, rounded down to hundredths.

        A class with less than ten objects to find, or with none that is found, has the median of
        the others: how sure a network is differs more between networks than between classes. It is
        0.3 for all where none has ten.
        """
        found, truth = self._all_boxes()
        counts = np.bincount(truth.class_ids[~truth.difficult], minlength=len(self.classes))
        enough = {i for i, count in enumerate(counts) if count >= _FEWEST_TRUTHS}
        best = {i: best_score(found, truth, i) for i in enough}
        own = {i: floor(score * 100) / 100 for i, score in best.items() if score is not None}
        usual = median(own.values()) if own else USUAL_SCORE
        return tuple(own.get(i, usual) for i in range(len(self.classes)))

    def curves(self) -> dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        """Return recall and precision at overlap 0.5 of every class with an object to find."""
        found, truth = self._all_boxes()
        present = set(truth.class_ids[~truth.difficult].tolist())
        return {
            name: precision_curve(found, truth, i)
            for i, name in enumerate(self.classes)
            if i in present
        }

    def _all_boxes(self) -> tuple[Detections, Truth]:
        return Detections(**_concatenate(self._found)), Truth(**_concatenate(self._truth))


def _concatenate(parts: Sequence[Detections] | Sequence[Truth]) -> dict[str, Any]:
    return {name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}


def _truth(objects: Objects, areas: Objects | None, match: BoxMatch, picture: int) -> Truth:
    is_ignored = objects.class_ids == IGNORED
    every = np.flatnonzero(match.is_judged)
    of_all = np.repeat(np.flatnonzero(is_ignored), len(every))
    own = [(objects.boxes[~is_ignored], objects.class_ids[~is_ignored])]
    if areas is not None:
        own.append((areas.boxes, areas.class_ids))
    boxes = np.concatenate([*(b for b, _ in own), objects.boxes[of_all]])
    ids = np.concatenate(
        [*(match.of_data[ids] for _, ids in own), np.tile(every, int(is_ignored.sum()))]
    )
    is_area = np.arange(len(boxes)) >= int((~is_ignored).sum())
    difficult = is_area.copy()
    difficult[~is_area] = objects.difficult[~is_ignored]
    known = ids != _UNSHARED
    return Truth(
        boxes=boxes[known],
        class_ids=ids[known],
        image_ids=np.full(int(known.sum()), picture),
        difficult=difficult[known],
        is_area=is_area[known],
    )


def _errors(found: Detections, truth: Truth, scores: Floats) -> dict[str, float | None]:
    boxes, truths = right_boxes(found, truth)
    chosen = found.scores[boxes] >= scores[found.class_ids[boxes]]
    _, _, width, height, angle = truth.boxes[truths[chosen]].T
    _, _, found_width, _, found_angle = found.boxes[boxes[chosen]].T
    long = width > _LONG * height
    if not long.any():
        return {"length_error": None, "bearing_error_deg": None}
    lengths = np.abs(found_width - width)[long] / width[long]
    turn = np.mod(found_angle - angle, np.pi)[long]
    return {
        "length_error": float(np.median(lengths)),
        "bearing_error_deg": float(np.degrees(np.median(np.minimum(turn, np.pi - turn)))),
    }
