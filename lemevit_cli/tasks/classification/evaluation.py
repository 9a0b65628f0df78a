"""Classification weights scored on labelled data, used as ``lemevit predict`` uses them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.view import SceneView
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks.classification.data import open_split
from lemevit_cli.tasks.classification.inference import Windows, cells_of, classify_whole
from lemevit_cli.tasks.classification.tally import ClassTally
from lemevit_cli.tasks.classification.windows import class_of
from lemevit_cli.tasks.evaluation import Evaluation
from lemevit_cli.training.datasets.source import Site, Source


class WindowTally:
    """Counts pictures, or the cells of scenes, by true and predicted class."""

    def __init__(self, card: Card, source: Source, progress: Progress) -> None:
        self._source = source
        self._tally = ClassTally(card.class_names, source.classes)

    def add(self, site: Site, scene: SceneInput, inference: BlockInference) -> None:
        """Count a picture, or the cells of an area, whose class is that of most of its labels."""
        if self._source.whole_pictures:
            answers = [(site.core, classify_whole(inference))]
        else:
            answers = list(_cells_in(inference, site.core))
        for window, scores in answers:
            if scores is not None:
                truth = class_of(self._source.read_ids(site, window), self._source)
                self._tally.add(scores, truth)

    def figures(self) -> dict[str, Any]:
        """Return the figures of :class:`ClassTally`."""
        return self._tally.figures()


EVALUATION = Evaluation(
    open_split, WindowTally, open_without_bad_labels=partial(open_split, skip_bad_labels=True)
)


def _cells_in(
    inference: BlockInference, area: Window
) -> Iterator[tuple[Window, NDArray[np.float32]]]:
    """Yield the cells over an area of a scene: their part of it in its pixels, and the scores."""
    within = replace(inference, source=replace(inference.source, area=area))
    task, cells = Windows(inference.predictor.card, InferenceSettings(), Silent()), cells_of(within)
    for block in task.plan(within).blocks:
        for piece in task.infer(within, block):
            scores = piece.arrays["scores"]
            for row, col in np.argwhere(~np.isnan(scores[0])).tolist():
                core = cells.core(block.col_off + col, block.row_off + row)
                seen = _on_scene(core, within.view).intersection(area)
                if seen is not None:
                    yield seen, scores[:, row, col]


def _on_scene(window: Window, view: SceneView) -> Window:
    """Return the pixels of the scene that a window of the model's grid touches."""
    cols, rows = view.scene.width / view.width, view.scene.height / view.height
    left, top = math.floor(window.col_off * cols), math.floor(window.row_off * rows)
    return Window(
        col_off=left,
        row_off=top,
        width=math.ceil(window.right * cols) - left,
        height=math.ceil(window.bottom * rows) - top,
    )
