"""``lemevit train``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import Console, print_json, print_record

_MODEL, _SCHEDULE, _DATA = "Model", "Schedule", "Data"


def train(
    data: Annotated[
        list[str],
        typer.Argument(
            metavar="DATA...", help="Folders with {train,val}/{images,masks} and classes.json."
        ),
    ],
    output: Annotated[str, typer.Option("-o", "--output", help="The .safetensors file to write.")],
    task: options.Task = options.TaskName.seg,
    backbone: Annotated[
        str,
        typer.Option("--backbone", help="Any timm name with features.", rich_help_panel=_MODEL),
    ] = "lemevit_tiny",
    decoder: Annotated[
        str | None,
        typer.Option(
            "--decoder",
            help="Of segmentation-models-pytorch; default: a light UPerNet.",
            rich_help_panel=_MODEL,
        ),
    ] = None,
    pretrained: Annotated[
        bool,
        typer.Option("--pretrained", help="timm's own weights.", rich_help_panel=_MODEL),
    ] = False,
    drop_path: Annotated[
        float,
        typer.Option(
            "--drop-path", min=0.0, max=0.9, help="Stochastic depth.", rich_help_panel=_MODEL
        ),
    ] = 0.0,
    steps: Annotated[
        int, typer.Option("--steps", min=1, help="Updates.", rich_help_panel=_SCHEDULE)
    ] = 2000,
    time_budget: Annotated[
        str | None,
        typer.Option(
            "--time-budget",
            metavar="TIME",
            help="End after this time instead: 90s, 40m, 2h.",
            rich_help_panel=_SCHEDULE,
        ),
    ] = None,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Windows a step.", rich_help_panel=_SCHEDULE)
    ] = 8,
    lr: Annotated[
        float, typer.Option("--lr", help="Peak learning rate.", rich_help_panel=_SCHEDULE)
    ] = 6e-4,
    weight_decay: Annotated[
        float, typer.Option("--weight-decay", help="Of AdamW.", rich_help_panel=_SCHEDULE)
    ] = 0.05,
    seed: Annotated[
        int, typer.Option("--seed", help="Of weights and windows.", rich_help_panel=_SCHEDULE)
    ] = 0,
    validate_every: Annotated[
        int,
        typer.Option(
            "--validate-every",
            min=1,
            metavar="STEPS",
            rich_help_panel=_SCHEDULE,
            help="Steps between two validations.",
        ),
    ] = 200,
    checkpoint_every: Annotated[
        int,
        typer.Option(
            "--checkpoint-every",
            min=1,
            metavar="STEPS",
            rich_help_panel=_SCHEDULE,
            help="Steps between two checkpoints.",
        ),
    ] = 200,
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on from the checkpoint.", rich_help_panel=_SCHEDULE),
    ] = False,
    crop: Annotated[
        int, typer.Option("--crop", min=32, help="Side of a window.", rich_help_panel=_DATA)
    ] = 256,
    balance: Annotated[
        float,
        typer.Option(
            "--balance",
            min=0.0,
            max=1.0,
            rich_help_panel=_DATA,
            help="0 draws windows evenly over pixels, 1 evenly over classes.",
        ),
    ] = 0.5,
    source_weight: Annotated[
        list[float] | None,
        typer.Option(
            "--source-weight",
            min=0.0,
            rich_help_panel=_DATA,
            help="How often each DATA is drawn from; once for each.",
        ),
    ] = None,
    gsd: Annotated[
        tuple[float, float] | None,
        typer.Option(
            "--gsd",
            metavar="FROM TO",
            rich_help_panel=_DATA,
            help="Pixel sizes of the data in metres, where the files do not say.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option("--workers", min=0, help="Reading processes.", rich_help_panel=_DATA)
    ] = 1,
    device: options.Device = "auto",
    precision: options.Precision = options.PrecisionName.auto,
    threads: options.Threads = None,
    overwrite: options.Overwrite = False,
    json: options.Json = False,
    quiet: options.Quiet = False,
    no_progress: options.NoProgress = False,
    debug: options.Debug = False,
) -> None:
    """Train weights on labelled pictures; the best by validation is kept.

    Prints the path of the weights. A run that was interrupted goes on with --resume.
    """
    budget = parse_time(time_budget)
    from lemevit_cli.pipelines import training
    from lemevit_cli.training.options import DataOptions, TrainingOptions

    record = training.train(
        task.value,
        DataOptions(
            paths=tuple(data),
            source_weights=tuple(source_weight) if source_weight else None,
            seed=seed,
        ),
        output,
        TrainingOptions(
            backbone=backbone,
            backbone_args={"drop_path_rate": drop_path} if drop_path else {},
            decoder=decoder,
            pretrained=pretrained,
            steps=steps,
            time_budget_s=budget,
            batch_size=batch_size,
            crop=crop,
            lr=lr,
            weight_decay=weight_decay,
            seed=seed,
            balance=balance,
            gsd_m=gsd,
            validate_every=validate_every,
            checkpoint_every=checkpoint_every,
            workers=workers,
            device=device,
            precision=precision.value,
            threads=threads,
            resume=resume,
            overwrite=overwrite,
        ),
        Console(quiet=quiet, show_progress=not no_progress),
    )
    if "scores" not in record:
        return  # one of several processes; the first one tells
    if json:
        print_json(record)
        return
    if not quiet:
        _summary(record)
    typer.echo(record["path"])


def parse_time(text: str | None) -> float | None:
    """``90s``, ``40m``, ``2h`` in seconds; wrong usage if it is anything else."""
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.replace(".", "", 1).isdigit() or not float(number):
        raise typer.BadParameter(f"{text!r} is not 90s, 40m or 2h", param_hint="--time-budget")
    return float(number) * units[unit]


def _summary(record: dict[str, Any]) -> None:
    """How the weights score on the validation part of each data set, on stderr."""
    from lemevit_cli.commands.evaluate import print_scores

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
