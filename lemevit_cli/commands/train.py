"""``lemevit train``."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import flatten, print_json, print_record
from lemevit_cli.commands.groups import (
    Labelling,
    Recipe,
    Reporting,
    Running,
    spread_groups,
)
from lemevit_cli.commands.reporting import tell_training
from lemevit_cli.tasks import TASKS

if TYPE_CHECKING:
    from lemevit_cli.training.options import DataOptions, LabelledScene

# Options that only scenes heed, and whether those that a TOML list names do too.
_OF_SCENES = {
    "label_field": ("--label-field", False),
    "class_name": ("--class", False),
    "layer": ("--layer", False),
    "where": ("--where", False),
    "background": ("--background", False),
    "all_touched": ("--all-touched", False),
    "val_fraction": ("--val-fraction", True),
}
_scenes, _windows = options.in_panel("Scenes with labels"), options.in_panel("Windows")
_model, _schedule = options.in_panel("Model"), options.in_panel("Schedule")

_Paths = list[str] | None


@dataclass(frozen=True, kw_only=True)
class LabelledScenes:
    """Scenes to learn from and to validate on, with their labels."""

    scene: Annotated[_Paths, _scenes("--scene", "A scene to learn from; repeatable.")] = None
    before: Annotated[
        _Paths,
        _scenes("--before", "For change: the earlier of two scenes, on any grids; repeatable."),
    ] = None
    after: Annotated[_Paths, _scenes("--after", "The later one.")] = None
    labels: Annotated[
        _Paths,
        _scenes(
            "--labels",
            "Its polygons or raster of ids, for det boxes or polygons, for change of what "
            "changed; one for each scene, or one for all.",
        ),
    ] = None
    val_scene: Annotated[_Paths, _scenes("--val-scene", "A scene to validate on.")] = None
    val_labels: Annotated[_Paths, _scenes("--val-labels", "Its labels.")] = None

    def pair_with_labels(self, task: str, how: LabelledScene) -> tuple[LabelledScene, ...]:
        """Pair all scenes with their labels; wrong usage if they do not go together.

        Args:
            how: labels are read.
        """
        scene, before, after = self.scene, self.before or [], self.after or []
        if before and (scene or TASKS[task].dates == 1):
            names = " or ".join(name for name, room in TASKS.items() if room.dates > 1)
            raise typer.BadParameter(
                f"is for --task {names}, without --scene", param_hint="--before"
            )
        if len(before) != len(after):
            raise typer.BadParameter(
                f"{len(before)} earlier and {len(after)} later scenes; name both dates",
                param_hint="--after",
            )
        first = replace(how, split="train" if self.val_scene else None)
        last = replace(how, split="val")
        of_one, of_two = (None, self.labels) if before else (self.labels, None)
        return (
            *labelled_scenes(scene, of_one, first, option="--scene"),
            *labelled_scenes(before, of_two, how, option="--before", after=after),
            *labelled_scenes(self.val_scene, self.val_labels, last, option="--val-scene"),
        )


@spread_groups
def train(
    context: typer.Context,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="Folders with {train,val}/{images,masks}, for det in the layouts of DOTA, "
            "YOLO, COCO, Pascal VOC or a CSV, for change {train,val}/{A,B,label}, for cls "
            "{train,val}/CLASS, CLASS alone or a .csv of paths and classes; or .toml lists of "
            "folders and scenes.",
        ),
    ] = None,
    output: Annotated[
        str | None, options.option("-o --output", "The .safetensors file to write.")
    ] = None,
    task: options.TrainedTask = options.TrainedTaskName("seg"),
    *,
    scenes: LabelledScenes,
    val_fraction: Annotated[
        float | None,
        _scenes(
            "--val-fraction",
            "Part of a scene's labels held back, by blocks, or of the pictures of an undivided "
            "folder of classes; default 0.2 where they suffice.",
            min=0.0,
            max=0.9,
        ),
    ] = None,
    skip_bad_labels: options.SkipBadLabels = False,
    show_samples: Annotated[
        str | None,
        _windows(
            "--show-samples PNG",
            "Draw augmented windows with their labels first; without -o nothing is trained.",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        _schedule(
            "--dry-run", "Check the data and print the recipe as it would run; train nothing."
        ),
    ] = False,
    recipe_name: Annotated[
        str | None,
        _schedule(
            "--recipe NAME",
            "For cls: paper, or paper-scenes (MillionAID's): its rates, lengths and "
            "augmentation, in all that no other option sets.",
        ),
    ] = None,
    balance: Annotated[
        float,
        _windows(
            "--balance",
            "0 draws windows evenly over labels, 1 evenly over classes.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.5,
    source_weight: Annotated[
        list[float] | None,
        _windows(
            "--source-weight",
            "How often each DATA, then each scene, is drawn from; once for each.",
            min=0.0,
        ),
    ] = None,
    decoder: Annotated[
        str | None,
        _model(
            "--decoder --head",
            "upernet (light, default), upernet_paper, upernet_pixels (for few labels), or "
            "another of segmentation-models-pytorch; for det oriented_rcnn (light, default) or "
            "oriented_rcnn_paper; for change difference (default), difference_decoded or bit.",
        ),
    ] = None,
    loss: Annotated[
        str, _model("--loss", "Of seg and change: ce, dice, lovasz or focal; ce+dice adds two.")
    ] = "ce",
    class_weights: Annotated[
        str,
        _model(
            "--class-weights SPEC", "Of the cross-entropy: none, balanced, or road=2,water=0.5."
        ),
    ] = "none",
    steps: options.Steps = 2000,
    epochs: options.Epochs = None,
    backbone_lr: Annotated[
        float, _schedule("--backbone-lr FACTOR", "Of the backbone's rate; 0 freezes it.", min=0.0)
    ] = 1.0,
    head_first: Annotated[
        float,
        _schedule(
            "--head-first PART",
            "Part of the training in which the backbone is frozen.",
            min=0.0,
            max=1.0,
        ),
    ] = 0.0,
    checkpoint_every: options.CheckpointEvery = "200",
    overwrite: options.Overwrite = False,
    labelling: Labelling,
    recipe: Recipe,
    running: Running,
    fuse_tokens: options.FuseTokens = None,
    reporting: Reporting,
) -> None:
    """Train weights on labelled pictures or scenes; the best by validation is kept.

    Prints the path of the weights. Checkpoint, metrics and a picture lie beside them, in
    NAME_training/. A run that was interrupted goes on with --resume.
    """
    began = time.perf_counter()
    share, blocks = options.parse_fusion(fuse_tokens)
    fields = recipe.training_fields(checkpoint_every, blocks)
    console = reporting.console
    console.start("start", total=0, unit="")
    from lemevit_cli.tasks import training
    from lemevit_cli.training.loop import leave_group
    from lemevit_cli.training.options import DataOptions, TrainingOptions

    console.finish()
    sources = DataOptions(
        paths=tuple(data or ()),
        scenes=scenes.pair_with_labels(task, labelling.labels()),
        source_weights=tuple(source_weight) if source_weight else None,
        val_fraction=val_fraction,
        seed=recipe.seed,
        skip_bad_labels=skip_bad_labels,
    )
    if val_fraction is not None and scenes.val_scene and not data:
        raise typer.BadParameter(
            "is held back of scenes that are divided; --val-scene names all that is",
            param_hint="--val-fraction",
        )
    refuse_options_of_scenes(options.names_given(context), sources, task)
    options.refuse_several_lengths(context)
    if not sources.paths and not sources.scenes:
        raise typer.BadParameter("name DATA, or a scene by --scene with its --labels")
    if dry_run and show_samples is not None:
        raise typer.BadParameter("writes no picture; leave out one of them", param_hint="--dry-run")
    if output is None and show_samples is None and not dry_run:
        raise typer.BadParameter("name the weights to write", param_hint="-o")
    settings = TrainingOptions(
        decoder=decoder,
        loss=loss,
        class_weights=class_weights,
        steps=steps,
        epochs=epochs,
        backbone_lr=backbone_lr,
        head_first=head_first,
        balance=balance,
        overwrite=overwrite,
        recipe=recipe_name,
        fuse_tokens=share,
        chosen=options.names_given(context),
        **fields,
        **running.training_fields(),
    )
    if dry_run:
        plan = training.describe_training(task.value, sources, settings, console)
        print_json(plan) if reporting.json else print_record(flatten(plan))
        return
    if output is None:
        training.show_samples(task.value, sources, settings, str(show_samples), console)
        typer.echo(show_samples)
        return
    try:
        record = training.train(
            task.value,
            sources,
            output,
            settings,
            console,
            samples=show_samples,
            spent_s=time.perf_counter() - began,
        )
    finally:
        leave_group()
    tell_training(record, reporting, _summary)


def refuse_options_of_scenes(given: Iterable[str], data: DataOptions, task: str) -> None:
    """Refuse options that only scenes, or boxes, heed, if there is none: none is ignored."""
    if data.skip_bad_labels and task not in ("det", "cls"):
        raise typer.BadParameter("is for --task det or cls", param_hint="--skip-bad-labels")
    may_list_scenes = any(path.lower().endswith(".toml") for path in data.paths)
    for name, (option, in_lists) in _OF_SCENES.items():
        if name == "val_fraction" and TASKS[task].divides_folders:
            continue
        if name in given and not data.scenes and not (may_list_scenes and in_lists):
            raise typer.BadParameter(
                "is for scenes with labels, and none is named; folders have their own classes "
                "and divide themselves into train and val",
                param_hint=option,
            )


def labelled_scenes(
    scenes: list[str] | None,
    labels: list[str] | None,
    how: LabelledScene,
    *,
    option: str,
    after: list[str] | None = None,
) -> list[LabelledScene]:
    """Pair scenes with their labels, as many of each or one file of labels for all.

    Args:
        after: of pairs the later dates, as many as scenes.
    """
    scenes, labels = scenes or [], labels or []
    if bool(labels) != bool(scenes) or len(labels) not in (len(scenes), 1, 0):
        raise typer.BadParameter(
            f"{len(scenes)} scenes and {len(labels)} labels; each scene needs its labels",
            param_hint=option,
        )
    later: Iterable[str | None] = after or cycle([None])
    return [
        replace(how, scene=scene, after=date, labels=file)
        for scene, date, file in zip(scenes, later, cycle(labels), strict=False)
    ]


def _summary(record: dict[str, Any]) -> None:
    """Print, on stderr, how the weights score on the validation part of each data set."""
    from lemevit_cli.commands.figures import print_scores

    for name, figures in record["scores"].items():
        print_scores(f"{name}, val", figures, to_stderr=True)
    print_record(
        [
            ("best step", f"{record['best']['step']:,} of {record['steps']:,}"),
            ("parameters", f"{record['parameters']:,}"),
            ("minutes", f"{record['seconds'] / 60:.1f}"),
        ],
        to_stderr=True,
    )
