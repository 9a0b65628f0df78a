"""``lemevit eval``: weights scored on labelled pictures, as the commands over scenes use them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from lemevit_cli.errors import WeightsError
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card, find_weights, read_card
from lemevit_cli.pipelines.block_inference import BlockInference, class_ids, inference_over
from lemevit_cli.pipelines.box_evaluation import JUDGED, evaluate_boxes, open_boxes_to_score
from lemevit_cli.pipelines.change_evaluation import evaluate_changes, open_changes_to_score
from lemevit_cli.pipelines.predictor import Predictor, load_predictor
from lemevit_cli.pipelines.progress import Progress, Silent
from lemevit_cli.pipelines.scene_input import scene_input
from lemevit_cli.scenes.scene import open_scene
from lemevit_cli.settings import ReadingOptions, RuntimeOptions, Tiling
from lemevit_cli.tasks.confusion import ClassMatch, Confusion, match_classes
from lemevit_cli.training.datasets.box_source import BoxSource
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Site, Source, joined_areas


def evaluate(
    weights: str,
    data: str,
    *,
    split: str = "val",
    runtime: RuntimeOptions | None = None,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a split of a folder, pooled over all its pictures.

    Returns:
        As :func:`evaluate_source`.

    Raises:
        WeightsError, DataError: before any prediction.
    """
    card = read_card(find_weights(weights))
    if card.task not in _SCORINGS:
        raise WeightsError(
            f"{weights}: weights for task {card.task}; eval scores those for {', '.join(_SCORINGS)}"
        )
    source = _SCORINGS[card.task].open(data, split, card)
    predictor = predictor_to_score(weights, card, runtime or RuntimeOptions())
    return evaluate_source(predictor, source, batch_size=batch_size, progress=progress)


def predictor_to_score(weights: str, card: Card, runtime: RuntimeOptions) -> Predictor:
    """Weights made ready for :func:`evaluate_source`."""
    return load_predictor(weights, card.task, runtime, JUDGED if card.task == "det" else None)


def evaluate_source(
    predictor: Predictor,
    source: Source | BoxSource,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a source of data of their task.

    Returns:
        As :func:`evaluate_pixels`, :func:`evaluate_boxes` or :func:`evaluate_changes`.

    Raises:
        DataError: if no class is shared.
        SceneError: if a raster cannot be read as the weights ask.
    """
    scoring = _SCORINGS[predictor.card.task]
    return scoring.evaluate(predictor, source, batch_size=batch_size, progress=progress)


def _open_pixels(data: str, split: str, card: Card) -> Source:
    source = open_folder(data, split)
    match_classes(card.class_names, source.classes)  # for its check
    source.count_classes()  # for its checks
    return source


def evaluate_pixels(
    predictor: Predictor,
    source: Source,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a source of masks, pooled over the areas of all its sites.

    Scenes and pictures go through the road of ``predict``: windows and overlap of the card over the
    whole raster, blended. Classes are matched by name (see :func:`match_classes`).

    Returns:
        ``miou``, ``f1``, ``accuracy``, ``classes.<name>.{iou,f1,precision,recall}`` in [0, 1] (None
        where a class occurs in neither truth nor prediction), ``pictures`` and scored ``pixels``.

    Raises:
        DataError: if no class is shared.
        SceneError: if a raster cannot be read as the weights ask.
    """
    progress = progress or Silent()
    match = match_classes(predictor.card.class_names, source.classes)
    confusion = Confusion(match.classes)
    areas = joined_areas(source.sites)
    progress.start(f"{source.name}/{source.split}", total=len(areas), unit="areas")
    try:
        for path, sites in groupby(areas, key=lambda site: site.scene):
            with open_scene(path) as scene:
                # Silent: what predict says of one scene would drown the progress over all.
                view = scene_input(scene, predictor.card, ReadingOptions(), Silent())
                tiling = Tiling(batch_size=batch_size)
                with inference_over(view, predictor, tiling, Silent()) as inference:
                    for site in sites:
                        _score_area(source, site, inference, match, confusion)
                        progress.advance()
    finally:
        progress.finish()
    return {
        **confusion.figures(),
        "pictures": len({site.scene for site in areas}),
        "pixels": int(confusion.counts.sum()),
    }


def _score_area(
    source: Source,
    site: Site,
    inference: BlockInference,
    match: ClassMatch,
    confusion: Confusion,
) -> None:
    for rows in inference.rows(site.area):
        truth = source.read_truth(site, rows.window)
        found = class_ids(rows, NODATA_CLASS)
        truth[found == NODATA_CLASS] = NODATA_CLASS  # no pixel, nothing to be right about
        confusion.add(match.truth(truth), match.prediction(found))


@dataclass(frozen=True)
class _Scoring:
    """How a task's data are opened, by path, split and card, and how weights are scored on them."""

    open: Callable[[str, str, Card], Any]
    evaluate: Callable[..., dict[str, Any]]


_SCORINGS = {
    "seg": _Scoring(_open_pixels, evaluate_pixels),
    "det": _Scoring(open_boxes_to_score, evaluate_boxes),
    "change": _Scoring(open_changes_to_score, evaluate_changes),
}
