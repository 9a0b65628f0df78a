"""``lemevit detect``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_table
from lemevit_cli.commands.groups import Reporting, Scenes, Spreading, spread_groups
from lemevit_cli.commands.reporting import check_folder, tell_runtime, telling_report
from lemevit_cli.settings import DetectionOptions, OutputOptions


@spread_groups
def detect(
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE...",
            help="Rasters that GDAL opens, folders or patterns of them, or - for stdin.",
        ),
    ],
    output: options.Output = None,
    weights: options.Weights = None,
    score: options.Score = None,
    nms_iou: options.NmsIou = None,
    agnostic_nms: options.AgnosticNms = False,
    classes: options.FoundClasses = None,
    max_per_window: options.MaxPerWindow = 300,
    *,
    reading: Scenes,
    spreading: Spreading,
    tta: options.TtaBoxes = False,
    fuse_tokens: options.FuseTokens = None,
    format: options.Format = None,
    co: options.CreationOptions = None,
    style: options.Style = False,
    layer: options.LayerName = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    reporting: Reporting,
) -> None:
    """Find objects: where they are, how long, and which way they lie.

    Prints the path of the result, polygons of oriented boxes in the scene's CRS. The suffix of the
    output chooses the format: .shp .gpkg .geojson .fgb .csv .parquet, or .txt for DOTA's pixels;
    -o - is GeoJSON. A .csv names no CRS. Without -o the result is SCENE_boxes.shp here.
    """
    settings = reading.settings(
        dry_run=dry_run,
        tta=tta,
        fuse_tokens=fuse_tokens,
        output=OutputOptions(
            format=format,
            creation_options=options.parse_creation_options(co),
            classes=options.parse_names(classes),
            style=style,
            layer=layer,
            overwrite=overwrite,
        ),
        detection=DetectionOptions(
            score=score, nms_iou=nms_iou, agnostic_nms=agnostic_nms, max_per_window=max_per_window
        ),
    )
    from lemevit_cli.raster.source import expand_scenes
    from lemevit_cli.tasks.detection import inference as detection

    scenes = expand_scenes(scenes, reporting.console.note)
    check_folder(scenes, output)
    with telling_report(
        reporting,
        _summary if verbose else None,
        several=len(scenes) > 1,
        to_stdout=output == "-" and not dry_run,
    ) as report:
        detection.detect(
            scenes,
            output,
            weights=weights,
            settings=spreading.spread(settings),
            progress=reporting.console,
            report=report,
        )


def _summary(result: dict[str, Any]) -> None:
    seconds = result["seconds"]
    unit = "m" if all("length_m" in record for record in result["classes"].values()) else "px"
    print_table(
        f"{result['scene']}: {result['objects']} objects in {result['width']} x "
        f"{result['height']} pixels, {result['windows']} windows "
        f"({result['windows_skipped']} empty), {seconds['total']:.1f} s, "
        f"{result['peak_memory_mb']:.0f} MB",
        ["class", "objects", f"median length, {unit}", f"median width, {unit}"],
        [
            [
                name,
                str(record["objects"]),
                _size(record[f"length_{unit}"]),
                _size(record[f"width_{unit}"]),
            ]
            for name, record in result["classes"].items()
            if record["objects"]
        ],
        to_stderr=True,
    )
    tell_runtime(result)


def _size(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
