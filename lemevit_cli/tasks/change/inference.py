"""``lemevit change``: what has changed between two scenes, as polygons, a mask, or scores."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.errors import LemevitError, OutputError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.memory import peak_memory_mb
from lemevit_cli.inference.mosaic import Rows
from lemevit_cli.inference.predictor import Predictor, check_weights, load_predictor
from lemevit_cli.inference.run import best_classes, inference_over, masked_scores
from lemevit_cli.inference.scene_input import area_of
from lemevit_cli.inference.scenes import check_settings, check_targets, target_of
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.acquisition import date_of
from lemevit_cli.raster.gdal import tile_width
from lemevit_cli.raster.scene import Scene, open_scene
from lemevit_cli.raster.scene_pair import ScenePair, open_pair
from lemevit_cli.raster.source import STDIN
from lemevit_cli.raster.targets import (
    CHANGE_WRITERS,
    RasterSpec,
    Sink,
    check_target,
    find_writer,
    open_sink,
)
from lemevit_cli.settings import InferenceSettings, OutputOptions, SceneOptions
from lemevit_cli.tasks import STARTERS
from lemevit_cli.tasks.change.network import NETWORK
from lemevit_cli.tasks.change.pair_input import (
    PairInput,
    check_bands_of_dates,
    pair_input,
    registered,
)
from lemevit_cli.tasks.change.results import (
    DRAFT_BYTES_PER_PIXEL,
    UNCHANGED_ID,
    ChangeSink,
    ChangeSpec,
    open_layers,
)
from lemevit_cli.tasks.segmentation.inference import Census, phases, raster_spec

_TASK = NETWORK.task


def change(
    before: str,
    after: str,
    targets: Sequence[str] = (),
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Find what has changed between two scenes, whatever grids they lie on.

    Args:
        before, after: paths; one may be ``-`` for a raster on stdin.
        targets: files, ``-`` for stdout, or folders ending in a slash; all are written from one
            pass. None at all is ``<after>_changes.shp`` in the current folder.

    Returns:
        The record that ``--json`` prints, see :func:`compare`.

    Raises:
        LemevitError: before any work for what can be told to be wrong in a second.
    """
    suffix = find_writer("changes.shp", settings.output, CHANGE_WRITERS).suffix
    named = [target_of(after, target, f"_changes{suffix}") for target in targets or (None,)]
    name, _, card = check_weights(weights, _TASK, starter=STARTERS[_TASK])
    check_settings(card, settings)
    check_threshold(settings.change.threshold)
    check_outputs((before, after), named, settings)
    return compare(
        before,
        after,
        named,
        card=card,
        load=partial(load_predictor, name, NETWORK, settings.runtime),
        settings=settings,
        progress=progress,
    )


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no share.

    Raises:
        LemevitError: naming the value.
    """
    if not 0 <= threshold <= 1:
        raise LemevitError(f"--threshold {threshold:g}: use a number from 0 to 1")


def check_outputs(
    scenes: Sequence[str], targets: Sequence[str], settings: InferenceSettings
) -> None:
    """Refuse, before any work, targets that could not all be written at its end.

    Raises:
        OutputError: for a target that is a scene, is named twice, or that its format refuses, and
            for options that only one of several formats could take.
    """
    options = settings.output
    if len({Path(target).absolute() for target in targets}) < len(targets):
        raise OutputError(f"-o {' -o '.join(targets)}: name every output once")
    writers = [find_writer(target, options, CHANGE_WRITERS) for target in targets]
    if len(targets) > 1 and options.format is not None:
        raise OutputError(f"--format {options.format}: several outputs go by their suffixes")
    if len({writer.driver for writer in writers}) > 1 and options.creation_options:
        raise OutputError(
            "--co: the outputs have several formats, which know different options; "
            "write one of them alone"
        )
    rasters, layers = split_targets(targets, options)
    if not rasters and options.output_type == "scores":
        raise OutputError("--output-type scores: polygons hold no scores; write them to a .tif")
    of_polygons = {
        "--style": options.style,
        "--min-area": options.min_area_m2 > 0,
        "--simplify": settings.change.simplify_m is not None,
    }
    for name, is_given in of_polygons.items():
        if is_given and not layers:
            raise OutputError(f"{name} is for polygons; write .shp, .gpkg or .geojson too")
    for target in targets:
        for scene in scenes:
            check_targets([scene], [target])
        chosen = options if target in layers else of_raster(options, beside_layers=bool(layers))
        check_target(target, chosen, CHANGE_WRITERS)


def split_targets(targets: Sequence[str], options: OutputOptions) -> tuple[list[str], list[str]]:
    """Split targets into those that hold pixels, and those that hold polygons."""
    rasters = [t for t in targets if find_writer(t, options, CHANGE_WRITERS).kind == "raster"]
    return rasters, [t for t in targets if t not in rasters]


def written_bytes_per_pixel(
    targets: Sequence[str], spec: RasterSpec, options: OutputOptions
) -> int:
    """Bytes of a pixel in all rasters that are written at once, drafts of polygons among them."""
    rasters, layers = split_targets(targets, options)
    return len(rasters) * spec.bytes_per_pixel + (DRAFT_BYTES_PER_PIXEL if layers else 0)


def of_raster(options: OutputOptions, *, beside_layers: bool) -> OutputOptions:
    """Return the options of a raster; beside layers, without what is meant for them."""
    return replace(options, min_area_m2=0.0, style=False) if beside_layers else options


def compare(
    before: str,
    after: str,
    targets: Sequence[str],
    *,
    card: Card,
    load: Callable[[], Predictor],
    settings: InferenceSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Open, place and check two scenes, load the weights, and write what has changed.

    Returns:
        ``paths``; ``before`` and ``after`` with their dates; ``shift`` between them in pixels and
        metres, with its spread, and whether it was ``undone`` (None where it could not be
        measured); ``polygons`` (None without a layer); ``changed_area_m2`` and ``changed_share``
        of the mask; windows, seconds by phase, memory.

    Raises:
        LemevitError: if the scenes do not go together, cannot be read, or a target be written.
    """
    started = time.perf_counter()
    first, second = options_of_dates(before, after, settings)
    with ExitStack() as opened:
        pair = opened.enter_context(open_pair(before, after, first, second))
        check_bands_of_dates(pair, card)
        area = area_of(pair.before, settings.reading)  # refused before what takes seconds
        pair, shift = registered(pair, coregister=settings.change.coregister, progress=progress)
        opened.callback(pair.close)
        found = pair_input(pair, card, settings.reading, progress, area=area)
        opened.callback(found.pair.close)
        register_s = time.perf_counter() - started
        record = change_pair(found, targets, load(), settings, progress)
    told = None if shift is None else {**asdict(shift), "undone": settings.change.coregister}
    seconds = {"register": round(register_s, 3), **record.pop("seconds")}
    seconds["total"] = round(time.perf_counter() - started, 3)
    return {**record, "shift": told, "seconds": seconds}


