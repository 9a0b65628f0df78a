"""Whether scores mean what they say: of answers that are 0.8 sure, eight in ten should be right."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.metrics.confusion import ratio

_BINS = 15  # as in Guo et al., On Calibration of Modern Neural Networks (arXiv 1706.04599)


class Reliability:
    """Adds up, in bins of certainty, how sure answers were and how often they were right."""

    def __init__(self) -> None:
        self._counts, self._sure, self._right = np.zeros((3, _BINS))

    def add(self, certainty: NDArray[np.float32], is_right: NDArray[np.bool_]) -> None:
        """Add answers: the score of each in [0, 1], and whether it is the truth."""
        bins = np.clip((certainty * _BINS).astype(np.int64), 0, _BINS - 1).ravel()
        self._counts += np.bincount(bins, minlength=_BINS)
        self._sure += np.bincount(bins, certainty.ravel().astype(float), minlength=_BINS)
        self._right += np.bincount(bins, is_right.ravel().astype(float), minlength=_BINS)

    def error(self) -> float | None:
        """Return the expected calibration error in [0, 1], None of nothing.

        Mean over all answers of how far, in their bin, mean certainty and share of right ones are
        apart.
        """
        return ratio(float(np.abs(self._sure - self._right).sum()), float(self._counts.sum()))
