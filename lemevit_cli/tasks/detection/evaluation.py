"""Detectors scored on labelled boxes, found as ``lemevit detect`` finds them."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.network import CardNetwork
from lemevit_cli.inference.run import BlockInference
from lemevit_cli.inference.scene_input import SceneInput
from lemevit_cli.metrics.confusion import ratio
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.settings import DetectionOptions, InferenceSettings
from lemevit_cli.tasks.detection.datasets.folders import open_box_split
from lemevit_cli.tasks.detection.inference import (
    describe_capped,
    describe_full,
    detect_in_area,
)
from lemevit_cli.tasks.detection.network import network_for
from lemevit_cli.tasks.detection.tally import BoxTally, match_box_classes
from lemevit_cli.tasks.evaluation import Evaluation
from lemevit_cli.training.datasets.objects import Objects
from lemevit_cli.training.datasets.source import Site, Source

# Average precision asks for unsure boxes as well; all else is as `detect` does it.
JUDGED = DetectionOptions(score=0.05)


def open_boxes(data: str, split: str, card: Card, *, skip_bad_labels: bool = False) -> Source:
    """Open a split of a folder that weights shall be scored on.

    Args:
        skip_bad_labels: count labels that cannot be understood, and leave them out.

    Raises:
        DataError: if there is no such split, its labels are wrong, or no class is shared.
    """
    source = open_box_split(data, split, skip_bad_labels=skip_bad_labels)
    place = next(iter(source.first_of.values()), data)
    match_box_classes(card.class_names, source.classes, place=place)  # for its check
    return source


class DetectionTally:
    """Judges the boxes of areas, each by the objects whose centre it has.

    Classes are matched by name; those that one side alone knows are left out, whatever is found of
    them. Other objects that reach into an area, and difficult ones, are neither right nor wrong to
    find.

    Raises:
        DataError: if no class is shared.
    """

    def __init__(self, card: Card, source: Source, progress: Progress) -> None:
        names = card.class_names
        self._source = source
        self._match = match_box_classes(names, source.classes, place=source.name)
        self._boxes = BoxTally(names, scores=card.class_scores)
        self._areas_m2: list[float | None] = []
        self._progress, self._windows_capped = progress, 0
        self._windows_full = 0
        foreign = [_with_place(name, source) for name in source.classes if name not in names]
        if foreign:
            unknown = ", ".join(foreign)
            progress.note(f"{source.name}: left out, as the weights know none: {unknown}")

    def add(self, site: Site, scene: SceneInput, inference: BlockInference) -> None:
        """Detect in an area, and compare with what is labelled there."""
        before, full = inference.account.windows_capped, inference.account.windows_full
        found = detect_in_area(inference, site.core, InferenceSettings(detection=JUDGED))
        self._windows_capped += inference.account.windows_capped - before
        self._windows_full += inference.account.windows_full - full
        self._areas_m2.append(None if site.gsd_m is None else site.num_pixels * site.gsd_m**2)
        truth = objects_of_area(self._source.objects[site.scene], site.core)
        self._boxes.add(found.boxes, found.scores, found.class_ids, truth, self._match)

    def figures(self) -> dict[str, Any]:
        """Return the figures of :class:`BoxTally`, and the windows that are warned of.

        ``false_finds_per_km2`` is None unless all pictures say how large their pixels are; pixels
        without data count as ground, too.
        """
        if self._windows_capped:
            capped = describe_capped(self._windows_capped, JUDGED)
            self._progress.warn(f"{self._source.name}: {capped}, and count as not found")
        if self._windows_full:
            self._progress.warn(f"{self._source.name}: {describe_full(self._windows_full)}")
        figures = self._boxes.figures()
        known = [area for area in self._areas_m2 if area is not None]
        area_km2 = sum(known) / 1e6 if len(known) == len(self._areas_m2) else 0.0
        return {
            **figures,
            "false_finds_per_km2": ratio(figures["false_finds"], area_km2),
            "windows_capped": self._windows_capped,
            "windows_full": self._windows_full,
        }


def _with_place(name: str, source: Source) -> str:
    return f"{name} ({source.first_of[name]})" if name in source.first_of else name


def objects_of_area(objects: Objects, area: Window) -> Objects:
    """Select objects that may touch an area; those with their centre elsewhere are difficult."""
    near = objects.near((area.col_off, area.row_off, area.right, area.bottom))
    is_foreign = ~np.isin(near, objects.centred_in(area))
    return Objects(
        objects.boxes[near], objects.class_ids[near], objects.difficult[near] | is_foreign
    )


def _network_of(card: Card) -> CardNetwork:
    # A window may have had more objects than proposals; that is told only if their number is known.
    return network_for(replace(JUDGED, proposals=card.head_args.get("proposals")))


EVALUATION = Evaluation(
    open_boxes,
    DetectionTally,
    network=_network_of,
    open_without_bad_labels=partial(open_boxes, skip_bad_labels=True),
)
