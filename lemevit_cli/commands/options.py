"""Options that several commands share, declared once, spelled as rio and gdal spell them."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from lemevit_cli import __version__

_debug = False
_USUAL_RATES, _USUAL_RATE = {"muon": 4e-3}, 6e-4  # a step of muon is a fifth of AdamW's


def debugging() -> bool:
    """Say whether ``--debug`` was given."""
    return _debug


def _set_debug(value: bool) -> bool:
    global _debug
    _debug = value
    return value


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"lemevit {__version__}")
        raise typer.Exit


class TaskName(StrEnum):
    """Tasks that give every pixel a class."""

    seg = "seg"


class TrainedTaskName(StrEnum):
    """Tasks that weights can be trained for."""

    seg = "seg"
    det = "det"
    change = "change"


class OutputTypeName(StrEnum):
    """What a raster result holds."""

    classes = "classes"
    scores = "scores"


class PrecisionName(StrEnum):
    """Arithmetic of the model."""

    auto = "auto"
    fp32 = "fp32"
    bf16 = "bf16"
    fp16 = "fp16"


_INPUT, _CUTTING, _RUNNING, _OUTPUT, _REPORT = "Input", "Windows", "Running", "Output", "Reporting"
_LABELS, _BOXES, _CHANGE = "Scenes with labels", "Boxes", "Change"
_WINDOWS, _MODEL, _SCHEDULE = "Windows", "Model", "Schedule"

Version = Annotated[
    bool,
    typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True),
]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        help="Show the traceback of an error.",
        callback=_set_debug,
        rich_help_panel=_REPORT,
    ),
]
Task = Annotated[TaskName, typer.Option("--task", help="What to find.")]
TrainedTask = Annotated[
    TrainedTaskName,
    typer.Option(
        "--task",
        help="What to learn: seg, a class a pixel; det, oriented boxes; change, of two dates.",
    ),
]
Output = Annotated[
    str | None,
    typer.Option(
        "-o",
        "--output",
        help="Result: a file, a folder ending in /, or - for stdout.",
        rich_help_panel=_OUTPUT,
    ),
]
Outputs = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        "--output",
        help="Result: a file, a folder ending in /, or - for stdout; repeatable.",
        rich_help_panel=_OUTPUT,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "-w",
        "--weights",
        help="Starter weights by name, or a .safetensors file.",
        rich_help_panel=_INPUT,
    ),
]
Bidx = Annotated[
    str | None,
    typer.Option(
        "-b",
        "--bidx",
        metavar="N,N,...",
        help="Bands in the model's order, from 1; 1,1,1 feeds a grey scene.",
        rich_help_panel=_INPUT,
    ),
]
Nodata = Annotated[
    float | None,
    typer.Option(
        "--nodata", help="Value without data, if the file does not say.", rich_help_panel=_INPUT
    ),
]
SrcCrs = Annotated[
    str | None,
    typer.Option("--src-crs", help="CRS, if the file lost it.", rich_help_panel=_INPUT),
]
Stretch = Annotated[
    str,
    typer.Option(
        "--stretch",
        metavar="SPEC",
        help="Values to the weights' range: auto, none, 2,98 (percent) or min=0,max=3000.",
        rich_help_panel=_INPUT,
    ),
]
Gsd = Annotated[
    str,
    typer.Option(
        "--gsd",
        metavar="SPEC",
        help="Pixel size for the model: auto, native, or metres on the ground.",
        rich_help_panel=_INPUT,
    ),
]
Bounds = Annotated[
    tuple[float, float, float, float] | None,
    typer.Option(
        "--bounds", metavar="W S E N", help="Only this part, in map units.", rich_help_panel=_INPUT
    ),
]
Mask = Annotated[
    str | None,
    typer.Option(
        "--mask",
        metavar="POLYGONS",
        help="Only inside the polygons of this file.",
        rich_help_panel=_INPUT,
    ),
]
LabelField = Annotated[
    str | None,
    typer.Option(
        "--label-field",
        metavar="NAME",
        help="Field with a polygon's class; without it all polygons are one class.",
        rich_help_panel=_LABELS,
    ),
]
LabelClass = Annotated[
    str | None,
    typer.Option(
        "--class",
        metavar="NAME",
        help="Name of that one class; default: the layer's.",
        rich_help_panel=_LABELS,
    ),
]
LabelLayer = Annotated[
    str | None,
    typer.Option("--layer", help="Layer of the labels' file.", rich_help_panel=_LABELS),
]
LabelWhere = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="SQL",
        help='Only these polygons, such as "year = 2020".',
        rich_help_panel=_LABELS,
    ),
]
LabelBackground = Annotated[
    str,
    typer.Option(
        "--background",
        metavar="CLASS",
        help="Class of what no polygon covers; ignore leaves it out. For a raster, ignore says "
        "that what it does not label may be anything.",
        rich_help_panel=_LABELS,
    ),
]
Window = Annotated[
    int | None,
    typer.Option(
        "--window",
        min=32,
        help="Side of a window in pixels; default: the weights'.",
        rich_help_panel=_CUTTING,
    ),
]
Overlap = Annotated[
    int | None,
    typer.Option(
        "--overlap",
        min=0,
        help="Pixels shared by two windows; default: the weights'.",
        rich_help_panel=_CUTTING,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Windows a pass; default: 2, 16 on a GPU.",
        rich_help_panel=_CUTTING,
    ),
]
BlockSize = Annotated[
    int | None,
    typer.Option(
        "--block-size",
        min=1,
        rich_help_panel=_CUTTING,
        help="Side of the output's blocks in pixels; bounds memory on very wide scenes.",
    ),
]
Device = Annotated[
    str,
    typer.Option("--device", help="auto, cpu, cuda, cuda:N or mps.", rich_help_panel=_RUNNING),
]
Precision = Annotated[
    PrecisionName, typer.Option("--precision", help="Arithmetic.", rich_help_panel=_RUNNING)
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, help="CPU threads.", rich_help_panel=_RUNNING)
]
Tta = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Mean over the eight symmetries of each window: better, in eight times the time.",
        rich_help_panel=_RUNNING,
    ),
]
TtaBoxes = Annotated[
    bool,
    typer.Option(
        "--tta",
        help="Look at the eight symmetries of each window: finds more, in eight times the time.",
        rich_help_panel=_RUNNING,
    ),
]
Format = Annotated[
    str | None,
    typer.Option(
        "--format", help="GDAL driver, if not by suffix: COG, GeoJSON, ...", rich_help_panel=_OUTPUT
    ),
]
OutputType = Annotated[
    OutputTypeName,
    typer.Option(
        "--output-type", help="Class ids, or one band of scores a class.", rich_help_panel=_OUTPUT
    ),
]
CreationOptions = Annotated[
    list[str] | None,
    typer.Option(
        "--co",
        metavar="NAME=VALUE",
        help="Creation option of the driver; repeatable.",
        rich_help_panel=_OUTPUT,
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        "--classes",
        metavar="NAME,NAME",
        help="Classes kept in a vector result.",
        rich_help_panel=_OUTPUT,
    ),
]
MinArea = Annotated[
    float,
    typer.Option(
        "--min-area",
        min=0.0,
        metavar="M2",
        help="Smallest polygon, in m2 on the ground.",
        rich_help_panel=_OUTPUT,
    ),
]
Style = Annotated[
    bool,
    typer.Option("--style", help="Also a QGIS style beside the layer.", rich_help_panel=_OUTPUT),
]
Threshold = Annotated[
    float,
    typer.Option(
        "--threshold",
        help="Score of change above which a pixel has changed, 0 to 1.",
        rich_help_panel=_CHANGE,
    ),
]
Simplify = Annotated[
    float | None,
    typer.Option(
        "--simplify",
        min=0.0,
        metavar="METRES",
        help="How far outlines may move; default: half a pixel, 0: not at all.",
        rich_help_panel=_CHANGE,
    ),
]
Coregister = Annotated[
    bool,
    typer.Option(
        "--coregister",
        help="Undo the shift between the dates, which is told in any case.",
        rich_help_panel=_CHANGE,
    ),
]
BandsAfter = Annotated[
    str | None,
    typer.Option(
        "--bands-after",
        metavar="N,N,...",
        help="Bands of AFTER, where they are not those of BEFORE.",
        rich_help_panel=_INPUT,
    ),
]
Score = Annotated[
    float,
    typer.Option("--score", help="Smallest score of a box, 0 to 1.", rich_help_panel=_BOXES),
]
NmsIou = Annotated[
    float,
    typer.Option(
        "--nms-iou",
        metavar="IOU",
        help="Of two boxes of a class that overlap by more, the better one stays, 0 to 1.",
        rich_help_panel=_BOXES,
    ),
]
MaxPerWindow = Annotated[
    int,
    typer.Option(
        "--max-per-window", min=1, help="Boxes of a window, at most.", rich_help_panel=_BOXES
    ),
]
FoundClasses = Annotated[
    str | None,
    typer.Option(
        "--classes", metavar="NAME,NAME", help="Only these classes.", rich_help_panel=_BOXES
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace what exists.", rich_help_panel=_OUTPUT)
]
Json = Annotated[bool, typer.Option("--json", help="Report as JSON.", rich_help_panel=_REPORT)]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Errors only.", rich_help_panel=_REPORT)]
Verbose = Annotated[
    bool, typer.Option("-v", "--verbose", help="Also a summary.", rich_help_panel=_REPORT)
]
NoProgress = Annotated[
    bool, typer.Option("--no-progress", help="No progress.", rich_help_panel=_REPORT)
]


Crop = Annotated[
    int, typer.Option("--crop", min=32, help="Side of a window.", rich_help_panel=_WINDOWS)
]
TrainedGsd = Annotated[
    tuple[float, float] | None,
    typer.Option(
        "--gsd",
        metavar="FROM TO",
        rich_help_panel=_WINDOWS,
        help="Pixel sizes of the data in metres, where the files do not say.",
    ),
]
Workers = Annotated[
    int, typer.Option("--workers", min=0, help="Reading processes.", rich_help_panel=_WINDOWS)
]
Backbone = Annotated[
    str,
    typer.Option("--backbone", help="Any timm name with features.", rich_help_panel=_MODEL),
]
Pretrained = Annotated[
    bool,
    typer.Option("--pretrained", help="timm's own weights.", rich_help_panel=_MODEL),
]
Init = Annotated[
    str | None,
    typer.Option(
        "--init",
        metavar="WEIGHTS",
        help="Start from weights of ours: what fits is taken over.",
        rich_help_panel=_MODEL,
    ),
]
DropPath = Annotated[
    float,
    typer.Option("--drop-path", min=0.0, max=0.9, help="Stochastic depth.", rich_help_panel=_MODEL),
]
Steps = Annotated[int, typer.Option("--steps", min=1, help="Updates.", rich_help_panel=_SCHEDULE)]
Epochs = Annotated[
    float | None,
    typer.Option(
        "--epochs",
        min=0.0,
        help="Instead: passes over as many pixels as are labelled; for det, as there are.",
        rich_help_panel=_SCHEDULE,
    ),
]
TimeBudget = Annotated[
    str | None,
    typer.Option(
        "--time-budget",
        metavar="TIME",
        help="Instead: as many as fit into 90s, 40m, 2h.",
        rich_help_panel=_SCHEDULE,
    ),
]
TrainedBatchSize = Annotated[
    int, typer.Option("--batch-size", min=1, help="Windows a step.", rich_help_panel=_SCHEDULE)
]
Accumulate = Annotated[
    int,
    typer.Option("--accumulate", min=1, help="Batches in one update.", rich_help_panel=_SCHEDULE),
]
Optimizer = Annotated[
    str, typer.Option("--optimizer", help="Any timm name.", rich_help_panel=_SCHEDULE)
]
LearningRate = Annotated[
    float | None,
    typer.Option(
        "--lr",
        help="Peak learning rate; default 4e-3 for muon, 6e-4 for others.",
        rich_help_panel=_SCHEDULE,
    ),
]
WeightDecay = Annotated[
    float,
    typer.Option("--weight-decay", help="Of matrices and kernels.", rich_help_panel=_SCHEDULE),
]
Seed = Annotated[
    int,
    typer.Option("--seed", help="Of weights, windows and blocks.", rich_help_panel=_SCHEDULE),
]
ValidateEvery = Annotated[
    int,
    typer.Option(
        "--validate-every",
        min=1,
        metavar="STEPS",
        rich_help_panel=_SCHEDULE,
        help="Steps between two validations.",
    ),
]
CheckpointEvery = Annotated[
    str,
    typer.Option(
        "--checkpoint-every",
        metavar="STEPS|TIME",
        rich_help_panel=_SCHEDULE,
        help="Steps between two checkpoints, or time, such as 10m.",
    ),
]
Half = Annotated[
    bool,
    typer.Option("--half", help="Store the weights in 16 bits.", rich_help_panel=_MODEL),
]
Resume = Annotated[
    bool,
    typer.Option("--resume", help="Go on from the checkpoint.", rich_help_panel=_SCHEDULE),
]


def given(context: typer.Context) -> tuple[str, ...]:
    """Return names of the parameters that the user wrote down, not left at their defaults."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    return tuple(n for n, source in sources.items() if source and source.name != "DEFAULT")


def parse_bands(text: str | None) -> tuple[int, ...] | None:
    """Read ``3,2,1`` as numbers; wrong usage if it is anything else."""
    return parse_numbers(text, "-b", kind="bands")


def parse_numbers(
    text: str | None, option: str, *, kind: str = "numbers"
) -> tuple[int, ...] | None:
    """Read ``3,2,1`` as numbers from 1 on; wrong usage if it is anything else."""
    if text is None:
        return None
    try:
        numbers = tuple(int(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not numbers or min(numbers) < 1:
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