def options_of_dates(
    before: str, after: str, settings: InferenceSettings
) -> tuple[SceneOptions, SceneOptions]:
    """Return the options of each scene: own bands for the second, a CRS where it has none."""
    options = settings.scene
    bidx = settings.change.bidx_after or options.bidx
    chosen = (options, replace(options, bidx=bidx))
    if options.src_crs is None:
        return chosen
    stated = [
        date if lacks_crs(path) else replace(date, src_crs=None)
        for path, date in zip((before, after), chosen, strict=True)
    ]
    return stated[0], stated[1]


def lacks_crs(path: str) -> bool:
    """Say whether a file names no CRS; stdin, which can be read once, is taken not to."""
    if path == STDIN:
        return True
    with open_scene(path) as scene:
        return scene.georeference.crs_wkt is None and scene.georeference.gcps_crs_wkt is None


def change_pair(
    found: PairInput,
    targets: Sequence[str],
    predictor: Predictor,
    settings: InferenceSettings,
    progress: Progress,
) -> dict[str, Any]:
    """Compare two dates block by block; all targets are fed by the same rows.

    Returns:
        As :func:`compare`, without the shift.
    """
    pair, source = found.pair, found.source
    started = time.perf_counter()
    census = Census(pair, predictor.card)
    with inference_over(source, predictor, settings.tiling, progress) as inference:
        account = inference.account
        spec = raster_spec(pair, source, predictor, inference.grid, settings)
        spec = replace(spec, tags={**spec.tags, **tags_of(pair, settings)})
        blocks = inference.blocks(
            source.area,
            settings.tiling,
            tile_width=tile_width(spec, settings.output),
            pixel_bytes=written_bytes_per_pixel(targets, spec, settings.output),
        )
        total = sum(inference.grid.count_over(inference.area_of(block)) for block in blocks)
        progress.start(pair.name, total=total, unit="windows")
        try:
            with (
                account.timed("total"),
                open_outputs(targets, spec, layer_spec(spec, pair, settings), settings) as outputs,
            ):
                for block in blocks:
                    for rows in inference.rows(block):
                        with account.timed("write"):
                            ids, scores = decided(rows, settings.change.threshold)
                            census.add(rows.window, ids)
                            outputs.write(rows.window.relative_to(source.area), rows, ids, scores)
                    del rows  # a view, which would keep this block's band beside the next one's
        finally:
            progress.finish()
    if not census.valid_pixels:
        progress.warn(f"{pair.name}: no pixel is valid in both, the result is empty")
    return {
        "paths": list(targets),
        "before": {"path": pair.before.name, "date": date_of(pair.before)},
        "after": {"path": pair.after.name, "date": date_of(pair.after)},
        "weights": predictor.name,
        "device": predictor.device,
        "width": spec.width,
        "height": spec.height,
        "gsd_m": pair.gsd_m,
        "threshold": settings.change.threshold,
        "polygons": outputs.layers.polygons if outputs.layers else None,
        **changed(census),
        "windows": account.windows,
        "windows_skipped": account.windows_skipped,
        "seconds": phases(account, time.perf_counter() - started),
        "peak_memory_mb": round(peak_memory_mb(), 1),
    }


