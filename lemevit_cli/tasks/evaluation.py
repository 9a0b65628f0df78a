"""``lemevit eval``: weights scored on labelled data, as the commands over scenes use them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import DataError, WeightsError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.network import Network
from lemevit_cli.inference.predictor import Predictor, load_predictor
from lemevit_cli.inference.run import BlockInference, inference_over
from lemevit_cli.inference.scene_input import SceneInput, scene_input
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import ClassMatch
from lemevit_cli.models.weights import Card, Weights, open_weights
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.inspection import picture_warnings
from lemevit_cli.raster.scene import open_ground
from lemevit_cli.settings import ReadingOptions, RuntimeOptions, Tiling
from lemevit_cli.tasks import TASKS, load_evaluation, load_network
from lemevit_cli.training.datasets.source import Site, Source, count_pictures, merge_areas


class AreaTally(Protocol):
    """Judges the answers for areas of a source, one after the other."""

    def add(self, site: Site, scene: SceneInput, inference: BlockInference) -> None:
        """Judge the area of a site."""
        ...

    def figures(self) -> dict[str, Any]:
        """Return the figures over all areas so far."""
        ...


@contextmanager
def open_scene_of(site: Site, card: Card) -> Iterator[SceneInput]:
    """Open the scene of a site as the weights want it."""
    with open_ground(site.scene) as scene:
        # Silent: what the command says of one scene would drown the progress over all.
        yield scene_input(scene, card, ReadingOptions(), Silent())


@dataclass(frozen=True)
class Evaluation:
    """How weights of a task are scored.

    Args:
        open_data: a source by path, split and card.
        tally: made of the card and a source, once.
        open_scene: what the weights read of a site.
        network: of a card, asked for all that is judged; None takes the task's own.
        open_without_bad_labels: as ``open_data``, with bad labels counted and left out; None where
            a task knows none.
    """

    open_data: Callable[[str, str, Card], Any]
    tally: Callable[[Card, Any, Progress], AreaTally]
    open_scene: Callable[[Site, Card], AbstractContextManager[SceneInput]] = open_scene_of
    network: Callable[[Card], Network] | None = None
    open_without_bad_labels: Callable[[str, str, Card], Any] | None = None


def evaluate(
    weights: str,
    data: str,
    *,
    split: str = "val",
    skip_bad_labels: bool = False,
    runtime: RuntimeOptions | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a split of a folder, pooled over all its pictures.

    Args:
        split: ``train``, ``val``, or the name of any other folder that is laid out as they are.

    Returns:
        As :func:`evaluate_source`.

    Raises:
        WeightsError, DataError: before any prediction.
    """
    if not split or Path(split).name != split:
        raise DataError(f"--split {split!r}: name a folder of {data}, such as test")
    opened = open_weights(weights)
    card = opened.card
    if card.task not in TASKS:
        raise WeightsError(
            f"{weights}: weights for task {card.task}; eval scores those for {', '.join(TASKS)}"
        )
    evaluation = load_evaluation(card.task)
    open_data = evaluation.open_without_bad_labels if skip_bad_labels else evaluation.open_data
    if open_data is None:
        raise DataError(
            f"--skip-bad-labels: is for tasks det and cls; {weights} is for task {card.task}"
        )
    source = open_data(data, split, card)
    progress = progress or Silent()
    predictor = predictor_to_score(opened, runtime or RuntimeOptions(), progress)
    for warning in picture_warnings(list(dict.fromkeys(p for s in source.sites for p in s.dates))):
        progress.warn(warning)
    for note in source.notes:
        progress.note(note)
    return evaluate_source(predictor, source, batch_size=batch_size, progress=progress)


def predictor_to_score(
    weights: Weights, runtime: RuntimeOptions, progress: Progress | None = None
) -> Predictor:
    """Make weights ready for :func:`evaluate_source`."""
    task = weights.card.task
    network_of = load_evaluation(task).network
    network = network_of(weights.card) if network_of else load_network(task)
    return load_predictor(weights, network, runtime, progress=progress)


def evaluate_source(
    predictor: Predictor,
    source: Any,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
    is_late: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Score weights on a source of data of their task, pooled over the areas of all its sites.

    Scenes and pictures take the road of the task's command: windows and overlap of the card over
    the whole raster.

    Args:
        predictor: as of :func:`predictor_to_score`.
        is_late: asked after every area; once it is, nothing more is judged.

    Returns:
        The figures of the task's tally, and how many ``pictures``; empty if it became too late.

    Raises:
        DataError: if no class is shared.
        SceneError: if a raster cannot be read as the weights ask.
    """
    progress, card = progress or Silent(), predictor.card
    evaluation = load_evaluation(card.task)
    tally = evaluation.tally(card, source, progress)
    areas, tiling = merge_areas(source.sites), Tiling(batch_size=batch_size)
    stretches, far = [], []
    progress.start(f"{source.name}/{source.split}", total=len(areas), unit="areas")
    try:
        for _, sites in groupby(areas, key=lambda site: site.dates):
            first = next(sites)
            with (
                evaluation.open_scene(first, card) as scene,
                inference_over(scene, predictor, tiling, Silent()) as inference,
            ):
                if scene.stretch is not None:
                    stretches.append(f"{first.scene}: {scene.stretch.describe()}")
                if scene.scale.is_far:
                    far.append(f"{scene.name}: {scene.scale.note}")
                for site in (first, *sites):
                    if is_late():
                        return {}
                    tally.add(site, scene, inference)
                    progress.advance()
    finally:
        progress.finish()
    if stretches:
        progress.note(f"{stretches[0]} (of {len(stretches)} rasters of another dtype or range)")
    if far:
        progress.warn(f"{far[0]}" + (f"; so of {len(far)} pictures" if len(far) > 1 else ""))
    return {**tally.figures(), "pictures": count_pictures(areas)}


def ids_to_judge(
    source: Source, site: Site, window: Window, answers: NDArray[np.uint8], match: ClassMatch
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return class ids ``(H, W)`` of truth and prediction, as both can be judged.

    Args:
        answers: ids of the weights in this window of the site's raster.
    """
    truth = source.read_ids(site, window)
    truth[answers == NODATA_CLASS] = NODATA_CLASS  # no pixel, nothing to be right about
    return match.truth(truth), match.prediction(answers)
