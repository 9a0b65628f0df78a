"""Options that several commands share, declared once, spelled as rio and gdal spell them."""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any

import typer

from lemevit_cli import __version__
from lemevit_cli.settings import FusedShare
from lemevit_cli.tasks import TASKS, tasks_with

_debug = False
_offline = False
_FEW, _A_CORE = 64, 4  # threads or processes: always allowed; of a core
_USUAL_RATES, _USUAL_RATE = {"muon": 4e-3}, 6e-4  # a step of muon is a fifth of AdamW's


def is_debugging() -> bool:
    """Say whether ``--debug`` was given."""
    return _debug


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = value
    return value


def _limit_waiting(seconds: float | None) -> float | None:
    if seconds is not None:
        from lemevit_cli.raster.network import limit_waiting

        limit_waiting(seconds)
    return seconds


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"lemevit {__version__}")
        raise typer.Exit


def is_offline() -> bool:
    """Say whether ``--no-remote`` was given."""
    return _offline


def _shut_network(value: bool) -> bool:
    global _offline
    _offline = value
    if value:
        from lemevit_cli.raster.network import shut_network

        shut_network()
    return value


def in_panel(panel: str | None) -> Callable[..., Any]:
    """Return how the options of a panel of the help are declared, as a manual would print them."""

    def declare(usage: str, help: str, **further: Any) -> Any:
        """Declare an option: its names and what stands for its value, its help, typer's rest."""
        words = usage.split()
        names = [word for word in words if word.startswith("-")]
        metavar = " ".join(words[len(names) :]) or None
        return typer.Option(*names, metavar=metavar, help=help, rich_help_panel=panel, **further)

    return declare


class TaskName(StrEnum):
    """Tasks that give every pixel, or every window, a class."""

    vars().update({task: task for task, room in TASKS.items() if room.command == "predict"})


class TrainedTaskName(StrEnum):
    """Tasks that weights can be trained for."""

    vars().update({task: task for task in TASKS})


class SimulatedTaskName(StrEnum):
    """Tasks that simulated towns are laid out for."""

    vars().update({task: task for task in tasks_with("simulation")})


class OutputTypeName(StrEnum):
    """What a raster result holds."""

    classes = "classes"
    scores = "scores"


class OnErrorName(StrEnum):
    """What becomes of a window that cannot be read."""

    fail = "fail"
    nodata = "nodata"


class PrecisionName(StrEnum):
    """Arithmetic of the model."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


class RuntimeChoice(StrEnum):
    """Libraries that run a model."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"


_STARTERS = [room.starter for room in TASKS.values()]


def _complete_weights(incomplete: str) -> list[str]:
    """List starter weights that begin so; where none does, the shell lists files."""
    return [name for name in _STARTERS if name.startswith(incomplete)]


def _task_of_predict(task: str) -> str:
    """Refuse, as wrong usage, a task that has a command of its own, naming it."""
    if task in {name.value for name in TaskName}:
        return task
    known = " and ".join(name.value for name in TaskName)
    own = f"{task} is for lemevit {TASKS[task].command}" if task in TASKS else f"no task {task!r}"
    raise typer.BadParameter(f"{own}; predict has {known}", param_hint="--task")


def _as_many_as_cores(value: int | None) -> int | None:
    """Refuse, as wrong usage, threads or processes that no machine like this one has use for."""
    if value is None or value <= _FEW:
        return value
    from lemevit_cli.inference.runtime import count_cores

    most = max(_FEW, _A_CORE * count_cores())
    if value > most:
        raise typer.BadParameter(f"{value:,} are more than this machine can use; at most {most}")
    return value


option = in_panel(None)
_input, _windows, _running = in_panel("Input"), in_panel("Windows"), in_panel("Running")
_output, _report, _labels = (
    in_panel("Output"),
    in_panel("Reporting"),
    in_panel("Scenes with labels"),
)
_boxes, _change = in_panel("Boxes"), in_panel("Change")
_model, _schedule = in_panel("Model"), in_panel("Schedule")

