"""``lemevit change``: what has changed between two scenes, as polygons, a mask, or scores."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lemevit_cli.atomic import placed_together
from lemevit_cli.errors import LemevitError, OutputError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Part, Piece, Plan
from lemevit_cli.inference.mosaic import Rows
from lemevit_cli.inference.parts import Order
from lemevit_cli.inference.pixel_size import choose_scale
from lemevit_cli.inference.pixels import Census, plan_of_rows, raster_spec
from lemevit_cli.inference.run import BlockInference, best_classes, masked_scores
from lemevit_cli.inference.scene_input import SceneInput, area_of
from lemevit_cli.inference.scenes import (
    Record,
    Report,
    check_targets,
    infer_all,
    prepare_weights,
    targets_of,
)
from lemevit_cli.legend import NODATA_CLASS
from lemevit_cli.models.weights import Card
from lemevit_cli.progress import Progress
from lemevit_cli.raster.acquisition import date_of
from lemevit_cli.raster.scene import Scene
from lemevit_cli.raster.scene_pair import ScenePair, open_pair
from lemevit_cli.raster.spec import DRAFT_BYTES_PER_PIXEL, whole_scores
from lemevit_cli.raster.targets import (
    RasterSpec,
    Sink,
    check_target,
    find_writer,
    open_sink,
)
from lemevit_cli.settings import InferenceSettings, OutputOptions, SceneOptions
from lemevit_cli.tasks import TASKS
from lemevit_cli.tasks.change.network import NETWORK
from lemevit_cli.tasks.change.pair_input import check_bands_of_dates, pair_input, register_dates
from lemevit_cli.tasks.change.results import UNCHANGED_ID, WRITERS, change_spec
from lemevit_cli.vector.region_layers import RegionSink, RegionSpec, open_layers


def change(
    pairs: Sequence[tuple[str, str]],
    targets: Sequence[str] = (),
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
    report: Report | None = None,
) -> Report:
    """Find what has changed between the two scenes of each pair, whatever grids they lie on.

    Args:
        pairs: paths of the earlier scene and of the later one; of a single pair one may be ``-``
            for a raster on stdin.
        targets: files, ``-`` for stdout, or folders ending in a slash; all are written from one
            pass. None at all is ``<after>_changes.shp`` in the current folder.
        report: filled as results come; a new one unless given.

    Raises:
        LemevitError: before any work for what can be told to be wrong in a second; else as
            :func:`infer_all`.
    """
    suffix = find_writer("changes.shp", settings.output, WRITERS).suffix
    card, load = prepare_weights(
        NETWORK, weights or TASKS[NETWORK.task].starter, settings, progress
    )
    check_threshold(settings.change.threshold)
    afters = [after for _, after in pairs]
    by_target = [targets_of(afters, target, f"_changes{suffix}") for target in targets or (None,)]
    orders = []
    for (before, after), *named in zip(pairs, *by_target, strict=True):
        task = Change(card, settings, progress, before, after, tuple(named))
        orders.append(Order(task, before, named[0], load))
    return infer_all(orders, report)


@dataclass(frozen=True)
class Change:
    """Compares two dates pixel by pixel: a part is rows of classes and scores of change.

    What the loop takes for the scene is ``before``; with it, ``after`` is opened.

    Args:
        card: of the weights.
        before, after: paths of the two dates.
        targets: all that is written; the same rows feed them.
    """

    card: Card
    settings: InferenceSettings
    progress: Progress
    before: str
    after: str
    targets: tuple[str, ...]

    def check_target(self, target: str) -> None:
        """Refuse targets that could not all be written at the end."""
        check_outputs((self.before, self.after), self.targets, self.settings, self.progress)

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return all that is written."""
        return self.targets

    @contextmanager
    def open(self, scene: str) -> Iterator[SceneInput]:
        """Open both dates, place them on one another, and decide how they are read."""
        started = time.perf_counter()
        first, second = options_of_dates(self.settings)
        with ExitStack() as opened:
            pair = opened.enter_context(open_pair(scene, self.after, first, second))
            check_bands_of_dates(pair, self.card)
            reading = self.settings.reading
            # Before what takes seconds.
            area = area_of(pair.before, reading, self.progress)
            choose_scale(pair.before, self.card, reading.gsd)
            coregister = self.settings.change.coregister
            pair, shift = register_dates(pair, coregister=coregister, progress=self.progress)
            opened.callback(pair.close)
            source = pair_input(pair, self.card, reading, self.progress, area=area)
            opened.callback(source.scene.close)
            told = None if shift is None else {**asdict(shift), "undone": coregister}
            register_s = time.perf_counter() - started
            figures = {"shift": told, "register_s": register_s, "started": started}
            yield replace(source, figures=figures)

    def plan(self, run: BlockInference) -> Plan:
        """Choose blocks for their memory."""
        spec = self._spec(run)
        rasters, layers = split_targets(self.targets, self.settings.output)
        drafts = DRAFT_BYTES_PER_PIXEL if layers else 0
        pixel_bytes = len(rasters) * spec.bytes_per_pixel + drafts
        return plan_of_rows(run, self.settings, spec, pixel_bytes=pixel_bytes)

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield rows of ``ids`` and of ``change``, its scores in whole numbers; ``(H, W)`` each.

        With them go ``scores`` ``(classes, H, W)`` where a raster of scores is written.
        """
        for rows in run.rows(block):
            with run.account.time("write"):
                ids, scores = decide_classes(rows, self.settings.change.threshold)
                arrays: dict[str, NDArray[Any]] = {"ids": ids, "change": whole_scores(scores)}
                if self.settings.output.output_type == "scores":
                    arrays["scores"] = masked_scores(rows)
            yield Piece(rows.window, arrays)

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Write the rows to all targets as they come.

        Returns:
            ``paths``; ``before`` and ``after`` with their dates; ``shift`` between them in pixels
            and metres, with its spread, and whether it was ``undone`` (None where it could not be
            measured); ``polygons`` and ``polygons_left_out`` for their size (None without a layer);
            ``changed_area_m2`` and ``changed_share`` of the mask; windows, seconds by phase,
            memory.
        """
        pair, spec, census = pair_of(run.source), self._spec(run), Census(run)
        of_layers = layer_spec(spec, pair, self.settings)
        opening = open_outputs(self.targets, spec, of_layers, self.settings)
        with run.account.time("assemble"), opening as outputs:
            for part in parts:
                for piece in part:
                    with run.account.time("write"):
                        census.add(piece.window, piece.arrays["ids"])
                        place = piece.window.relative_to(run.source.area)
                        outputs.write(place, piece.arrays)
        layers = outputs.layers
        if layers and (told := layers.describe_left_out()):
            self.progress.note(f"{pair.name}: {told}")
        if not census.valid_pixels:
            self.progress.warn(f"{pair.name}: no pixel is valid in both, the result is empty")
        figures = run.account.figures()
        opened = run.source.figures
        seconds = {"register": round(opened["register_s"], 3), **figures.pop("seconds")}
        seconds["total"] = round(time.perf_counter() - opened["started"], 3)
        return {
            "paths": list(self.targets),
            "before": {"path": pair.before.name, "date": date_of(pair.before)},
            "after": {"path": pair.after.name, "date": date_of(pair.after)},
            "weights": run.predictor.name,
            **run.predictor.figures(),
            "width": spec.width,
            "height": spec.height,
            "gsd_m": pair.gsd_m,
            "threshold": self.settings.change.threshold,
            "polygons": layers.polygons if layers else None,
            "polygons_left_out": layers.left_out if layers else None,
            **summarise_change(census),
            **figures,
            "shift": opened["shift"],
            "seconds": seconds,
        }

    def _spec(self, run: BlockInference) -> RasterSpec:
        spec = raster_spec(run, self.settings)
        return replace(spec, tags={**spec.tags, **tags_of(pair_of(run.source), self.settings)})


