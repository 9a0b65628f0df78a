"""Validation of a detector during a training: windows side by side, each judged for itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lemevit_cli.errors import LemevitError
from lemevit_cli.geometry.oriented_boxes import canonical
from lemevit_cli.geometry.window import Window
from lemevit_cli.models.weights import Card
from lemevit_cli.tasks.detection.decoding import decode
from lemevit_cli.tasks.detection.tally import BoxTally, match_box_classes
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.datasets.source import Site, Source
from lemevit_cli.training.frames import model_values
from lemevit_cli.training.loop import Validation
from lemevit_cli.training.window_validation import plan_windows, spread

_EXAMPLES = 4


@dataclass(frozen=True)
class BoxExample:
    """A validation window with its truth and a model's boxes.

    Args:
        pixels: ``(bands, H, W)`` float32, in the card's values.
        truth: in pixels of the window.
        truth_classes: names that its ids stand for.
        prediction: ``(N, 7)``: box, score, class id of the model.
    """

    pixels: NDArray[np.float32]
    truth: Objects
    truth_classes: tuple[str, ...]
    prediction: NDArray[np.float64]


@dataclass
class BoxValidation:
    """Judges a detector on windows of the validation sites.

    The score is the AP50 over the windows of all sources, each class judged where it is labelled,
    the mean over the classes that occur. An object that a window cuts, so that less than 0.7 of it
    is inside, is difficult there.

    Args:
        limit: windows of each source, spread evenly; None takes all.

    Attributes:
        tally: of the last call, over all sources.
        examples: up to four windows with objects of the last call, spread evenly.
        cost_of_all: how many times a call's work it takes to detect in all areas in whole.
    """

    sources: Sequence[Source]
    card: Card
    limit: int | None = None
    tally: BoxTally = field(init=False)
    examples: tuple[BoxExample, ...] = field(init=False, default=())
    cost_of_all: float = field(init=False)

    def __post_init__(self) -> None:
        names = self.card.class_names
        self.tally = BoxTally(names)
        self._matches = {
            s.name: match_box_classes(names, s.classes, place=s.name) for s in self.sources
        }
        self._tasks, self.cost_of_all = plan_windows(self.sources, self.card, self.limit)
        with_objects = [
            number
            for number, (source, site, window) in enumerate(self._tasks)
            if len(source.objects[site.scene].centred_in(window))
        ]
        self._shown = set(spread(with_objects, _EXAMPLES))

    @property
    def num_pixels(self) -> int:
        """Return how many pixels a call looks at."""
        return sum(window.width * window.height for _, _, window in self._tasks)

    def __call__(self, answer: Callable[[Tensor], Tensor]) -> Validation:
        names = self.card.class_names
        self.tally, examples = BoxTally(names), []
        by_source = {source.name: BoxTally(names) for source, _, _ in self._tasks}
        for number, (source, site, window) in enumerate(self._tasks):
            example = self._judge(answer, source, site, window)
            boxes, scores, ids = np.split(example.prediction, [5, 6], axis=1)
            for tally in (self.tally, by_source[source.name]):
                tally.add(
                    boxes,
                    scores[:, 0],
                    ids[:, 0].astype(np.int64),
                    example.truth,
                    self._matches[source.name],
                )
            if number in self._shown:
                examples.append(example)
        self.examples = tuple(examples)
        figures = {name: tally.figures() for name, tally in by_source.items()}
        return Validation(self.tally.figures()["ap50"] or 0.0, figures)

    def _judge(
        self, answer: Callable[[Tensor], Tensor], source: Source, site: Site, window: Window
    ) -> BoxExample:
        pixels = model_values(*source.read_pixels(site, window), self.card.mean)
        candidates = answer(torch.from_numpy(pixels[None])).detach().float().cpu().numpy()
        rows = decode(candidates)[0, :-1].astype(np.float64)  # the last had no room
        if not np.isfinite(rows).all():
            raise LemevitError(f"{source.name}: the detector answers with what is no number")
        rows = rows[rows[:, 6] >= 0]
        rows[:, :5] = canonical(rows[:, :5])
        truth = objects_in(source.objects[site.scene], window)
        return BoxExample(pixels, truth, source.classes, rows)


def objects_in(objects: Objects, window: Window) -> Objects:
    """Select objects that touch a window, in its pixels; difficult, if less than 0.7 is inside."""
    left, top = window.col_off, window.row_off
    corners = np.array(
        [[left, top], [window.right, top], [window.right, window.bottom], [left, window.bottom]],
        dtype=np.float64,
    )
    cut = objects.cut(corners, window)
    return replace(cut, boxes=cut.boxes - (left, top, 0, 0, 0))