Version = Annotated[
    bool, option("--version", "Print the version.", callback=_print_version, is_eager=True)
]
Debug = Annotated[bool, _report("--debug", "Show the traceback of an error.", callback=_set_debug)]
Timeout = Annotated[
    float | None,
    _running(
        "--timeout SECONDS",
        "Give up a server that is silent for so long; default: 30.",
        min=1.0,
        callback=_limit_waiting,
    ),
]
Task = Annotated[
    str,
    option(
        "--task seg|cls",
        "What to find: seg, a class a pixel; cls, a class a window.",
        callback=_task_of_predict,
    ),
]
TrainedTask = Annotated[
    TrainedTaskName,
    option(
        "--task",
        "What to learn: seg, a class a pixel; det, oriented boxes; change, of two dates; cls, a "
        "class a window.",
    ),
]
Output = Annotated[
    str | None, _output("-o --output", "Result: a file, a folder ending in /, or - for stdout.")
]
Outputs = Annotated[
    list[str] | None,
    _output("-o --output", "Result: a file, a folder ending in /, or - for stdout; repeatable."),
]
Weights = Annotated[
    str | None,
    _input(
        "-w --weights",
        f"Starter weights by name ({', '.join(_STARTERS)}), or a .safetensors file.",
        autocompletion=_complete_weights,
    ),
]
NoRemote = Annotated[
    bool,
    _input(
        "--no-remote",
        "Read nothing over a network, not for a VRT either.",
        envvar="LEMEVIT_NO_REMOTE",
        callback=_shut_network,
    ),
]
Bidx = Annotated[
    str | None,
    _input("-b --bidx N,N,...", "Bands in the model's order, from 1; 1,1,1 feeds a grey scene."),
]
Nodata = Annotated[
    float | None, _input("--nodata", "Value without data, if the file does not say.")
]
SrcCrs = Annotated[str | None, _input("--src-crs", "CRS, if the file lost it.")]
Stretch = Annotated[
    str,
    _input(
        "--stretch SPEC",
        "Values to the weights' range: auto, none, 2,98 (percent) or min=0,max=3000.",
    ),
]
Gsd = Annotated[
    str, _input("--gsd SPEC", "Pixel size for the model: auto, native, or metres on the ground.")
]
Bounds = Annotated[
    tuple[float, float, float, float] | None,
    _input("--bounds W,S,E,N", "Only this part, in map units."),
]
Mask = Annotated[str | None, _input("--mask POLYGONS", "Only inside the polygons of this file.")]
LabelField = Annotated[
    str | None,
    _labels(
        "--label-field NAME", "Field with a polygon's class; without it all polygons are one class."
    ),
]
LabelClass = Annotated[
    str | None, _labels("--class NAME", "Name of that one class; default: the layer's.")
]
LabelLayer = Annotated[str | None, _labels("--layer", "Layer of the labels' file.")]
LabelWhere = Annotated[
    str | None, _labels("--where SQL", 'Only these polygons, such as "year = 2020".')
]
LabelBackground = Annotated[
    str,
    _labels(
        "--background CLASS",
        "Class of what no polygon covers; ignore leaves it out. For a raster, ignore says "
        "that what it does not label may be anything.",
    ),
]
AllTouched = Annotated[
    bool,
    _labels(
        "--all-touched",
        "A polygon takes every pixel that it touches, not those whose centre it covers: for "
        "objects as small as pixels.",
    ),
]
Window = Annotated[
    int | None, _windows("--window", "Side of a window in pixels; default: the weights'.", min=32)
]
Overlap = Annotated[
    int | None, _windows("--overlap", "Pixels shared by two windows; default: the weights'.", min=0)
]
BatchSize = Annotated[
    int | None, _windows("--batch-size", "Windows a pass; default: 2, 16 on a GPU.", min=1)
]
BlockSize = Annotated[
    int | None,
    _windows(
        "--block-size",
        "Side of the output's blocks in pixels, rounded up to whole tiles of a raster (512).",
        min=1,
    ),
]
Device = Annotated[str, _running("--device", "auto, cpu, cuda, cuda:N or mps.")]
Precision = Annotated[PrecisionName, _running("--precision", "Arithmetic.")]
Threads = Annotated[
    int | None, _running("--threads", "CPU threads.", min=1, callback=_as_many_as_cores)
]
Runtime = Annotated[
    RuntimeChoice,
    _running("--runtime", "Library that runs the model; auto: OpenVINO on a CPU, if installed."),
]
Tta = Annotated[
    bool,
    _running(
        "--tta", "Mean over the eight symmetries of each window: better, in eight times the time."
    ),
]
TtaBoxes = Annotated[
    bool,
    _running(
        "--tta", "Look at the eight symmetries of each window: finds more, in eight times the time."
    ),
]
FuseTokens = Annotated[
    str | None,
    _running(
        "--fuse-tokens SHARE",
        "Of LeMeViT's tokens, those that similar ones take over: 0.5 is faster and nearly as good; "
        "auto goes by each window, 0 fuses none. Of a ViT with cls: r=16, as many a block.",
    ),
]
Format = Annotated[
    str | None, _output("--format", "GDAL driver, if not by suffix: COG, GeoJSON, ...")
]
OutputType = Annotated[
    OutputTypeName, _output("--output-type", "Class ids, or one band of scores a class.")
]
CreationOptions = Annotated[
    list[str] | None, _output("--co NAME=VALUE", "Creation option of the driver; repeatable.")
]
Classes = Annotated[
    str | None,
    _output("--classes NAME,NAME", "Only these classes: as polygons, or as a mask, 0 elsewhere."),
]
MinArea = Annotated[
    float | None,
    _output(
        "--min-area M2",
        "Smallest polygon, in m2 on the ground; default: 8 pixels, 0: all.",
        min=0.0,
    ),
]
Simplify = Annotated[
    float | None,
    _output(
        "--simplify METRES",
        "How far outlines of polygons may move, neighbours together; default: 0, of change half "
        "a pixel.",
        min=0.0,
    ),
]
FillHoles = Annotated[
    float, _output("--fill-holes M2", "Fill smaller holes of polygons, with all in them.", min=0.0)
]
LayerName = Annotated[
    str | None,
    _output("--layer NAME", "Layer to add to a GeoPackage, or replace; its others are kept."),
]
Style = Annotated[
    bool,
    _output("--style", "Also a style for QGIS beside the result: classes in colours."),
]
Threshold = Annotated[
    float, _change("--threshold", "Score of change above which a pixel has changed, 0 to 1.")
]
Coregister = Annotated[
    bool, _change("--coregister", "Undo the shift between the dates, which is told in any case.")
]
BandsAfter = Annotated[
    str | None,
    _input("--bands-after N,N,...", "Bands of AFTER, where they are not those of BEFORE."),
]
NodataBefore = Annotated[
    float | None, _input("--nodata-before", "Value without data of BEFORE; --nodata is of both.")
]
NodataAfter = Annotated[
    float | None, _input("--nodata-after", "Value without data of AFTER; --nodata is of both.")
]
Score = Annotated[
    float | None,
    _boxes(
        "--score",
        "Smallest score of a box, 0 to 1; by default the weights' own of each class, else 0.3.",
    ),
]
NmsIou = Annotated[
    float | None,
    _boxes(
        "--nms-iou IOU",
        "Of two boxes of a class that overlap by more, the better one stays, 0 to 1; default: 0.1 "
        "within a window, 0.3 between windows.",
    ),
]
AgnosticNms = Annotated[
    bool, _boxes("--agnostic-nms", "One place, one class: boxes of any two classes count, too.")
]
MaxPerWindow = Annotated[
    int, _boxes("--max-per-window", "Boxes of a window, at most.", min=1, max=100_000)
]
FoundClasses = Annotated[str | None, _boxes("--classes NAME,NAME", "Only these classes.")]
DryRun = Annotated[
    bool,
    _running("--dry-run", "Say what would be read, cut and needed; load no model, write nothing."),
]
OnError = Annotated[
    OnErrorName,
    _running(
        "--on-error",
        "Unreadable windows: the end of the run, or nodata (exit 3).",
    ),
]
Processes = Annotated[
    int | None,
    _running(
        "--workers N",
        "Spread the blocks over N processes of this machine.",
        min=1,
        callback=_as_many_as_cores,
    ),
]
Scheduler = Annotated[
    str | None,
    _running("--scheduler ADDRESS", "Spread the blocks over the workers of a Dask cluster."),
]
Relay = Annotated[
    str | None,
    _running(
        "--relay URL",
        "Folder for parts of workers that do not see the result's, such as s3://bucket/parts "
        "(fsspec); default: they are sent.",
    ),
]
Restart = Annotated[bool, _running("--restart", "Begin anew, whatever an unfinished run has left.")]
Overwrite = Annotated[bool, _output("--overwrite", "Replace what exists.")]
SkipBadBoxes = Annotated[
    bool,
    option(
        "--skip-bad-labels",
        "Of boxes: leave out labels that cannot be understood, and count them; else the first is "
        "an error.",
    ),
]
SkipBadLabels = Annotated[
    bool,
    option(
        "--skip-bad-labels",
        "Of det and cls: leave out labels and pictures that cannot be understood, and count them; "
        "else the first is an error.",
    ),
]
Json = Annotated[bool, _report("--json", "Report as JSON.")]
Quiet = Annotated[bool, _report("-q --quiet", "Errors only.")]
Verbose = Annotated[bool, _report("-v --verbose", "Also a summary.")]
NoProgress = Annotated[bool, _report("--no-progress", "No progress.")]


