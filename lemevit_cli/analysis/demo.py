"""``lemevit demo``: a real scene and a simulated town, with nothing to download."""

from __future__ import annotations

import shlex
import shutil
import time
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from lemevit_cli.analysis.pair_quicklook import pair_quicklook
from lemevit_cli.analysis.quicklook import QuicklookOptions, quicklook
from lemevit_cli.analysis.scoring import score
from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.progress import Progress
from lemevit_cli.raster.acquisition import credit_of
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.settings import (
    DetectionOptions,
    InferenceSettings,
    OutputOptions,
    RuntimeOptions,
)
from lemevit_cli.simulation.pair import simulate_pair
from lemevit_cli.tasks.change.inference import change
from lemevit_cli.tasks.detection.inference import detect
from lemevit_cli.tasks.scoring import ScoreOptions
from lemevit_cli.tasks.segmentation.inference import predict

SCENE, POLYGONS, CREDITS = "kampala.tif", "kampala_polygons.geojson", "CREDITS.txt"
# What a person sees in the scene: other classes found there are none.
_COVERS = ("land", "building", "road", "vegetation")
_OBJECT, _OBJECT_SCORE = "vehicle", 0.9
_PANEL_SIDE = 800  # pixels of a panel at most


def demo_folder() -> Path:
    """Return the folder of the package with the real scene, its credits and twenty polygons."""
    return Path(str(resources.files("lemevit_cli") / "demo_scene"))


def run_demo(
    folder: str,
    *,
    size: int = 1024,
    seed: int = 3,
    overwrite: bool = False,
    runtime: RuntimeOptions | None = None,
    progress: Progress,
) -> dict[str, Any]:
    """Try the starter weights on a real scene, then on a town that is drawn at two dates.

    Returns:
        ``folder``; ``picture``, the first to look at; ``real``, see :func:`map_landcover` and
        :func:`find_vehicles`; ``town``, see :func:`score_town`; ``commands`` that do the same;
        ``next``, one that learns from the twenty polygons; ``seconds`` in all.

    Raises:
        OutputError: if the folder holds a demo already and may not be overwritten.
    """
    started = time.perf_counter()
    place = Path(folder)
    if place.is_dir():
        check_replaceable(place / SCENE, overwrite=overwrite)
    place.mkdir(parents=True, exist_ok=True)
    for name in (SCENE, POLYGONS, CREDITS):
        with replacing(place / name, overwrite=overwrite) as path:
            shutil.copyfile(demo_folder() / name, path)
    settings = InferenceSettings(
        runtime=runtime or RuntimeOptions(), output=OutputOptions(overwrite=overwrite)
    )
    real = map_landcover(place, settings, progress)
    real["vehicles"] = find_vehicles(place, settings, progress)
    town = place / "town"
    simulate_pair(town, size=size, seed=seed, overwrite=overwrite, progress=progress)
    return {
        "folder": folder,
        "picture": real["picture"],
        "real": real,
        "town": score_town(town, settings, progress),
        "commands": commands_of(place, size=size, seed=seed),
        "next": next_command(place),
        "seconds": round(time.perf_counter() - started, 1),
    }


def map_landcover(place: Path, settings: InferenceSettings, progress: Progress) -> dict[str, Any]:
    """Predict the land cover of the real scene and draw it beside the scene.

    Returns:
        Paths of ``scene``, ``result`` and ``picture``; ``credit``; ``classes`` with ``share`` and
        ``area_m2`` of what is there, and ``mistaken``, shares of what is not.
    """
    scene, result, picture = (str(place / n) for n in (SCENE, "landcover.tif", "landcover.jpg"))
    report = predict([scene], result, weights=None, settings=settings, progress=progress)
    options = QuicklookOptions(over=scene, beside=(scene,), size=_PANEL_SIDE)
    quicklook(result, picture, replace(options, overwrite=settings.output.overwrite), progress)
    found = report.results[0]["classes"]
    with open_scene(scene) as opened:
        credit = credit_of(opened)
    return {
        "scene": scene,
        "credit": credit,
        "result": result,
        "picture": picture,
        "classes": {name: found[name] for name in found if name in _COVERS},
        "mistaken": {
            name: record["share"]
            for name, record in found.items()
            if name not in _COVERS and record["pixels"]
        },
    }


