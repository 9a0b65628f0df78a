"""``lemevit pretrain``."""

from __future__ import annotations

import time
from math import inf
from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_record
from lemevit_cli.commands.groups import (
    Recipe,
    Reporting,
    Running,
    spread_groups,
)
from lemevit_cli.commands.reporting import tell_training

_teacher = options.in_panel("Teacher")
_STRIDES = {2, 4, 8, 16, 32}


@spread_groups
def pretrain(
    context: typer.Context,
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...",
            help="Folders of pictures of any depth (val, test and labels in them are left out), "
            "scenes, or .toml lists; no labels are needed.",
        ),
    ],
    teacher: Annotated[
        str,
        _teacher(
            "--teacher NAME|FILE",
            "A timm name with weights, a file of weights, or weights of ours.",
        ),
    ],
    output: Annotated[str, options.option("-o --output", "The .safetensors file to write.")],
    teacher_model: Annotated[
        str | None, _teacher("--teacher-model NAME", "The timm name of a teacher's file.")
    ] = None,
    teacher_layers: Annotated[
        str | None,
        _teacher(
            "--teacher-layers N,N,...",
            "From 1; default: three of a transformer, four levels of a pyramid.",
        ),
    ] = None,
    teacher_zoom: Annotated[
        str,
        _teacher(
            "--teacher-zoom auto|FACTOR",
            "How much larger the teacher sees a window; auto: 2 at 0.5 m and coarser, else 1.",
        ),
    ] = "auto",
    teacher_licence: Annotated[
        str | None, _teacher("--teacher-licence TEXT", "For the card, where timm does not know it.")
    ] = None,
    width: Annotated[
        int,
        _teacher(
            "--width", "Principal components of the teacher's features that are taught.", min=1
        ),
    ] = 192,
    levels: Annotated[
        str,
        _teacher(
            "--levels STRIDE=WEIGHT,...",
            "Levels of the backbone that are taught, and the weight of each.",
        ),
    ] = "4=0.25,8=1,16=1,32=0.5",
    cache_gb: Annotated[
        float | None,
        _teacher(
            "--cache-gb GB",
            "Disk for the teacher's answers, which says how many windows there are; 0 asks "
            "it each time. Default 4, on a GPU 0.",
            min=0.0,
        ),
    ] = None,
    cache: Annotated[
        str | None, _teacher("--cache FOLDER", "Keep the answers there, for other runs too.")
    ] = None,
    *,
    steps: options.Steps = 6000,
    checkpoint_every: options.CheckpointEvery = "10m",
    overwrite: options.Overwrite = False,
    recipe: Recipe,
    running: Running,
    reporting: Reporting,
) -> None:
    """Teach a backbone what a large network sees, on pictures without labels.

    The result begins other trainings: `lemevit train --init backbone.safetensors`. How much it
    knows of your data, `lemevit probe` tells. Checkpoint, metrics and a picture lie in
    NAME_training/; a run that was interrupted goes on with --resume.
    """
    began = time.perf_counter()
    options.refuse_several_lengths(context)
    fields = recipe.training_fields(checkpoint_every)
    taught = parse_levels(levels)
    layers = options.parse_numbers(teacher_layers, "--teacher-layers")
    zoom = parse_zoom(teacher_zoom)
    console = reporting.console
    console.start("start", total=0, unit="")
    from lemevit_cli.models.dense_features import FeatureSource
    from lemevit_cli.tasks.backbone import pretraining
    from lemevit_cli.tasks.backbone.training import DistillationOptions
    from lemevit_cli.training.loop import leave_group
    from lemevit_cli.training.options import DataOptions, TrainingOptions

    console.finish()
    teaching = DistillationOptions(
        teacher=FeatureSource(teacher, model=teacher_model, layers=layers),
        licence=teacher_licence,
        zoom=zoom,
        width=width,
        levels=taught,
        cache_gb=cache_gb,
        cache=cache,
    )
    settings = TrainingOptions(
        steps=steps,
        overwrite=overwrite,
        **fields,
        **running.training_fields(),
    )
    sources = DataOptions(paths=tuple(data), seed=recipe.seed)
    try:
        spent_s = time.perf_counter() - began
        record = pretraining.pretrain(sources, output, teaching, settings, console, spent_s=spent_s)
    finally:
        leave_group()
    tell_training(record, reporting, _summary)


def parse_levels(text: str) -> dict[int, float]:
    """Read ``8=1,16=0.5`` as weights by stride; wrong usage if it is anything else."""
    try:
        pairs = [part.split("=") for part in text.split(",")]
        levels = {int(stride): float(weight) for stride, weight in pairs}
        repeats = len(levels) < len(pairs)
    except ValueError:
        levels, repeats = {}, False
    weights = list(levels.values())
    are_weights = all(0 < weight < inf for weight in weights)  # no number is neither
    if not weights or not are_weights or not set(levels) <= _STRIDES or repeats:
        raise typer.BadParameter(
            f"{text!r} is not a list such as 8=1,16=0.5 of strides 2 to 32 with weights above zero",
            param_hint="--levels",
        )
    return dict(sorted(levels.items()))


def parse_zoom(text: str) -> float | None:
    """Read a factor, or ``auto`` as None; wrong usage if it is neither."""
    if text == "auto":
        return None
    try:
        zoom = float(text)
    except ValueError:
        zoom = 0.0
    if not 0.1 <= zoom <= 8.0:
        raise typer.BadParameter(
            f"{text!r} is neither auto nor a factor from 0.1 to 8", param_hint="--teacher-zoom"
        )
    return zoom


def _summary(record: dict[str, Any]) -> None:
    figures = (record["best"].get("figures") or {}).get("held back", {})
    print_record(
        [
            *((name.replace("_", " of stride "), f"{v:.3f}") for name, v in figures.items()),
            ("best step", f"{record['best']['step']:,} of {record['steps']:,}"),
            ("minutes", f"{record['seconds'] / 60:.1f}"),
        ],
        to_stderr=True,
    )