Crop = Annotated[int, _windows("--crop", "Side of a window.", min=32, max=4096)]
TrainedGsd = Annotated[
    tuple[float, float] | None,
    _windows("--gsd FROM TO", "Pixel sizes of the data in metres, where the files do not say."),
]
Workers = Annotated[
    int, _windows("--workers", "Reading processes.", min=0, callback=_as_many_as_cores)
]
Backbone = Annotated[str, _model("--backbone", "Any timm name with features.")]
Pretrained = Annotated[bool, _model("--pretrained", "timm's own weights.")]
Init = Annotated[
    str | None, _model("--init WEIGHTS", "Start from weights of ours: what fits is taken over.")
]
DropPath = Annotated[float, _model("--drop-path", "Stochastic depth.", min=0.0, max=0.9)]
MergeTokens = Annotated[
    float,
    _model(
        "--merge-tokens SHARE",
        "Of the tokens of LeMeViT's third stage, or with cls of a ViT, those merged away by a mask "
        "that it learns.",
        min=0.0,
        max=0.9,
    ),
]
Steps = Annotated[int, _schedule("--steps", "Updates.", min=1)]
Epochs = Annotated[
    float | None,
    _schedule(
        "--epochs",
        "Instead: passes over as many pixels as are labelled; for det, as there are.",
        min=0.0,
    ),
]
TimeBudget = Annotated[
    str | None, _schedule("--time-budget TIME", "Instead: as many as fit into 90s, 40m, 2h.")
]
TrainedBatchSize = Annotated[int, _schedule("--batch-size", "Windows a step.", min=1)]
Accumulate = Annotated[int, _schedule("--accumulate", "Batches in one update.", min=1)]
Optimizer = Annotated[str, _schedule("--optimizer", "Any timm name.")]
LearningRate = Annotated[
    float | None, _schedule("--lr", "Peak learning rate; default 4e-3 for muon, 6e-4 for others.")
]
WeightDecay = Annotated[float, _schedule("--weight-decay", "Of matrices and kernels.")]
Seed = Annotated[int, _schedule("--seed", "Of weights, windows and blocks.")]
ValidateEvery = Annotated[
    int, _schedule("--validate-every STEPS", "Steps between two validations.", min=1)
]
CheckpointEvery = Annotated[
    str,
    _schedule(
        "--checkpoint-every STEPS|TIME", "Steps between two checkpoints, or time, such as 10m."
    ),
]
Half = Annotated[bool, _model("--half", "Store the weights in 16 bits.")]
Resume = Annotated[bool, _schedule("--resume", "Go on from the checkpoint; without one, begin.")]


