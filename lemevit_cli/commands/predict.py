"""``lemevit predict``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lemevit_cli.commands import options
from lemevit_cli.commands.console import print_table
from lemevit_cli.commands.groups import Reporting, Scenes, Spreading, spread_groups
from lemevit_cli.commands.reporting import check_folder, tell_runtime, telling_report
from lemevit_cli.settings import OutputOptions
from lemevit_cli.tasks import TASKS


@spread_groups
def predict(
    scenes: Annotated[
        list[str],
        typer.Argument(
            metavar="SCENE...",
            help="Rasters that GDAL opens, folders or patterns of them, or - for stdin.",
        ),
    ],
    task: options.Task = "seg",
    output: options.Output = None,
    weights: options.Weights = None,
    *,
    reading: Scenes,
    spreading: Spreading,
    tta: options.Tta = False,
    fuse_tokens: options.FuseTokens = None,
    output_type: options.OutputType = options.OutputTypeName.classes,
    format: options.Format = None,
    co: options.CreationOptions = None,
    classes: options.Classes = None,
    min_area: options.MinArea = None,
    simplify: options.Simplify = None,
    fill_holes: options.FillHoles = 0.0,
    style: options.Style = False,
    layer: options.LayerName = None,
    overwrite: options.Overwrite = False,
    dry_run: options.DryRun = False,
    verbose: options.Verbose = False,
    reporting: Reporting,
) -> None:
    """Classify every pixel of a scene, on the scene's own grid, or with cls every window.

    Prints the path of the result. The suffix of the output chooses the format: .tif for a
    raster of classes, .shp .gpkg .geojson .fgb for polygons. Without -o it is SCENE_seg.tif here.
    With cls, pictures without a georeference and without -o print a line each (path, class,
    score), -o classes.csv a table.
    """
    settings = reading.settings(
        dry_run=dry_run,
        tta=tta,
        fuse_tokens=fuse_tokens,
        output=OutputOptions(
            format=format,
            output_type=output_type.value,
            creation_options=options.parse_creation_options(co),
            classes=options.parse_names(classes),
            min_area_m2=min_area,
            simplify_m=simplify,
            fill_holes_m2=fill_holes,
            style=style,
            layer=layer,
            overwrite=overwrite,
        ),
    )
    from lemevit_cli.raster.source import expand_scenes
    from lemevit_cli.tasks import load_inference

    scenes = expand_scenes(scenes, reporting.console.note)
    check_folder(scenes, output, TASKS[task].joint)
    run = load_inference(task)
    with telling_report(
        reporting,
        _summary if verbose else None,
        several=len(scenes) > 1,
        to_stdout=output == "-" and not dry_run,
    ) as report:
        run(
            scenes,
            output,
            weights=weights,
            settings=spreading.spread(settings),
            progress=reporting.console,
            report=report,
        )


def _summary(result: dict[str, Any]) -> None:
    if "classes" not in result:  # no map
        return
    seconds = result["seconds"]
    print_table(
        f"{result['scene']}: {result['width']} x {result['height']} pixels, "
        f"{result['windows']} windows ({result['windows_skipped']} empty), "
        f"{seconds['total']:.1f} s, {result['peak_memory_mb']:.0f} MB",
        ["class", "share", "hectares"],
        [
            [name, f"{record['share']:.1%}", _hectares(record["area_m2"])]
            for name, record in result["classes"].items()
        ],
        to_stderr=True,
    )
    tell_runtime(result)


def _hectares(area_m2: float | None) -> str:
    return "-" if area_m2 is None else f"{area_m2 / 1e4:,.2f}"
