"""``lemevit quantize``: weights as a network of 8-bit integers, calibrated on scenes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.atomic import check_replaceable, replacing
from lemevit_cli.errors import DataError, LemevitError, SceneError, WeightsError
from lemevit_cli.inference.conversions import bands_of
from lemevit_cli.inference.pixel_size import check_gsd
from lemevit_cli.inference.predictor import load_model
from lemevit_cli.inference.run import pad_by_reflection, tiling_of
from lemevit_cli.inference.scene_input import SceneInput, open_input
from lemevit_cli.inference.window_grid import WindowGrid
from lemevit_cli.models.converted import Converted, save_converted
from lemevit_cli.models.weights import Card, Weights, open_weights
from lemevit_cli.progress import Progress, Silent
from lemevit_cli.raster.radiometry import check_stretch
from lemevit_cli.raster.scene_pair import open_pair
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks import TASKS, load_network
from lemevit_cli.tasks.change.inference import options_of_dates
from lemevit_cli.tasks.change.pair_input import pair_input
from lemevit_cli.training.datasets.folders import list_rasters, refuse_missing

_SEED = 0
_COMPARED = 16  # windows, at most, that torch answers too
_FEW_EQUAL = 0.95  # share of equal answers below which a warning is due
_EQUAL = {
    "scores": "{:.2%} of the pixels of {} windows have the class that torch gives them",
    "candidates": "{:.2%} of the boxes in {} windows are those that torch finds",
}

Dates = tuple[str, ...]  # paths of a scene, or of the two of a pair


def quantize(
    weights: str,
    places: Sequence[str],
    target: str,
    *,
    windows: int = 64,
    settings: InferenceSettings | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Write weights as a network of 8-bit integers that OpenVINO runs, with their card.

    Args:
        places: scenes, or folders of them; see :func:`scenes_of`.
        windows: to calibrate on, of all scenes together.
        settings: how scenes are read.

    Returns:
        The record that ``--json`` prints: ``path``, ``scenes`` and ``windows`` that calibrated,
        ``compared`` windows of them, and ``equal_answers``, the share of their pixels whose class
        is torch's, or of their boxes that torch finds, too; ``summary`` says it in words.

    Raises:
        LemevitError: if the extra is not installed, or nothing can be calibrated on.
        WeightsError: if the weights cannot be quantized, or what is made of them answers what is
            no number; nothing is written.
    """
    progress, settings = progress or Silent(), settings or InferenceSettings()
    check_replaceable(target, overwrite=overwrite)
    check_stretch(settings.reading.stretch)
    check_gsd(settings.reading.gsd)
    opened = open_weights(weights)
    check_quantizable(opened)
    libraries = _import_libraries()
    scenes = scenes_of(places, dates=TASKS[opened.card.task].dates)
    pixels = draw_windows(scenes, opened.card, settings, most=windows, progress=progress)
    with replacing(target, overwrite=overwrite) as file:
        try:
            network, equal = _make(opened, pixels, progress, *libraries)
        except (LemevitError, OSError):
            raise
        except Exception as error:  # whatever a library finds that it cannot trace or quantize
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise WeightsError(
                f"{weights}: cannot be quantized ({lines[-1][:300]}); nothing is written"
            ) from error
        facts = {
            "scenes": min(len(scenes), windows),
            "windows": len(pixels),
            "compared": min(len(pixels), _COMPARED),
            "equal_answers": equal,
        }
        made = {"quantized": {"weights": opened.name, "digest": opened.digest, **facts}}
        card = replace(opened.card, training={**opened.card.training, **made})
        save_converted(file, network, card)
    answers = load_network(opened.card.task).answers
    summary = _EQUAL[answers].format(equal, facts["compared"])
    if equal < _FEW_EQUAL:
        progress.warn(
            f"{target}: only {summary}; score it by `lemevit eval`, and calibrate on more windows "
            "of scenes like those to come"
        )
    return {"path": target, **facts, "summary": summary}


def check_quantizable(weights: Weights) -> None:
    """Refuse weights that there is no way to quantize.

    Raises:
        WeightsError: naming them, and why.
    """
    if weights.is_converted:
        raise WeightsError(f"{weights.name}: quantized already; give the weights it was made of")
    if weights.card.task not in TASKS:
        raise WeightsError(
            f"{weights.name}: weights for task {weights.card.task}; quantize takes those for "
            f"{', '.join(TASKS)}"
        )


def scenes_of(places: Sequence[str], *, dates: int) -> list[Dates]:
    """List scenes, and the rasters of folders; of two dates, places are earlier and later by turns.

    Two folders give the pairs of equal stems.

    Raises:
        DataError: if there is none, or a date lacks its partner.
    """
    scenes: list[Dates] = []
    if dates == 1:
        scenes = [(path,) for place in places for path in _rasters_of(place).values()]
    elif len(places) % dates:
        raise DataError(
            f"--calibrate {places[-1]}: weights of change look at two dates; name BEFORE and "
            "AFTER by turns, two scenes or two folders"
        )
    else:
        for before, after in zip(places[::2], places[1::2], strict=True):
            scenes += _pairs_of(before, after)
    if not scenes:
        raise DataError(f"--calibrate {places[0]}: no raster is there")
    return scenes


