"""``lemevit labels``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_json, print_record
from lemevit_cli.commands.groups import Labelling, Reporting, spread_groups
from lemevit_cli.commands.train import LabelledScenes, refuse_options_of_scenes
from lemevit_cli.settings import OutputOptions


@spread_groups
def labels(
    context: typer.Context,
    data: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DATA",
            help="Folders, files of labels, or .toml lists, in any layout that train takes.",
        ),
    ] = None,
    output: Annotated[
        str | None,
        options.option(
            "-o --output",
            "Write boxes: a folder (DOTA), .json (COCO), .txt (DOTA, of one picture), or a layer: "
            ".gpkg, .geojson, .shp, .fgb.",
        ),
    ] = None,
    format: Annotated[
        str | None,
        options.option("--format", "Of -o, if not by suffix: DOTA, YOLO, COCO, GPKG, ..."),
    ] = None,
    task: Annotated[
        options.TrainedTaskName | None,
        options.option("--task", "What is labelled; default: recognised from the data."),
    ] = None,
    png: Annotated[
        str | None, options.option("--png FILE", "Draw a sheet of samples with their labels.")
    ] = None,
    skip_bad_labels: options.SkipBadBoxes = False,
    *,
    scenes: LabelledScenes,
    labelling: Labelling,
    overwrite: options.Overwrite = False,
    reporting: Reporting,
) -> None:
    """Say what would be read of labelled data, and write boxes in another format.

    Prints the format, pictures a split, classes with counts and median sizes, and what is ignored
    and why. Nothing is trained.
    """
    from lemevit_cli.tasks.labels import LabelsOptions, describe_labels
    from lemevit_cli.training.options import DataOptions

    if format is not None and output is None:
        raise typer.BadParameter("is of what -o writes", param_hint="--format")
    how = labelling.labels()
    name = task.value if task is not None else None
    of_scenes = name or ("change" if scenes.before else "seg")
    sources = DataOptions(
        paths=tuple(data or ()),
        scenes=scenes.pair_with_labels(of_scenes, how),
        skip_bad_labels=skip_bad_labels,
    )
    # Which task it is may be seen later: skip_bad_labels is checked then.
    refuse_options_of_scenes(options.names_given(context), sources, "det")
    if not sources.paths and not sources.scenes:
        raise typer.BadParameter("name DATA, or a scene by --scene with its --labels")
    chosen = LabelsOptions(
        output=output,
        writing=OutputOptions(format=format, overwrite=overwrite),
        picture=png,
    )
    record = describe_labels(name, sources, chosen, reporting.console)
    if reporting.json:
        print_json(record)
        return
    _print(record)


def _print(record: dict[str, Any]) -> None:
    from lemevit_cli.commands.figures import print_scores

    for data in record["data"]:
        splits = "; ".join(f"{name} {_describe(part)}" for name, part in data["splits"].items())
        print_record([(data["path"], f"{data['format']}: {splits}")])
        for note in data["notes"]:
            print_record([("", note)])
    classes = {name: _in_units(figures) for name, figures in record["classes"].items()}
    print_scores(_title(record), {**record, "classes": classes}, to_stderr=False)
    for kind in ("ignored", "remarks"):
        for found in record[kind]:
            line = f"{found['count']:,} {found['reason']}, the first: {found['first']}"
            print_record([(kind, line)])


def _in_units(figures: dict[str, Any]) -> dict[str, Any]:
    """Add what a table says of pixels: their share in per cent, their area in hectares."""
    if "share" not in figures:  # boxes
        return figures
    area = figures["area_m2"]
    hectares = None if area is None else area / 1e4
    return {**figures, "percent": 100 * figures["share"], "hectares": hectares}


def _describe(part: Any) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in part.items())


def _title(record: dict[str, Any]) -> str:
    pictures = record["pictures"]
    if not pictures["count"]:
        return "no pictures"
    sizes = ", ".join(
        f"{name} {' x '.join(map(str, pictures[name]))}"
        for name in ("smallest", "median", "largest")
    )
    return f"{record['labels']:,} {record['unit']} of {len(record['classes'])} classes; {sizes}"