def pair_of(source: SceneInput) -> ScenePair:
    """Return the two dates that a source was made of.

    Raises:
        TypeError: if it was made of one scene.
    """
    if not isinstance(source.scene, ScenePair):
        raise TypeError(f"{source.name} is one scene, not a pair of dates")
    return source.scene


def options_of_dates(settings: InferenceSettings) -> tuple[SceneOptions, SceneOptions]:
    """Return the options of each scene: own bands and nodata, a CRS where it has none."""
    options, change = settings.scene, settings.change
    both = replace(options, src_crs=None, missing_crs=options.src_crs, expand_palette=True)
    before, after = (
        options.nodata if nodata is None else nodata
        for nodata in (change.nodata_before, change.nodata_after)
    )
    return (
        replace(both, nodata=before),
        replace(both, nodata=after, bidx=change.bidx_after or options.bidx),
    )


def check_threshold(threshold: float) -> None:
    """Refuse a threshold that is no share.

    Raises:
        LemevitError: naming the value.
    """
    if not 0 <= threshold <= 1:
        raise LemevitError(f"--threshold {threshold:g}: use a number from 0 to 1")


def check_outputs(
    scenes: Sequence[str],
    targets: Sequence[str],
    settings: InferenceSettings,
    progress: Progress,
) -> None:
    """Refuse, before any work, targets that could not all be written at its end.

    Raises:
        OutputError: for a target that is a scene, is named twice, or that its format refuses, and
            for options that only one of several formats could take.
    """
    options = settings.output
    if len({Path(target).absolute() for target in targets}) < len(targets):
        raise OutputError(f"-o {' -o '.join(targets)}: name every output once")
    writers = [find_writer(target, options, WRITERS) for target in targets]
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
    asked = (*options.asked_of_polygons, *(("--layer",) if options.layer is not None else ()))
    if asked and not layers:
        raise OutputError(f"{asked[0]} is for polygons; write .shp, .gpkg or .geojson too")
    for target in targets:
        for scene in scenes:
            check_targets([scene], [target])
        chosen = options if target in layers else of_raster(target, options, layers)
        check_target(target, chosen, WRITERS, progress)