@dataclass(frozen=True)
class Outputs:
    """Everything that one run writes.

    Args:
        rasters: of class ids, or of scores if ``as_scores``.
        layers: all layers of polygons, None without one.
    """

    rasters: tuple[Sink, ...]
    layers: ChangeSink | None
    as_scores: bool

    def write(
        self, place: Window, rows: Rows, ids: NDArray[np.uint8], scores: NDArray[np.float32]
    ) -> None:
        """Hand a window to all, with its class ids and scores of change ``(H, W)``."""
        if self.rasters:
            values = masked_scores(rows) if self.as_scores else ids
            for raster in self.rasters:
                raster.write(place, values)
        if self.layers is not None:
            self.layers.write(place, ids, scores)


@contextmanager
def open_outputs(
    targets: Sequence[str], spec: RasterSpec, of_layers: ChangeSpec, settings: InferenceSettings
) -> Iterator[Outputs]:
    """Open all targets; they appear, whole, when the block closes.

    Raises:
        OutputError: if one cannot be written.
    """
    rasters, layers = split_targets(targets, settings.output)
    of_rasters = of_raster(settings.output, beside_layers=bool(layers))
    with ExitStack() as stack:
        opened = tuple(stack.enter_context(open_sink(t, spec, of_rasters)) for t in rasters)
        # Polygons take longest to finish: they are the first to close, and to fail.
        polygons = (
            stack.enter_context(open_layers(layers, of_layers, settings.output)) if layers else None
        )
        yield Outputs(opened, polygons, settings.output.output_type == "scores")


def decided(rows: Rows, threshold: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decide class ids ``(H, W)`` by a threshold on the score of change; return both.

    What has changed is of the best class that is not the first.
    """
    scores: NDArray[np.float32] = 1 - rows.scores[UNCHANGED_ID].numpy()
    ids = best_classes(rows.scores[UNCHANGED_ID + 1 :]).numpy() + np.uint8(UNCHANGED_ID + 1)
    ids[scores <= threshold] = UNCHANGED_ID
    ids[~rows.valid] = NODATA_CLASS
    return ids, scores


def changed(census: Census) -> dict[str, Any]:
    """Return area and share of all that has changed, and the classes of the mask."""
    summary = census.summary()
    _, *kinds = summary["classes"].values()
    areas = [kind["area_m2"] for kind in kinds]
    return {
        "changed_area_m2": None if None in areas else sum(areas),
        "changed_share": sum(kind["share"] for kind in kinds),
        **summary,
    }


def tags_of(pair: ScenePair, settings: InferenceSettings) -> dict[str, str]:
    """Return the tags of a mask beside those of a map of classes."""
    stretches = [s.describe() if s else "none" for s in pair.stretches]
    return {
        "before": label_of(pair.before),
        "after": label_of(pair.after),
        "threshold": f"{settings.change.threshold:g}",
        "shift_undone": f"{pair.dx_px:.2f} {pair.dy_px:.2f}",
        "stretch": "; ".join(stretches),
    }


def layer_spec(spec: RasterSpec, pair: ScenePair, settings: InferenceSettings) -> ChangeSpec:
    """Return what the polygons say of the two dates, and how far their outlines may move."""
    return ChangeSpec(
        raster=replace(spec, output_type="classes"),
        before=label_of(pair.before),
        after=label_of(pair.after),
        simplify=settings.change.simplify_m,
        sides=pair.pixel_sides_m or (1.0, 1.0),
    )


def label_of(scene: Scene) -> str:
    """Return the day a scene was taken, else its name."""
    return date_of(scene) or scene.stem
