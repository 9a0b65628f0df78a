"""Groups of options that commands share: declared once, handed on as one object.

A command names a group as the type of a parameter; :func:`spread_groups` spreads it into its
options.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, get_type_hints

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console
from lemevit_cli.settings import (
    ClusterOptions,
    InferenceSettings,
    ReadingOptions,
    Recovery,
    RuntimeName,
    RuntimeOptions,
    SceneOptions,
    Tiling,
)

if TYPE_CHECKING:
    from lemevit_cli.training.options import LabelledScene


def spread_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Spread each parameter of a command whose type is a group into the options of the group.

    Typer reads the signature that this gives; the command gets its groups filled.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name in groups:
            parameters.extend(_options_of(groups[name]))
        else:
            parameters.append(parameter.replace(annotation=hints[name]))

    def run(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    # No signature may have a default before a parameter without one: keywords are as good here.
    named = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in parameters]
    run.__signature__ = inspect.Signature(named)  # type: ignore[attr-defined]
    return run


def _options_of(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=field.default,
            annotation=hints[field.name],
        )
        for field in fields(group)
    ]


@dataclass(frozen=True, kw_only=True)
class Running:
    """Where and how exactly a model runs."""

    device: options.Device = "auto"
    precision: options.Precision = options.PrecisionName.auto
    threads: options.Threads = None

    def runtime(
        self, name: RuntimeName = "auto", *, tta: bool = False, fuse_tokens: str | None = None
    ) -> RuntimeOptions:
        """Give the settings of a runtime."""
        share, blocks = options.parse_fusion(fuse_tokens)
        fields = {**self.training_fields(), "runtime": name}
        return RuntimeOptions(**fields, tta=tta, fuse_tokens=share, fuse_blocks=blocks)

    def training_fields(self) -> dict[str, Any]:
        """Give the fields of a training's options."""
        return {**vars(self), "precision": self.precision.value}


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """How scenes are opened, read, cut, and run through a model."""

    bidx: options.Bidx = None
    nodata: options.Nodata = None
    src_crs: options.SrcCrs = None
    stretch: options.Stretch = "auto"
    gsd: options.Gsd = "auto"
    bounds: options.Bounds = None
    mask: options.Mask = None
    window: options.Window = None
    overlap: options.Overlap = None
    batch_size: options.BatchSize = None
    block_size: options.BlockSize = None
    device: options.Device = "auto"
    precision: options.Precision = options.PrecisionName.auto
    threads: options.Threads = None
    runtime: options.Runtime = options.RuntimeChoice.auto
    on_error: options.OnError = options.OnErrorName.fail
    restart: options.Restart = False

    def settings(
        self, *, tta: bool = False, fuse_tokens: str | None = None, **further: Any
    ) -> InferenceSettings:
        """Give all settings of a run over scenes.

        Args:
            further: the command's own fields of :class:`InferenceSettings`, such as ``output``.
        """
        running = Running(device=self.device, precision=self.precision, threads=self.threads)
        return InferenceSettings(
            scene=SceneOptions(
                bidx=options.parse_bands(self.bidx), nodata=self.nodata, src_crs=self.src_crs
            ),
            reading=ReadingOptions(
                stretch=self.stretch, gsd=self.gsd, bounds=self.bounds, mask=self.mask
            ),
            tiling=Tiling(
                window=self.window,
                overlap=self.overlap,
                batch_size=self.batch_size,
                block_size=self.block_size,
            ),
            recovery=Recovery(on_error=self.on_error.value, restart=self.restart),
            runtime=running.runtime(self.runtime.value, tta=tta, fuse_tokens=fuse_tokens),
            **further,
        )


@dataclass(frozen=True, kw_only=True)
class Spreading:
    """Which processes share in a scene."""

    workers: options.Processes = None
    scheduler: options.Scheduler = None
    relay: options.Relay = None

    def spread(self, settings: InferenceSettings) -> InferenceSettings:
        """Give settings under which they do; processes of this machine share out its cores.

        Raises:
            typer.BadParameter: if both are named, or a relay without either.
        """
        if self.workers and self.scheduler:
            raise typer.BadParameter(
                "names processes of others, --workers starts its own; give one of them",
                param_hint="--scheduler",
            )
        if self.relay and not (self.workers or self.scheduler):
            raise typer.BadParameter(
                "is for workers; start some by --workers, or name a cluster by --scheduler",
                param_hint="--relay",
            )
        runtime = settings.runtime
        if self.workers and runtime.threads is None:
            from lemevit_cli.inference.runtime import count_cores

            runtime = replace(runtime, threads=max(1, count_cores() // self.workers))
        return replace(settings, runtime=runtime, cluster=ClusterOptions(**vars(self)))


@dataclass(frozen=True, kw_only=True)
class Reporting:
    """What a person or a script gets to read, and where a run may read in turn."""

    no_remote: options.NoRemote = False
    json: options.Json = False
    quiet: options.Quiet = False
    no_progress: options.NoProgress = False
    timeout: options.Timeout = None  # of the process, as debug: its callback does all of it
    debug: options.Debug = False

    @property
    def console(self) -> Console:
        """Make the console that progress, notes and warnings go to."""
        return Console(quiet=self.quiet, show_progress=not self.no_progress)


@dataclass(frozen=True, kw_only=True)
class Labelling:
    """How labels of a scene are read."""

    label_field: options.LabelField = None
    class_name: options.LabelClass = None
    layer: options.LabelLayer = None
    where: options.LabelWhere = None
    background: options.LabelBackground = "background"
    all_touched: options.AllTouched = False

    def labels(self) -> LabelledScene:
        """Give how labels are read; scene and file are to be filled in."""
        from lemevit_cli.training.options import LabelledScene

        return LabelledScene(scene="", labels="", **vars(self))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What windows a training sees, what it makes its network of, and how its steps are."""

    crop: options.Crop = 256
    gsd: options.TrainedGsd = None
    workers: options.Workers = 1
    backbone: options.Backbone = "lemevit_tiny"
    pretrained: options.Pretrained = False
    init: options.Init = None
    drop_path: options.DropPath = 0.0
    merge_tokens: options.MergeTokens = 0.0
    half: options.Half = False
    time_budget: options.TimeBudget = None
    batch_size: options.TrainedBatchSize = 8
    accumulate: options.Accumulate = 1
    optimizer: options.Optimizer = "muon"
    lr: options.LearningRate = None
    weight_decay: options.WeightDecay = 0.05
    seed: options.Seed = 0
    validate_every: options.ValidateEvery = 200
    resume: options.Resume = False

    def training_fields(
        self, checkpoint_every: str, fuse_blocks: str | None = None
    ) -> dict[str, Any]:
        """Give the fields of a training's options; wrong usage if a time is none."""
        own = dict(vars(self))
        of_backbone = {
            "drop_path_rate": own.pop("drop_path"),
            "merge_tokens": own.pop("merge_tokens"),
            "fuse_tokens": None if fuse_blocks == "r=0" else fuse_blocks,
        }
        return {
            "gsd_m": own.pop("gsd"),
            "time_budget_s": options.parse_time(own.pop("time_budget")),
            **own,
            **options.parse_checkpoints(checkpoint_every),
            "backbone_args": {name: value for name, value in of_backbone.items() if value},
            "lr": options.usual_rate(self.optimizer) if self.lr is None else self.lr,
        }