def _rasters_of(place: str) -> dict[str, str]:
    if not Path(place).is_dir():
        return {place: place}
    return {stem: str(path) for stem, path in list_rasters(Path(place)).items()}


def _pairs_of(before: str, after: str) -> list[Dates]:
    if not (Path(before).is_dir() and Path(after).is_dir()):
        return [(before, after)]
    earlier, later = list_rasters(Path(before)), list_rasters(Path(after))
    if earlier and later:
        refuse_missing(earlier, later, "partner")
        refuse_missing(later, earlier, "partner")
    return [(str(earlier[stem]), str(later[stem])) for stem in earlier if stem in later]


@contextmanager
def open_dates(dates: Dates, card: Card, settings: InferenceSettings) -> Iterator[SceneInput]:
    """Open a scene, or a pair, as the weights want it."""
    # Silent: what is decided for one of many scenes would drown the progress over all.
    if len(dates) == 1:
        with open_input(dates[0], card, settings, Silent()) as source:
            yield source
        return
    before, after = dates
    with open_pair(before, after, *options_of_dates(settings)) as pair:
        yield pair_input(pair, card, settings.reading, Silent())


def draw_windows(
    scenes: Sequence[Dates],
    card: Card,
    settings: InferenceSettings,
    *,
    most: int,
    progress: Progress,
) -> list[NDArray[Any]]:
    """Draw windows of all scenes, always the same: ``(bands, size, size)`` each, as predicted on.

    Each scene gives its share, and those behind it what it lacks. Windows without a valid pixel do
    not count. Of more scenes than windows, some are left out, evenly.

    Raises:
        SceneError: if a scene does not suit the weights, or no window has a valid pixel.
    """
    random = np.random.default_rng(_SEED)
    places = np.linspace(0, len(scenes) - 1, min(most, len(scenes))).round().astype(int)
    drawn: list[NDArray[Any]] = []
    progress.start("reading", total=len(places), unit="scenes")
    try:
        for number, place in enumerate(places):
            share = math.ceil((most - len(drawn)) / (len(places) - number))
            with open_dates(scenes[place], card, settings) as source:
                drawn += _draw_windows_of(source, card, share, random)
            progress.advance()
    finally:
        progress.finish()
    if not drawn:
        raise SceneError(
            f"{scenes[0][0]}: no window has a valid pixel; calibrate on scenes with data"
        )
    return drawn


def _draw_windows_of(
    source: SceneInput, card: Card, most: int, random: np.random.Generator
) -> list[NDArray[Any]]:
    view, (size, overlap) = source.view, tiling_of(card, InferenceSettings().tiling)
    grid = WindowGrid(width=view.width, height=view.height, size=size, overlap=overlap)
    windows = list(grid.windows_over(source.on_view(source.area)))
    drawn: list[NDArray[Any]] = []
    for place in random.permutation(len(windows)):
        pixels, valid = view.read(windows[place])
        if valid.any():
            drawn.append(pad_by_reflection(pixels, size))
        if len(drawn) == most:
            break
    return drawn


def _make(
    weights: Weights,
    pixels: Sequence[NDArray[Any]],
    progress: Progress,
    conversion: Any,
    quantization: Any,
) -> tuple[Converted, float]:
    """Convert weights and quantize what comes of it; return the share of answers that stay."""
    card = weights.card
    network = load_network(card.task)
    model = network.for_inference(load_model(weights, network)).eval()
    size = (card.window, card.window)
    total = quantization.PASSES * len(pixels)
    progress.start("calibration", total=total, unit="windows")
    try:
        graph = conversion.graph_of(model, bands_of(network, card), size)
        made = quantization.quantize(graph, pixels, progress.advance, kept=network.kept_in_floats)
    finally:
        progress.finish()
    converted: Converted = conversion.packed(made, size, "int8")
    compared = pixels[:: math.ceil(len(pixels) / _COMPARED)]
    return converted, quantization.compare(model, converted, compared, network.share_of_equal)


def _import_libraries() -> tuple[Any, Any]:
    """Import what converts and what quantizes.

    Raises:
        LemevitError: if one of the extra's packages is missing.
    """
    try:
        conversion = import_module("lemevit_cli.models.conversion")
        quantization = import_module("lemevit_cli.models.quantization")
        quantization.import_nncf()
    except ImportError as error:
        raise LemevitError(
            f"quantize needs {error.name}; install it by `pip install lemevit[openvino]`"
        ) from error
    return conversion, quantization
