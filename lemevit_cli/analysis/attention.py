"""``lemevit attention``: where the meta tokens of a LeMeViT look, over a whole scene.

Weights of any task have such a backbone; those of ``change`` see one date, the scene. The maps take
the road of every answer with a value a pixel: windows, mosaic, blocks, raster.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lemevit_cli.analysis.quicklook import check_target as check_picture
from lemevit_cli.atomic import replacing
from lemevit_cli.errors import DeviceError, OutputError, WeightsError
from lemevit_cli.geometry.window import Window
from lemevit_cli.inference.blocks import Part, Piece, Plan
from lemevit_cli.inference.bounds import window_of_bounds
from lemevit_cli.inference.pixels import plan_of_rows, raster_spec
from lemevit_cli.inference.predictor import Predictor, load_model
from lemevit_cli.inference.run import BlockInference, masked_scores
from lemevit_cli.inference.runtimes.torch import TorchRuntime
from lemevit_cli.inference.scene_input import SceneInput, open_input
from lemevit_cli.inference.scenes import (
    Record,
    check_settings,
    infer_scenes,
    read_beside,
    targets_of,
)
from lemevit_cli.inputs import check_inputs_kept
from lemevit_cli.legend import classes_from_names
from lemevit_cli.models.dense_features import FeatureSource, open_features
from lemevit_cli.models.lemevit import LeMeViT
from lemevit_cli.models.meta_attention import MetaAttention
from lemevit_cli.models.weights import Card, Weights, open_weights
from lemevit_cli.pictures.attention_picture import write_attention_sheet
from lemevit_cli.pictures.picture import scale_for_display
from lemevit_cli.progress import Progress
from lemevit_cli.raster.scene import open_scene
from lemevit_cli.raster.spec import RasterSpec
from lemevit_cli.raster.targets import STDOUT, check_target, open_sink
from lemevit_cli.settings import InferenceSettings
from lemevit_cli.tasks import TASKS, load_network

_TASK_OF_STARTER = "seg"
_PICTURE_SIDE = 600  # pixels of a panel at most


@dataclass(frozen=True, kw_only=True)
class AttentionOptions:
    """Which attention is shown.

    Args:
        stage: 0 to 2.
        block: of the stage, from 0; None is the last.
        tokens: meta tokens, from 0; None takes all.
        png: a picture of the maps over the scene; None draws none.
    """

    stage: int = 1
    block: int | None = None
    tokens: tuple[int, ...] | None = None
    png: str | None = None


def attention(
    scene: str,
    target: str | None,
    options: AttentionOptions,
    *,
    weights: str | None,
    settings: InferenceSettings,
    progress: Progress,
) -> Record:
    """Write what each meta token takes from every pixel of a scene: a band a token.

    Args:
        target: a file, ``-`` for stdout, a folder ending in a slash, or None for
            ``<scene>_attention.tif`` in the current folder.
        settings: its output type is not asked for: maps are scores.

    Returns:
        The record that ``--json`` prints, see :meth:`Attention.assemble`; with ``png``.

    Raises:
        LemevitError: before the scene is read for what can be told to be wrong in a second.
    """
    settings = replace(settings, output=replace(settings.output, output_type="scores"))
    if settings.runtime.runtime == "openvino":
        raise DeviceError("--runtime openvino: attention is read within the network by torch")
    opened = open_weights(weights or TASKS[_TASK_OF_STARTER].starter)
    check_settings(opened.card, settings)
    reads = read_beside(opened.name, settings)
    (target,) = targets_of([scene], target, "_attention.tif", reads=reads)
    check_inputs_kept([options.png or STDOUT], [scene, *reads])
    check_png(options.png, scene, target, settings)
    model = meta_attention_of(opened, options)
    runtime = TorchRuntime(model, lambda maps: maps, settings.runtime)
    names = [f"meta token {token}" for token in model.tokens]
    head = f"attention of stage {model.stage}, block {model.block}"
    predictor = Predictor(
        opened.name,
        opened.digest,
        replace(opened.card, head=head, classes=classes_from_names(names)),
        runtime,
        runtime.device,
        arithmetic=runtime.arithmetic,
        version=runtime.version,
        threads=runtime.threads,
    )
    task = Attention(opened.card, model.stage, model.block, settings, progress)
    record = infer_scenes(task, [scene], [target], lambda: predictor).results[0]
    if options.png is not None:
        draw_attention(options.png, scene, record, settings)
    return record | {"png": options.png}


def check_png(png: str | None, scene: str, target: str, settings: InferenceSettings) -> None:
    """Refuse a picture that could not be drawn at the end.

    Raises:
        OutputError: naming it.
    """
    if png is None:
        return
    check_picture(png, png, overwrite=settings.output.overwrite, suffixes=(".png",))
    if STDOUT in (scene, target):
        raise OutputError("--png is drawn from the files of scene and raster; name both")


def meta_attention_of(weights: Weights, options: AttentionOptions) -> MetaAttention:
    """Take the backbone of weights, with what stands in front of it, whatever their task.

    Raises:
        WeightsError: if it has no meta tokens, or not the stage, block or tokens asked for.
    """
    is_backbone_alone = weights.card.task not in TASKS
    model: Any = (
        open_features(FeatureSource(weights.name))
        if is_backbone_alone
        else load_model(weights, load_network(weights.card.task))
    )
    backbone = next((part for part in model.modules() if isinstance(part, LeMeViT)), None)
    if backbone is None:
        raise WeightsError(
            f"{weights.name}: its backbone {weights.card.backbone} has no meta tokens; "
            "give weights of a lemevit_* by --weights"
        )
    return MetaAttention(
        model.front, backbone, stage=options.stage, block=options.block, tokens=options.tokens
    )


@dataclass(frozen=True)
class Attention:
    """Answers every pixel of a scene with what each meta token takes from it.

    Args:
        card: of the weights.
        stage, block: that the maps are of.
    """

    card: Card
    stage: int
    block: int
    settings: InferenceSettings
    progress: Progress

    def check_target(self, target: str) -> None:
        """Refuse a target that could not be written at the end."""
        check_target(target, self.settings.output)

    def outputs(self, target: str) -> tuple[str, ...]:
        """Return the one file."""
        return (target,)

    def open(self, scene: str) -> AbstractContextManager[SceneInput]:
        """Open a scene, and decide how it is read."""
        return open_input(scene, self.card, self.settings, self.progress)

    def plan(self, run: BlockInference) -> Plan:
        """Choose blocks for their memory."""
        spec = self._spec(run)
        return plan_of_rows(run, self.settings, spec, pixel_bytes=spec.bytes_per_pixel)

    def infer(self, run: BlockInference, block: Window) -> Iterator[Piece]:
        """Yield rows of ``maps`` ``(tokens, H, W)``, NaN where the scene has no data."""
        for rows in run.rows(block):
            yield Piece(rows.window, {"maps": masked_scores(rows)})

    def assemble(self, run: BlockInference, parts: Iterable[Part], target: str) -> Record:
        """Write the rows as they come."""
        spec = self._spec(run)
        with run.account.time("assemble"), open_sink(target, spec, self.settings.output) as sink:
            for part in parts:
                for piece in part:
                    with run.account.time("write"):
                        place = piece.window.relative_to(run.source.area)
                        sink.write(place, piece.arrays["maps"])
        return {
            "path": target,
            "scene": run.source.name,
            "weights": run.predictor.name,
            "device": run.predictor.device,
            "arithmetic": run.predictor.arithmetic,
            "width": spec.width,
            "height": spec.height,
            "stage": self.stage,
            "block": self.block,
            "bands": list(run.predictor.card.class_names),
            **run.account.figures(),
        }

    def _spec(self, run: BlockInference) -> RasterSpec:
        spec = raster_spec(run, self.settings)
        tags = {"task": "attention", "stage": f"{self.stage}", "block": f"{self.block}"}
        return replace(spec, tags={**spec.tags, **tags})


def draw_attention(png: str, scene: str, record: Record, settings: InferenceSettings) -> None:
    """Draw the maps of a finished raster over its scene, from one decimated read of each."""
    options = replace(settings.scene, expand_palette=True)
    with open_scene(record["path"]) as raster, open_scene(scene, options) as under:
        maps, valid = raster.read_overview_by_band(_PICTURE_SIDE)
        bounds = settings.reading.bounds
        part = window_of_bounds(under, bounds) if bounds else under.window
        rgb = scale_for_display(*under.read_overview_by_band(_PICTURE_SIDE, window=part))
    caption = f"stage {record['stage']}, block {record['block']}; 1 is an even look"
    with replacing(png, overwrite=settings.output.overwrite) as path:
        known = np.where(valid, maps, np.nan)
        write_attention_sheet(path, rgb, known, record["bands"], even=1.0, caption=caption)