def names_given(context: typer.Context) -> tuple[str, ...]:
    """Return names of the parameters that the user wrote down, not left at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return tuple(n for n, source in sources.items() if source and source.name != "DEFAULT")


def refuse_several_lengths(context: typer.Context) -> None:
    """Refuse a training whose length is said twice: one of them would not be heeded."""
    given = names_given(context)
    lengths = [
        f"--{name.replace('_', '-')}"
        for name in ("steps", "epochs", "time_budget")
        if name in given
    ]
    if len(lengths) > 1:
        raise typer.BadParameter(
            "each says how long a training is; give one of them",
            param_hint=" and ".join(lengths),
        )


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """Read ``3,2,1`` as numbers; wrong usage if it is anything else."""
    return parse_numbers(text, "-b", kind="bands")


def parse_numbers(
    text: str | None, option: str, *, kind: str = "numbers", first: int = 1
) -> tuple[int, ...] | None:
    """Read ``3,2,1`` as numbers from ``first`` on; wrong usage if it is anything else."""
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < first:
        raise typer.BadParameter(
            f"{text!r} is not a list of {kind} such as 3,2,1", param_hint=option
        )
    return numbers


def parse_names(text: str | None) -> tuple[str, ...] | None:
    """Read ``building,water`` as names."""
    return None if text is None else tuple(part.strip() for part in text.split(","))


def parse_creation_options(pairs: list[str] | None) -> dict[str, str]:
    """Read ``NAME=VALUE`` pairs as a dictionary with upper-case names."""
    options = {}
    for pair in pairs or []:
        name, separator, value = pair.partition("=")
        if not separator or not name:
            raise typer.BadParameter(f"{pair!r} is not NAME=VALUE", param_hint="--co")
        options[name.strip().upper()] = value.strip()
    return options


def parse_fusion(text: str | None) -> tuple[FusedShare, str | None]:
    """Read ``0.5`` or ``auto``, of LeMeViT; or how the blocks of a ViT fuse, which 0 turns off.

    Nothing leaves a ViT as it was trained. Wrong usage if it is no share.
    """
    if text is None or "=" in text:
        return 0.0, text
    share = parse_share(text)
    return share, None if share else "r=0"


def parse_share(text: str) -> FusedShare:
    """Read ``0.5`` or ``auto``; wrong usage if it is neither, or no share below 1."""
    if text == "auto":
        return "auto"
    try:
        share = float(text)
    except ValueError:
        share = math.nan
    if not 0 <= share < 1:
        raise typer.BadParameter(
            f"{text!r} is not auto, or a share from 0 to below 1", param_hint="--fuse-tokens"
        )
    return share


def parse_time(text: str | None, option: str = "--time-budget") -> float | None:
    """Read ``90s``, ``40m``, ``2h`` as seconds; wrong usage if it is anything else."""
    if text is None:
        return None
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = text[:-1], text[-1:]
    if unit not in units or not number.replace(".", "", 1).isdigit() or not float(number):
        raise typer.BadParameter(f"{text!r} is not 90s, 40m or 2h", param_hint=option)
    return float(number) * units[unit]


def parse_checkpoints(text: str) -> dict[str, Any]:
    """Read ``200`` as steps between two checkpoints, ``10m`` as time, for the training's options.

    Wrong usage if it is neither.
    """
    if text.isdigit() and int(text) > 0:
        return {"checkpoint_every": int(text)}
    return {"checkpoint_every": None, "checkpoint_every_s": parse_time(text, "--checkpoint-every")}


def usual_rate(optimizer: str) -> float:
    """Return the peak learning rate that suits an optimizer."""
    return _USUAL_RATES.get(optimizer.lower(), _USUAL_RATE)
