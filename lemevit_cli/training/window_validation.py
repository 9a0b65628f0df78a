"""Validation during a training: windows side by side, unblended, quick enough for every epoch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from math import ceil
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemevit_cli.geometry.window import Window
from lemevit_cli.metrics.confusion import ClassMatch, Confusion, match_classes
from lemevit_cli.models.weights import Card
from lemevit_cli.training.datasets.source import Site, Source, merge_areas
from lemevit_cli.training.frames import model_values
from lemevit_cli.training.loop import Validation

_EXAMPLES = 4


@dataclass(frozen=True)
class Example:
    """A validation window with its truth and a model's answer.

    Args:
        source: name.
        classes: of truth and prediction; ``NODATA_CLASS`` is none of them.
        pixels: ``(bands, H, W)`` float32, in the card's values; of pairs those of both dates.
        truth, prediction: ids ``(H, W)``.
    """

    source: str
    classes: tuple[str, ...]
    pixels: NDArray[np.float32]
    truth: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


@dataclass
class WindowValidation:
    """Judges a model on windows of the validation sites.

    The score is the mean over the sources of their mean IoU, or of another figure: a large one must
    not drown a small one from another place.

    Args:
        limit: windows of each source, spread evenly; None takes all.
        match: brings classes of the card and of a source together.
        figures_of: a source's confusion as figures.
        judged_by: which of the figures is the score.

    Attributes:
        confusions: of the last call, by source.
        examples: up to four windows of the last call, spread evenly.
        cost_of_all: how many times a call's work it takes to predict all areas in whole.
    """

    sources: Sequence[Source]
    card: Card
    limit: int | None = None
    match: Callable[[Sequence[str], Sequence[str]], ClassMatch] = match_classes
    figures_of: Callable[[Confusion], dict[str, Any]] = Confusion.figures
    judged_by: str = "miou"
    confusions: dict[str, Confusion] = field(init=False, default_factory=dict)
    examples: tuple[Example, ...] = field(init=False, default=())
    cost_of_all: float = field(init=False)

    def __post_init__(self) -> None:
        names = self.card.class_names
        self._matches = {s.name: self.match(names, s.classes) for s in self.sources}
        self._tasks, self.cost_of_all = plan_windows(self.sources, self.card, self.limit)
        self._shown = set(spread(list(range(len(self._tasks))), _EXAMPLES))

    @property
    def num_pixels(self) -> int:
        """Return how many pixels a call looks at."""
        return sum(window.width * window.height for _, _, window in self._tasks)

    def __call__(self, answer: Callable[[Tensor], Tensor]) -> Validation:
        self.confusions, examples = {}, []
        for number, (source, site, window) in enumerate(self._tasks):
            match = self._matches[source.name]
            example = self._judge(answer, source, match, site, window)
            confusion = self.confusions.setdefault(source.name, Confusion(match.classes))
            confusion.add(example.truth, example.prediction)
            if number in self._shown:
                examples.append(example)
        self.examples = tuple(examples)
        figures = {name: self.figures_of(found) for name, found in self.confusions.items()}
        scores = [f[self.judged_by] for f in figures.values() if f[self.judged_by] is not None]
        return Validation(float(np.mean(scores)) if scores else 0.0, figures)

    def _judge(
        self,
        answer: Callable[[Tensor], Tensor],
        source: Source,
        match: ClassMatch,
        site: Site,
        window: Window,
    ) -> Example:
        sample = source.read(site, window)
        dates = len(sample.pixels) // self.card.bands
        pixels = model_values(sample.pixels, sample.valid, self.card.mean * dates)
        found = answer(torch.from_numpy(pixels[None]))[0].argmax(dim=0).to(torch.uint8)
        return Example(
            source.name,
            match.classes,
            pixels,
            match.truth(sample.ids),
            match.prediction(found.cpu().numpy()),
        )


def plan_windows(
    sources: Sequence[Source], card: Card, limit: int | None
) -> tuple[list[tuple[Source, Site, Window]], float]:
    """Return windows side by side, and how many times their work predicting all areas takes.

    Args:
        limit: windows of each source, spread evenly; None takes all.
    """
    every = [list(windows_of(source.sites, card.window)) for source in sources]
    tasks = [
        (source, site, window)
        for source, windows in zip(sources, every, strict=True)
        for site, window in spread(windows, limit)
    ]
    # Windows of a prediction overlap, and more of them cover the same area.
    denser = (card.window / (card.window - card.overlap)) ** 2
    return tasks, denser * sum(map(len, every)) / max(len(tasks), 1)


def windows_of(sites: Sequence[Site], size: int) -> Iterator[tuple[Site, Window]]:
    """Yield windows that cover the areas of sites once, none wider than ``size``.

    An area that is no multiple of the size is cut into equal parts, not into windows and a sliver.
    """
    for site in merge_areas(sites):
        area = site.core
        cols, rows = _edges(area.width, size), _edges(area.height, size)
        for top, bottom in pairwise(rows):
            for left, right in pairwise(cols):
                window = Window(col_off=left, row_off=top, width=right - left, height=bottom - top)
                yield site, window.shift(cols=area.col_off, rows=area.row_off)


def _edges(length: int, size: int) -> list[int]:
    parts = ceil(length / size)
    return [i * length // parts for i in range(parts + 1)]


def spread(values: list[Any], limit: int | None) -> list[Any]:
    """Return at most ``limit`` of the values, evenly spread, in their order."""
    if limit is None or len(values) <= limit:
        return values
    return [values[i * len(values) // limit] for i in range(limit)]
