"""Truth and prediction compared, pixel by pixel."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.class_groups import BACKGROUND, NO_GROUP, groups_of


@dataclass
class Confusion:
    """Pixels by true and predicted class, pooled over all that was added.

    Args:
        classes: names; ids follow their order.
    """

    classes: tuple[str, ...]
    counts: NDArray[np.int64] = field(init=False)  # (true, predicted); the last column: none

    def __post_init__(self) -> None:
        n = len(self.classes)
        self.counts = np.zeros((n, n + 1), dtype=np.int64)

    def add(self, truth: NDArray[Any], predicted: NDArray[Any]) -> None:
        """Count pixels: ids of equal shape; truth ``NODATA_CLASS`` is left out.

        A prediction outside the classes is wrong whatever the truth is.
        """
        n = len(self.classes)
        known = truth != NODATA_CLASS
        answers = predicted[known].astype(np.int64)
        answers = np.where((answers >= 0) & (answers < n), answers, n)
        pairs = truth[known].astype(np.int64) * (n + 1) + answers
        self.counts += np.bincount(pairs, minlength=n * (n + 1)).reshape(n, n + 1)

    def figures(self) -> dict[str, Any]:
        """Return ``miou``, ``f1``, ``accuracy`` and ``classes.<name>.{iou,f1,precision,recall}``.

        All in [0, 1]; ``miou`` and ``f1`` are means over the classes. None where neither truth nor
        prediction has a pixel of the class; such a class does not count in the means.
        """
        hits = np.diagonal(self.counts).astype(float)
        true, found = self.counts.sum(axis=1), self.counts[:, :-1].sum(axis=0)
        classes = {
            name: figures_of(hits[i], found=found[i], true=true[i])
            for i, name in enumerate(self.classes)
        }
        return {
            "miou": mean_known(record["iou"] for record in classes.values()),
            "f1": mean_known(record["f1"] for record in classes.values()),
            "accuracy": ratio(hits.sum(), true.sum()),
            "classes": classes,
        }


def mean_known(values: Iterable[float | None]) -> float | None:
    """Average what is not None; None if all is."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def figures_of(hits: float, *, found: float, true: float) -> dict[str, float | None]:
    """Return ``iou``, ``f1``, ``precision`` and ``recall``, in [0, 1], None where of nothing.

    Args:
        hits, found, true: pixels, areas or objects that are in both, found, and true.
    """
    return {
        "iou": ratio(hits, true + found - hits),
        "f1": ratio(2 * hits, true + found),
        "precision": ratio(hits, found),
        "recall": ratio(hits, true),
    }


def ratio(part: float, whole: float) -> float | None:
    """Divide, None by nothing."""
    return float(part / whole) if whole else None


@dataclass(frozen=True)
class ClassMatch:
    """Truth and prediction brought to the classes that both can be judged by.

    Args:
        classes: names.
        of_truth, of_prediction: id among ``classes`` of each id of the data and of the model.
    """

    classes: tuple[str, ...]
    of_truth: tuple[int, ...]
    of_prediction: tuple[int, ...]

    def truth(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return class ids of the data, ``NODATA_CLASS`` kept, as ids among ``classes``."""
        return _table(self.of_truth)[ids]

    def prediction(self, ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the model's class ids as ids among ``classes``; ``NODATA_CLASS`` if none fits."""
        return _table(self.of_prediction)[ids]

    def certainty(
        self, scores: NDArray[np.float32], found: NDArray[np.uint8]
    ) -> NDArray[np.float32]:
        """Return the score of what was found: the sum over the model's classes that it stands for.

        Args:
            scores: ``(model's classes, H, W)``.
            found: ids among ``classes`` ``(H, W)``; 0 where it is none of them.
        """
        of_found = np.zeros(found.shape, dtype=np.float32)
        for score, i in zip(scores, self.of_prediction, strict=True):
            np.add(of_found, score, out=of_found, where=found == i)
        return of_found


def match_classes(model_classes: Sequence[str], data_classes: Sequence[str]) -> ClassMatch:
    """Match classes by name; what one side does not name is background where the other has one.

    On data of ``background, building`` every other class of the model counts as background, and
    data of five classes judge a model of ``background, building`` by these two.

    Raises:
        DataError: if no class but the background is shared.
    """
    of_prediction = groups_of(model_classes, data_classes)
    if BACKGROUND not in model_classes or BACKGROUND in data_classes:
        return ClassMatch(tuple(data_classes), tuple(range(len(data_classes))), of_prediction)
    names = tuple(name for name in model_classes if name in (BACKGROUND, *data_classes))
    ids = {name: i for i, name in enumerate(names)}
    return ClassMatch(
        names,
        tuple(ids.get(name, ids[BACKGROUND]) for name in data_classes),
        tuple(ids.get(name, NO_GROUP) for name in model_classes),
    )


def _table(ids: Sequence[int]) -> NDArray[np.uint8]:
    table = np.full(256, NODATA_CLASS, dtype=np.uint8)
    table[: len(ids)] = [NODATA_CLASS if i == NO_GROUP else i for i in ids]
    return table
