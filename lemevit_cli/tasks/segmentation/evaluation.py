"""Segmentation weights scored on labelled pictures, used as ``lemevit predict`` uses them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import BlockInference, class_ids, inference_over
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.metrics.confusion import ClassMatch, Confusion, match_classes
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import ReadingOptions, Tiling
from lemevit_cli.tasks.evaluation import Evaluation
from lemevit_cli.training.datasets.folders import open_folder
from lemevit_cli.training.datasets.source import Site, Source, count_pictures, merge_areas


def open_pixels_to_score(data: str, split: str, card: Card) -> Source:
    """Open a split of a folder that weights shall be scored on.

    Raises:
        DataError: if it cannot be opened, or no class is shared.
    """
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
    areas = merge_areas(source.sites)
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
        "pictures": count_pictures(areas),
        "pixels": int(confusion.counts.sum()),
    }


def _score_area(
    source: Source,
    site: Site,
    inference: BlockInference,
    match: ClassMatch,
    confusion: Confusion,
) -> None:
    for rows in inference.rows(site.core):
        truth = source.read_ids(site, rows.window)
        found = class_ids(rows, NODATA_CLASS)
        truth[found == NODATA_CLASS] = NODATA_CLASS  # no pixel, nothing to be right about
        confusion.add(match.truth(truth), match.prediction(found))


EVALUATION = Evaluation(open_pixels_to_score, evaluate_pixels)
