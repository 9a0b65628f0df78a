"""``lemevit demo``: a simulated town, predicted, scored and drawn, with nothing to download."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import rasterio

from lemevit_cli.analysis.pair_quicklook import pair_quicklook
from lemevit_cli.analysis.quicklook import QuicklookOptions, quicklook
from lemevit_cli.analysis.scoring import score
from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.legend import ClassInfo
from lemevit_cli.metrics.confusion import Confusion
from lemevit_cli.models.weights import find_weights, read_card
from lemevit_cli.pictures.picture import Panel, colorize, displayed, write_panels
from lemevit_cli.progress import Progress
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import InferenceSettings, OutputOptions, RuntimeOptions
from lemevit_cli.simulation.scenes import simulate_dataset
from lemevit_cli.tasks import STARTERS
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
    """Draw a town, predict its land cover with the starter weights, score and draw the result.

    Where there are starter weights for it, its objects are found too, and what has changed until
    its second date.

    Returns:
        Paths of ``scene``, ``truth``, ``result`` and ``picture``; ``scores`` on this simulated
        scene, as :meth:`Confusion.figures`; ``objects``, see :func:`find_objects`; ``changes``, see
        :func:`find_changes`; ``seconds`` in all.

    Raises:
        OutputError: if the folder holds a demo already and may not be overwritten.
    """
    started = time.perf_counter()
    place = Path(folder)
    if place.is_dir():
        check_replaceable(place / "landcover.tif", overwrite=overwrite)
    simulate_dataset(place, task=None, size=size, seed=seed, overwrite=overwrite, progress=progress)
    scene, truth = place / "before.tif", place / "before_classes.tif"
    result, picture = place / "landcover.tif", place / "landcover.png"
    settings = InferenceSettings(
        runtime=runtime or RuntimeOptions(), output=OutputOptions(overwrite=overwrite)
    )
    predict(
        [str(scene)], str(result), weights=None, task="seg", settings=settings, progress=progress
    )
    objects = find_objects(place, settings, progress)
    changes = find_changes(place, settings, progress)
    classes = read_card(find_weights(STARTERS["seg"])).classes
    scores = score_rasters(result, truth, classes)
    with replacing(picture, overwrite=overwrite) as path:
        caption = f"Simulated scene (lemevit demo, seed {seed}): mean IoU {scores['miou']:.2f}"
        draw(path, scene, truth, result, classes, caption=caption)
    return {
        "folder": folder,
        "scene": str(scene),
        "truth": str(truth),
        "result": str(result),
        "picture": str(picture),
        "scores": scores,
        "objects": objects,
        "changes": changes,
        "seconds": round(time.perf_counter() - started, 1),
    }


def find_objects(
    place: Path, settings: InferenceSettings, progress: Progress
) -> dict[str, Any] | None:
    """Detect in the demo's scene, score and draw the boxes.

    Returns:
        Paths of ``result`` and ``picture``; ``found``, the number of boxes; ``scores`` as
        ``lemevit score`` gives them, over the classes that weights and scene share, None where
        they share none. None without starter weights.
    """
    starter = STARTERS.get("det")
    if starter is None or not find_weights(starter).is_file():
        return None
    scene, result, picture = place / "before.tif", place / "objects.gpkg", place / "objects.png"
    report = detect([str(scene)], str(result), weights=None, settings=settings, progress=progress)
    options = QuicklookOptions(over=str(scene), overwrite=settings.output.overwrite)
    quicklook(str(result), str(picture), options, progress)
    return {
        "result": str(result),
        "picture": str(picture),
        "found": report.results[0]["objects"],
        "scores": score_objects(result, place / "objects_before.gpkg", starter, progress),
    }


def find_changes(
    place: Path, settings: InferenceSettings, progress: Progress
) -> dict[str, Any] | None:
    """Find what has changed between the demo's two dates, score and draw it.

    Returns:
        Paths of ``before``, ``after``, ``result`` and ``picture``; ``found``, the number of
        polygons; ``scores`` as ``lemevit score`` gives them. None without starter weights.
    """
    starter = STARTERS.get("change")
    if starter is None or not find_weights(starter).is_file():
        return None
    before, after = str(place / "before.tif"), str(place / "after.tif")
    result, mask, picture = (str(place / f"changes.{ending}") for ending in ("gpkg", "tif", "png"))
    record = change(
        before, after, [result, mask], weights=None, settings=settings, progress=progress
    )
    options = QuicklookOptions(overwrite=settings.output.overwrite)
    pair_quicklook(before, after, picture, change=result, options=options)
    return {
        "before": before,
        "after": after,
        "result": result,
        "picture": picture,
        "found": record["polygons"],
        "scores": score(mask, str(place / "change.tif"), ScoreOptions(), progress),
    }


def score_objects(
    result: Path, truth: Path, weights: str, progress: Progress
) -> dict[str, Any] | None:
    """Compare boxes with the true ones of classes that the weights know; None without any.

    Also None where nothing of these classes was found: the layer then names none of them.
    """
    known = read_card(find_weights(weights)).class_names
    present = sorted(set(read_boxes(str(truth)).classes) & set(known))
    if not set(present) & set(read_boxes(str(result)).classes):
        return None
    names = ", ".join(f"'{name}'" for name in present)
    labels = LabelledScene(scene="", labels="", where=f"class IN ({names})")
    return score(str(result), str(truth), ScoreOptions(labels=labels), progress)


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
        panels.append(Panel("scene", displayed(*opened.read_overview(_PICTURE_SIDE))))
    for title, raster in (("truth", truth), ("lemevit predict", result)):
        with open_scene(str(raster)) as opened:
            ids, _ = opened.read_overview(_PICTURE_SIDE)
            panels.append(Panel(title, colorize(ids[0], classes)))
    write_panels(path, panels, classes, caption=caption)