def split_targets(targets: Sequence[str], options: OutputOptions) -> tuple[list[str], list[str]]:
    """Split targets into those that hold pixels, and those that hold polygons."""
    rasters = [t for t in targets if find_writer(t, options, WRITERS).kind == "raster"]
    return rasters, [t for t in targets if t not in rasters]


def of_raster(target: str, options: OutputOptions, layers: Sequence[str]) -> OutputOptions:
    """Return the options of a raster; beside layers, without what is meant for them."""
    if not layers:
        return options
    # The style of a layer serves a raster of its name, too; scores have none.
    has_own = all(Path(layer).with_suffix("") != Path(target).with_suffix("") for layer in layers)
    style = options.style and has_own and options.output_type == "classes"
    return replace(
        options, min_area_m2=None, simplify_m=None, fill_holes_m2=0.0, style=style, layer=None
    )


@dataclass(frozen=True)
class Outputs:
    """Paths of all that one run writes.

    Args:
        rasters: of class ids, or of scores if ``as_scores``.
        layers: all layers of polygons, None without one.
    """

    rasters: tuple[Sink, ...]
    layers: RegionSink | None
    as_scores: bool

    def write(self, place: Window, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Hand the arrays of a piece to all."""
        for raster in self.rasters:
            raster.write(place, arrays["scores" if self.as_scores else "ids"])
        if self.layers is not None:
            self.layers.write(place, arrays["ids"], arrays["change"])


@contextmanager
def open_outputs(
    targets: Sequence[str], spec: RasterSpec, of_layers: RegionSpec, settings: InferenceSettings
) -> Iterator[Outputs]:
    """Open all targets; they appear, whole and together, when the block closes.

    Raises:
        OutputError: if one cannot be written.
    """
    rasters, layers = split_targets(targets, settings.output)
    with placed_together(), ExitStack() as stack:
        opened = tuple(
            stack.enter_context(open_sink(t, spec, of_raster(t, settings.output, layers)))
            for t in rasters
        )
        # Polygons take longest to finish: they are the first to close, and to fail.
        polygons = None
        if layers:
            polygons = stack.enter_context(open_layers(layers, of_layers, settings.output, WRITERS))
        yield Outputs(opened, polygons, settings.output.output_type == "scores")


def decide_classes(rows: Rows, threshold: float) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Decide class ids ``(H, W)`` by a threshold on the score of change; return both.

    What has changed is of the best class that is not the first.
    """
    scores: NDArray[np.float32] = 1 - rows.scores[UNCHANGED_ID]
    ids = best_classes(rows.scores[UNCHANGED_ID + 1 :]) + np.uint8(UNCHANGED_ID + 1)
    ids[scores <= threshold] = UNCHANGED_ID
    ids[~rows.valid] = NODATA_CLASS
    return ids, scores


def summarise_change(census: Census) -> dict[str, Any]:
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


def layer_spec(spec: RasterSpec, pair: ScenePair, settings: InferenceSettings) -> RegionSpec:
    """Return what the polygons say of the two dates, and how far their outlines may move."""
    return change_spec(
        replace(spec, output_type="classes"),
        settings.output,
        before=label_of(pair.before),
        after=label_of(pair.after),
        sides=pair.pixel_sides_m,
    )


def label_of(scene: Scene) -> str:
    """Return the day a scene was taken, else its name."""
    return date_of(scene) or scene.stem
