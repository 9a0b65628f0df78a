"""Validation of a classifier during a training: windows in batches, each judged for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor

from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.classification.tally import ClassTally
from lemevit_cli.tasks.classification.windows import class_of, frames_of
from lemevit_cli.training.datasets.source import Site, Source
from lemevit_cli.training.draw import read_frame
from lemevit_cli.training.frames import Frame
from lemevit_cli.training.loop import Validation
from lemevit_cli.training.window_validation import spread

_BATCH = 16
_WINDOWS_FOR_ONE = 8  # of a class a pixel: such a window says a thousand times as much


@dataclass
class ClassValidation:
    """Judges a classifier on windows of the validation sites; the score is their mean top-1.

    Args:
        limit: windows of each source, spread evenly, in those of a task with a class a pixel: eight
            times as many are taken. None takes all.

    Attributes:
        tallies: of the last call, by source.
        cost_of_all: how many times a call's work it takes to classify all.
    """

    sources: Sequence[Source]
    card: Card
    limit: int | None = None
    tallies: dict[str, ClassTally] = field(init=False, default_factory=dict)
    cost_of_all: float = field(init=False)

    def __post_init__(self) -> None:
        every = {source.name: frames_of(source, self.card.window) for source in self.sources}
        most = None if self.limit is None else self.limit * _WINDOWS_FOR_ONE
        self._places = {name: spread(frames, most) for name, frames in every.items()}
        taken = sum(map(len, self._places.values()))
        self.cost_of_all = sum(map(len, every.values())) / max(taken, 1)

    @property
    def num_pixels(self) -> int:
        """Return how many pixels a call looks at."""
        return sum(map(len, self._places.values())) * self.card.window**2

    def __call__(self, answer: Callable[[Tensor], Tensor]) -> Validation:
        self.tallies = {s.name: ClassTally(self.card.class_names, s.classes) for s in self.sources}
        for source in self.sources:
            places = self._places[source.name]
            for first in range(0, len(places), _BATCH):
                windows = [self._read(source, *place) for place in places[first : first + _BATCH]]
                pixels = torch.stack([pixels for pixels, _ in windows])
                scores: NDArray[np.float32] = answer(pixels).cpu().numpy()
                for of_window, (_, truth) in zip(scores, windows, strict=True):
                    self.tallies[source.name].add(of_window, truth)
        figures = {name: tally.figures() for name, tally in self.tallies.items()}
        known = [f["top1"] for f in figures.values() if f["top1"] is not None]
        return Validation(float(np.mean(known)) if known else 0.0, figures)

    def _read(self, source: Source, site: Site, frame: Frame) -> tuple[Tensor, int]:
        drawn = read_frame(source, site, frame, Generator())
        crop = drawn.crop(self.card.window, fill=self.card.mean)
        return crop.pixels, class_of(crop.ids.numpy(), source)