def find_vehicles(place: Path, settings: InferenceSettings, progress: Progress) -> dict[str, Any]:
    """Detect the vehicles of the real scene, the one class of the weights that it has, draw them.

    Returns:
        Paths of ``result`` and ``picture``; ``found``, the number of boxes; ``score``, the lowest.
    """
    scene, result, picture = (str(place / n) for n in (SCENE, "vehicles.gpkg", "vehicles.jpg"))
    settings = replace(
        settings,
        output=replace(settings.output, classes=(_OBJECT,)),
        detection=DetectionOptions(score=_OBJECT_SCORE),
    )
    report = detect([scene], result, weights=None, settings=settings, progress=progress)
    options = QuicklookOptions(over=scene, size=_PANEL_SIDE, overwrite=settings.output.overwrite)
    quicklook(result, picture, options, progress)
    found = report.results[0]["objects"]
    return {"result": result, "picture": picture, "found": found, "score": _OBJECT_SCORE}


def score_town(town: Path, settings: InferenceSettings, progress: Progress) -> dict[str, Any]:
    """Predict the town's land cover and what has changed there, score and draw both.

    Returns:
        Of ``landcover`` and ``changes``: paths of ``result``, ``truth`` and ``picture``, and
        ``scores`` as ``lemevit score`` gives them; of changes also ``found``, the polygons.
    """
    before, after = str(town / "before.tif"), str(town / "after.tif")
    cover, cover_truth = str(town / "landcover.tif"), str(town / "before_classes.tif")
    polygons, mask, truth = (str(town / n) for n in ("changes.gpkg", "changes.tif", "change.tif"))
    pictures = str(town / "landcover.jpg"), str(town / "changes.jpg")
    predict([before], cover, weights=None, settings=settings, progress=progress)
    options = QuicklookOptions(size=_PANEL_SIDE, overwrite=settings.output.overwrite)
    beside = replace(options, over=before, beside=(before, cover_truth))
    quicklook(cover, pictures[0], beside, progress)
    targets = [polygons, mask]
    pairs = [(before, after)]
    report = change(pairs, targets, weights=None, settings=settings, progress=progress)
    pair_quicklook(before, after, pictures[1], change=polygons, options=options)
    return {
        "landcover": {
            "result": cover,
            "truth": cover_truth,
            "picture": pictures[0],
            "scores": score(cover, cover_truth, ScoreOptions(), progress),
        },
        "changes": {
            "result": polygons,
            "truth": truth,
            "picture": pictures[1],
            "found": report.results[0]["polygons"],
            "scores": score(mask, truth, ScoreOptions(), progress),
        },
    }


def commands_of(place: Path, *, size: int, seed: int) -> list[str]:
    """Return the commands that do what the demo does, in its folder."""
    real, town = _quoted(place), _quoted(place / "town")
    drawn = f"--size {_PANEL_SIDE} --overwrite"
    return [
        f"lemevit predict {real}/{SCENE} -o {real}/landcover.tif -v --overwrite",
        f"lemevit quicklook {real}/landcover.tif --over {real}/{SCENE} --beside {real}/{SCENE} "
        f"-o {real}/landcover.jpg {drawn}",
        f"lemevit detect {real}/{SCENE} --classes {_OBJECT} --score {_OBJECT_SCORE} "
        f"-o {real}/vehicles.gpkg --overwrite",
        f"lemevit quicklook {real}/vehicles.gpkg --over {real}/{SCENE} -o {real}/vehicles.jpg "
        f"{drawn}",
        f"lemevit simulate {town} --size {size} --seed {seed} --overwrite",
        f"lemevit predict {town}/before.tif -o {town}/landcover.tif --overwrite",
        f"lemevit score {town}/landcover.tif {town}/before_classes.tif",
        f"lemevit quicklook {town}/landcover.tif --over {town}/before.tif "
        f"--beside {town}/before.tif --beside {town}/before_classes.tif "
        f"-o {town}/landcover.jpg {drawn}",
        f"lemevit change {town}/before.tif {town}/after.tif -o {town}/changes.gpkg "
        f"-o {town}/changes.tif --overwrite",
        f"lemevit score {town}/changes.tif {town}/change.tif",
        f"lemevit quicklook {town}/before.tif {town}/after.tif --change {town}/changes.gpkg "
        f"-o {town}/changes.jpg {drawn}",
    ]


def next_command(place: Path) -> str:
    """Return a command that trains on the twenty polygons of the real scene."""
    real = _quoted(place)
    return (
        f"lemevit train --scene {real}/{SCENE} --labels {real}/{POLYGONS} --label-field class "
        f"--background ignore --init landcover --time-budget 4m -o {real}/mine.safetensors "
        "--overwrite"
    )


def _quoted(path: Path) -> str:
    return shlex.quote(str(path))
