"""``lemevit demo``: a simulated town, predicted, scored and drawn, with nothing to download."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import rasterio

from lemevit_cli.analysis.pair_quicklook import pair_quicklook
from lemevit_cli.analysis.quicklook import QuicklookOptions, quicklook
from lemevit_cli.analysis.scoring import score
from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.inference.scenes import Report
from lemevit_cli.legend import ClassInfo
from lemevit_cli.metrics.confusion import Confusion
from lemevit_cli.models.weights import Card, find_weights, read_card
from lemevit_cli.pictures.picture import Panel, colorize, scale_for_display, write_panels
from lemevit_cli.progress import Progress
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks.change.inference import change
from lemevit_cli.tasks.detection.files import read_boxes
from lemevit_cli.tasks.detection.inference import detect
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.tasks.segmentation.inference import predict
from lemevit_cli.training.options import LabelledScene

_PICTURE_SIDE = 900  # pixels of a panel at most


def run_demo(
    folder: str,
    *,
    size: int = 1024,
    seed: int = 3,
    overwrite: bool = False,
    runtime: RuntimeOptions | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Draw a town at two dates and try the starter weights on it.

    Returns:
        What :func:`map_landcover` returns; ``objects``, see :func:`find_objects`; ``changes``, see
        :func:`find_changes`; ``folder``, and ``seconds`` in all.

    Raises:
        OutputError: if the folder holds a demo already and may not be overwritten.
    """
    started = time.perf_counter()
    place = Path(folder)
    if place.is_dir():
        check_replaceable(place / "landcover.tif", overwrite=overwrite)
    simulate_pair(place, size=size, seed=seed, overwrite=overwrite, progress=progress)
    settings = InferenceSettings(
        runtime=runtime or RuntimeOptions(), output=OutputOptions(overwrite=overwrite)
    )
    return {
        "folder": folder,
        **map_landcover(place, settings, progress, title=f"lemevit demo, seed {seed}"),
        "objects": find_objects(place, settings, progress),
        "changes": find_changes(place, settings, progress),
        "seconds": round(time.perf_counter() - started, 1),
    }


def map_landcover(
    place: Path, settings: InferenceSettings, progress: Progress, *, title: str
) -> dict[str, Any]:
    """Predict the land cover of the demo's scene, score and draw it.

    Returns:
        Paths of ``scene``, ``truth``, ``result`` and ``picture``; ``scores`` on this simulated
        scene, as :meth:`Confusion.figures`.
    """
    scene, truth = place / "before.tif", place / "before_classes.tif"
    result, picture = place / "landcover.tif", place / "landcover.png"
    report = predict([str(scene)], str(result), weights=None, settings=settings, progress=progress)
    classes = _card_of(report).classes
    scores = score_rasters(result, truth, classes)
    with replacing(picture, overwrite=settings.output.overwrite) as path:
        caption = f"Simulated scene ({title}): mean IoU {scores['miou']:.2f}"
        draw(path, scene, truth, result, classes, caption=caption)
    paths = {"scene": scene, "truth": truth, "result": result, "picture": picture}
    return {**{name: str(path) for name, path in paths.items()}, "scores": scores}


def find_objects(place: Path, settings: InferenceSettings, progress: Progress) -> dict[str, Any]:
    """Detect in the demo's scene, score and draw the boxes.

    Returns:
        Paths of ``result`` and ``picture``; ``found``, the number of boxes; ``scores``, see
        :func:`score_objects`.
    """
    scene, result, picture = place / "before.tif", place / "objects.gpkg", place / "objects.png"
    report = detect([str(scene)], str(result), weights=None, settings=settings, progress=progress)
    options = QuicklookOptions(over=str(scene), overwrite=settings.output.overwrite)
    quicklook(str(result), str(picture), options, progress)
    known = _card_of(report).class_names
    return {
        "result": str(result),
        "picture": str(picture),
        "found": report.results[0]["objects"],
        "scores": score_objects(result, place / "objects_before.gpkg", known, progress),
    }


def find_changes(place: Path, settings: InferenceSettings, progress: Progress) -> dict[str, Any]:
    """Find what has changed between the demo's two dates, score and draw it.

    Returns:
        Paths of ``before``, ``after``, ``result`` and ``picture``; ``found``, the number of
        polygons; ``scores`` as ``lemevit score`` gives them.
    """
    before, after = str(place / "before.tif"), str(place / "after.tif")
    result, mask, picture = (str(place / f"changes.{ending}") for ending in ("gpkg", "tif", "png"))
    report = change(
        [(before, after)], [result, mask], weights=None, settings=settings, progress=progress
    )
    options = QuicklookOptions(overwrite=settings.output.overwrite)
    pair_quicklook(before, after, picture, change=result, options=options)
    return {
        "before": before,
        "after": after,
        "result": result,
        "picture": picture,
        "found": report.results[0]["polygons"],
        "scores": score(mask, str(place / "change.tif"), ScoreOptions(), progress),
    }


def _card_of(report: Report) -> Card:
    return read_card(find_weights(report.results[0]["weights"]))


def score_objects(
    result: Path, truth: Path, known: Sequence[str], progress: Progress
) -> dict[str, Any] | None:
    """Compare boxes with the true ones of classes that the weights know; None without any.

    Also None where nothing of these classes was found: the layer then names none of them. Classes
    that the town has none of are left out of the table; a warning names those that were found.
    """
    present = sorted(set(read_boxes(str(truth)).classes) & set(known))
    if not set(present) & set(read_boxes(str(result)).classes):
        return None
    names = ", ".join(f"'{name}'" for name in present)
    labels = LabelledScene(scene="", labels="", where=f"class IN ({names})")
    scores = score(str(result), str(truth), ScoreOptions(labels=labels), progress)
    return {**scores, "classes": {name: scores["classes"][name] for name in present}}


def score_rasters(result: Path, truth: Path, classes: tuple[ClassInfo, ...]) -> dict[str, Any]:
    """Compare two class rasters on one grid, strip by strip."""
    confusion = Confusion(tuple(info.name for info in classes))
    with rasterio.open(result) as predicted, rasterio.open(truth) as true:
        for _, window in true.block_windows(1):
            confusion.add(true.read(1, window=window), predicted.read(1, window=window))
    return confusion.figures()


def draw(
    path: Path,
    scene: Path,
    truth: Path,
    result: Path,
    classes: tuple[ClassInfo, ...],
    *,
    caption: str,
) -> None:
    """Draw scene, truth and result side by side, from one decimated read each."""
    panels = []
    with open_scene(str(scene)) as opened:
        panels.append(
            Panel("scene", scale_for_display(*opened.read_overview_by_band(_PICTURE_SIDE)))
        )
    for title, raster in (("truth", truth), ("lemevit predict", result)):
        with open_scene(str(raster)) as opened:
            ids, _ = opened.read_overview(_PICTURE_SIDE)
            panels.append(Panel(title, colorize(ids[0], classes)))
    write_panels(path, panels, classes, caption=caption)
