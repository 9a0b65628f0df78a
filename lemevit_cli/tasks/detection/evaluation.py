"""Detectors scored on labelled boxes, found as ``lemevit detect`` finds them."""

from __future__ import annotations

from itertools import groupby
from typing import Any

import numpy as np

from lemevit_cli.errors import DataError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.predictor import Predictor
from lemevit_cli.inference.run import inference_over
from lemevit_cli.inference.scene_input import scene_input
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import DetectionOptions, InferenceSettings, ReadingOptions, Tiling
from lemevit_cli.tasks.detection.datasets.folders import open_box_folder
from lemevit_cli.tasks.detection.datasets.source import BoxSource, Objects
from lemevit_cli.tasks.detection.inference import detect_in_area
from lemevit_cli.tasks.detection.tally import BoxTally, match_box_classes
from lemevit_cli.tasks.evaluation import Evaluation
from lemevit_cli.training.datasets.source import count_pictures, joined_areas

# Average precision asks for unsure boxes as well; all else is as `detect` does it.
JUDGED = DetectionOptions(score=0.05)


def open_boxes_to_score(data: str, split: str, card: Card) -> BoxSource:
    """Open a split of a folder that weights shall be scored on.

    Raises:
        DataError: if there is no such split, its labels are wrong, or no class is shared.
    """
    parts = open_box_folder(data)
    source = parts.training if split == "train" else parts.validation
    if source is None:
        raise DataError(f"{data}: has no split {split}; name the other one by --split")
    place = next(iter(source.first_of.values()), data)
    match_box_classes(card.class_names, source.classes, place=place)  # for its check
    return source


def evaluate_boxes(
    predictor: Predictor,
    source: BoxSource,
    *,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Score weights on a source of boxes, pooled over the areas of all its sites.

    Classes are matched by name; those that one side alone knows are left out, whatever is found of
    them. An object belongs to the area that its centre lies in; others that reach into it, and
    difficult ones, are neither right nor wrong to find.

    Args:
        predictor: loaded with ``JUDGED``.

    Returns:
        As :meth:`BoxTally.figures`, and ``pictures``.

    Raises:
        DataError: if no class is shared.
        SceneError: if a raster cannot be read as the weights ask.
    """
    progress = progress or Silent()
    names = predictor.card.class_names
    match = match_box_classes(names, source.classes, place=source.name)
    foreign = [_with_place(name, source) for name in source.classes if name not in names]
    if foreign:
        progress.note(f"{source.name}: left out, as the weights know none: {', '.join(foreign)}")
    tally = BoxTally(names)
    settings = InferenceSettings(tiling=Tiling(batch_size=batch_size), detection=JUDGED)
    areas = joined_areas(source.sites)
    progress.start(f"{source.name}/{source.split}", total=len(areas), unit="areas")
    try:
        for path, sites in groupby(areas, key=lambda site: site.scene):
            with open_scene(path) as scene:
                # Silent: what detect says of one scene would drown the progress over all.
                view = scene_input(scene, predictor.card, ReadingOptions(), Silent())
                with inference_over(view, predictor, settings.tiling, Silent()) as inference:
                    for site in sites:
                        found = detect_in_area(inference, site.area, settings)
                        truth = objects_of_area(source.objects[path], site.area)
                        tally.add(found.boxes, found.scores, found.class_ids, truth, match)
                        progress.advance()
    finally:
        progress.finish()
    return {**tally.figures(), "pictures": count_pictures(areas)}


def _with_place(name: str, source: BoxSource) -> str:
    return f"{name} ({source.first_of[name]})" if name in source.first_of else name


def objects_of_area(objects: Objects, area: Window) -> Objects:
    """Select objects that may touch an area; those with their centre elsewhere are difficult."""
    near = objects.near((area.col_off, area.row_off, area.right, area.bottom))
    is_foreign = ~np.isin(near, objects.centred_in(area))
    return Objects(
        objects.boxes[near], objects.class_ids[near], objects.difficult[near] | is_foreign
    )


EVALUATION = Evaluation(open_boxes_to_score, evaluate_boxes, JUDGED)
